"""Where the values of a labelled write lie: dimensions by name, cells by label. Pure functions.

Coordinates of two and more dimensions (a curvilinear latitude and longitude) have no axis of
their own: n of them in a row with one n-d shape span n index dimensions, ``i<name>`` each.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._values._coordinates import Labels
from savers._values._names import check_array_name
from savers.errors import InvalidInputError, InvalidTypeError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["Axes", "Cells", "Run", "cells_of", "named_values", "runs"]

Index = tuple[int, ...]


def named_values(x: object, array_name: object) -> dict[str, Any]:
    """Return what one `write` brings, by array name.

    Raises
    ------
    InvalidInputError
        Another number of values than names, a name twice, or one that no array can have.
    """
    if isinstance(array_name, str):
        names = [array_name]
        values = list(x) if isinstance(x, (list, tuple)) and len(x) == 1 else [x]
    else:
        names = [str(name) for name in array_name]  # type: ignore[attr-defined]
        values = list(x) if isinstance(x, (list, tuple)) else [x]
    if len(names) != len(values) or len(set(names)) != len(names):
        message = (
            f"expected one array for each name, got {len(values)} for {len(names)} names: "
            f"{', '.join(map(repr, names))}"
        )
        raise InvalidInputError(message)
    return {check_array_name(name): value for name, value in zip(names, values, strict=True)}


@dataclass(frozen=True)
class Axes:
    """The coordinates of a write, one dimension an axis of its data.

    Parameters
    ----------
    dims : tuple of str
        In the order of the coordinates.
    labels : mapping of dimension to labels as they were given
        Index dimensions have none.
    sizes : mapping of dimension to int
    scalars : tuple of str
        Dimensions that came as a single label; the data need not have an axis for them.
    grids : mapping of name to ndarray
        Coordinates of two and more dimensions.
    grid_dims : mapping of name to tuple of str
        The index dimensions of each grid.
    """

    dims: tuple[str, ...]
    labels: Mapping[str, Any]
    sizes: Mapping[str, int]
    scalars: tuple[str, ...]
    grids: Mapping[str, NDArray[Any]]
    grid_dims: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, coords: object) -> Axes:
        """Return the axes that a user's coordinates describe.

        Raises
        ------
        InvalidInputError
            Not a mapping, or n-d coordinates that are not n in a row with one shape.
        """
        if not isinstance(coords, Mapping):
            message = f"expected coords as a mapping of dimension to labels, got {coords!r}"
            raise InvalidTypeError(message)
        dims: list[str] = []
        labels: dict[str, Any] = {}
        sizes: dict[str, int] = {}
        grids: dict[str, NDArray[Any]] = {}
        grid_dims: dict[str, tuple[str, ...]] = {}
        scalars: list[str] = []
        entries = iter([(check_array_name(name), _values(name, v)) for name, v in coords.items()])
        for name, values in entries:
            if values.ndim > 1:
                group = [(name, values), *itertools.islice(entries, values.ndim - 1)]
                _require_grid(group, values)
                index_dims = tuple(f"i{one}" for one, _ in group)
                dims += index_dims
                sizes.update(zip(index_dims, values.shape, strict=True))
                grids.update(group)
                grid_dims.update((one, index_dims) for one, _ in group)
                continue
            if not values.ndim:
                scalars.append(name)
            dims.append(name)
            labels[name] = np.atleast_1d(values)
            sizes[name] = len(labels[name])
        return cls(tuple(dims), labels, sizes, tuple(scalars), grids, grid_dims)

    def shaped(self, shape: Index, name: str) -> Index:
        """Return the shape that data of `shape` has with an axis for every dimension.

        Raises
        ------
        InvalidInputError
            Another number of axes, or of entries along one.
        """
        full = tuple(self.sizes[dim] for dim in self.dims)
        short = tuple(self.sizes[dim] for dim in self.dims if dim not in self.scalars)
        if shape in (full, short):
            return full
        message = (
            f"{name!r}: expected dimensions ({', '.join(self.dims)}) of shape {full}, as the "
            f"coordinates say, got data of shape {shape}"
        )
        raise InvalidInputError(message)


def _values(name: str, given: object) -> NDArray[Any]:
    values = Labels.plain(given, name)
    if not values.size:
        message = f"coordinate {name!r}: expected at least one label, got none"
        raise InvalidInputError(message)
    return values


def _require_grid(group: Sequence[tuple[str, NDArray[Any]]], first: NDArray[Any]) -> None:
    if len(group) < first.ndim or any(values.shape != first.shape for _, values in group):
        found = ", ".join(f"{name} {values.shape}" for name, values in group)
        message = (
            f"expected {first.ndim} coordinates of shape {first.shape} in a row for the "
            f"{first.ndim} dimensions that they span, got {found}"
        )
        raise InvalidInputError(message)


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring cells along one axis, and where the data has them.

    Parameters
    ----------
    start, stop : int
        In the array.
    source : slice or ndarray of int64
        In the data.
    """

    start: int
    stop: int
    source: slice | NDArray[np.int64]


def runs(targets: NDArray[np.int64]) -> tuple[Run, ...]:
    """Return the runs of neighbouring cells that `targets` (one a label of the data) makes.

    Examples
    --------
    >>> runs(np.array([3, 4, 0]))
    (Run(start=0, stop=1, source=slice(2, 3, None)), Run(start=3, stop=5, source=slice(0, 2, None)))
    """
    order = np.argsort(targets, kind="stable")
    places = targets[order]
    cuts = np.flatnonzero(np.diff(places) != 1) + 1
    found = []
    for part in np.split(np.arange(len(order)), cuts):
        source = order[part]
        first = int(places[part[0]])
        plain = bool((np.diff(source) == 1).all())
        begin = int(source[0])
        found.append(
            Run(first, first + len(part), slice(begin, begin + len(part)) if plain else source)
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Cells:
    """A box of an array, and the part of the data that fills it.

    Parameters
    ----------
    start, stop : tuple of int
    source : tuple
        Index expression in the data, whose axes are in the order of the array's.
    """

    start: Index
    stop: Index
    source: tuple[Any, ...]

    @property
    def shape(self) -> Index:
        """Extent of the box."""
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))


def cells_of(axes: Sequence[tuple[Run, ...]]) -> Iterator[Cells]:
    """Yield the boxes that the runs along each axis span."""
    for parts in itertools.product(*axes):
        sources: tuple[Any, ...] = tuple(run.source for run in parts)
        if any(isinstance(source, np.ndarray) for source in sources):
            lists = (np.r_[one] if isinstance(one, slice) else one for one in sources)
            sources = np.ix_(*lists)
        yield Cells(tuple(run.start for run in parts), tuple(run.stop for run in parts), sources)
