"""Jobs of a chunked saver: results and their "done" become durable in one record."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._blocks import as_result, own, split_fields
from savers._chunked import SavePlan
from savers._commit import Write
from savers._coordinates import find
from savers._jobs import Failure, ItemStatus, JobLedger, JobState, JobWriter
from savers._regions import box, rows
from savers._state import ArrayState, Job, failure_json, job_record
from savers._store import check_array_name
from savers.errors import (
    ClosedError,
    InvalidInputError,
    LedgerMismatchError,
    NotFoundError,
    StoreInUseError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from savers._chunked import ChunkedSaver
    from savers._jobs import JobSpec
    from savers._session import Session
    from savers._state import State

__all__ = ["ChunkedJob", "ChunkedJobs"]

Index = tuple[int, ...]


class ChunkedJobs(JobLedger):
    """The jobs of a dataset, with the dataset held for this process."""

    def __init__(self, saver: ChunkedSaver, options: Mapping[str, Any]) -> None:
        self.saver = saver
        self.options = options
        self.session = saver.session()
        with self.session.mutex:
            if self.session.job_active:
                message = f"{saver!r} is in use by another job of this process; one at a time"
                raise StoreInUseError(message)
            self.session.attrs = saver.root_attributes({})
            self.session.open()
            self.session.job_active = True
        self._closed = False

    @property
    def _state(self) -> State:
        return self.session.peek()

    @property
    def states(self) -> Sequence[JobState]:  # type: ignore[override]
        return [job.state for job in self._state.jobs.values()]

    def begin(self, spec: JobSpec, seed: int) -> JobWriter:
        self._require_places(spec)
        with self.session.mutex:
            number = max(self._state.jobs, default=0) + 1
            self.session.append(job_record(JobState(number, spec, seed)))
        return ChunkedJob(self, number)

    def _require_places(self, spec: JobSpec) -> None:
        if spec.identity == "labels" and not (self.saver.settings.dims and self.saver.labels):
            message = f"labels= needs a saver with dims= and coords=, got {self.saver!r}"
            raise InvalidInputError(message)

    def resume(self, job_id: int) -> JobWriter:
        job = self._state.jobs[job_id]
        planner = self.saver.planner(self.session, self.options)
        for name in job.fields or ():
            array = self._state.array(name)
            if array is not None:
                try:
                    planner.check_existing(array.layout)
                except InvalidInputError as error:
                    message = (
                        f"job {job_id} was saved with another layout: {error}. Call with "
                        'resume="new" or resume="restart", or as before'
                    )
                    raise LedgerMismatchError(message) from error
        return ChunkedJob(self, job_id)

    def abandon(self, job_id: int) -> None:
        with self.session.mutex:
            job = self._state.jobs[job_id]
            holes = [
                [name, base, self._state.arrays[name].rows]
                for name, base in job.bases.items()
                if name in self._state.arrays
            ]
            self.session.append({"kind": "finish", "job": job_id, "holes": holes})

    def discard(self, job_id: int) -> None:
        with self.session.mutex:
            Discard(self.session, self._state, self._state.jobs[job_id]).commit()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with self.session.mutex:
            self.session.job_active = False
        self.saver.flush()


class ChunkedJob(JobWriter):
    """One job on its way into the arrays of a saver."""

    def __init__(self, jobs: ChunkedJobs, job_id: int) -> None:
        self.saver = jobs.saver
        self.session = jobs.session
        self.options = jobs.options
        self.job_id = job_id
        self._staged: dict[int, tuple[int, dict[str, NDArray[Any]], Index]] = {}
        self._failed: dict[int, Failure] = {}
        self._arrays: dict[str, ArrayState] = {}
        self._plan: SavePlan | None = None
        self._last: State | None = None
        self._dims: tuple[str, ...] = self._job.label_dims

    @property
    def _state(self) -> State:
        if self.session.is_open:
            return self.session.peek()
        if self._last is None:  # the saver was closed: what it left is read once
            self._last = self.session.peek()
        return self._last

    @property
    def _job(self) -> Job:
        return self._state.jobs[self.job_id]

    @property
    def state(self) -> JobState:  # type: ignore[override]
        return self._job.state

    @property
    def _replaces(self) -> bool:
        return self.saver.approach == "overwrite"

    # -- staging -----------------------------------------------------------------------------------

    def stage(
        self,
        position: int,
        digest: int,
        result: object,
        labels: Mapping[str, object] | None = None,
        *,
        copy: bool = True,
    ) -> int:
        parts = split_fields(result, self.saver.dataset_name)
        values = {check_array_name(name): as_result(part, name) for name, part in parts.items()}
        place = self._place(labels)
        with self.session.mutex:
            if not self._arrays:
                self._begin_arrays(values, labels)
            fitted = self._fitted(values, position)
        held = {name: own(value) if copy else value for name, value in fitted.items()}
        self._staged[position] = (digest, held, place)
        self._failed.pop(position, None)
        return sum(value.nbytes for value in held.values())

    def _place(self, labels: Mapping[str, object] | None) -> Index:
        if labels is None:
            if self._dims:
                message = f"expected labels for {', '.join(self._dims)}, got none"
                raise InvalidInputError(message)
            return ()
        found = find(self.saver.labels, labels)
        if self._dims and set(found) != set(self._dims):
            message = f"expected labels for {', '.join(self._dims)}, got {', '.join(found)}"
            raise InvalidInputError(message)
        return tuple(found[name] for name in self._dims or found)

    def _begin_arrays(
        self, values: Mapping[str, NDArray[Any]], labels: Mapping[str, object] | None
    ) -> None:
        """Plan the arrays from the first result: it decides fields, shapes and dtypes."""
        dims = tuple(labels or ())
        leaf = self.saver.dataset_name.rpartition("/")[2]
        planner = self.saver.planner(self.session, self.options, "" if dims else f"{leaf}_item")
        plan = SavePlan(self.saver, self.session, self._state, planner)
        arrays = {name: self._array(plan, name, value, dims) for name, value in values.items()}
        self._plan, self._arrays, self._dims = plan, arrays, dims

    def _array(
        self, plan: SavePlan, name: str, value: NDArray[Any], dims: tuple[str, ...]
    ) -> ArrayState:
        there = self._state.pending.get(name) if self._replaces else plan.existing(name)
        if there is not None:
            self._check_kind(there, dims)
            return there
        if self.saver.approach == "update":
            message = f"no array {name!r} in {self.saver.where} to update"
            raise NotFoundError(message)
        generation = self._next_generation(plan, name)
        if dims:
            layout = self._labelled(plan, name, value, dims, generation)
        else:
            layout = plan.planner.rows(name, value.shape, value.dtype, generation=generation)
        return plan.create(layout, pending=self._replaces)

    def _next_generation(self, plan: SavePlan, name: str) -> int:
        if not self._replaces:
            return 0
        old = plan.existing(name, check=False)
        if old is None:
            return 0
        plan.refuse_unreplaceable(old.layout)
        self.session.remove_generation(old.layout, old.layout.generation + 1)
        return old.layout.generation + 1

    def _labelled(
        self, plan: SavePlan, name: str, value: NDArray[Any], dims: tuple[str, ...], generation: int
    ) -> Any:
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
        layout = array.layout
        if layout.growing == bool(dims):
            how = "rows in the order of items" if layout.growing else "labels"
            message = (
                f"{layout.name!r} in {self.saver.where} is filled by {how}: {layout.meta['dims']}"
            )
            raise InvalidInputError(message)
        mine = [layout.meta["dims"][axis] for axis in layout.cells]
        if dims and sorted(mine) != sorted(dims):
            message = f"{layout.name!r} is filled by labels of {mine}, got labels of {list(dims)}"
            raise InvalidInputError(message)

    def _fitted(self, values: Mapping[str, NDArray[Any]], position: int) -> dict[str, NDArray[Any]]:
        if values.keys() != self._arrays.keys():
            message = f"expected fields {list(self._arrays)}, got {list(values)}"
            raise InvalidInputError(message)
        plan = self._plan_of_arrays()
        fitted = {}
        for name, value in values.items():
            array = self._arrays[name]
            expected = self._item_shape(array)
            if value.shape != expected and _squeezed(value.shape) != _squeezed(expected):
                message = (
                    f"field {name!r} of item {position}: expected shape {expected} as the first "
                    f"result, got {value.shape}"
                )
                raise InvalidInputError(message)
            fitted[name] = plan.fitted(array, value.reshape(expected))
        return fitted

    def _plan_of_arrays(self) -> SavePlan:
        if self._plan is None:
            message = "no result was staged yet"
            raise InvalidInputError(message)
        return self._plan

    def _item_shape(self, array: ArrayState) -> Index:
        layout = array.layout
        if layout.growing:
            return layout.shape[1:]
        return tuple(n for axis, n in enumerate(layout.shape) if axis not in layout.cells)

    def fail(self, failure: Failure) -> None:
        self._failed[failure.position] = failure
        self._staged.pop(failure.position, None)

    # -- committing --------------------------------------------------------------------------------

    def commit(self) -> None:
        if self._staged or self._failed:
            with self.session.mutex:
                self._commit({})

    def finish(self, items: int) -> None:
        with self.session.mutex:
            replaced, whole = {}, []
            if self._replaces:
                for name in self._all_pending():
                    old = self._state.arrays.get(name)
                    replaced[name] = -1 if old is None else old.layout.generation
                    whole.append(name)
            self._commit({"finished": True, "replace": replaced}, whole)

    def _all_pending(self) -> list[str]:
        new = [entry["layout"]["name"] for entry in (self._plan.new if self._plan else ())
               if entry.get("pending")]  # fmt: skip
        return list(dict.fromkeys([*self._state.pending, *new]))

    def _commit(self, extra: Mapping[str, Any], whole: Sequence[str] = ()) -> None:
        self._use_committed_arrays()
        staged = sorted(self._staged.items())
        positions = [position for position, _ in staged]
        record = {"job": self.job_id, "done": runs(positions), **extra}
        raw = [np.array([entry[0] for _, entry in staged], "<u8").tobytes()]
        if self._dims:
            record["places"] = len(self._dims)
            raw.append(np.array([entry[2] for _, entry in staged], "<i4").tobytes())
        record["failed"] = [failure_json(failure) for failure in self._failed.values()]
        bases = self._describe_fields(record)
        writes, cells = self._writes(bases)
        if self._plan is not None:
            writes += self._plan.writes
            record["new"] = self._plan.new
            for name, boxes in self._plan.cells.items():
                cells.setdefault(name, []).extend(boxes)
            replace = {**record.get("replace", {}), **self._plan.replaced}
            record["replace"] = {
                k: v for k, v in replace.items() if extra or k in self._plan.replaced
            }
        pending = [self._state.pending[name] for name in whole if name in self._state.pending]
        self.session.commit(writes, cells, record, raw, pending)
        self._staged.clear()
        self._failed.clear()
        if self._plan is not None:
            self._plan.clear()

    def _use_committed_arrays(self) -> None:
        """Arrays that were only planned are the state's once a commit has made them."""
        for name, array in self._arrays.items():
            self._arrays[name] = self._state.array(name, array.layout.generation) or array

    def _describe_fields(self, record: dict[str, Any]) -> Mapping[str, int]:
        """Note fields and bases with the first result of the job."""
        job = self._job
        if job.fields is not None or not self._arrays:
            return job.bases
        bases = {} if self._dims else {name: array.rows for name, array in self._arrays.items()}
        record["fields"], record["bases"] = list(self._arrays), bases
        record["label_dims"] = list(self._dims)
        return bases

    def _writes(
        self, bases: Mapping[str, int]
    ) -> tuple[list[Write], dict[str, list[tuple[Index, Index, int]]]]:
        writes: list[Write] = []
        cells: dict[str, list[tuple[Index, Index, int]]] = {}
        staged = sorted(self._staged.items())
        for name, array in self._arrays.items():
            made = self._by_label(name, array, staged) if self._dims else self._by_row(
                name, array, staged, bases[name])  # fmt: skip
            for write, start, stop in made:
                writes.append(write)
                cells.setdefault(name, []).append((start, stop, int(ItemStatus.DONE)))
            if not self._dims:
                cells.setdefault(name, []).extend(self._holes(bases[name]))
        return writes, cells

    def _by_row(
        self, name: str, array: ArrayState, staged: Sequence[Any], base: int
    ) -> Iterator[tuple[Write, Index, Index]]:
        """Neighbouring items make one block."""
        for first, stop in runs([position for position, _ in staged]):
            block = np.stack([self._staged[position][1][name] for position in range(first, stop)])
            region = rows(base + first, block.shape)
            again = base + first < (array.published or (0,))[0]
            yield Write(array, region, block, at_once=again), (base + first,), (base + stop,)

    def _by_label(
        self, name: str, array: ArrayState, staged: Sequence[Any]
    ) -> Iterator[tuple[Write, Index, Index]]:
        layout = array.layout
        order = [self._dims.index(layout.meta["dims"][axis]) for axis in layout.cells]
        for _, (_, values, place) in staged:
            index = tuple(place[k] for k in order)
            at = dict(zip(layout.cells, index, strict=True))
            start = tuple(at.get(axis, 0) for axis in range(len(layout.shape)))
            shape = tuple(1 if axis in at else n for axis, n in enumerate(layout.shape))
            block = values[name].reshape(shape)
            stop = tuple(i + 1 for i in index)
            yield Write(array, box(start, shape), block), index, stop

    def _holes(self, base: int) -> list[tuple[Index, Index, int]]:
        """Rows of items that were given up: settled, so that readers see what lies behind them."""
        failures = (
            {**self.state.failures, **self._failed} if self._job.fields is None else self._failed
        )
        return [
            ((base + position,), (base + position + 1,),
             int(ItemStatus.SKIPPED if failure.final else ItemStatus.FAILED))
            for position, failure in failures.items()
            if position not in self._staged
        ]  # fmt: skip

    # -- reading back ------------------------------------------------------------------------------

    def read(self, position: int) -> object:
        with self.session.mutex:
            job = self._job
            if self.state.status[position] != ItemStatus.DONE or job.fields is None:
                message = f"item {position} has no committed result"
                raise KeyError(message)
            values = {name: self._read_field(job, name, position) for name in job.fields}
        single = list(values) == [self.saver.dataset_name]
        return values[self.saver.dataset_name] if single else values

    def _read_field(self, job: Job, name: str, position: int) -> NDArray[Any]:
        array = self._state.array(name)
        if array is None:
            message = f"array {name!r} is gone"
            raise ClosedError(message)
        layout = array.layout
        if job.places is None:
            start: Index = (job.bases[name] + position, *(0 for _ in layout.shape[1:]))
            shape = (1, *layout.shape[1:])
        else:
            place = dict(zip(job.label_dims, job.places[position].tolist(), strict=True))
            names = layout.meta["dims"]
            start = tuple(place.get(n, 0) for n in names)
            shape = tuple(
                1 if n in place else size for n, size in zip(names, layout.shape, strict=True)
            )
        return self.session.read(array, box(start, shape)).reshape(self._item_shape(array))


