"""A variable that is read one selection at a time.

Requests are made on the event loop, zarr and xarray decode what they bring.

xarray describes decoding as a chain of lazy arrays around the stored one. A read runs that chain
twice: once to learn which stored cells the selection needs, and once more when they are there.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.core.sync import sync

from savers._reading._chunks import cells_of, touched
from savers._reading._decoded import DecodedArray, decoding, selected
from savers._reading._loop import paced
from savers._reading._store import supplying

if TYPE_CHECKING:
    from collections.abc import Callable

    from xarray.backends.zarr import ZarrArrayWrapper

    from savers._reading._missing import Missing

__all__ = ["LazyArray", "NeededError", "StoredArray"]

Key = indexing.ExplicitIndexer
Values = np.ndarray[Any, Any]

#: What stands for stored cells while a chain is run.
_cells: ContextVar[Callable[[Key], Any] | None] = ContextVar("cells", default=None)


class NeededError(Exception):
    """Cells of this array are needed to open a variable; caught where they can be read."""

    def __init__(self, array: StoredArray) -> None:
        super().__init__(array.name)
        self.array = array


@dataclass(frozen=True)
class Box:
    """Stored cells in memory: a rectangle of an array.

    Parameters
    ----------
    start : tuple of int
    values : ndarray
    """

    start: tuple[int, ...]
    values: Values

    def answer(self, key: Key, shape: tuple[int, ...]) -> Values | None:
        """Return the selected cells of an array of this shape, None where some are not here."""
        if isinstance(key, indexing.VectorizedIndexer):
            cells = indexing.as_indexable(self.values)
            return cells.vindex[key] if shape == self.values.shape else None
        here = zip(key.tuple, shape, self.start, self.values.shape, strict=True)
        found = [_within(part, size, start, n) for part, size, start, n in here]
        if any(part is None for part in found):
            return None
        cells = indexing.as_indexable(self.values)
        return np.asarray(cells.oindex[indexing.OuterIndexer(tuple(found))])


def _within(part: Any, size: int, start: int, length: int) -> Any:
    """Return a selection along one axis, counted from `start`; None where it is not within."""
    axis = np.arange(size)[part] - start
    inside = ((axis >= 0) & (axis < length)).all()
    if not inside:
        return None
    return axis if np.ndim(axis) else int(axis)


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
        self.boxes: list[Box] = []

    @property
    def name(self) -> str:
        """Path of the array within its store."""
        return str(self.source.get_array().path)

    def __getitem__(self, key: Key) -> Any:
        supply = _cells.get()
        if supply is not None:
            return supply(key)
        for box in self.boxes:
            found = box.answer(key, self.shape)
            if found is not None:
                return found
        raise NeededError(self)

    async def keep_all(self) -> None:
        """Hold all cells in memory, until they are forgotten."""
        key = indexing.BasicIndexer((slice(None),) * self.ndim)
        values = await self.read(key, lambda cells: cells)
        self.boxes = [Box((0,) * self.ndim, np.asarray(values, self.dtype))]

    async def keep_ends(self) -> None:
        """Hold the first and the last cell in memory."""
        ends = [np.array([0, size - 1]) for size in self.shape]
        values = await self.read(indexing.VectorizedIndexer(tuple(ends)), lambda cells: cells)
        for cell, *start in zip(values, *ends, strict=True):
            box = np.full((1,) * self.ndim, cell, self.dtype)
            self.boxes.append(Box(tuple(start), box))

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
            with decoding(f"can't decode {self.name} in {array.store}"):
                return then(await self.source.async_getitem(key))

        with supplying(await array.store.fetch(keys)):
            return await paced(nbytes, decode)

    def _objects(self, key: Key) -> tuple[list[str], int]:
        """Return the keys of the objects that hold a selection, and their decoded size in bytes."""
        array = self.source.get_array()
        grid = array.shards or array.chunks
        pointwise = isinstance(key, indexing.VectorizedIndexer)
        found = touched(key.tuple, self.shape, grid, pointwise=pointwise)
        start = f"{array.path}/" if array.path else ""
        keys = [f"{start}{array.metadata.encode_chunk_key(index)}" for index in found]
        return keys, cells_of(len(found), grid) * self.dtype.itemsize


class LazyArray(DecodedArray):
    """A decoded variable of a Zarr store.

    Parameters
    ----------
    chain : lazy array of xarray
        The variable's data as xarray decodes it, around `stored`.
    stored : StoredArray
    missing : Missing, optional
    blocking : bool
    """

    def __init__(
        self, chain: Any, stored: StoredArray, missing: Missing | None, *, blocking: bool
    ) -> None:
        super().__init__(chain, stored.name, missing, blocking=blocking)
        self.stored = stored

    def read(self, key: Key) -> Any:
        return sync(self.async_getitem(key))

    async def async_getitem(self, key: Key) -> Any:
        chain = selected(self.chain, key)
        return await self.stored.read(
            _needed(chain), lambda cells: self.masked(_decoded(chain, cells), key)
        )


def _decoded(chain: Any, cells: Any) -> Any:
    """Return what a chain makes of stored cells."""
    token = _cells.set(lambda _: cells)
    try:
        return chain.get_duck_array()
    finally:
        _cells.reset(token)


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
