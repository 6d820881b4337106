"""A variable that is read one selection at a time.

Requests are made on the event loop, zarr and xarray decode what they bring.

xarray describes decoding as a chain of lazy arrays around the stored one. A read runs that chain
twice: once to learn which stored cells the selection needs, and once more when they are there.
"""

from __future__ import annotations

import contextlib
import errno
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.core.sync import sync

from savers._reading_chunks import cells_of, touched
from savers._reading_loop import MOST_ON_LOOP, run_apart, running_loop
from savers._reading_store import supplying
from savers.errors import BlockingReadError, SaverError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from xarray.backends.zarr import ZarrArrayWrapper

__all__ = ["LazyArray", "NeededError", "StoredArray"]

Key = indexing.ExplicitIndexer
Values = np.ndarray[Any, Any]

#: What stands for stored cells while a chain is run.
_cells: ContextVar[Callable[[Key], Any] | None] = ContextVar("cells", default=None)


class NeededError(Exception):
    """These stored cells are needed to open a variable; caught where they can be read."""

    def __init__(self, array: StoredArray, key: Key) -> None:
        super().__init__(array.name)
        self.array = array
        self.key = key


class StoredArray(BackendArray):
    """The innermost link of a chain: an array as it is stored.

    Parameters
    ----------
    source : ZarrArrayWrapper
        xarray's own reader of a zarr array.
    """

    def __init__(self, source: ZarrArrayWrapper) -> None:
        self.source = source
        self.shape = source.shape
        self.dtype = source.dtype
        self.kept: dict[Any, Values] = {}

    @property
    def name(self) -> str:
        """Path of the array within its store."""
        return str(self.source.get_array().path)

    def __getitem__(self, key: Key) -> Any:
        supply = _cells.get()
        if supply is not None:
            return supply(key)
        found = self.kept.get(_plain(key, self.shape))
        if found is None:
            raise NeededError(self, key)
        return found

    def keep(self, key: Key, values: Values) -> None:
        """Answer this selection from memory."""
        self.kept[_plain(key, self.shape)] = np.asarray(values, self.dtype)

    def held(self) -> list[Values]:
        """Return what is answered from memory."""
        return list(self.kept.values())

    def forget(self) -> None:
        """Answer nothing from memory any more."""
        self.kept.clear()

    async def read(self, key: Key, then: Callable[[Any], Any]) -> Any:
        """Read stored cells, and return what `then` makes of them.

        Raises
        ------
        StorageError
            A request failed, or what it brought can't be decoded.
        """
        array = self.source.get_array()
        keys, nbytes = self._objects(key)

        async def decode() -> Any:
            with _naming(f"can't decode {self.name} in {array.store}"):
                return await self.source.async_getitem(key)

        with supplying(await array.store.fetch(keys)):
            if nbytes > MOST_ON_LOOP:
                return await run_apart(decode, then)
            return then(await decode())

    def _objects(self, key: Key) -> tuple[list[str], int]:
        """Return the keys of the objects that hold a selection, and their decoded size in bytes."""
        array = self.source.get_array()
        grid = array.shards or array.chunks
        pointwise = isinstance(key, indexing.VectorizedIndexer)
        found = touched(key.tuple, self.shape, grid, pointwise=pointwise)
        start = f"{array.path}/" if array.path else ""
        keys = [f"{start}{array.metadata.encode_chunk_key(index)}" for index in found]
        return keys, cells_of(len(found), grid) * self.dtype.itemsize


@contextlib.contextmanager
def _naming(what: str) -> Iterator[None]:
    try:
        yield
    except (SaverError, IndexError):
        raise
    except Exception as error:
        raise StorageError(errno.EIO, f"{what}: {error}") from error


def _plain(key: Key, shape: tuple[int, ...]) -> Any:
    """A selection of ranges in a form that compares equal where it selects the same cells."""
    if not all(isinstance(part, slice) for part in key.tuple):
        return None
    ranges = (range(*part.indices(size)) for part, size in zip(key.tuple, shape, strict=True))
    return tuple((cells[0] if cells else 0, len(cells), cells.step) for cells in ranges)


class LazyArray(BackendArray):
    """A decoded variable.

    Parameters
    ----------
    chain : lazy array of xarray
        The variable's data as xarray decodes it, around `stored`.
    stored : StoredArray
    blocking : bool
        True where a synchronous read may hold up the event loop that runs.
    """

    def __init__(self, chain: Any, stored: StoredArray, *, blocking: bool) -> None:
        self.chain = chain
        self.stored = stored
        self.blocking = blocking
        self.shape = chain.shape
        self.dtype = chain.dtype

    def __getitem__(self, key: Key) -> Any:
        if not self.blocking and running_loop() is not None:
            message = (
                f"{self.stored.name!r} was opened by open_dataset_async, a synchronous read would "
                "hold up the event loop that runs: await its load_async() first, as in "
                "await ds[...].load_async()"
            )
            raise BlockingReadError(message)
        return sync(self.async_getitem(key))

    async def async_getitem(self, key: Key) -> Any:
        chain = _selected(self.chain, key)
        return await self.stored.read(_needed(chain), lambda cells: self._decoded(chain, cells))

    def _decoded(self, chain: Any, cells: Any) -> Any:
        token = _cells.set(lambda _: cells)
        try:
            return chain.get_duck_array()
        finally:
            _cells.reset(token)


def _selected(chain: Any, key: Key) -> Any:
    if isinstance(key, indexing.VectorizedIndexer):
        return chain.vindex[key]
    if isinstance(key, indexing.OuterIndexer):
        return chain.oindex[key]
    return chain[key]


def _needed(chain: Any) -> Key:
    """Return which stored cells a chain is made of."""

    def ask(key: Key) -> Any:
        raise _AskedError(key)

    token = _cells.set(ask)
    try:
        chain.get_duck_array()
    except _AskedError as asked:
        return asked.key
    finally:
        _cells.reset(token)
    message = "expected a chain of lazy arrays around a stored one"
    raise TypeError(message)


class _AskedError(Exception):
    def __init__(self, key: Key) -> None:
        super().__init__(str(key))
        self.key = key
