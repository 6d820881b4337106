"""The dimensions of a NetCDF file, from the arrays in it. Pure functions.

A dimension lies in the group of its first array, or in a group above it. Its labels, where there
are any, are the 1-d array of its name (the coordinate variable).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Axes", "Dimension", "dimensions"]


@dataclass(frozen=True)
class Axes:
    """The dimensions of one array, as it names them.

    Parameters
    ----------
    dims : tuple of str
    shape : tuple of int
    unlimited : bool
        True when the first of them grows.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    unlimited: bool = False


@dataclass(frozen=True)
class Dimension:
    """A dimension of a file.

    Parameters
    ----------
    path : str
        Group and name.
    size : int
    unlimited : bool
    labelled : bool
        True where an array of this path holds its labels.
    """

    path: str
    size: int
    unlimited: bool
    labelled: bool = False


def dimensions(
    arrays: Mapping[str, Axes], where: str
) -> tuple[list[Dimension], dict[str, tuple[str, ...]]]:
    """Return all dimensions in the order of the arrays, and the paths of those of each array.

    Parameters
    ----------
    arrays : mapping of path to Axes
    where : str
        The file, for messages.

    Raises
    ------
    InvalidInputError
        Arrays of one group give a dimension different sizes.

    Examples
    --------
    >>> found, paths = dimensions({"t2m": Axes(("time", "x"), (3, 4), True),
    ...                            "time": Axes(("time",), (3,))}, "out.nc")
    >>> [(one.path, one.size, one.unlimited, one.labelled) for one in found]
    [('time', 3, True, True), ('x', 4, False, False)]
    >>> paths["t2m"]
    ('time', 'x')
    """
    found: dict[str, Dimension] = {}
    paths: dict[str, tuple[str, ...]] = {}
    order = list(arrays)  # groups from the root down, in each the labels first
    for name in sorted(order, key=lambda n: (n.count("/"), not _is_labels(arrays, n))):
        paths[name] = tuple(_place(found, name, axis, where) for axis in _each(arrays[name]))
    used = dict.fromkeys(path for name in arrays for path in paths[name])
    return [replace(found[path], labelled=_is_labels(arrays, path)) for path in used], paths


def _is_labels(arrays: Mapping[str, Axes], path: str) -> bool:
    return path in arrays and arrays[path].dims == (path.rpartition("/")[2],)


def _each(axes: Axes) -> Iterator[Dimension]:
    for position, (name, size) in enumerate(zip(axes.dims, axes.shape, strict=True)):
        yield Dimension(name, size, axes.unlimited and position == 0)


def _place(found: dict[str, Dimension], array: str, axis: Dimension, where: str) -> str:
    """Return the path of an axis of an array: a dimension that is there, or one of its own."""
    candidates = list(_upward(array.rpartition("/")[0], axis.path))
    for path in candidates:
        there = found.get(path)
        if there is None:
            continue
        unlimited = there.unlimited or axis.unlimited
        if unlimited or there.size == axis.size:
            found[path] = Dimension(path, max(there.size, axis.size), unlimited)
            return path
        if path == candidates[0]:
            message = (
                f"expected {there.size} entries along {axis.path!r} in {where}, as other arrays "
                f"have, got {axis.size} for {array!r}; name its dimensions with dims="
            )
            raise InvalidInputError(message)
    found[candidates[0]] = replace(axis, path=candidates[0])
    return candidates[0]


def _upward(group: str, name: str) -> Iterator[str]:
    """Yield the paths that a name may mean within a group, the nearest first."""
    while group:
        yield f"{group}/{name}"
        group = group.rpartition("/")[0]
    yield name
