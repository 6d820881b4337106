"""From one labelled write to the chunks that it fills, and the one copy of its values."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._chunked._labelled_plan import placed, split_cells
from savers._values._blocks import fit
from savers._values._placement import cells_of
from savers._values._regions import box, pieces
from savers._values._staging import stage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from savers._ledger._state import ArrayLayout
    from savers._values._coordinates import Labels
    from savers._values._placement import Axes, Cells
    from savers._values._regions import Piece
    from savers._values._staging import Staged

__all__ = ["ArrayWrite"]

Index = tuple[int, ...]
#: Labels that a message shows of one dimension.
SHOWN = 3


@dataclass
class ArrayWrite:
    """What one write brings for one array.

    Parameters
    ----------
    layout : ArrayLayout
    value : object
        As the caller gave it.
    staged : Staged
        The same on the host (or on its way there), not yet copied where that is not needed.
    axes : Axes
    labels : mapping of dimension to Labels
        Those of the store.
    """

    layout: ArrayLayout
    value: object
    staged: Staged
    axes: Axes
    labels: Mapping[str, Labels]
    boxes: list[Cells] = field(init=False)
    wholes: list[tuple[Cells, Piece]] = field(init=False, default_factory=list)
    merges: list[tuple[Cells, Piece]] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        layout, dims = self.layout, self.layout.meta["dims"]
        self.axes.shaped(self.staged.shape, layout.name)
        where = placed(dims, layout.shape, self.axes, self.labels, layout.name)
        self.boxes = list(cells_of(where))
        for cells in self.boxes:
            for piece in pieces(box(cells.start, cells.shape), layout.chunks, layout.shape):
                whole = piece.whole and not self._may_grow(piece.chunk)
                (self.wholes if whole else self.merges).append((cells, piece))

    def _may_grow(self, chunk: Index) -> bool:
        """Return whether another writer may have added labels to a chunk since we looked."""
        layout = self.layout
        return any(
            (chunk[axis] + 1) * layout.chunks[axis] > layout.shape[axis] for axis in layout.cells
        )

    def settled(self) -> tuple[list[Any], list[Any]]:
        """Return the cells, and the parts of cells, that are written once this is durable."""
        return split_cells(self.layout, self.boxes)

    def described(self) -> str:
        """Return the labels in words."""
        return ", ".join(
            f"{dim}={_shown(self.axes.labels[dim])}"
            for dim in self.axes.dims
            if dim in self.axes.labels and len(self.axes.labels[dim]) <= 8 * SHOWN
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the values that are held until they are durable."""
        cells = sum(math.prod(_length(cut) for cut in piece.source) for _, piece in self.wholes)
        return cells * self.layout.values_dtype.itemsize

    def take_over(self, *, rounding: bool, copy: bool) -> None:
        """Have values in the array's dtype that nobody changes, where they outlive this call.

        Raises
        ------
        InvalidInputError
            A value that the dtype can't hold.
        """
        dtype, name = self.layout.values_dtype, self.layout.name
        if self.staged.dtype != dtype:
            there = self.staged.values
            values = fit(there, dtype, name, rounding=rounding)
            self.staged.release()
            self.staged = stage(values, copy=copy and np.shares_memory(values, there))
        elif copy and self.wholes and not self.staged.owned:
            self.staged = stage(self.value, name=name)

    def values(self, cells: Cells) -> NDArray[Any]:
        """Return the values of a box, in the order of the array's dimensions."""
        full = self.staged.values.reshape(self.axes.shaped(self.staged.shape, self.layout.name))
        turned = full.transpose([self.axes.dims.index(dim) for dim in self.layout.meta["dims"]])
        part: NDArray[Any] = turned[cells.source]
        return part

    def makers(self) -> list[tuple[Index, Callable[[], NDArray[Any]]]]:
        """Return the chunks that are covered, and what gives their values when it is called."""
        return [
            (piece.chunk, functools.partial(self._cut, cells, piece))
            for cells, piece in self.wholes
        ]

    def _cut(self, cells: Cells, piece: Piece) -> NDArray[Any]:
        block: NDArray[Any] = self.values(cells)[piece.source]
        return block


def _length(cut: slice) -> int:
    return int(cut.stop - cut.start)


def _shown(labels: NDArray[Any]) -> str:
    texts = [str(label) for label in labels[:SHOWN]]
    more = len(labels) - len(texts)
    return " ".join(texts) + (f" ... ({len(labels)})" if more > 0 else "")
