"""A chunk on its way into the store: the values that go next, and the writes that they are of.

A write that covers a chunk replaces what waits for it. Other writes are merged into one block,
which goes out when it is whole or when somebody asks for it. Values that a thread encodes are
never changed: a write that comes meanwhile goes on in a copy.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from savers._labelled._handles import Submission
    from savers._ledger._state import ArrayLayout, ArrayState

__all__ = ["Coverage", "Slot"]

Index = tuple[int, ...]


class Coverage:
    """Which values of a chunk are there. Axes that every write covers whole take no memory.

    Parameters
    ----------
    shape : tuple of int
        Cells of the chunk that lie in the array.
    """

    def __init__(self, shape: Index) -> None:
        self.shape = shape
        self._mask = np.zeros([1] * len(shape), bool)

    def add(self, inside: tuple[slice, ...]) -> None:
        """Note that a box of values is there."""
        for axis, (cut, size) in enumerate(zip(inside, self.shape, strict=True)):
            if self._mask.shape[axis] != size and (cut.start, cut.stop) != (0, size):
                self._mask = np.repeat(self._mask, size, axis)
        box = zip(inside, self._mask.shape, strict=True)
        self._mask[tuple(slice(None) if size == 1 else cut for cut, size in box)] = True

    def add_mask(self, mask: NDArray[np.bool_]) -> None:
        """Note the values that a mask of the chunk's shape names."""
        self._mask = self._mask | mask
        if self._mask.all():
            self._mask = np.ones([1] * len(self.shape), bool)

    @property
    def complete(self) -> bool:
        """True once every value is there."""
        return bool(self._mask.all())

    @property
    def nbytes(self) -> int:
        """Bytes that it takes."""
        return self._mask.nbytes


def known_values(array: ArrayState, index: Index, shape: Index) -> NDArray[np.bool_]:
    """Return which values of a chunk the ledger knows as written, bool of `shape`."""
    layout = array.layout
    first = [i * n for i, n in zip(index, layout.chunks, strict=True)]
    whole = np.zeros([shape[axis] for axis in layout.cells], bool)
    cut: tuple[Any, ...] = tuple(slice(first[a], first[a] + shape[a]) for a in layout.cells)
    whole[...] = array.status[cut] == 1
    others = [axis for axis in range(len(shape)) if axis not in layout.cells]
    mask = np.zeros([shape[a] for a in (*layout.cells, *others)], bool)
    mask[...] = whole.reshape(*whole.shape, *(1 for _ in others))
    inside = tuple(slice(first[a], first[a] + shape[a]) for a in others)
    for cell, written in list(array.partial.items()):  # another thread may read records meanwhile
        at = [i - first[a] for i, a in zip(cell, layout.cells, strict=True)]
        if all(0 <= i < shape[a] for i, a in zip(at, layout.cells, strict=True)):
            mask[tuple(at)] |= written[inside]
    order = np.argsort([*layout.cells, *others])
    return mask.transpose(order)


class Slot:
    """One chunk, and what waits to be put there. Guarded by the lock of its queue.

    Attributes
    ----------
    waiting : list of Submission
        Writes whose values go with the next put.
    failed : list of Submission
        Writes whose put was given up; their values are kept.
    urgent : bool
        True: to be put although more may come.
    queued, busy : bool
        In the queue; in the hands of a thread.
    lent : ndarray or None
        The values that the thread encodes.
    pins : int
        Calls that are about to merge values into it.
    """

    def __init__(self, layout: ArrayLayout, index: Index) -> None:
        self.layout = layout
        self.index = index
        self.waiting: list[Submission] = []
        self.failed: list[Submission] = []
        self.urgent = self.queued = self.busy = False
        self.lent: NDArray[Any] | None = None
        self.block: NDArray[Any] | None = None
        self.coverage: Coverage | None = None
        self.pins = 0
        self.size = self.kept = 0  # bytes of `block`, as the queue counts them
        self.opening = threading.Lock()
        self._make: Callable[[], NDArray[Any]] | None = None

    @property
    def extent(self) -> Index:
        """Cells of the chunk that lie in the array."""
        zipped = zip(self.index, self.layout.chunks, self.layout.shape, strict=True)
        return tuple(min(n, size - i * n) for i, n, size in zipped)

    @property
    def has_values(self) -> bool:
        """True while nothing needs to be read from the store to merge values."""
        return self.busy or self.block is not None or self._make is not None

    @property
    def idle(self) -> bool:
        """True while nobody works on it or is about to."""
        return not (self.busy or self.queued or self.pins)

    def nbytes(self, copies: int) -> int:
        """Return the bytes of its values, each so many times, and of what is known of them."""
        if self.block is None:
            return 0
        lent = self.lent is not None and self.lent is not self.block
        size = self.block.nbytes * copies * (1 + lent)
        return size + (self.coverage.nbytes if self.coverage is not None else 0)

    def replace(self, make: Callable[[], NDArray[Any]]) -> None:
        """Take values for the whole chunk, made when it is their turn."""
        self._make, self.block, self.coverage = make, None, None
        self.urgent = True

    def load(self, block: NDArray[Any], coverage: Coverage) -> None:
        """Begin with what the store has."""
        self.block, self.coverage = block, coverage

    def merge(self, inside: tuple[slice, ...], values: NDArray[Any], fill: object) -> None:
        """Take values for a part of the chunk."""
        if self.block is None:
            base = self._make() if self._make is not None else self.lent
            self.block = np.array(padded(self.layout, base, fill))
            self._make = None
        elif self.block is self.lent:
            self.block = self.block.copy()
        self.block[inside] = values
        if self.coverage is not None:
            self.coverage.add(inside)

    @property
    def complete(self) -> bool:
        """True when every value of the chunk was written."""
        return self.coverage is None or self.coverage.complete

    def take(self) -> Callable[[], NDArray[Any]]:
        """Hand the values to the thread that puts them."""
        self.queued, self.busy, self.urgent = False, True, False
        make, block = self._make, self.block
        self._make = None
        self.lent = block
        if make is not None:
            return make

        def there() -> NDArray[Any]:
            if block is None:
                message = "a chunk without values was queued"
                raise RuntimeError(message)
            return block

        return there

    def keep(self, block: NDArray[Any]) -> None:
        """Keep the values of a whole chunk that was put."""
        self.block, self.coverage = block.copy(), None

    def clear(self) -> None:
        """Forget all values."""
        self._make = self.block = self.coverage = None

    def give_back(self, make: Callable[[], NDArray[Any]]) -> None:
        """Keep values that could not be put, unless newer ones came."""
        if self._make is None and self.block is None:
            self._make = make


def padded(layout: ArrayLayout, values: NDArray[Any] | None, fill: object) -> NDArray[Any]:
    """Return the values of a chunk in its full shape; at the array's edge the rest is fill."""
    if values is not None and values.shape == layout.chunks:
        return values
    block = np.full(layout.chunks, fill, layout.values_dtype)
    if values is not None:
        block[tuple(slice(0, n) for n in values.shape)] = values
    return block
