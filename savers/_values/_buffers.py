"""Memory that is used again: fresh memory costs a page fault for every 4 KiB that is written."""

from __future__ import annotations

import math
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["BufferPool", "page_aligned"]

_PAGE = 4096
#: Below this the allocator of C keeps memory for reuse by itself.
_SMALL = 64 << 10


def page_aligned(nbytes: int) -> NDArray[np.uint8]:
    """Return new memory that begins at a page."""
    memory = np.empty(nbytes + _PAGE, np.uint8)
    first = -memory.ctypes.data % _PAGE
    return memory[first : first + nbytes]


class BufferPool:
    """Lends buffers and keeps returned ones, up to a number of bytes. Safe in threads.

    A forked child starts with an empty pool; a buffer that is never returned is merely freed.

    Parameters
    ----------
    limit : int
        Bytes that are kept for reuse; more than that is freed when it is returned. What is lent
        is the borrower's to bound.
    make : callable
        ``make(nbytes)`` returns new memory as a uint8 array.
    """

    def __init__(self, limit: int, make: Callable[[int], NDArray[np.uint8]] = page_aligned) -> None:
        self.limit = limit
        self._make = make
        self._free: list[NDArray[np.uint8]] = []
        self._reset()
        reset = weakref.WeakMethod(self._reset)
        os.register_at_fork(after_in_child=lambda: (method := reset()) and method())

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._parents = self._free  # a forked child has no driver that could free pinned memory
        self._free = []
        self._process = object()  # one a process: what it lent is returned to it alone

    @property
    def kept(self) -> int:
        """Bytes that wait to be used again."""
        with self._lock:
            return sum(buffer.nbytes for buffer in self._free)

    def take(self, nbytes: int) -> Lent:
        """Lend a buffer of at least `nbytes`; a kept one, if it is not over twice as large."""
        with self._lock:
            fitting = [b for b in self._free if nbytes <= b.nbytes <= 2 * nbytes]
            if fitting:
                best = min(fitting, key=lambda buffer: buffer.nbytes)
                self._free = [buffer for buffer in self._free if buffer is not best]
                return Lent(self, best, self._process)
        return Lent(self, self._make(-(-nbytes // _PAGE) * _PAGE), self._process)

    def give_back(self, buffer: NDArray[np.uint8], process: object) -> None:
        """Keep a buffer for the next one that asks; the oldest ones go where it is too much."""
        if process is not self._process or not _SMALL <= buffer.nbytes <= self.limit:
            return
        with self._lock:
            self._free.append(buffer)
            held = sum(kept.nbytes for kept in self._free)
            while held > self.limit:
                held -= self._free.pop(0).nbytes


class Lent:
    """A buffer that is the borrower's until it is released."""

    def __init__(self, pool: BufferPool, buffer: NDArray[np.uint8], process: object) -> None:
        self._pool = pool
        self._buffers = [buffer]
        self._process = process

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the beginning of the buffer as an array."""
        nbytes = math.prod(shape) * dtype.itemsize
        return self._buffers[0][:nbytes].view(dtype).reshape(shape)

    def release(self) -> None:
        """Return the buffer; nobody may use its arrays any more. Idempotent."""
        try:
            buffer = self._buffers.pop()
        except IndexError:
            return
        self._pool.give_back(buffer, self._process)
