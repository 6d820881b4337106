"""A variable as users see it: what is missing, and who may wait for it."""

from __future__ import annotations

import contextlib
import errno
from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from savers._reading._at_once import WaitsError
from savers._reading._loop import running_loop
from savers.errors import BlockingReadError, SaverError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from savers._reading._missing import Missing

__all__ = ["DecodedArray", "decoding", "selected"]

Key = indexing.ExplicitIndexer
Values = np.ndarray[Any, Any]


class DecodedArray(BackendArray):
    """A decoded variable that is read one selection at a time.

    Parameters
    ----------
    chain : lazy array of xarray
        The variable's data as xarray decodes it.
    name : str
        For messages.
    missing : Missing, optional
        The cells that hold no result.
    blocking : bool
        True where a synchronous read may hold up the event loop that runs.
    """

    def __init__(self, chain: Any, name: str, missing: Missing | None, *, blocking: bool) -> None:
        self.chain = indexing.as_indexable(chain)
        self.name = name
        self.missing = missing
        self.blocking = blocking
        self.shape = chain.shape
        self.dtype = chain.dtype if missing is None else _with_missing(chain.dtype)

    def __getitem__(self, key: Key) -> Any:
        if not self.blocking and running_loop() is not None:
            message = (
                f"{self.name!r} was opened by open_dataset_async, a synchronous read would hold up "
                "the event loop that runs: await its load_async() first, as in "
                "await ds[...].load_async()"
            )
            raise BlockingReadError(message)
        return self.read(key)

    @abstractmethod
    def read(self, key: Key) -> Any:
        """Return the selected values, and wait for them."""

    def masked(self, values: Values, key: Key) -> Values:
        """Return selected values with what is missing marked as such."""
        if self.missing is None:
            return values
        mask = selected(indexing.as_indexable(self.missing.over(self.shape)), key)
        found = np.array(values, self.dtype)
        found[np.asarray(mask)] = np.nan
        return found


def _with_missing(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype that has room for missing cells, by xarray's rule."""
    if dtype.kind in "fcMm":
        return dtype
    if dtype.kind in "iu":
        return np.dtype("f4" if dtype.itemsize <= 2 else "f8")
    return np.dtype(object)


def selected(chain: Any, key: Key) -> Any:
    """Return a lazy array of the selected cells."""
    if isinstance(key, indexing.VectorizedIndexer):
        return chain.vindex[key]
    if isinstance(key, indexing.OuterIndexer):
        return chain.oindex[key]
    return chain[key]


@contextlib.contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turn what goes wrong between a request and its values into a `StorageError`."""
    try:
        yield
    except (SaverError, WaitsError, IndexError):
        raise
    except Exception as error:
        raise StorageError(errno.EIO, f"{what}: {error}") from error
