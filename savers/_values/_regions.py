"""Where a block lies in an array, and which chunks that touches. Pure functions.

A `Region` selects cells of an array: along some axes by points (several axes walked together, as
NumPy does with several index arrays), along all others by contiguous slices or by lists. `pieces`
cuts a region at the borders of a chunk grid; every write of every saver goes through it.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Piece", "Region", "box", "from_indices", "pieces", "rows"]

Selector = slice | np.ndarray  # slice(start, stop) with 0 <= start <= stop, or int64 indices


@dataclass(frozen=True, slots=True)
class Region:
    """Cells of an array, and the shape in which a block of data fills them.

    Parameters
    ----------
    selectors : tuple
        One an axis: ``slice(start, stop)`` or a 1-d array of indices.
    shape : tuple of int
        Shape of the data as the selectors lay it out: one axis for all `together` axes (first,
        where there are any), then one for each other axis.
    together : tuple of int
        Axes whose index arrays are walked together, point by point.
    user_shape : tuple of int
        Shape of the data as the caller gives it (integers drop their axis).
    to_front : tuple of int
        Axes of the caller's data that come first in `shape` (those of the points).
    """

    selectors: tuple[Selector, ...]
    shape: tuple[int, ...]
    together: tuple[int, ...] = ()
    user_shape: tuple[int, ...] = ()
    to_front: tuple[int, ...] = ()

    def arrange(self, block: NDArray[Any]) -> NDArray[Any]:
        """Return the caller's block in the order and shape of the selectors."""
        if self.to_front:
            block = np.moveaxis(block, self.to_front, range(len(self.to_front)))
        return block.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Piece:
    """The part of a region in one chunk.

    Parameters
    ----------
    chunk : tuple of int
        Index of the chunk in its grid.
    inside : tuple
        Index expression of the piece within the chunk.
    source : tuple
        Index expression of the piece within the region's data.
    whole : bool
        True when the piece covers every cell of the chunk that lies in the array.
    """

    chunk: tuple[int, ...]
    inside: tuple[Any, ...]
    source: tuple[Any, ...]
    whole: bool


def box(start: tuple[int, ...], shape: tuple[int, ...]) -> Region:
    """Return the contiguous region of `shape` at `start`."""
    selectors = tuple([slice(a, a + n) for a, n in zip(start, shape, strict=True)])
    return Region(selectors, shape, user_shape=shape)


def rows(first: int, shape: tuple[int, ...]) -> Region:
    """Return the region of ``shape[0]`` whole rows from row `first` on."""
    return box((first, *[0] * (len(shape) - 1)), shape)


def pieces(region: Region, chunks: tuple[int, ...], extent: tuple[int, ...]) -> Iterator[Piece]:
    """Cut `region` at the chunk borders of an array.

    Parameters
    ----------
    region : Region
    chunks : tuple of int
        Shape of a chunk.
    extent : tuple of int
        Shape of the array; cells of a chunk beyond it need no data.

    Examples
    --------
    >>> for piece in pieces(rows(2, (4,)), (3,), (6,)):
    ...     print(piece.chunk, piece.inside, piece.source, piece.whole)
    (0,) (slice(2, 3, None),) (slice(0, 1, None),) False
    (1,) (slice(0, 3, None),) (slice(1, 4, None),) True
    """
    if all(isinstance(selector, slice) for selector in region.selectors):
        yield from _box_pieces(region, chunks, extent)
    else:
        yield from _scattered_pieces(region, chunks)


def _box_pieces(
    region: Region, chunks: tuple[int, ...], extent: tuple[int, ...]
) -> Iterator[Piece]:
    axes = [_slice_parts(*axis) for axis in zip(region.selectors, chunks, extent, strict=True)]
    for parts in itertools.product(*axes):
        index, inside, source, whole = zip(*parts, strict=True) if parts else ((), (), (), ())
        yield Piece(index, inside, source, all(whole))


