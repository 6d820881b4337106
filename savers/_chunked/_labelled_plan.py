"""What a labelled write needs of a store: stored labels, arrays of known extents, cells to fill.

Stored labels keep their place. Labels that a saver declares (`coords`, or parallel coordinates)
and the store does not have go behind the stored ones, and every array along them grows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from savers._chunked._planning import plain_attributes
from savers._chunked._save_plan import SavePlan
from savers._format import NewArray
from savers._jobs import ItemStatus
from savers._ledger._state import fresh_array
from savers._session._commit import Write
from savers._values._coordinates import Labels
from savers._values._placement import Run, cells_of, runs
from savers._values._regions import box
from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from savers._chunked._saver import ChunkedSaver
    from savers._ledger._state import ArrayLayout, ArrayState, State
    from savers._session._session import Session
    from savers._values._placement import Axes, Cells

__all__ = ["LabelledPlan", "placed", "split_cells", "stored_labels"]

Index = tuple[int, ...]


def stored_labels(session: Session, state: State, dimension: str) -> Labels | None:
    """Return the labels that the store has for a dimension, None for none.

    Raises
    ------
    InvalidInputError
        An array that is no coordinate has its name.
    """
    array = state.arrays.get(dimension)
    if array is None:
        return None
    if list(array.layout.meta["dims"]) != [dimension]:
        message = f"coordinate {dimension!r} has the name of an array in {session.location.name}"
        raise InvalidInputError(message)
    values = session.read(array, box((0,), array.layout.shape))
    return Labels(dimension, values, array.layout.meta.get("calendar", ""))


def placed(
    array_dims: Sequence[str], shape: Index, axes: Axes, labels: Mapping[str, Labels], name: str
) -> tuple[tuple[Run, ...], ...]:
    """Return where the labels of a write lie along each axis of an array.

    Raises
    ------
    InvalidInputError
        Other dimensions than the array's, or index dimensions of another extent.
    CoordinateNotFoundError
        An unknown label.
    """
    if sorted(array_dims) != sorted(axes.dims):
        message = (
            f"expected dimensions ({', '.join(array_dims)}) for {name!r}, "
            f"got ({', '.join(axes.dims)})"
        )
        raise InvalidInputError(message)
    found = []
    for dimension, size in zip(array_dims, shape, strict=True):
        if dimension in axes.labels:
            found.append(_runs_of(labels[dimension], axes.labels[dimension]))
            continue
        if axes.sizes[dimension] != size:
            message = (
                f"{name!r}: expected {size} cells along {dimension!r}, got {axes.sizes[dimension]}"
            )
            raise InvalidInputError(message)
        found.append((Run(0, size, slice(0, size)),))
    return tuple(found)


def _runs_of(labels: Labels, given: NDArray[Any]) -> tuple[Run, ...]:
    if labels.are(given):
        return (Run(0, len(given), slice(0, len(given))),)
    return runs(labels.indices(given))


def split_cells(layout: ArrayLayout, boxes: Sequence[Cells]) -> tuple[list[Any], list[Any]]:
    """Return what boxes settle: cells with all their values (as boxes of cells), and parts."""
    whole, parts = [], []
    others = [axis for axis in range(len(layout.shape)) if axis not in layout.cells]
    for one in boxes:
        if all((one.start[a], one.stop[a]) == (0, layout.shape[a]) for a in others):
            start, stop = (tuple(v[a] for a in layout.cells) for v in (one.start, one.stop))
            whole.append((start, stop, int(ItemStatus.DONE)))
        else:
            parts.append((one.start, one.stop))
    return whole, parts


class LabelledPlan:
    """The arrays and writes of labelled calls, found without changing anything.

    Parameters
    ----------
    saver : ChunkedSaver
    session : Session
    state : State
    declared : mapping of dimension to Labels
        What the saver was made with; the store gets those that it does not have.
    options : mapping
        Keywords for the creation of arrays.
    """

    def __init__(
        self,
        saver: ChunkedSaver,
        session: Session,
        state: State,
        declared: Mapping[str, Labels],
        options: Mapping[str, Any],
    ) -> None:
        self.saver = saver
        self.session = session
        self.state = state
        self.declared = declared
        self.labels: dict[str, Labels] = {}
        planner = saver.planner(session, options, labels=self.labels)
        self.plan = SavePlan(saver, session, state, planner)

    def label(self, dimension: str, given: object = None) -> Labels:
        """Return the labels of a dimension: stored, declared, or else those that were given."""
        if dimension not in self.labels:
            there = stored_labels(self.session, self.state, dimension)
            declared = self.declared.get(dimension)
            known = there or declared or Labels.of(dimension, given)
            if there is not None and declared is not None:
                known = there.extended(declared)
            self.labels[dimension] = known
        return self.labels[dimension]

    def grow(self) -> bool:
        """Plan the labels that the store does not have yet; True where there are any."""
        for dimension in self.declared:
            there = self.state.arrays.get(dimension)
            size = len(self.label(dimension).values)
            if there is None or there.layout.shape == (size,):
                continue
            self.plan.coordinate(self.labels[dimension], "")
            for name, array in self.state.arrays.items():
                layout = array.layout
                dims = layout.meta["dims"]
                if dimension in dims and name != dimension and not layout.growing:
                    shape = self.plan.extents.get(name, layout.shape)
                    axis = dims.index(dimension)
                    self.plan.extents[name] = (*shape[:axis], size, *shape[axis + 1 :])
        return bool(self.plan.extents or self.plan.new)

    def array(
        self, name: str, axes: Axes, dtype: np.dtype[Any], cells: Sequence[str] = ()
    ) -> ArrayState:
        """Return the array of a labelled call, planned where it is not there.

        Parameters
        ----------
        name : str
        axes : Axes
            Its dimensions, should it be new.
        dtype : numpy.dtype
        cells : sequence of str
            The dimensions along which its results are told apart.

        Raises
        ------
        InvalidInputError
            What is there does not fit.
        """
        there = self.plan.existing(name)
        if there is not None:
            self._check_kind(there.layout)
            self.saver.check_chunks(there.layout)
            self._grids(axes)
            return there
        return self._create(name, axes, dtype, self._extent(axes), cells)

    def _extent(self, axes: Axes) -> Index:
        """Return the shape of an array with these dimensions."""
        for dimension, given in axes.labels.items():
            self.label(dimension, given)
        sizes = {**axes.sizes, **{dim: len(labels.values) for dim, labels in self.labels.items()}}
        return tuple(sizes[dim] for dim in axes.dims)

    def check(self, array: ArrayState, axes: Axes) -> None:
        """Compare the labels of a write with an array.

        Raises
        ------
        InvalidInputError, CoordinateNotFoundError
            They don't fit.
        """
        for dimension, given in axes.labels.items():
            self.label(dimension, given)
        layout = array.layout
        placed(layout.meta["dims"], layout.shape, axes, self.labels, layout.name)

    def _check_kind(self, layout: ArrayLayout) -> None:
        if layout.growing:
            message = (
                f"{layout.name!r} in {self.saver.where} grows row by row: use save(data), or "
                "another array name for labelled writes"
            )
            raise InvalidInputError(message)

    def _create(
        self, name: str, axes: Axes, dtype: np.dtype[Any], shape: Index, cells: Sequence[str]
    ) -> ArrayState:
        options = {**self.saver.chunks_of(axes.dims, shape), **self._options(axes)}
        planner = self.saver.planner(
            self.session, options, labels=self.labels, dims={name: axes.dims}
        )
        at = tuple(axes.dims.index(dim) for dim in cells if dim in axes.dims)
        layout = planner.fixed(name, shape, dtype, tuple(sorted(at)))
        if self.saver.supports_parallel_writes:
            layout.meta["writers"] = True  # its chunks are in the streams of writers
        self._grids(axes)
        return self.plan.create(layout)

    def _options(self, axes: Axes) -> dict[str, Any]:
        """Arrays on index dimensions say which coordinates lie on them (CF, section 5)."""
        options = dict(self.plan.planner.options)
        if axes.grids:
            given = options.get("attributes") or {}
            options["attributes"] = {"coordinates": " ".join(axes.grids), **given}
        return options

    def _grids(self, axes: Axes) -> None:
        """Plan n-d coordinates, or compare them with those that are there."""
        planned = {entry["layout"]["name"] for entry in self.plan.new}
        for name, values in axes.grids.items():
            there = self.state.arrays.get(name)
            if there is not None:
                self._check_grid(there, values)
            elif name not in planned:
                self._create_grid(name, values, axes.grid_dims[name])

    def _check_grid(self, there: ArrayState, values: NDArray[Any]) -> None:
        layout = there.layout
        known = (layout.name, layout.generation)
        if layout.shape == values.shape:
            start = tuple(0 for _ in values.shape)
            stored = self.session.read(there, box(start, values.shape))
            if np.array_equal(stored, values):
                self.saver.agreed.add(known)
                return
        message = f"coordinate {layout.name!r} in {self.saver.where} has other values"
        raise InvalidInputError(message)

    def _create_grid(self, name: str, values: NDArray[Any], dims: Sequence[str]) -> None:
        given = self.saver.settings.attrs.get(name)
        attributes = plain_attributes(given if isinstance(given, dict) else {}, name)
        layout = self.session.format.create(
            NewArray(
                name, values.dtype, values.shape, values.shape, None, tuple(dims), None, attributes,
                {"codecs": "balanced"}, growing=False, cells=(),
            )
        )  # fmt: skip
        self.plan.new.append({"layout": layout.to_json(), "pending": False})
        array = fresh_array(layout)
        start = tuple(0 for _ in values.shape)
        self.plan.writes.append(Write(array, box(start, values.shape), values, at_once=True))
        self.plan.settle(array, (), ())

    def write(self, name: str, values: NDArray[Any], axes: Axes, added: Axes | None = None) -> None:
        """Plan a labelled write of one array; `added` are the dimensions that it was given before.

        Raises
        ------
        InvalidInputError, CoordinateNotFoundError
            Dimensions, labels, shape or values don't fit.
        """
        values = values.reshape(axes.shaped(values.shape, name))
        full = added or axes
        sizes = dict(zip(full.dims, self._extent(full), strict=True))
        cells = [dim for dim in full.dims if axes.sizes.get(dim) != sizes[dim]]
        array = self.array(name, full, values.dtype, cells)
        dims = array.layout.meta["dims"]
        where = placed(dims, array.layout.shape, axes, self.labels, name)
        turned = values.transpose([axes.dims.index(dim) for dim in dims])
        fitted = self.plan.fitted(array, turned)
        boxes = list(cells_of(where))
        for one in boxes:
            block = fitted[one.source]
            self.plan.writes.append(Write(array, box(one.start, one.shape), block))
        whole, parts = split_cells(array.layout, boxes)
        if whole:
            self.plan.cells.setdefault(name, []).extend(whole)
        if parts:
            self.plan.parts.setdefault(name, []).extend(parts)
