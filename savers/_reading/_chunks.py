"""Which stored objects a selection touches; pure arithmetic."""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["cells_of", "touched"]

Index = tuple[int, ...]


def touched(
    key: Sequence[Any], shape: Sequence[int], grid: Sequence[int], *, pointwise: bool
) -> list[Index]:
    """Return the indices of the objects that hold the selected cells.

    Parameters
    ----------
    key : sequence of int, slice or ndarray of int
        One for each axis.
    shape, grid : sequence of int
        Cells of the array, and of one object.
    pointwise : bool
        True where the arrays of `key` name points, as in NumPy; False where each selects along its
        own axis.

    Examples
    --------
    >>> touched((slice(0, 5), 7), (10, 10), (4, 4), pointwise=False)
    [(0, 1), (1, 1)]
    >>> touched((np.array([0, 9]), np.array([0, 9])), (10, 10), (4, 4), pointwise=True)
    [(0, 0), (2, 2)]
    """
    if not pointwise:
        axes = (_along(k, n, step) for k, n, step in zip(key, shape, grid, strict=True))
        return list(product(*axes))
    cells = np.broadcast_arrays(*(_points(k, n) for k, n in zip(key, shape, strict=True)))
    chunks = [part.ravel() // max(1, step) for part, step in zip(cells, grid, strict=True)]
    return list(dict.fromkeys(zip(*(part.tolist() for part in chunks), strict=True)))


def _along(key: Any, size: int, step: int) -> Iterable[int]:
    step = max(1, step)
    if not isinstance(key, slice):
        return dict.fromkeys((np.ravel(_points(key, size)) // step).tolist())
    cells = range(*key.indices(size))
    if not cells:
        return ()
    first, last = sorted((cells[0], cells[-1]))
    if abs(cells.step) <= step:
        return range(first // step, last // step + 1)
    return dict.fromkeys(cell // step for cell in cells)


def _points(key: Any, size: int) -> np.ndarray[Any, Any]:
    cells = np.asarray(key, np.int64)
    return np.where(cells < 0, cells + size, cells)


def cells_of(objects: int, grid: Sequence[int]) -> int:
    """Return how many cells a number of objects holds."""
    return objects * math.prod(grid)
