"""What a dataset is, as its ledger knows it: arrays, chunks, jobs. No I/O, no records."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from savers._jobs import ItemStatus, JobState

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = [
    "ArrayLayout",
    "ArrayState",
    "Job",
    "PieceRef",
    "State",
    "Stored",
    "fresh_array",
    "require_sane",
]

#: More cells of an array, or items of a job, than any run has.
MOST_CELLS = 1 << 31

Index = tuple[int, ...]


class Stored(NamedTuple):
    """A chunk as it was put into the store: bytes and CRC-32C of the encoded object."""

    size: int
    crc: int


class PieceRef(NamedTuple):
    """Committed values of a chunk that is not yet in the store; their bytes lie in the ledger.

    `at` and `size` are the place of the bytes in the ledger's stream, `start` and `shape` the
    cells within the chunk.
    """

    at: int
    size: int
    start: Index
    shape: Index


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """An array as it was created.

    Parameters
    ----------
    name : str
        Path within the store.
    dtype : str
        NumPy dtype of the values ("T" for text).
    shape : tuple of int
        Extents; that of a growing axis is 0.
    chunks : tuple of int
        Cells of one stored object (a shard where there are shards).
    growing : bool
        True when axis 0 grows.
    cells : tuple of int
        Axes along which results are told apart (axis 0 of a growing array, or the labelled
        dimensions).
    rounding : bool
        True when ``dtype=`` was asked for, so that floats may lose digits.
    generation : int
        Raised by every overwrite; its parity tells where chunks lie.
    meta : dict
        What the format needs to know (JSON).
    """

    name: str
    dtype: str
    shape: Index
    chunks: Index
    growing: bool = True
    cells: Index = (0,)
    rounding: bool = False
    generation: int = 0
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def values_dtype(self) -> np.dtype[Any]:
        """The dtype in which callers see the values."""
        return np.dtype(np.dtypes.StringDType()) if self.dtype == "T" else np.dtype(self.dtype)

    def renumbered(self, generation: int) -> ArrayLayout:
        """Return the layout of another generation."""
        return replace(self, generation=generation)

    def to_json(self) -> dict[str, Any]:
        """Return the layout as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> ArrayLayout:
        """Return the layout of a JSON object."""
        tuples = {name: tuple(given[name]) for name in ("shape", "chunks", "cells")}
        return cls(**{**given, **tuples})


@dataclass(slots=True)
class ArrayState:
    """An array as its records left it.

    Attributes
    ----------
    layout : ArrayLayout
    status : ndarray of uint8
        An `ItemStatus` for each cell along `layout.cells` (each row of a growing array).
    chunks : dict
        Chunks that are in the store.
    loose : dict
        Pieces of chunks that are only in the ledger, oldest first.
    published : tuple of int or None
        Shape that readers see; None before the first time.
    before : tuple of int or None
        The one they saw before it (a crash may have left that).
    adopted : bool
        True when another program created the array.
    rewriting : dict
        What chunks hold if a writer that was about to replace them died right after it had.
    put_at : dict
        Of chunks that several writers put: microseconds since 1970, which say whose is the newer.
    partial : dict
        For cells of which only a part was written: which of their values, bool of the shape of the
        other axes.
    """

    layout: ArrayLayout
    status: NDArray[np.uint8]
    chunks: dict[Index, Stored] = field(default_factory=dict)
    loose: dict[Index, list[PieceRef]] = field(default_factory=dict)
    published: Index | None = None
    before: Index | None = None
    adopted: bool = False
    rewriting: dict[Index, list[Stored]] = field(default_factory=dict)
    put_at: dict[Index, int] = field(default_factory=dict)
    partial: dict[Index, NDArray[np.bool_]] = field(default_factory=dict)
    _room: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8), repr=False)

    @property
    def rows(self) -> int:
        """Number of rows that are taken: one more than the last settled one."""
        return len(self.status) if self.layout.growing else 0

    def extent(self) -> Index:
        """Return the shape to publish: it ends before the first row that is not settled."""
        if not self.layout.growing:
            return self.layout.shape
        gaps = np.flatnonzero(self.status == ItemStatus.OPEN)
        first = int(gaps[0]) if len(gaps) else len(self.status)
        return (first, *self.layout.shape[1:])

    def _grow(self, rows: int) -> None:
        """Lengthen the status table; its room to spare keeps many small appends cheap."""
        if self.status.base is not self._room or rows > len(self._room):
            self._room = np.zeros(max(rows, 2 * len(self.status)), np.uint8)
            self._room[: len(self.status)] = self.status
        self.status = self._room[:rows]

    def settle(self, start: Index, stop: Index, status: int) -> None:
        """Set the status of a box of cells; a failure never hides what is done."""
        require_sane(max(stop, default=0), min(start, default=0))
        if self.layout.growing and stop[0] > len(self.status):
            self._grow(stop[0])
        box: tuple[Any, ...] = (..., *map(slice, start, stop))
        cells = self.status[box]
        if status in (ItemStatus.DONE, ItemStatus.OPEN):
            cells[...] = status
        else:
            cells[cells != ItemStatus.DONE] = status

    def cover(self, start: Index, stop: Index) -> None:
        """Note a box of values that is written; a cell is done once all its values are."""
        for cell in covered(self.layout, self.partial, start, stop):
            self.settle(cell, tuple(i + 1 for i in cell), ItemStatus.DONE)

    def extend(self, shape: Index) -> None:
        """Lengthen an array of fixed extents; no cell that gets more values by it is done."""
        old, axes = self.layout.shape, self.layout.cells
        if len(shape) != len(old) or any(b < a for a, b in zip(old, shape, strict=True)):
            message = f"an array of shape {old} can't be extended to {shape}"
            raise ValueError(message)
        others = [axis for axis in range(len(shape)) if axis not in axes]
        require_sane(math.prod(shape))
        if any(shape[axis] > old[axis] for axis in others):
            for cell in map(tuple, np.argwhere(self.status == ItemStatus.DONE).tolist()):
                self.partial[cell] = np.ones([old[axis] for axis in others], bool)
                self.status[cell] = ItemStatus.OPEN
        room = [(0, shape[axis] - old[axis]) for axis in others]
        self.partial = {cell: np.pad(mask, room) for cell, mask in self.partial.items()}
        if axes:
            self.status = np.pad(self.status, [(0, shape[axis] - old[axis]) for axis in axes])
        self.layout = replace(self.layout, shape=shape)


