"""AsyncZarrSaver: labelled output of a running job into Zarr, without waiting for disks."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from savers._chunked._planning import check_options
from savers._jobs import ItemStatus
from savers._labelled._background import Background, end
from savers._labelled._handles import WriteHandle
from savers._labelled._settings import look_at_store, mode_of, sizes_of, target_of
from savers._labelled._writes import ArrayWrite
from savers._values._placement import Axes, named_values
from savers._values._staging import stage
from savers._zarr._saver import ZarrSaver
from savers.errors import ClosedError, InvalidInputError, StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from savers._chunked._labelled_plan import LabelledPlan
    from savers._jobs import JobLedger
    from savers._labelled._handles import Submission
    from savers._labelled._jobs import LabelledJobs
    from savers._ledger._state import ArrayLayout, ArrayState

__all__ = ["AsyncZarrSaver"]

#: The dataset (ledger) of all arrays that are written by label.
DATASET = "labels"


class AsyncZarrSaver(ZarrSaver):
    """Write labelled arrays to a Zarr store, in the background where ``blocking=False``.

    Several of them, in other processes too, may be open on one store.

    Parameters
    ----------
    file_name : str, Path or URL
        Where to save.
    parallel_coords : mapping of dimension to 1-d labels
        All labels along which results come one by one (initial time, lead time, member). The store
        gets those that it does not have, behind the ones that it has.
    fs_factory : callable
        Returns the fsspec file system that `file_name` is a path of.
    blocking : bool
        True: `write` returns when its data is durable. False: as soon as it has taken a copy.
    pool_size : int
        Threads that encode and write.
    async_timeout : float
        Seconds that `flush`, `close`, a blocking `write` and the end of the process wait.
    zarr_kwargs : mapping
        ``mode``: "a" (create or go on), "r+" (go on), "w-" (create), "w" (begin anew: what is
        there is removed with the first write).
    zarr_codecs : None, codec, sequence of codecs or name of a setting
        How chunks are compressed; None stores them raw.
    store : store or mapping, optional
        Used in place of `file_name`: a zarr or obstore store, an fsspec mapping.
    chunked_coords : mapping of dimension to int
        Cells of a chunk. Default: 1 along parallel dimensions, all along others.
    shard_coords : mapping of dimension to int
        Cells of a shard, a multiple of those of a chunk; without it there are no shards.
    max_inflight_bytes : int
        Bound on the bytes of data that is not durable yet: copies, chunks that are being put
        together, and as much again for their encoded form where they are compressed. A larger
        write goes alone.
    on_full : {"block", "raise"}
        What `write` does where there is no room.
    storage_options, attrs, durability
        As for `ZarrSaver`.

    Raises
    ------
    InvalidInputError
        A setting that does not fit.

    Notes
    -----
    A process that ends without `close` writes what it has within `async_timeout`, and names on
    stderr what could not be saved.

    Examples
    --------
    >>> import tempfile, numpy as np, zarr
    >>> path = tempfile.mkdtemp() + "/forecast.zarr"
    >>> steps = np.arange(3, dtype="timedelta64[h]")
    >>> with AsyncZarrSaver(path, {"lead_time": steps}, blocking=False) as saver:
    ...     for step in steps[::-1]:
    ...         field = np.full((1, 2), int(step.astype(int)))
    ...         handle = saver.write(field, {"lead_time": [step], "lat": [1.0, 2.0]}, "t2m")
    >>> zarr.open_group(path)["t2m"][:, 0]
    array([0, 1, 2])
    """

    supports_parallel_writes = True

    def __init__(
        self,
        file_name: object,
        parallel_coords: Mapping[str, Any],
        fs_factory: Callable[..., Any] | None = None,
        blocking: bool = True,  # noqa: FBT001, FBT002 -- the order of its model
        pool_size: int = 8,
        async_timeout: float = 600,
        zarr_kwargs: Mapping[str, Any] | None = None,
        zarr_codecs: Any = None,
        *,
        store: object = None,
        chunked_coords: Mapping[str, int] | None = None,
        shard_coords: Mapping[str, int] | None = None,
        max_inflight_bytes: int = 1 << 30,
        on_full: Literal["block", "raise"] = "block",
        storage_options: Mapping[str, Any] | None = None,
        attrs: Mapping[str, Any] | None = None,
        durability: str = "process",
    ) -> None:
        given = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        self._given = given
        self.blocking, self.async_timeout = bool(blocking), float(async_timeout)
        self.pool_size, self.on_full = pool_size, on_full
        self.mode = mode_of(zarr_kwargs)
        self.chunked = sizes_of("chunked_coords", chunked_coords)
        self.sharded = sizes_of("shard_coords", shard_coords)
        if pool_size < 1 or on_full not in ("block", "raise"):
            message = (
                f"expected pool_size >= 1, on_full 'block' or 'raise': {pool_size}, {on_full!r}"
            )
            raise InvalidInputError(message)
        super().__init__(
            target_of(file_name, store, fs_factory), DATASET, coords=dict(parallel_coords),
            codecs=zarr_codecs, attrs=dict(attrs or {}), durability=durability,
            storage_options=storage_options, max_inflight_bytes=max_inflight_bytes,
        )  # fmt: skip
        self._making = threading.Lock()
        self._order = threading.RLock()  # a signal handler may close within a write
        self._engine: Background | None = None
        self._peak = 0
        self._jobs: LabelledJobs | None = None

    def __repr__(self) -> str:
        return f"AsyncZarrSaver({self.where!r}, {list(self.labels)})"

    def __getstate__(self) -> dict[str, Any]:
        inherited = super().__getstate__()
        given = {**self._given, "storage_options": inherited["settings"].get("storage_options")}
        if isinstance(given["file_name"], str):
            given["file_name"] = inherited["file_path"] if given["fs_factory"] is None else (
                given["file_name"])  # fmt: skip
        return {"given": given, "left": inherited["left"]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        AsyncZarrSaver.__init__(self, **state["given"])
        self._left = state["left"]

    # -- writing -----------------------------------------------------------------------------------

    def save(self, data: Any, indices: Any = None, **kwargs: Any) -> None:
        """Raise: results have labels here, see `write`."""
        message = f"{self!r} places data by label: use write(x, coords, array_name)"
        raise InvalidInputError(message)

    def open_jobs(self, **save_kwargs: Any) -> JobLedger:
        """Open the jobs whose results go to their labels, once all earlier writes are durable.

        Raises
        ------
        ExceptionGroup
            As for `flush`.
        StoreInUseError
            Another job is at work on this store.
        """
        from savers._labelled._jobs import LabelledJobs

        check_options(save_kwargs, type(self).__name__, self.make_format().keywords)
        with self._order:
            engine = self._running()
            self._raise(engine.queue.flush(self.async_timeout))
            self._retire(engine)  # a job writes past what the queue keeps in memory
            self._jobs = LabelledJobs(self, self._running().store, save_kwargs)
        return self._jobs

    def write(  # type: ignore[override]
        self,
        x: Any,
        coords: Mapping[str, Any],
        array_name: str | Sequence[str],
        *,
        copy: bool = True,
    ) -> WriteHandle:
        """Write one or several arrays where their coordinates say.

        Parameters
        ----------
        x : array or tensor, or a sequence of them
            One for each name; an axis for each coordinate, in their order. The caller may change
            it as soon as this returns.
        coords : mapping of dimension to labels
            1-d labels, a single label (no axis needed), or n-d coordinates, n of which in a row
            span n index dimensions ``i<name>``. Labels may come in any order, dimensions too.
        array_name : str or sequence of str
        copy : bool
            False: the caller leaves `x` alone until the write is durable.

        Returns
        -------
        WriteHandle
            Done already where the saver is blocking.

        Raises
        ------
        CoordinateNotFoundError
            A label that the store does not have (the text names the nearest one).
        InvalidInputError
            Dimensions, shapes, labels or values that don't fit; nothing was changed.
        StoreInUseError
            Another writer fills a chunk that this write has only a part of; the text names the
            chunk size to use.
        StorageError
            There is no room (``on_full="raise"``), or, blocking, the store refused.
        """
        with self._order:  # the last one submitted wins, in all chunks
            submission = self._submit(x, coords, array_name, copy=copy)
        handle = self._handle(submission)
        if self.blocking:
            self._wait(submission, handle)
        return handle

    def _handle(self, submission: Submission) -> WriteHandle:
        engine = self._engine
        if engine is None:  # closed meanwhile, and so durable
            return WriteHandle(submission.future)
        queue, alive = engine.queue, weakref.ref(submission)  # a handle keeps no values

        def hurry() -> None:
            one = alive()
            if one is not None:
                queue.hurry(one)

        return WriteHandle(submission.future, hurry)

    def _wait(self, submission: Submission, handle: WriteHandle) -> None:
        try:
            handle.wait(self.async_timeout)
        except TimeoutError:  # it goes on: its values are still read
            raise
        except OSError:
            self._running().queue.forget(submission)
            raise

    async def async_write(
        self, x: Any, coords: Mapping[str, Any], array_name: str | Sequence[str]
    ) -> None:
        """Write as `write` does, and return once it is durable; the loop goes on meanwhile."""
        submission = await asyncio.to_thread(self._submit_in_order, x, coords, array_name)
        await self._handle(submission)

    def _submit_in_order(self, *args: Any) -> Submission:
        with self._order:
            return self._submit(*args, copy=True)

    def _submit(
        self, x: Any, coords: Mapping[str, Any], array_name: str | Sequence[str], *, copy: bool
    ) -> Submission:
        axes, values = Axes.of(coords), named_values(x, array_name)
        self._refuse_beside_job()
        engine = self._running()
        staged = {name: stage(value, copy=False, name=name) for name, value in values.items()}
        try:
            return engine.submit(self._writes(engine, axes, values, staged), copy=copy)
        except BaseException:
            for one in staged.values():
                one.release()
            raise

    def _refuse_beside_job(self) -> None:
        if self._jobs is not None and not self._jobs.closed:
            message = (
                f"{self!r} is in use by a job: write before or after it, or with a saver of its own"
            )
            raise StoreInUseError(message)

    def _writes(
        self, engine: Background, axes: Axes, values: Mapping[str, Any], staged: Mapping[str, Any]
    ) -> list[ArrayWrite]:
        store = engine.store
        if not store.known(list(values)):
            self._create(engine, axes, values, staged)
        store.check_grids(axes)
        return [
            ArrayWrite(store.layouts[name], value, staged[name], axes, store.labels)
            for name, value in values.items()
        ]

    def _create(
        self, engine: Background, axes: Axes, values: Mapping[str, Any], staged: Mapping[str, Any]
    ) -> None:
        """Make the arrays that are not there, all in one step and none where one can't be."""

        def make(plan: LabelledPlan) -> None:
            for name in values:
                axes.shaped(staged[name].shape, name)
                whole, options = self._added.get(name, (axes, {}))
                array = self._make(plan, name, whole, staged[name].dtype, options)
                plan.check(array, axes)
                if staged[name].dtype != array.layout.values_dtype:
                    plan.plan.fitted(array, staged[name].values)

        engine.store.update([*values, *axes.dims, *axes.grids], make)
        for name in values:
            self._added.pop(name, None)

    def _make(
        self, plan: LabelledPlan, name: str, axes: Axes, dtype: np.dtype[Any],
        options: Mapping[str, Any],
    ) -> ArrayState:  # fmt: skip
        plan.plan.planner = replace(plan.plan.planner, options=options)
        return plan.array(name, axes, dtype, list(self.labels))

    def add_array(
        self, coords: Mapping[str, Any], array_name: str | Sequence[str], **kwargs: Any
    ) -> None:
        super().add_array(coords, array_name, **kwargs)
        if "dtype" in kwargs:
            self._create_added()

    add_array.__doc__ = ZarrSaver.add_array.__doc__

    def _create_added(self) -> None:
        added = dict(self._added)
        if not added:
            return
        store = self._running().store

        def make(plan: LabelledPlan) -> None:
            for name, (axes, options) in added.items():
                self._make(plan, name, axes, np.dtype(options.get("dtype") or "f4"), options)

        names = {name: None for name, (axes, _) in added.items() for name in (name, *axes.dims)}
        store.update(list(names), make)
        for name in added:
            self._added.pop(name, None)

    def chunks_of(self, dims: Sequence[str], shape: Sequence[int]) -> dict[str, Any]:
        chunks = {
            dim: self.chunked.get(dim, 1 if dim in self.labels else max(1, size))
            for dim, size in zip(dims, shape, strict=True)
        }
        options: dict[str, Any] = {"chunks": tuple(chunks.values())}
        if self.sharded.keys() & set(dims):
            options["shards"] = tuple(self.sharded.get(dim, chunks[dim]) for dim in dims)
            for dim, shard in zip(dims, options["shards"], strict=True):
                if shard % chunks[dim]:
                    message = (
                        f"expected shard_coords[{dim!r}] as a multiple of the {chunks[dim]} cells "
                        f"of a chunk, got {shard}"
                    )
                    raise InvalidInputError(message)
        return options

    def check_chunks(self, layout: ArrayLayout) -> None:
        dims = layout.meta["dims"]
        facts = self.make_format().facts(layout)
        for keyword, asked, there in (
            ("chunked_coords", self.chunked, facts.chunks),
            ("shard_coords", self.sharded, facts.shards or facts.chunks),
        ):
            for dim, size in zip(dims, there, strict=True):
                if asked.get(dim, size) != size:
                    message = (
                        f"{layout.name!r} in {self.where} was created with {keyword}="
                        f"{{{dim!r}: {size}}}, got {asked[dim]}"
                    )
                    raise InvalidInputError(message)

    # -- what is written ---------------------------------------------------------------------------

    def written(self, array_name: str) -> list[dict[str, Any]]:
        """Return the labels at which an array is durable, whoever wrote it.

        Returns
        -------
        list of dict
            Dimension -> label over the parallel coordinates, in their order. A label counts once
            all its other cells are written; zeros and NaN count.
        """
        return self._labels_with(array_name, durable=True)

    def missing(self, array_name: str) -> list[dict[str, Any]]:
        """Return the labels at which an array is not durable; all, where there is no such array."""
        return self._labels_with(array_name, durable=False)

    def _labels_with(self, name: str, *, durable: bool) -> list[dict[str, Any]]:
        store = self._running().store
        if not store.known([name]):
            store.look()
        layout = store.layouts.get(name)
        given, _ = self._added.get(name, (None, None))
        dims = layout.meta["dims"] if layout else given.dims if given else tuple(self.labels)
        parallel = [dim for dim in self.labels if dim in dims]
        labels = [store.label(dim).values for dim in parallel]
        done = np.zeros([len(values) for values in labels], bool)
        if layout is not None:
            array = store.replica.refresh().arrays[name]
            order = [[dims[axis] for axis in layout.cells].index(dim) for dim in parallel]
            status = (array.status == ItemStatus.DONE).transpose(order)
            done[tuple(map(slice, status.shape))] = status
        return [
            {dim: values[i] for dim, values, i in zip(parallel, labels, at, strict=True)}
            for at in np.argwhere(done == durable).tolist()
        ]

    @property
    def peak_bytes(self) -> int:
        """The most bytes that were held at a time, by the count of `max_inflight_bytes`."""
        return self._engine.queue.peak if self._engine is not None else self._peak

    # -- the way in and out ------------------------------------------------------------------------

    def _running(self) -> Background:
        with self._making:
            if self._engine is None or self._engine.pid != os.getpid():
                session = self.session()
                look_at_store(self.mode, self.where, session)
                self.mode = "a"
                self._engine = Background(self, session)
                self._end = weakref.finalize(self, end, self._engine)
            elif self._closed:
                message = f"{self!r} is closed; make a new saver"
                raise ClosedError(message)
            return self._engine

    def flush(self) -> None:
        """Return once everything that was written so far is durable.

        Chunks that are not whole are put as they are. Writes that failed, and of which an earlier
        flush told, are tried once more.

        Raises
        ------
        ExceptionGroup
            Writes that failed since the last flush; each is a `StorageError` that names array,
            labels and attempts. Their data is kept: call it again once the cause is gone.
        """
        if not self._closed:
            self._running()
            self._create_added()
        if self._engine is not None:
            self._raise(self._engine.queue.flush(self.async_timeout))

    def _raise(self, errors: Sequence[Exception]) -> None:
        if errors:
            message = f"{len(errors)} writes to {self.where} failed; flush() tries them again"
            raise ExceptionGroup(message, errors)

    def close(self) -> None:
        """Flush, and let go of everything. Idempotent; a write after it raises `ClosedError`.

        Raises
        ------
        ExceptionGroup
            As for `flush`, after one more attempt. Data that could not be saved is kept: `flush`
            and `close` may be called again.
        """
        engine = self._engine
        if not self._closed and self._added:
            self._create_added()
            engine = self._engine
        with self._order:  # a write that began before is flushed, too
            self._closed = True
            engine = self._engine
        if engine is None or engine.pid != os.getpid():
            super().close()
            return
        errors = engine.queue.flush(self.async_timeout)
        if errors and not engine.queue.flush(self.async_timeout):
            for error in errors:
                error.add_note("a later attempt saved it")
        try:
            if not engine.queue.unsaved():
                self._retire(engine)
                super().close()
        finally:
            engine.queue.stop()
            self._raise(errors)

    def _retire(self, engine: Background) -> None:
        engine.close()
        self._end.detach()
        self._peak, self._engine = engine.queue.peak, None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)
