"""From a job's first result to its arrays, and from every other one to values that fit them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._chunked._save_plan import SavePlan
from savers._values._blocks import as_result
from savers._values._coordinates import find
from savers._values._names import check_array_name
from savers.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from savers._chunked._saver import ChunkedSaver
    from savers._ledger._state import ArrayLayout, ArrayState, Job, State
    from savers._session._session import Session
    from savers._values._coordinates import Labels

__all__ = ["JobFields", "item_shape"]

Index = tuple[int, ...]


class JobFields:
    """The arrays of a job. The first result decides fields, shapes and dtypes.

    Attributes
    ----------
    arrays : dict of str to ArrayState
        Empty before the first result.
    plan : SavePlan or None
        What creates those of them that are not there yet.
    dims : tuple of str
        The labelled dimensions, none for results that are rows.
    """

    def __init__(
        self, saver: ChunkedSaver, session: Session, options: Mapping[str, Any], job: Job
    ) -> None:
        self.saver = saver
        self.session = session
        self.options = options
        self.expected = job.fields
        self.bases = job.bases
        self.dims: tuple[str, ...] = job.label_dims
        self.labels: Mapping[str, Labels] = saver.labels
        self.arrays: dict[str, ArrayState] = {}
        self.plan: SavePlan | None = None
        self._kinds: dict[str, tuple[Index, np.dtype[Any] | None]] = {}
        self._limit = np.inf

    @property
    def known(self) -> bool:
        """True once a result has decided the arrays."""
        return bool(self.arrays)

    @property
    def replaces(self) -> bool:
        """True when the job builds arrays aside that replace those that are there."""
        return self.saver.approach == "overwrite"

    def place(self, labels: Mapping[str, object] | None) -> Index:
        """Return where the labels of an item lie, along `dims`.

        Raises
        ------
        InvalidInputError, CoordinateNotFoundError
            Other dimensions than those of the first item, or an unknown label.
        """
        if labels is None:
            if self.dims:
                message = f"expected labels for {', '.join(self.dims)}, got none"
                raise InvalidInputError(message)
            return ()
        found = find(self.labels, labels)
        if self.dims and set(found) != set(self.dims):
            message = f"expected labels for {', '.join(self.dims)}, got {', '.join(found)}"
            raise InvalidInputError(message)
        return tuple(found[name] for name in self.dims or found)

    # -- the first result --------------------------------------------------------------------------

    def begin(
        self,
        state: State,
        parts: Mapping[str, object],
        labels: Mapping[str, object] | None,
        position: int,
        *,
        copy: bool,
    ) -> dict[str, NDArray[Any]]:
        """Find or plan the arrays for a first result, and return its values.

        Raises
        ------
        InvalidInputError
            It does not fit what is there or what the settings ask for; nothing is decided.
        """
        values = {check_array_name(name): as_result(part, name) for name, part in parts.items()}
        if self.expected is not None:
            self._require_fields(values.keys(), self.expected)
        dims = tuple(labels or ())
        plan = self._new_plan(state, dims)
        arrays = {name: self._array(plan, name, value, dims) for name, value in values.items()}
        kinds = {n: (item_shape(array), _as_it_is(array)) for n, array in arrays.items()}
        decided = (self.plan, self.arrays, self.dims, self._kinds)
        self.plan, self.arrays, self.dims, self._kinds = plan, arrays, dims, kinds
        self._limit = min(self._room(array) for array in arrays.values())
        try:
            return self.take(parts, position, copy=copy)
        except BaseException:
            self.plan, self.arrays, self.dims, self._kinds = decided
            raise

    def _new_plan(self, state: State, dims: tuple[str, ...]) -> SavePlan:
        leaf = self.saver.dataset_name.rpartition("/")[2]
        planner = self.saver.planner(self.session, self.options, "" if dims else f"{leaf}_item")
        return SavePlan(self.saver, self.session, state, planner)

    def _array(
        self, plan: SavePlan, name: str, value: NDArray[Any], dims: tuple[str, ...]
    ) -> ArrayState:
        there = plan.state.pending.get(name) if self.replaces else plan.existing(name)
        if there is not None:
            self._check_kind(there, dims)
            plan.coordinates(there.layout)
            return there
        if self.saver.approach == "update":
            message = f"no array {name!r} in {self.saver.where} to update"
            raise NotFoundError(message)
        generation = self._next_generation(plan, name)
        if dims:
            layout = self._labelled(plan, name, value, dims, generation)
        else:
            layout = plan.planner.rows(name, value.shape, value.dtype, generation=generation)
        return plan.create(layout, pending=self.replaces)

    def _next_generation(self, plan: SavePlan, name: str) -> int:
        old = plan.existing(name, check=False) if self.replaces else None
        if old is None:
            return 0
        plan.session.format.check_replaceable(old.layout)
        plan.remove_leftovers(old.layout, old.layout.generation + 1)
        return old.layout.generation + 1

    def _labelled(
        self, plan: SavePlan, name: str, value: NDArray[Any], dims: tuple[str, ...], generation: int
    ) -> ArrayLayout:
        """An array of known extents: those of the labels, and of the result for the others."""
        full = self._full(name, value)
        names = plan.planner.dims(name, value.ndim if full else len(dims) + value.ndim)
        missing = [dimension for dimension in dims if dimension not in names]
        if missing:
            message = f"{name!r} has dimensions {names}, none of them is {missing[0]!r}"
            raise InvalidInputError(message)
        rest = iter(_rest(value.shape, names, dims) if full else value.shape)
        shape = tuple(len(self.saver.labels[n].values) if n in dims else next(rest) for n in names)
        cells = tuple(names.index(dimension) for dimension in dims)
        return plan.planner.fixed(name, shape, value.dtype, cells, generation=generation)

    def _full(self, name: str, value: NDArray[Any]) -> bool:
        """Return whether a result comes with its labelled dimensions (of length 1)."""
        dims = self.saver.settings.dims or ()
        given = dims.get(name, ()) if isinstance(dims, Mapping) else dims
        return value.ndim == len(given)

    def _check_kind(self, array: ArrayState, dims: tuple[str, ...]) -> None:
        layout, where = array.layout, self.saver.where
        if layout.growing == bool(dims):
            how = "rows in the order of items" if layout.growing else "labels"
            message = f"{layout.name!r} in {where} is filled by {how}: {layout.meta['dims']}"
            raise InvalidInputError(message)
        mine = [layout.meta["dims"][axis] for axis in layout.cells]
        if dims and sorted(mine) != sorted(dims):
            message = f"{layout.name!r} is filled by labels of {mine}, got labels of {list(dims)}"
            raise InvalidInputError(message)

    def _room(self, array: ArrayState) -> float:
        """Return how many items of the job the labels of the append dimension allow."""
        dims = array.layout.meta["dims"]
        labels = self.saver.labels.get(dims[0]) if dims and array.layout.growing else None
        if labels is None:
            return np.inf
        return len(labels.values) - self.bases.get(array.layout.name, array.rows)

    # -- every result ------------------------------------------------------------------------------

    def take(
        self, parts: Mapping[str, object], position: int, *, copy: bool
    ) -> dict[str, NDArray[Any]]:
        """Return the values of a result as its arrays hold them, in memory that nobody changes.

        Raises
        ------
        InvalidInputError
            Other fields, another shape, values that the dtype can't hold, or more results than
            the append dimension has labels.
        """
        if parts.keys() != self._kinds.keys():
            self._require_fields(parts.keys(), self._kinds)
        if position >= self._limit:
            message = f"item {position}: the append dimension has only {self._limit} labels for it"
            raise InvalidInputError(message)
        return {name: self._taken(name, part, position, copy=copy) for name, part in parts.items()}

    def _taken(self, name: str, part: object, position: int, *, copy: bool) -> NDArray[Any]:
        value = as_result(part, name)
        shape, dtype = self._kinds[name]
        if value.shape != shape or value.dtype != dtype:
            value = self._fitted(name, value, position)
        if copy and (value is part or value.base is not None):
            return np.array(value, order="C", copy=True)
        return value

    def _fitted(self, name: str, value: NDArray[Any], position: int) -> NDArray[Any]:
        expected = self._kinds[name][0]
        if value.shape != expected and _squeezed(value.shape) != _squeezed(expected):
            message = (
                f"field {name!r} of item {position}: expected shape {expected} as the first "
                f"result, got {value.shape}"
            )
            raise InvalidInputError(message)
        if self.plan is None:
            message = "no result was staged yet"
            raise InvalidInputError(message)
        return self.plan.fitted(self.arrays[name], value.reshape(expected))

    def _require_fields(self, got: Any, expected: Any) -> None:
        if set(got) != set(expected):
            message = f"expected fields {list(expected)}, got {list(got)}"
            raise InvalidInputError(message)


def _as_it_is(array: ArrayState) -> np.dtype[Any] | None:
    """Return the dtype of values that need no check of their own, None where all need one."""
    return None if "packing" in array.layout.meta else array.layout.values_dtype


def item_shape(array: ArrayState) -> Index:
    """Return the shape of one item's values in an array."""
    layout = array.layout
    if layout.growing:
        return layout.shape[1:]
    return tuple(n for axis, n in enumerate(layout.shape) if axis not in layout.cells)


def _rest(shape: Index, names: Sequence[str], dims: Sequence[str]) -> list[int]:
    return [size for size, name in zip(shape, names, strict=True) if name not in dims]


def _squeezed(shape: Index) -> list[int]:
    return [size for size in shape if size != 1]
