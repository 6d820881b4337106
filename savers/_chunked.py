"""`save` for every format that keeps arrays in chunks: append, overwrite and update.

The three approaches differ in the region they choose. Below that there is one way: plan (pure),
then hand blocks and regions to the session, which commits them.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._blocks import as_block, fit, named_fields
from savers._commit import Write
from savers._config import make_settings
from savers._coordinates import Labels
from savers._jobs import ItemStatus
from savers._location import locate, require_folder
from savers._names import check_array_name
from savers._planning import Planner, check_options, plain_attributes
from savers._regions import from_indices, rows
from savers._saver import Saver
from savers._secrets import harmless, without_secrets
from savers._session import Session, leave, session_for
from savers._state import ArrayState, fresh_array
from savers.errors import (
    ClosedError,
    FormatError,
    InvalidInputError,
    InvalidTypeError,
    NotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from savers._commit import Box
    from savers._format import Format
    from savers._jobs import JobLedger
    from savers._state import ArrayLayout, State

__all__ = ["ChunkedSaver"]


class ChunkedSaver(Saver):
    """Base of the savers that keep arrays in chunks.

    Parameters
    ----------
    file_path : str, Path, URL, mapping or store
        Where to save. A local path gets its ledger beside it, in ``<name>.ledger``.
    dataset_name : str
        Name (path within the store) of the array that single results go to.
    approach : {"append", "overwrite", "update"}
        ``append`` creates the array or extends its first axis; ``overwrite`` replaces it (readers
        see the old or the new one, never none); ``update`` writes at `indices`. Case and blanks
        are forgiven.
    dims : sequence of str, or mapping of array name to such, optional
        Names of the dimensions.
    coords : mapping of dimension to 1-d labels, optional
        Those of the append dimension may be longer than what is saved so far.
    attrs : mapping, optional
        Under the name of an array or coordinate: its attributes; any other key is an attribute of
        the root.
    chunks, shards : int, tuple or mapping of array name to either, optional
        Cells of a chunk (an int: of its first axis). Default: at least 1 MiB a chunk.
    codecs : str, None or codec objects
        ``"balanced"``, ``"fast"``, ``"small"``, None (raw), a codec's name, or objects.
    dtype : dtype, optional
        Floats may then lose digits (never their size); without it every value is kept exactly.
    fill_value : optional
        Value of cells never written; default missing (NaN, NaT, the integer furthest from use).
    durability : {"none", "process", "power"}
        What a finished `save` survives: "process" a killed process, "power" a power cut.
    storage_options : mapping, optional
        Settings of a remote store.
    max_inflight_bytes : int
        Bound on the bytes held at a time.

    Raises
    ------
    InvalidInputError
        A setting that does not fit.
    """

    supports_regions = True

    def __init__(
        self,
        file_path: object,
        dataset_name: str = "dataset",
        approach: str = "append",
        **settings: Any,
    ) -> None:
        self.settings = make_settings(
            type(self).__name__, dataset_name=dataset_name, approach=approach, **settings
        )
        self.file_path = file_path
        self.dataset_name = self.settings.dataset_name
        self.approach = self.settings.approach
        self._synced = self.settings.durability == "power"
        self._location = locate(file_path, self.settings.storage_options, synced=self._synced)
        self.labels = {name: Labels.of(name, v) for name, v in self.settings.coords.items()}
        self._check_coords()
        self.agreed: set[tuple[str, int]] = set()  # arrays that agree with the settings
        self._session: Session | None = None
        self._opening = threading.Lock()  # threads that save first must not open twice
        self._closed = False
        self._left = False  # True in a copy that came without its credentials

    def _check_coords(self) -> None:
        dims = self.settings.dims
        per_array = dims.values() if isinstance(dims, Mapping) else [dims]
        listed = [name for names in per_array for name in names or ()]
        for name in self.labels:
            if name not in listed:
                message = f"coords names {name!r}, which is not among the dims {tuple(listed)}"
                raise InvalidInputError(message)

    @property
    def where(self) -> str:
        """Path or URL of the store, without credentials."""
        return self._location.name

    @abstractmethod
    def make_format(self) -> Format:
        """Return how this saver's arrays lie in a store."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.where!r}, {self.dataset_name!r}, {self.approach!r})"

    # -- the session -------------------------------------------------------------------------------

    def session(self) -> Session:
        """Return the session that this saver shares with others of this process."""
        if self._closed:
            message = f"{self!r} is closed; make a new saver"
            raise ClosedError(message)
        if self._left:
            message = (
                f"{self!r} came without its credentials, which don't travel in pickles: give them "
                "in the environment (AWS_ACCESS_KEY_ID, ...), or make the saver in the worker"
            )
            raise InvalidInputError(message)
        with self._opening:
            if self._session is None or self._session.pid != os.getpid():
                require_folder(self._location)
                self._session = self._shared_session(self.make_format())
                self._leave = weakref.finalize(self, leave, self._session)
            return self._session

    def _shared_session(self, fmt: Format) -> Session:
        session = session_for(self._location, self.dataset_name, fmt, synced=self._synced)
        if session.format == fmt and session.synced >= self._synced:
            return session
        leave(session)
        message = (
            f"{self!r} is open in this process with another zarr_format or a weaker durability; "
            "close that saver first, or give both the same settings"
        )
        raise InvalidInputError(message)

    def flush(self) -> None:
        """Return once everything saved so far is durable and visible to readers.

        Raises
        ------
        StorageError
            The store refused; what was saved is in the ledger, and a later flush tries again.
        """
        if self._session is not None and not self._closed:
            self._session.publish()

    def close(self) -> None:
        """Flush and let other drivers in. Idempotent; a save after it raises `ClosedError`."""
        self._closed = True
        if self._session is not None and self._leave.alive:
            self._leave()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but credentials, which stay in the process that was given them."""
        settings = {n: getattr(self.settings, n) for n in self.settings.model_fields_set}
        path: object = self.file_path
        if isinstance(path, str):
            path = without_secrets(path) if "://" in path else path
        elif getattr(self._location.store, "secrets", ()):
            message = f"{self!r} holds credentials in its store object: make it in the worker"
            raise InvalidTypeError(message)
        if options := settings.get("storage_options"):
            settings["storage_options"] = harmless(options)
        left = path != self.file_path or options != settings.get("storage_options")
        return {"file_path": path, "settings": settings, "left": left or self._left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).__init__(self, state["file_path"], **state["settings"])
        self._left = state["left"]

    # -- save --------------------------------------------------------------------------------------

    def save(self, data: Any, indices: Any = None, **kwargs: Any) -> None:
        """Save a batch of results; on return it is durable, and readers see it in about a second.

        Parameters
        ----------
        data : sequence or array, first axis = results; or a mapping of array name to such
            Lists of mappings, dataclasses or named tuples count as one array a field.
        indices : int, slice, list, array or tuple of them
            Where to write, for ``approach="update"``.
        **kwargs
            For the creation of the array: `chunks`, `shards`, `dtype`, `compressor`,
            `compressors`, `compression`, `codecs`, `filters`, `serializer`, `fill_value`,
            `attributes`. An array that is there must agree with them.

        Raises
        ------
        InvalidInputError
            Shape, dtype, values, indices or keywords that don't fit; nothing was changed. (A
            ValueError; for ``update`` without `indices` and for `indices` elsewhere as well.)
        InvalidTypeError
            Data that can't become an array (a TypeError), or an unknown keyword.
        NotFoundError
            ``update`` of an array that is not there (a FileNotFoundError).
        StorageError
            The store refused; nothing of this call was saved.
        StoreInUseError
            Another process writes to this dataset.
        """
        session = self.session()
        check_options(kwargs, type(self).__name__)
        self._check_indices(indices)
        if self.approach == "append" and isinstance(data, (list, tuple)) and not data:
            return  # no results: nothing tells shape or dtype
        blocks = as_blocks(data, self.dataset_name)
        with session.mutex:
            if not session.is_open:
                self._plan(session, session.peek(), blocks, indices, kwargs)  # refuses, or is fine
            root = self.root_attributes(blocks)
            session.attrs = {**session.attrs, **root} if session.is_open else root
            session.open(yielding=self.approach == "update")
            plan = self._plan(session, session.peek(), blocks, indices, kwargs)
            try:
                session.commit(plan.writes, plan.cells, plan.extra)
            except BaseException:
                plan.undo()
                raise
            session.let_others_in()

    def _check_indices(self, indices: object) -> None:
        if self.approach == "update" and indices is None:
            message = "approach='update' needs indices: saver.save(data, indices=[5, 10])"
            raise InvalidInputError(message)
        if self.approach != "update" and indices is not None:
            message = f"indices are for approach='update', this saver has {self.approach!r}"
            raise InvalidInputError(message)

    def root_attributes(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        """Return the attributes of the root: those that name no array and no coordinate."""
        named = {*arrays, *self.labels, self.dataset_name}
        root = {key: value for key, value in self.settings.attrs.items() if key not in named}
        return plain_attributes(root, "attrs")

    def planner(self, session: Session, options: Mapping[str, Any], rows_name: str = "") -> Planner:
        """Return what plans this saver's arrays."""
        return Planner(self.settings, options, self.labels, session.format, self.where, rows_name)

    def _plan(
        self,
        session: Session,
        state: State,
        blocks: Mapping[str, NDArray[Any]],
        indices: object,
        options: Mapping[str, Any],
    ) -> SavePlan:
        plan = SavePlan(self, session, state, self.planner(session, options))
        try:
            for name, block in blocks.items():
                plan.save(name, block, indices)
        except BaseException:
            plan.undo()
            raise
        return plan

    def open_jobs(self, **save_kwargs: Any) -> JobLedger:
        from savers._chunked_jobs import ChunkedJobs

        check_options(save_kwargs, type(self).__name__)
        return ChunkedJobs(self, save_kwargs)