def covered(
    layout: ArrayLayout, partial: dict[Index, NDArray[np.bool_]], start: Index, stop: Index
) -> Iterator[Index]:
    """Add a box of values to what is known of each cell; yield the cells that are whole by it."""
    others = [axis for axis in range(len(layout.shape)) if axis not in layout.cells]
    shape = [layout.shape[axis] for axis in others]
    inside = tuple(slice(start[axis], stop[axis]) for axis in others)
    require_sane(math.prod(shape))
    for cell in itertools.product(*(range(start[axis], stop[axis]) for axis in layout.cells)):
        mask = partial.setdefault(cell, np.zeros(shape, bool))
        mask[inside] = True
        if mask.all():
            del partial[cell]
            yield cell


def require_sane(largest: int, smallest: int = 0) -> None:
    """Refuse counts that no run reaches, before memory is taken for them.

    Raises
    ------
    ValueError
        Over `MOST_CELLS`, or negative.
    """
    if largest > MOST_CELLS or smallest < 0:
        message = f"a count of {largest if largest > MOST_CELLS else smallest} is out of bounds"
        raise ValueError(message)


def fresh_array(layout: ArrayLayout) -> ArrayState:
    """Return the state of an array that was just created."""
    require_sane(math.prod(layout.shape[axis] for axis in layout.cells))
    return ArrayState(layout, np.zeros([layout.shape[axis] for axis in layout.cells], np.uint8))


@dataclass(slots=True)
class Job:
    """A job and where its items lie.

    Attributes
    ----------
    state : JobState
    bases : dict of str to int
        Row of the job's item 0 in each growing array.
    fields : tuple of str or None
        Arrays that an item fills; None before the first result.
    places : ndarray of int32, shape (n, k) or None
        Index of each item along the labelled dimensions.
    generation : dict of str to int
        Generations of the arrays that the job writes, where it replaces them.
    """

    state: JobState
    bases: dict[str, int] = field(default_factory=dict)
    fields: tuple[str, ...] | None = None
    places: NDArray[np.int32] | None = None
    label_dims: tuple[str, ...] = ()

    def place(self, positions: Sequence[int], places: NDArray[np.int32]) -> None:
        """Note where items lie along the labelled dimensions."""
        size = max(positions, default=-1) + 1
        if self.places is None:
            self.places = np.full((0, places.shape[1]), -1, np.int32)
        if size > len(self.places):
            grown = np.full((max(size, 2 * len(self.places)), places.shape[1]), -1, np.int32)
            grown[: len(self.places)] = self.places
            self.places = grown
        self.places[list(positions)] = places


@dataclass(slots=True)
class State:
    """Everything that a ledger says.

    Attributes
    ----------
    store_id : str
        Also stands in the root attributes of the store.
    arrays : dict of str to ArrayState
        The arrays that readers see or will see next.
    pending : dict of str to ArrayState
        New generations that a job builds beside the arrays they will replace.
    jobs : dict of int to Job
    staged : dict of str to (array, generation, chunk)
        Staged objects of the last record, which a crash may have kept from their keys.
    settings : dict
        Dimensions, coordinates and attributes of the store, as the format keeps them.
    stale : dict of str to int
        Arrays whose old generation's chunks are still to be removed.
    gone : dict of str to ArrayLayout
        Arrays that were removed, but not yet from the store.
    """

    store_id: str = ""
    arrays: dict[str, ArrayState] = field(default_factory=dict)
    pending: dict[str, ArrayState] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    staged: dict[str, tuple[str, int, Index]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    stale: dict[str, int] = field(default_factory=dict)
    gone: dict[str, ArrayLayout] = field(default_factory=dict)

    def array(self, name: str, generation: int | None = None) -> ArrayState | None:
        """Return an array, of a given generation where there are two."""
        for table in (self.arrays, self.pending):
            found = table.get(name)
            if found and generation in (None, found.layout.generation):
                return found
        return None
