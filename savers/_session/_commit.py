"""What one commit does: which chunks it completes, and what rides in its record."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._jobs import ItemStatus
from savers._session._chunk_store import pack
from savers._values._regions import pieces
from savers._values._rounding import rounded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from savers._ledger._state import ArrayState
    from savers._session._chunk_store import Block, ChunkId, Put
    from savers._values._regions import Piece, Region

__all__ = ["Box", "CommitPlan", "Write"]

#: Extent of a growing axis, as far as cutting a block into chunks goes.
ENDLESS = (1 << 63) - 1

Index = tuple[int, ...]
Box = tuple[Index, Index, int]  # first and one-past-last cell along the cell axes, and a status


@dataclass(frozen=True, slots=True)
class Write:
    """A block on its way into a region of an array.

    Parameters
    ----------
    array : ArrayState
    region : Region
    block : ndarray
        Values in the array's dtype, in the caller's shape for `region`.
    at_once : bool
        True puts every touched chunk into the store with the commit, whole or not.
    """

    array: ArrayState
    region: Region
    block: NDArray[Any]
    at_once: bool = False


class CommitPlan:
    """The chunks that a commit touches.

    Parameters
    ----------
    writes : sequence of Write
    cells : mapping of array name to boxes
        The cells that the commit settles.
    raw : int
        Bytes that come before the pieces in the record.
    whole : sequence of ArrayState
        Arrays of which nothing may stay in the ledger alone.
    load : callable
        Returns the committed values of a chunk, not to be changed.
    """

    def __init__(
        self,
        writes: Sequence[Write],
        cells: Mapping[str, Sequence[Box]],
        raw: int,
        whole: Sequence[ArrayState],
        load: Callable[[ArrayState, Index], NDArray[Any]],
    ) -> None:
        self.cells = cells
        self.load = load
        self.touched: dict[ChunkId, list[tuple[Piece, NDArray[Any]]]] = {}
        self.arrays: dict[tuple[str, int], ArrayState] = {}
        self.at_once: set[ChunkId] = set()
        self.payload: list[bytes] = []
        self._payload_end = raw
        for array in whole:
            self._add_open_chunks(array)
        for write in writes:
            self._add(write)

    def _add_open_chunks(self, array: ArrayState) -> None:
        name, generation = array.layout.name, array.layout.generation
        self.arrays[name, generation] = array
        for index in array.loose:
            self.touched.setdefault((name, generation, index), [])
            self.at_once.add((name, generation, index))

    def _add(self, write: Write) -> None:
        layout = write.array.layout
        self.arrays[layout.name, layout.generation] = write.array
        block = write.region.arrange(write.block)
        if "keep_relative" in layout.meta:
            block = rounded(block, layout.meta["keep_relative"])
        extent = layout.shape
        if layout.growing:
            extent = (ENDLESS, *extent[1:])
        for piece in pieces(write.region, layout.chunks, extent):
            chunk = (layout.name, layout.generation, piece.chunk)
            self.touched.setdefault(chunk, []).append((piece, block))
            if write.at_once:
                self.at_once.add(chunk)

    def blocks(self) -> Iterator[Block]:
        """Yield the chunks that go to the store with this commit, put together one by one."""
        for chunk in self.touched:
            if chunk in self.at_once or self._complete(chunk):
                yield self.arrays[chunk[:2]], chunk[2], self._assembled(chunk)

    def _complete(self, chunk: ChunkId) -> bool:
        """Every cell of the chunk is settled once this commit stands."""
        array, index = self.arrays[chunk[:2]], chunk[2]
        growing, axes, chunks = array.layout.growing, array.layout.cells, array.layout.chunks
        boxes = self.cells.get(chunk[0], ())
        if growing and self._rows(array, boxes) < (index[0] + 1) * chunks[0]:
            return False
        sizes = [chunks[axis] for axis in axes]
        first = [index[axis] * n for axis, n in zip(axes, sizes, strict=True)]
        for start, stop, _ in boxes:
            bounds = zip(start, stop, first, sizes, strict=True)
            if all(a <= f and f + n <= b for a, b, f, n in bounds):
                return True
        status = _window(array.status, first, sizes, growing=growing)
        for start, stop, _ in boxes:
            inside = tuple(
                slice(max(0, a - f), max(0, b - f))
                for a, b, f in zip(start, stop, first, strict=True)
            )
            status[inside] = ItemStatus.DONE
        return bool(status.all())

    @staticmethod
    def _rows(array: ArrayState, boxes: Sequence[Box]) -> int:
        """Rows of a growing array once this commit stands."""
        return max([array.rows, *[stop[0] for _, stop, _ in boxes]])

    def _assembled(self, chunk: ChunkId) -> NDArray[Any]:
        array, parts = self.arrays[chunk[:2]], self.touched[chunk]
        if len(parts) == 1 and parts[0][0].whole:
            piece, source = parts[0]
            block: NDArray[Any] = source[piece.source]
            if block.shape == array.layout.chunks:
                return block
        block = self.load(array, chunk[2]).copy()
        self.apply(chunk, block)
        return block

    def apply(self, chunk: ChunkId, block: NDArray[Any]) -> None:
        """Write what the commit brings for a chunk into its block."""
        for piece, source in self.touched[chunk]:
            block[piece.inside] = source[piece.source]

    def entries(self, puts: Sequence[Put]) -> list[dict[str, Any]]:
        """Return what the record says of each array; pieces of open chunks ride along."""
        stored = {put.id: put for put in puts}
        entries: dict[str, dict[str, Any]] = {
            name: {"array": name, "generation": generation, "cells": list(self.cells.get(name, ()))}
            for name, generation in self.arrays
        }
        for name in self.cells.keys() - entries.keys():
            entries[name] = {"array": name, "cells": list(self.cells[name])}
        for chunk, parts in self.touched.items():
            entry = entries[chunk[0]]
            if chunk in stored:
                entry.setdefault("chunks", []).append(stored[chunk].entry())
                self._note_moment(entry, chunk)
            else:
                entry.setdefault("pieces", []).extend(self._ride(chunk[2], parts))
        return list(entries.values())

    def _note_moment(self, entry: dict[str, Any], chunk: ChunkId) -> None:
        """Of chunks that other writers put, too, the latest counts: this one is."""
        array = self.arrays[chunk[:2]]
        if array.layout.meta.get("writers"):
            now = time.time_ns() // 1000
            entry.setdefault("at", []).append(max(now, array.put_at.get(chunk[2], 0) + 1))

    def _ride(self, index: Index, parts: Sequence[tuple[Piece, NDArray[Any]]]) -> list[list[Any]]:
        entries = []
        for piece, source in parts:
            values = source[piece.source]
            data = pack(values)
            start = [cut.start for cut in piece.inside]
            entries.append([index, start, values.shape, self._payload_end, len(data)])
            self.payload.append(data)
            self._payload_end += len(data)
        return entries


def _window(
    status: NDArray[np.uint8], first: Sequence[int], sizes: Sequence[int], *, growing: bool
) -> NDArray[np.uint8]:
    """Return a copy of the status of a chunk's cells; those beyond a growing array are open."""
    inside: tuple[Any, ...] = (..., *(slice(f, f + n) for f, n in zip(first, sizes, strict=True)))
    cut: NDArray[np.uint8] = status[inside]
    if not growing or cut.shape == tuple(sizes):
        return cut.copy()
    window = np.zeros(sizes, np.uint8)
    window[tuple(map(slice, cut.shape))] = cut
    return window