def as_blocks(data: object, dataset_name: str) -> dict[str, NDArray[Any]]:
    """Return what one `save` brings, by array name."""
    fields = named_fields(data)
    if fields is None and isinstance(data, (list, tuple)) and data:
        rows_of = [named_fields(item) for item in data]
        if rows_of[0] is not None:
            fields = _transposed(rows_of)
    if fields is None:
        fields = {dataset_name: data}
    return {check_array_name(name): as_block(part, name) for name, part in fields.items()}


def _transposed(items: Sequence[dict[str, Any] | None]) -> dict[str, list[Any]]:
    first = items[0] or {}
    for position, item in enumerate(items):
        if item is None or item.keys() != first.keys():
            got = "none" if item is None else ", ".join(item)
            message = (
                f"expected results with fields {', '.join(first)} as the first one, "
                f"got {got} at position {position}"
            )
            raise InvalidTypeError(message)
    return {name: [item[name] for item in items if item is not None] for name in first}


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

    @property
    def extra(self) -> dict[str, Any]:
        """Fields of the commit record beside the writes."""
        return {"new": self.new, "replace": self.replaced}

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
        if old is not None:
            self.refuse_unreplaceable(old.layout)
            self.remove_leftovers(old.layout, generation)
        layout = self.planner.rows(name, block.shape[1:], block.dtype, generation=generation)
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

    def refuse_unreplaceable(self, layout: ArrayLayout) -> None:
        """Zarr v2 keeps the chunks of a 1-d array under the same keys whatever the separator."""
        if layout.meta["node"]["zarr_format"] == 2 and len(layout.chunks) < 2:
            message = (
                f"{layout.name!r}: a 1-d array of zarr_format=2 can't be replaced in one step; "
                "use zarr_format=3, or another dataset_name"
            )
            raise InvalidInputError(message)

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
        if array is None:
            array = self.adopted(name)
        if array is not None and check:
            self.check_settings(array.layout)
        return array

    def check_settings(self, layout: ArrayLayout) -> None:
        """Compare with an array that is there: settings of the saver once, of a call always."""
        known = (layout.name, layout.generation)
        if self.planner.options or known not in self.saver.agreed:
            self.planner.check_existing(layout)
        if not self.planner.options:
            self.saver.agreed.add(known)

    def adopted(self, name: str) -> ArrayState | None:
        """Take over an array that another program made."""
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
        self.new.append({"layout": layout.to_json(), "pending": pending})
        self.coordinates(layout)
        return fresh_array(layout)

    def refuse_taken(self, name: str) -> None:
        """A name is that of one array: no coordinate has it, and no array lies within another."""
        if name in self.saver.labels:
            message = f"array {name!r} has the name of a coordinate in {self.saver.where}"
            raise InvalidInputError(message)
        parts = name.split("/")[:-1]
        for depth in range(len(parts)):
            parent = "/".join(parts[: depth + 1])
            with contextlib.suppress(FormatError):  # a group, as it should be
                if self.session.format.adopt(self.session.store, parent) is not None:
                    message = f"can't save {name!r}: {parent!r} in {self.saver.where} is an array"
                    raise InvalidInputError(message)

    def coordinates(self, layout: ArrayLayout) -> None:
        """Plan the coordinate arrays of an array's dimensions."""
        dims = layout.meta["dims"]
        growing = dims[0] if layout.growing and dims else ""
        for name, labels in self.saver.labels.items():
            if name in dims and name not in self.cells:
                self.coordinate(labels, growing)

    def coordinate(self, labels: Labels, growing: str) -> None:
        """Plan one coordinate array; labels that are there must agree."""
        name = labels.dimension
        old = self.state.arrays.get(name)
        if old is None and self.session.format.adopt(self.session.store, name) is not None:
            return  # another program's coordinate stays as it is
        values, generation = labels.values, 0
        if old is not None:
            if self.agrees(old, values):
                return
            self.refuse_unreplaceable(old.layout)
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

    def agrees(self, old: ArrayState, values: NDArray[Any]) -> bool:
        """Return whether the stored labels will do. They keep their place: more may follow."""
        layout = old.layout
        if (layout.name, layout.generation) in self.saver.agreed:
            return True
        there = self.session.chunk_block(old, (0,))[: layout.shape[0]]
        replacing = self.saver.approach == "overwrite"
        shared = max(len(there), len(values)) if replacing else min(len(there), len(values))
        same = same_labels(there[:shared], values[:shared])
        if not same and not replacing:
            message = (
                f"coordinate {layout.name!r} in {self.saver.where} has the labels "
                f"{_shown(there)}, got {_shown(values)}"
            )
            raise InvalidInputError(message)
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
        labels = self.saver.labels.get(dims[0]) if dims else None
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
        return fit(block, layout.values_dtype, layout.name, rounding=rounding)


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
