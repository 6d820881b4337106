"""What one `save` writes, found without changing anything: regions, new arrays, coordinates."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from savers._codecs._packing import Packing
from savers._jobs import ItemStatus
from savers._ledger._state import ArrayLayout, ArrayState, fresh_array
from savers._session._commit import Write
from savers._values._blocks import fit
from savers._values._regions import box, from_indices, rows
from savers.errors import FormatError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from savers._chunked._planning import Planner
    from savers._chunked._saver import ChunkedSaver
    from savers._ledger._state import State
    from savers._session._commit import Box
    from savers._session._session import Session
    from savers._values._coordinates import Labels

__all__ = ["SavePlan"]


class SavePlan:
    """The writes of one `save`, found without changing anything."""

    def __init__(
        self, saver: ChunkedSaver, session: Session, state: State, planner: Planner
    ) -> None:
        self.saver = saver
        self.session = session
        self.state = state
        self.planner = planner
        self.writes: list[Write] = []
        self.cells: dict[str, list[Box]] = {}
        self.new: list[dict[str, Any]] = []
        self.replaced: dict[str, int] = {}
        self.taken_over: list[ArrayState] = []
        self.extents: dict[str, tuple[int, ...]] = {}
        self.parts: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}

    @property
    def extra(self) -> dict[str, Any]:
        """Fields of the commit record beside the writes."""
        given = {
            "new": self.new,
            "replace": self.replaced,
            "extents": self.extents,
            "parts": self.parts,
        }
        return {name: value for name, value in given.items() if value}

    def clear(self) -> None:
        """Forget what was committed."""
        self.writes, self.new = [], []
        self.cells, self.replaced = {}, {}

    def undo(self) -> None:
        """Forget the arrays of other programs that no record speaks of yet."""
        for array in self.taken_over:
            if self.state.arrays.get(array.layout.name) is array:
                del self.state.arrays[array.layout.name]

    # -- approaches --------------------------------------------------------------------------------

    def save(self, name: str, block: NDArray[Any], indices: object) -> None:
        """Plan one array of a `save`, as the saver's approach has it."""
        if self.saver.approach == "append":
            self.append(name, block)
        elif self.saver.approach == "overwrite":
            self.overwrite(name, block)
        else:
            self.update(name, block, indices)

    def append(self, name: str, block: NDArray[Any]) -> None:
        """Extend an array, or create it."""
        array = self.existing(name)
        if array is None:
            layout = self.planner.rows(name, block.shape[1:], block.dtype)
            array = self.create(layout)
        elif array.layout.growing:
            self.coordinates(array.layout)
        else:
            message = f"{name!r} has fixed extents {array.layout.shape}: place results by label"
            raise InvalidInputError(message)
        self.check_row(array, block.shape[1:])
        self.check_length(array, array.rows + len(block))
        self.write_rows(array, array.rows, self.fitted(array, block))

    def write_rows(self, array: ArrayState, first: int, block: NDArray[Any]) -> None:
        """Write whole rows from row `first` on."""
        if len(block):
            self.writes.append(Write(array, rows(first, block.shape), block))
            self.settle(array, (first,), (first + len(block),))

    def overwrite(self, name: str, block: NDArray[Any]) -> None:
        """Replace an array by a new generation of it."""
        old = self.existing(name, check=False)
        generation = 0 if old is None else old.layout.generation + 1
        layout = self.planner.rows(name, block.shape[1:], block.dtype, generation=generation)
        if old is not None:
            self.session.format.check_replaceable(old.layout, layout)
            self.remove_leftovers(old.layout, generation)
        array = self.create(layout, pending=True)
        self.check_length(array, len(block))
        if len(block):
            fitted = self.fitted(array, block)
            self.writes.append(Write(array, rows(0, block.shape), fitted, at_once=True))
            self.settle(array, (0,), (len(block),))
        self.replaced[name] = -1 if old is None else old.layout.generation

    def remove_leftovers(self, layout: ArrayLayout, generation: int) -> None:
        """Make room for a new generation; only the holder of the dataset knows nobody uses it."""
        if self.session.is_open:
            self.session.remove_generation(layout, generation)

    def update(self, name: str, block: NDArray[Any], indices: object) -> None:
        """Write at indices of an array that is there."""
        array = self.existing(name)
        if array is None:
            message = f"no array {name!r} in {self.saver.where} to update"
            raise NotFoundError(message)
        shape = array.extent()
        region = from_indices(indices, shape, name)
        expected = region.user_shape
        if block.shape not in (expected, (1, *expected)):
            message = (
                f"{name!r}: the indices select shape {expected} of {shape}, "
                f"got data of shape {block.shape}"
            )
            raise InvalidInputError(message)
        fitted = self.fitted(array, block.reshape(expected))
        if fitted.size:
            self.writes.append(Write(array, region, fitted, at_once=True))

    # -- arrays ------------------------------------------------------------------------------------

    def existing(self, name: str, *, check: bool = True) -> ArrayState | None:
        """Return an array of the ledger or of the store, checked against what is asked for."""
        array = self.state.arrays.get(name)
        if array is None and name not in self.state.gone:
            array = self.adopted(name)
        if array is not None and check:
            self.check_settings(array.layout)
        return array

    def check_settings(self, layout: ArrayLayout) -> None:
        """Compare with an array that is there: settings of the saver once, of a call always."""
        known = (layout.name, layout.generation)
        if self.planner.options or known not in self.saver.agreed:
            self.planner.check_existing(layout)
            self.session.format.codec(layout)  # refuses what it can't encode
        if not self.planner.options:
            self.saver.agreed.add(known)

    def adopted(self, name: str) -> ArrayState | None:
        """Take over an array that another program made; not one of another dataset."""
        owned = self.session.array_of_others(name)
        if owned is not None:
            message = (
                f"{name!r} in {self.saver.where} belongs to the dataset {owned[0]!r}: "
                f"open the saver with dataset_name={owned[0]!r}"
            )
            raise InvalidInputError(message)
        found = self.session.format.adopt(self.session.store, name)
        if found is None:
            return None
        layout, shape = found
        array = fresh_array(layout)
        array.adopted = True
        array.published = shape
        if layout.growing:
            array.settle((0,), (shape[0],), ItemStatus.DONE)
        record = {"layout": layout.to_json(), "adopted": True, "published": shape}
        self.new.append({**record, "rows": shape[0] if layout.growing else 0})
        self.state.arrays[name] = array
        self.taken_over.append(array)
        return array

    def create(self, layout: ArrayLayout, *, pending: bool = False) -> ArrayState:
        """Plan a new array, with the coordinates of its dimensions."""
        self.refuse_taken(layout.name)
        self.session.format.codec(layout)  # refuses what it can't encode
        self.session.format.check_beside(self.session.store, layout, self.others(layout.name))
        self.new.append({"layout": layout.to_json(), "pending": pending})
        self.coordinates(layout)
        return fresh_array(layout)

    def others(self, name: str) -> list[ArrayLayout]:
        """Return the layouts of all other arrays, those that are planned included."""
        planned = [ArrayLayout.from_json(entry["layout"]) for entry in self.new]
        there = [array.layout for array in self.state.arrays.values()]
        return [layout for layout in (*there, *planned) if layout.name != name]

    def refuse_taken(self, name: str) -> None:
        """A name is that of one array: no coordinate has it, and no array lies within another."""
        if name in self.planner.labels:
            message = f"array {name!r} has the name of a coordinate in {self.saver.where}"
            raise InvalidInputError(message)
        planned = {entry["layout"]["name"] for entry in self.new}
        for other in planned:
            if other.startswith(f"{name}/"):
                self._refuse_within(other, name)
        parts = name.split("/")[:-1]
        for depth in range(len(parts)):
            parent = "/".join(parts[: depth + 1])
            if parent in planned:
                self._refuse_within(name, parent)
            with contextlib.suppress(FormatError):  # a group, as it should be
                if self.session.format.adopt(self.session.store, parent) is not None:
                    self._refuse_within(name, parent)

    def _refuse_within(self, name: str, parent: str) -> NoReturn:
        message = f"can't save {name!r}: {parent!r} in {self.saver.where} is an array"
        raise InvalidInputError(message)

    def coordinates(self, layout: ArrayLayout) -> None:
        """Plan the coordinate arrays of an array's dimensions."""
        dims = layout.meta["dims"]
        growing = dims[0] if layout.growing and dims else ""
        for name, labels in self.planner.labels.items():
            if name in dims and name not in self.cells:
                self.coordinate(labels, growing)

    def coordinate(self, labels: Labels, growing: str) -> None:
        """Plan one coordinate array; labels that are there must agree."""
        name = labels.dimension
        old = self.state.arrays.get(name)
        if old is None and self.agrees_with_others(labels):
            return
        values, generation = labels.values, 0
        if old is not None:
            if self.agrees(old, labels):
                return
            self.session.format.check_replaceable(old.layout)
            generation = old.layout.generation + 1
            self.remove_leftovers(old.layout, generation)
            self.replaced[name] = old.layout.generation
        layout = self.planner.coordinate(labels, growing, generation=generation)
        self.new.append({"layout": layout.to_json(), "pending": old is not None})
        array = fresh_array(layout)
        if len(values):
            fitted = fit(values, layout.values_dtype, name)
            region = rows(0, values.shape)
            self.writes.append(Write(array, region, fitted, at_once=True))
        self.settle(array, (0,), (len(values),))

    def agrees_with_others(self, labels: Labels) -> bool:
        """Return whether the store has this coordinate from elsewhere; it stays as it is.

        Raises
        ------
        InvalidInputError
            It has other labels.
        """
        name, values = labels.dimension, labels.values
        found = self.session.format.adopt(self.session.store, name)
        if found is None:
            return False
        owned = self.session.array_of_others(name)
        array = owned[1] if owned is not None else fresh_array(found[0])
        array.adopted = array.adopted or owned is None
        shared = min(found[1][0], len(values)) if found[1] else 0
        there = self.session.read(array, box((0,), (shared,)), extent=found[1])
        if owned is not None:
            self.check_calendar(array.layout, labels)
        if there.dtype.kind == values.dtype.kind and not same_labels(there, values[:shared]):
            raise InvalidInputError(self._other_labels(name, there, values))
        return True

    def _other_labels(self, name: str, there: NDArray[Any], values: NDArray[Any]) -> str:
        return (
            f"coordinate {name!r} in {self.saver.where} has the labels {_shown(there)}, "
            f"got {_shown(values)}"
        )

    def check_calendar(self, layout: ArrayLayout, labels: Labels) -> None:
        """Refuse dates of another calendar than those that are there."""
        there = layout.meta.get("calendar", "")
        if there != labels.calendar:
            message = (
                f"coordinate {layout.name!r} in {self.saver.where} has dates of the calendar "
                f"{there or 'of NumPy'!r}, got {labels.calendar or 'of NumPy'!r}"
            )
            raise InvalidInputError(message)

    def agrees(self, old: ArrayState, labels: Labels) -> bool:
        """Return whether the stored labels will do. They keep their place: more may follow."""
        layout, values = old.layout, labels.values
        if (layout.name, layout.generation) in self.saver.agreed:
            return True
        there = self.session.chunk_block(old, (0,))[: layout.shape[0]]
        replacing = self.saver.approach == "overwrite"
        if not replacing:
            self.check_calendar(layout, labels)
        shared = max(len(there), len(values)) if replacing else min(len(there), len(values))
        same = same_labels(there[:shared], values[:shared])
        same = same and layout.meta.get("calendar", "") == labels.calendar
        if not same and not replacing:
            raise InvalidInputError(self._other_labels(layout.name, there, values))
        if same and len(values) <= len(there):
            self.saver.agreed.add((layout.name, layout.generation))
            return True
        return False

    # -- checks ------------------------------------------------------------------------------------

    def settle(self, array: ArrayState, start: tuple[int, ...], stop: tuple[int, ...]) -> None:
        """Note cells that the commit settles."""
        self.cells.setdefault(array.layout.name, []).append((start, stop, int(ItemStatus.DONE)))

    def check_row(self, array: ArrayState, row: tuple[int, ...]) -> None:
        """Compare the shape of a result with the rows of an array."""
        expected = array.layout.shape[1:]
        if row != expected:
            message = (
                f"{array.layout.name!r} in {self.saver.where}: "
                f"expected results of shape {expected}, got {row}"
            )
            raise InvalidInputError(message)

    def check_length(self, array: ArrayState, length: int) -> None:
        """Refuse more rows than the append dimension has labels."""
        dims = array.layout.meta["dims"]
        labels = self.planner.labels.get(dims[0]) if dims else None
        if labels is not None and length > len(labels.values):
            message = (
                f"{array.layout.name!r}: {length} results, but {dims[0]!r} has only "
                f"{len(labels.values)} labels in coords"
            )
            raise InvalidInputError(message)

    def fitted(self, array: ArrayState, block: NDArray[Any]) -> NDArray[Any]:
        """Return a block in the dtype of its array, every value kept."""
        layout = array.layout
        rounding = layout.rounding or self.planner.asked("dtype", layout.name) is not None
        fitted = fit(block, layout.values_dtype, layout.name, rounding=rounding)
        if "packing" in layout.meta:
            Packing(**layout.meta["packing"]).check(fitted, layout.name)
        return fitted


def same_labels(there: NDArray[Any], values: NDArray[Any]) -> bool:
    """Return whether labels are the same, in the same order."""
    if there.shape != values.shape:
        return False
    if there.dtype.kind in "UT" or values.dtype.kind in "UT":
        return bool(there.astype(object).tolist() == values.astype(object).tolist())
    if there.dtype.kind in "Mm" and there.dtype.kind != values.dtype.kind:
        return False
    return bool((there == values).all())


def _shown(values: NDArray[Any]) -> str:
    text = np.array2string(values.astype(str), threshold=6, edgeitems=2)
    return f"{text} ({len(values)})"