def _rest(shape: Index, names: Sequence[str], dims: Sequence[str]) -> list[int]:
    return [size for size, name in zip(shape, names, strict=True) if name not in dims]


def _squeezed(shape: Index) -> list[int]:
    return [size for size in shape if size != 1]


def runs(positions: Sequence[int]) -> list[list[int]]:
    """Return sorted positions as [first, stop] pairs.

    >>> runs([0, 1, 2, 5, 7, 8])
    [[0, 3], [5, 6], [7, 9]]
    """
    groups = groupby(enumerate(positions), key=lambda pair: pair[1] - pair[0])
    found = [[position for _, position in group] for _, group in groups]
    return [[group[0], group[-1] + 1] for group in found]


class Discard:
    """Removes a job from its arrays: rows are cut off, labelled cells are filled anew."""

    def __init__(self, session: Session, state: State, job: Job) -> None:
        self.session = session
        self.state = state
        self.job = job
        self.dropped = [name for name in job.fields or () if name in state.pending]
        self.rows: dict[str, int] = {}
        self.writes: list[Write] = []
        self.cells: dict[str, list[tuple[Index, Index, int]]] = {}

    def commit(self) -> None:
        """Commit the removal, then publish and delete what no reader sees any more."""
        for name in self.job.fields or ():
            array = self.state.arrays.get(name)
            if array is None or name in self.dropped:
                continue
            if array.layout.growing:
                self._cut(array, self.job.bases[name])
            else:
                self._clear(array)
        gone = [self.state.arrays[n].layout for n in self.dropped if n in self.state.arrays]
        extra = {"dropped": self.dropped, "rows": self.rows,
                 "discarded": self.job.state.job_id}  # fmt: skip
        self.session.commit(self.writes, self.cells, extra)
        self.session.publish_now(gone=[layout.name for layout in gone])
        for layout in gone:
            self.session.format.remove_chunks(self.session.store, layout)

    def _cut(self, array: ArrayState, base: int) -> None:
        name = array.layout.name
        if any(base_ > base for base_ in self._later_bases(name)):
            message = (
                f"rows of a later job lie behind those of job {self.job.state.job_id} in {name!r}: "
                "it can't be restarted; use resume='new'"
            )
            raise LedgerMismatchError(message)
        if base == 0 and not array.adopted:
            self.dropped.append(name)
            return
        self.rows[name] = base
        end = min(-(-base // array.layout.chunks[0]) * array.layout.chunks[0], array.rows)
        if end > base:
            self._fill(array, rows(base, (end - base, *array.layout.shape[1:])).selectors)

    def _later_bases(self, name: str) -> list[int]:
        return [job.bases[name] for job in self.state.jobs.values() if name in job.bases]

    def _clear(self, array: ArrayState) -> None:
        places = self.job.places
        done = np.flatnonzero(self.job.state.status == ItemStatus.DONE)
        if places is None or not len(done):
            return
        layout = array.layout
        names = [layout.meta["dims"][axis] for axis in layout.cells]
        order = [self.job.label_dims.index(name) for name in names]
        if int((array.status == ItemStatus.DONE).sum()) == len(done):
            self.dropped.append(layout.name)
            return
        for place in places[done][:, order].tolist():
            at = dict(zip(layout.cells, place, strict=True))
            selectors = tuple(
                slice(at[axis], at[axis] + 1) if axis in at else slice(0, size)
                for axis, size in enumerate(layout.shape)
            )
            self._fill(array, selectors)
            stop = tuple(i + 1 for i in place)
            self.cells.setdefault(layout.name, []).append(
                (tuple(place), stop, int(ItemStatus.OPEN))
            )

    def _fill(self, array: ArrayState, selectors: Sequence[Any]) -> None:
        start = tuple(cut.start for cut in selectors)
        shape = tuple(cut.stop - cut.start for cut in selectors)
        fill = self.session.format.fill_value(array.layout)
        block = np.full(shape, fill, array.layout.values_dtype)
        self.writes.append(Write(array, box(start, shape), block, at_once=True))