def _slice_parts(
    selector: Selector, size: int, extent: int
) -> list[tuple[int, slice, slice, bool]]:
    """Chunk, place in it, place in the data, and whether that is all of the chunk, of an axis."""
    start, stop = selector.start, selector.stop  # type: ignore[union-attr]
    parts: list[tuple[int, slice, slice, bool]] = []
    for chunk in range(start // size, -(-stop // size) if stop > start else start // size):
        begin, end = chunk * size, (chunk + 1) * size
        low, high = max(start, begin), min(stop, end)
        whole = low == begin and high == min(end, extent)
        parts.append(
            (chunk, slice(low - begin, high - begin), slice(low - start, high - start), whole)
        )
    return parts


def _scattered_pieces(region: Region, chunks: tuple[int, ...]) -> Iterator[Piece]:
    """Index arrays: group the points and each list by chunk, then take every combination."""
    together = region.together
    alone = [axis for axis in range(len(chunks)) if axis not in together]
    groups: list[list[tuple[tuple[int, ...], tuple[Any, ...], Any]]] = []
    if together:
        points = np.stack([np.asarray(region.selectors[axis]) for axis in together])
        groups.append(_grouped(points, np.array([chunks[axis] for axis in together])))
    for axis in alone:
        listed = np.atleast_2d(_as_indices(region.selectors[axis]))
        groups.append(_grouped(listed, np.array([chunks[axis]])))
    order = [*together, *alone]
    for parts in itertools.product(*groups):
        index = [0] * len(chunks)
        inside: list[Any] = [None] * len(chunks)
        places = iter(order)
        for depth, (chunk, within, _) in enumerate(parts):
            for one_chunk, one_within in zip(chunk, within, strict=True):
                axis = next(places)
                index[axis] = one_chunk
                inside[axis] = _broadcast(one_within, depth, len(parts))
        source = np.ix_(*(part[2] for part in parts))
        yield Piece(tuple(index), tuple(inside), source, whole=False)


def _as_indices(selector: Selector) -> NDArray[np.int64]:
    if isinstance(selector, slice):
        return np.arange(selector.start, selector.stop)
    return selector


def _broadcast(within: NDArray[np.int64], depth: int, count: int) -> NDArray[np.int64]:
    return within.reshape((1,) * depth + (-1,) + (1,) * (count - depth - 1))


def _grouped(
    points: NDArray[np.int64], sizes: NDArray[np.int64]
) -> list[tuple[tuple[int, ...], tuple[Any, ...], NDArray[np.int64]]]:
    """Group points (axes, n) by chunk: chunk index, positions within it, places in the data."""
    chunk_of = points // sizes[:, None]
    unique, member = np.unique(chunk_of, axis=1, return_inverse=True)
    order = np.argsort(member.ravel(), kind="stable")
    bounds = np.searchsorted(member.ravel()[order], np.arange(unique.shape[1] + 1))
    grouped = []
    for group in range(unique.shape[1]):
        places = order[bounds[group] : bounds[group + 1]]
        chunk = unique[:, group]
        within = points[:, places] - (chunk * sizes)[:, None]
        grouped.append((tuple(int(c) for c in chunk), tuple(within), places))
    return grouped


# -- indices as users write them -----------------------------------------------------------------


def from_indices(indices: object, shape: tuple[int, ...], name: str) -> Region:
    """Return the region that NumPy's ``array[indices]`` selects in an array of `shape`.

    Parameters
    ----------
    indices : int, slice, list, integer or boolean array, Ellipsis, or a tuple of them
        Negative integers count from the end. Index arrays in a tuple go together, as in NumPy.
    shape : tuple of int
    name : str
        Name of the array, for messages.

    Raises
    ------
    InvalidInputError
        Out of range, too many indices, a cell named twice, or no index at all.
    """
    entries, gap = _expand(indices, shape, name)
    arrays = [axis for axis, entry in enumerate(entries) if isinstance(entry, np.ndarray)]
    if not arrays:
        return _plain_region(entries)
    return _array_region(entries, gap, name)


def _expand(indices: object, shape: tuple[int, ...], name: str) -> tuple[list[Any], int]:
    """One entry an axis: int, slice(start, stop) or int64 array of any shape; and where `...` was.

    To NumPy an Ellipsis keeps index arrays apart even where it stands for no axis.
    """
    given = list(indices) if isinstance(indices, tuple) else [indices]
    entries_given: list[Any] = [_normal(entry, name) for entry in given]
    given = entries_given
    consumed = sum(entry.ndim if _is_mask(entry) else 1 for entry in given if entry is not ...)
    if sum(entry is ... for entry in given) > 1:
        message = f"{name!r}: expected at most one Ellipsis in the indices, got {indices!r}"
        raise InvalidInputError(message)
    if consumed > len(shape):
        message = f"{name!r} of shape {shape} takes {len(shape)} indices, got {consumed}"
        raise InvalidInputError(message)
    if not any(entry is ... for entry in given):
        given.append(...)
    entries: list[Any] = []
    gap = 0
    for entry in given:
        if entry is ...:
            gap = len(entries)
            fill = len(shape) - consumed
            entries.extend(slice(0, size) for size in shape[len(entries) : len(entries) + fill])
        elif _is_mask(entry):
            entries.extend(_mask_indices(entry, shape, len(entries), name))
        else:
            entries.append(_bounded(entry, shape[len(entries)], len(entries), name))
    return entries, gap


def _normal(entry: object, name: str) -> Any:
    if entry is ... or isinstance(entry, slice):
        return entry
    if isinstance(entry, (bool, np.bool_)) or entry is None:
        message = f"{name!r}: expected an index, got {entry!r}"
        raise InvalidInputError(message)
    try:
        array = np.asarray(entry)
    except ValueError as error:
        message = f"{name!r}: expected indices, got a ragged {type(entry).__name__}"
        raise InvalidInputError(message) from error
    if array.size == 0 and array.dtype.kind != "b":
        array = array.astype(np.int64)
    if array.dtype.kind not in "iub":
        message = f"{name!r}: expected integers, a slice or a mask as indices, got {array.dtype}"
        raise InvalidInputError(message)
    if array.ndim:
        return array
    if array.dtype.kind == "b":
        message = f"{name!r}: expected an index, got the single boolean {entry!r}"
        raise InvalidInputError(message)
    return int(array)


def _is_mask(entry: Any) -> bool:
    return isinstance(entry, np.ndarray) and entry.dtype.kind == "b"


def _mask_indices(
    mask: NDArray[np.bool_], shape: tuple[int, ...], axis: int, name: str
) -> list[NDArray[np.int64]]:
    expected = shape[axis : axis + mask.ndim]
    if mask.shape != expected:
        message = f"{name!r}: expected a mask of shape {expected}, got {mask.shape}"
        raise InvalidInputError(message)
    return [part.astype(np.int64) for part in np.nonzero(mask)]


def _bounded(entry: Any, size: int, axis: int, name: str) -> Any:
    if isinstance(entry, slice):
        start, stop, step = _slice_bounds(entry, size, name)
        if step == 1:
            return slice(start, max(start, stop))
        return _Strided(np.arange(start, stop, step))
    array = np.asarray(entry, dtype=np.int64)
    outside = (array < -size) | (array >= size)
    if outside.any():
        value = int(array[outside][0]) if array.ndim else int(array)
        message = f"{name!r}: index {value} is out of range for axis {axis} with {size} entries"
        raise InvalidInputError(message)
    array = np.where(array < 0, array + size, array)
    return int(array) if array.ndim == 0 else array


def _slice_bounds(entry: slice, size: int, name: str) -> tuple[int, int, int]:
    try:
        return entry.indices(size)
    except (TypeError, ValueError) as error:
        message = f"{name!r}: expected a slice of integers with a step, got {entry}: {error}"
        raise InvalidInputError(message) from error


class _Strided:
    """The indices of a slice with a step: a list that keeps its own axis."""

    def __init__(self, indices: NDArray[np.int64]) -> None:
        self.indices = indices


def _alone(entry: Any) -> tuple[Selector, int]:
    """Selector and length of an axis that is not walked together with others."""
    if isinstance(entry, _Strided):
        return entry.indices, len(entry.indices)
    if isinstance(entry, slice):
        return entry, entry.stop - entry.start
    return slice(entry, entry + 1), 1


def _plain_region(entries: list[Any]) -> Region:
    parts = [_alone(entry) for entry in entries]
    user = tuple(n for (_, n), entry in zip(parts, entries, strict=True) if not _is_int(entry))
    return Region(tuple(s for s, _ in parts), tuple(n for _, n in parts), user_shape=user)


def _is_int(entry: Any) -> bool:
    return isinstance(entry, int)


def _array_region(entries: list[Any], gap: int, name: str) -> Region:
    """Index arrays (integers join them, as in NumPy) are walked together."""
    together = [a for a, e in enumerate(entries) if isinstance(e, np.ndarray) or _is_int(e)]
    try:
        points = np.broadcast_arrays(*(np.asarray(entries[a]) for a in together))
    except ValueError as error:
        shapes = [np.shape(entries[a]) for a in together]
        message = f"{name!r}: index arrays of shapes {shapes} don't go together"
        raise InvalidInputError(message) from error
    point_shape = points[0].shape
    flat = [np.ravel(p).astype(np.int64) for p in points]
    _require_unique(np.stack(flat), name)
    selectors: list[Selector] = [slice(0, 0)] * len(entries)
    for axis, indices in zip(together, flat, strict=True):
        selectors[axis] = indices
    lengths = []
    for axis, entry in enumerate(entries):
        if axis not in together:
            selectors[axis], length = _alone(entry)
            lengths.append(length)
    neighbours = together == list(range(together[0], together[-1] + 1))
    place = together[0] if neighbours and not together[0] < gap <= together[-1] else 0
    user = (*lengths[:place], *point_shape, *lengths[place:])
    front = tuple(range(place, place + len(point_shape)))
    shape = (math.prod(point_shape), *lengths)
    return Region(tuple(selectors), shape, tuple(together), user, front)


def _require_unique(points: NDArray[np.int64], name: str) -> None:
    unique, counts = np.unique(points, axis=1, return_counts=True)
    if (counts > 1).any():
        twice = tuple(int(i) for i in unique[:, counts > 1][:, 0])
        message = f"{name!r}: indices name cell {twice if len(twice) > 1 else twice[0]} twice"
        raise InvalidInputError(message)
