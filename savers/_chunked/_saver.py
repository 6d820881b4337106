"""`save` for every format that keeps arrays in chunks: append, overwrite and update.

The three approaches differ in the region they choose. Below that there is one way: plan (pure),
then hand blocks and regions to the session, which commits them.
"""

from __future__ import annotations

import os
import threading
import weakref
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from savers._chunked._labelled_plan import LabelledPlan
from savers._chunked._planning import Planner, check_options, plain_attributes
from savers._chunked._save_plan import SavePlan
from savers._config import SaverSettings, make_settings
from savers._saver import Saver
from savers._session._sessions import leave, session_for
from savers._stores._location import locate, require_writable
from savers._stores._secrets import harmless, without_secrets
from savers._values._blocks import as_block, as_result, named_fields
from savers._values._coordinates import Labels
from savers._values._names import check_array_name
from savers._values._placement import Axes, named_values
from savers.errors import ClosedError, InvalidInputError, InvalidTypeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from numpy.typing import NDArray

    from savers._format import Format
    from savers._jobs import JobLedger
    from savers._ledger._state import ArrayLayout
    from savers._session._session import Session
    from savers._stores._location import Location

__all__ = ["ChunkedSaver"]

#: What is said of a saver that was pickled where it had credentials.
WITHOUT_CREDENTIALS = (
    "came without its credentials, which don't travel in pickles: give them in the environment "
    "(AWS_ACCESS_KEY_ID, ...), or make the saver in the worker"
)


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
    keep_relative : float or mapping of array name to such, optional
        Floats are rounded so that each differs from what was given by at most this share of its
        size (see docs/codecs.md); they compress better. Integers and text are refused.
    durability : {"none", "process", "power"}
        What a finished `save` survives: "process" a killed process, "power" a power cut.
    storage_options : mapping, optional
        Settings of a remote store.
    max_inflight_bytes : int
        Bound on the bytes of chunks that a `save` puts together and encodes at a time, beside the
        data it was given and about three chunks. A chunk larger than half of it goes alone.

    Raises
    ------
    InvalidInputError
        A setting that does not fit.
    """

    supports_regions = True
    #: The keywords of this saver.
    settings_type: ClassVar[type[SaverSettings]] = SaverSettings

    def __init__(
        self,
        file_path: object,
        dataset_name: str = "dataset",
        approach: str = "append",
        **settings: Any,
    ) -> None:
        given = {"dataset_name": dataset_name, "approach": approach, **settings}
        self.settings = make_settings(type(self).__name__, self.settings_type, given)
        self.file_path = file_path
        self.dataset_name = self.settings.dataset_name
        self.approach = self.settings.approach
        self._synced = self.settings.durability == "power"
        self._location = self.locate(file_path)
        self.labels = {name: Labels.of(name, v) for name, v in self.settings.coords.items()}
        self._check_coords()
        self.agreed: set[tuple[str, int]] = set()  # arrays that agree with the settings
        self._session: Session | None = None
        self._opening = threading.Lock()  # threads that save first must not open twice
        self._added: dict[str, tuple[Axes, dict[str, Any]]] = {}  # by add_array, not yet there
        self._grown = False  # True once the store has the labels of coords
        self._closed = False
        self._left = False  # True in a copy that came without its credentials

    def _check_coords(self) -> None:
        dims = self.settings.dims
        per_array = dims.values() if isinstance(dims, Mapping) else [dims]
        listed = [name for names in per_array for name in names or ()]
        for name in self.labels:
            if dims is not None and name not in listed:
                message = f"coords names {name!r}, which is not among the dims {tuple(listed)}"
                raise InvalidInputError(message)

    @property
    def where(self) -> str:
        """Path or URL of the store, without credentials."""
        return self._location.name

    def locate(self, file_path: object) -> Location:
        """Return the location that `file_path` names. Nothing is created or contacted."""
        require_writable(file_path)
        return locate(file_path, self.settings.storage_options, synced=self._synced)

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
            message = f"{self!r} {WITHOUT_CREDENTIALS}"
            raise InvalidInputError(message)
        with self._opening:
            if self._session is None or self._session.pid != os.getpid():
                self._session = self._shared_session(self.make_format())
                self._leave = weakref.finalize(self, leave, self._session)
            return self._session

    def _shared_session(self, fmt: Format) -> Session:
        session = session_for(self._location, self.dataset_name, fmt, synced=self._synced)
        if session.format == fmt and session.synced >= self._synced:
            limit = self.settings.max_inflight_bytes
            session.chunks.limit = min(session.chunks.limit, limit)
            return session
        leave(session)
        message = (
            f"{self!r} is open in this process with another zarr_format, another pipeline or a "
            "weaker durability; close that saver first, or give both the same settings"
        )
        raise InvalidInputError(message)

    def flush(self) -> None:
        """Return once everything saved so far is durable and visible to readers.

        What a crash of an earlier run left in the ledger is published as well.

        Raises
        ------
        StorageError
            The store refused; what was saved is in the ledger, and a later flush tries again.
        """
        if self._closed:
            return
        session = self.session()
        self._create_added()
        with session.mutex:
            if session.crashed():
                session.open()
            session.publish()

    def close(self) -> None:
        """Flush and let other drivers in. Idempotent; a save after it raises `ClosedError`."""
        if not self._closed and self._added:
            self._create_added()
        self._closed = True
        if self._session is not None and self._leave.alive:
            self._leave()

    def __getstate__(self) -> dict[str, Any]:
        """Everything but credentials, which stay in the process that was given them.

        Raises
        ------
        InvalidTypeError
            The store is memory of this process, or an object that holds or may hold credentials.
        """
        if self._location.private:
            message = f"{self!r} saves into memory of this process: no other process can use it"
            raise InvalidTypeError(message)
        settings = {n: getattr(self.settings, n) for n in self.settings.model_fields_set}
        path: object = self.file_path
        if isinstance(path, str):
            path = without_secrets(path) if "://" in path else path
        elif getattr(self._location.store, "secrets", ()):
            message = f"{self!r} holds credentials in its store object: make it in the worker"
            raise InvalidTypeError(message)
        elif not getattr(self._location.store, "travels", True):
            message = (
                f"{self!r} saves to a session of a repository, or to a repository that may hold "
                "credentials: make it in the worker"
            )
            raise InvalidTypeError(message)
        if options := settings.get("storage_options"):
            settings["storage_options"] = harmless(options)
        left = path != self.file_path or options != settings.get("storage_options")
        return {"file_path": path, "settings": settings, "left": left or self._left}

    def __setstate__(self, state: dict[str, Any]) -> None:
        try:
            type(self).__init__(self, state["file_path"], **state["settings"])
        except InvalidInputError as error:
            if not state["left"]:
                raise
            message = f"the saver of {state['file_path']} {WITHOUT_CREDENTIALS}"
            raise InvalidInputError(message) from error
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
        check_options(kwargs, type(self).__name__, session.format.keywords)
        self._check_indices(indices)
        if self.approach == "append" and isinstance(data, (list, tuple)) and not data:
            return  # no results: nothing tells shape or dtype
        blocks = as_blocks(data, self.dataset_name)
        self._commit(blocks, lambda session: self._plan(session, blocks, indices, kwargs))

    def _commit(self, names: Collection[str], make: Callable[[Session], SavePlan]) -> None:
        """Commit what `make` plans; it is called twice where the dataset is not open yet."""
        session = self.session()
        with session.mutex, session.looking(names):
            if not session.is_open:
                make(session)  # refuses, or is fine
            root = self.root_attributes(names)
            session.attrs = {**session.attrs, **root} if session.is_open else root
            session.open(yielding=self.approach == "update")
            plan = make(session)
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

    def root_attributes(self, arrays: Collection[str]) -> dict[str, Any]:
        """Return the attributes of the root: those that name no array and no coordinate."""
        root = {
            key: value
            for key, value in self.settings.attrs.items()
            if key not in arrays and key not in self.labels and key != self.dataset_name
        }
        return plain_attributes(root, "attrs") if root else root

    def planner(
        self,
        session: Session,
        options: Mapping[str, Any],
        rows_name: str = "",
        *,
        labels: Mapping[str, Labels] | None = None,
        dims: Mapping[str, Sequence[str]] | None = None,
    ) -> Planner:
        """Return what plans this saver's arrays; `labels` and `dims` come before its own."""
        settings = (
            self.settings if dims is None else self.settings.model_copy(update={"dims": dims})
        )
        known = self.labels if labels is None else labels
        return Planner(settings, options, known, session.format, self.where, rows_name)

    def _plan(
        self,
        session: Session,
        blocks: Mapping[str, NDArray[Any]],
        indices: object,
        options: Mapping[str, Any],
    ) -> SavePlan:
        plan = SavePlan(self, session, session.peek(), self.planner(session, options))
        try:
            for name, block in blocks.items():
                plan.save(name, block, indices)
        except BaseException:
            plan.undo()
            raise
        return plan

    # -- write by label ----------------------------------------------------------------------------

    def write(self, x: Any, coords: Mapping[str, Any], array_name: str | Sequence[str]) -> None:
        """Write one or several arrays where their coordinates say; durable on return.

        Parameters
        ----------
        x : array or tensor, or a sequence of them
            One for each name; an axis for each coordinate, in their order.
        coords : mapping of dimension to labels
            1-d labels, a single label (no axis needed), or n-d coordinates, n of which in a row
            span n index dimensions ``i<name>``. Labels may come in any order, dimensions too.
        array_name : str or sequence of str
            An array that is not there is made for all labels of the store and of `coords` of the
            constructor, for any other dimension with those given here.

        Raises
        ------
        CoordinateNotFoundError
            A label that the store does not have (the text names the nearest one).
        InvalidInputError
            Dimensions, shapes, labels or values that don't fit; nothing was changed.
        StorageError
            The store refused; nothing of this call was saved.
        """
        self._require_labels()
        axes = Axes.of(coords)
        values = named_values(x, array_name)
        blocks = {name: as_result(value, name) for name, value in values.items()}

        def make(session: Session) -> SavePlan:
            plan = LabelledPlan(self, session, session.peek(), self.labels, {})
            for name, block in blocks.items():
                axes_added, options = self._added.get(name, (axes, {}))
                plan.plan.planner = replace(plan.plan.planner, options=options)
                plan.write(name, block, axes, axes_added)
            return plan.plan

        self._grow()
        self._commit({*blocks, *axes.dims, *axes.grids}, make)
        for name in blocks:
            self._added.pop(name, None)

    def add_array(
        self, coords: Mapping[str, Any], array_name: str | Sequence[str], **kwargs: Any
    ) -> None:
        """Name the dimensions and all labels of arrays that later calls of `write` fill.

        Optional. An array is created with its first write (by its dtype), or, never written, with
        the next `flush` or `close`, as float32 where `dtype` is not given.

        Parameters
        ----------
        coords : mapping of dimension to labels
            As for `write`.
        array_name : str or sequence of str
        **kwargs
            Keywords of `save` for the creation of an array.

        Raises
        ------
        InvalidInputError
            A name, coordinate or keyword that can't be.
        """
        self._require_labels()
        check_options(kwargs, type(self).__name__, self.make_format().keywords)
        axes = Axes.of(coords)
        names = [array_name] if isinstance(array_name, str) else list(array_name)
        for name in names:
            self._added[check_array_name(str(name))] = (axes, kwargs)

    def added(self, name: str) -> tuple[Axes, dict[str, Any]] | None:
        """Return what `add_array` was told of an array that is not there yet."""
        return self._added.get(name)

    def chunks_of(self, dims: Sequence[str], shape: Sequence[int]) -> dict[str, Any]:
        """Return `chunks` and `shards` that follow from the dimensions of a labelled array."""
        return {}

    def check_chunks(self, layout: ArrayLayout) -> None:
        """Compare them with those of an array that is there."""

    def _require_labels(self) -> None:
        if self.approach != "append":
            message = (
                f"write() places data by label: expected approach='append', got {self.approach!r}"
            )
            raise InvalidInputError(message)

    def _grow(self) -> None:
        """Give the store the labels of `coords` that it does not have yet, once."""
        session = self.session()
        with session.mutex:
            if self._grown or not session.peek().arrays:
                return
            session.open()
            plan = LabelledPlan(self, session, session.peek(), self.labels, {})
            if plan.grow():
                session.commit(plan.plan.writes, plan.plan.cells, plan.plan.extra)
            self._grown = True

    def _create_added(self) -> None:
        """Create the arrays that were added and never written."""
        for name, (axes, options) in list(self._added.items()):

            def make(session: Session) -> SavePlan:
                plan = LabelledPlan(self, session, session.peek(), self.labels, {})
                plan.plan.planner = replace(plan.plan.planner, options=options)  # noqa: B023
                dtype = np.dtype(options.get("dtype") or "f4")  # noqa: B023
                plan.array(name, axes, dtype)  # noqa: B023
                return plan.plan

            self._commit({name, *axes.dims, *axes.grids}, make)
            del self._added[name]

    def open_jobs(self, **save_kwargs: Any) -> JobLedger:
        from savers._chunked._jobs import ChunkedJobs

        check_options(save_kwargs, type(self).__name__, self.make_format().keywords)
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
