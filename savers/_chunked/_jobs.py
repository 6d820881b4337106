"""Jobs of a chunked saver: results and their "done" become durable in one record."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._chunked._discard import Discard
from savers._chunked._job_fields import JobFields, item_shape
from savers._chunked._save_plan import SavePlan
from savers._jobs import Failure, ItemStatus, JobLedger, JobState, JobWriter
from savers._ledger._records import failure_json, job_record
from savers._session._commit import Write
from savers._values._blocks import split_fields
from savers._values._regions import box, rows
from savers.errors import ClosedError, InvalidInputError, LedgerMismatchError, StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from savers._chunked._saver import ChunkedSaver
    from savers._jobs import JobSpec
    from savers._ledger._state import ArrayState, Job, State

__all__ = ["ChunkedJob", "ChunkedJobs"]

Index = tuple[int, ...]


class ChunkedJobs(JobLedger):
    """The jobs of a dataset, with the dataset held for this process."""

    def __init__(self, saver: ChunkedSaver, options: Mapping[str, Any]) -> None:
        self.saver = saver
        self.closed = False
        self.options = options
        self.session = saver.session()
        with self.session.mutex:
            if self.session.job_active:
                message = f"{saver!r} is in use by another job of this process; one at a time"
                raise StoreInUseError(message)
            self.session.attrs = saver.root_attributes({})
            with self.session.looking([saver.dataset_name], before=False):
                self.session.open()
            self.session.job_active = True

    @property
    def fresh(self) -> bool:
        """True for jobs that replace what is there: its layout binds nobody."""
        return self.saver.approach == "overwrite"

    @property
    def _state(self) -> State:
        return self.session.peek()

    @property
    def states(self) -> Sequence[JobState]:  # type: ignore[override]
        return [job.state for job in self._state.jobs.values()]

    def begin(self, spec: JobSpec, seed: int) -> JobWriter:
        self._require_places(spec)
        if not self.fresh:
            self._check_layout(list(self._state.arrays), settings=False)
        with self.session.mutex:
            number = max(self._state.jobs, default=0) + 1
            self.session.append(job_record(JobState(number, spec, seed)))
        return self._writer(number)

    def _writer(self, job_id: int) -> JobWriter:
        return ChunkedJob(self, job_id)

    def fields_of(self, job: Job) -> JobFields:
        """Return what knows the arrays of a job."""
        return JobFields(self.saver, self.session, self.options, job)

    def _require_places(self, spec: JobSpec) -> None:
        if spec.identity == "labels" and not (self.saver.settings.dims and self.saver.labels):
            message = f"labels= needs a saver with dims= and coords=, got {self.saver!r}"
            raise InvalidInputError(message)

    def resume(self, job_id: int) -> JobWriter:
        fields = self._state.jobs[job_id].fields or ()
        try:
            self._check_layout(fields, settings=True)
        except InvalidInputError as error:
            message = (
                f"job {job_id} was saved with another layout: {error}. Call as before, or with "
                'resume="new" or resume="restart"'
            )
            raise LedgerMismatchError(message) from error
        return self._writer(job_id)

    def _check_layout(self, names: Sequence[str], *, settings: bool) -> None:
        """Labels mean what they meant before, and so do the settings of a job that goes on."""
        planner = self.saver.planner(self.session, self.options)
        plan = SavePlan(self.saver, self.session, self._state, planner)
        for name in names:
            array = _own_array(self.saver, self._state, name)
            if array is not None:
                planner.check_extents(array.layout)
                plan.coordinates(array.layout)
                if settings:
                    plan.check_settings(array.layout)

    def abandon(self, job_id: int) -> None:
        with self.session.mutex:
            job = self._state.jobs[job_id]
            if any(name in self._state.pending for name in job.fields or ()):
                self.discard(job_id)  # what it was to replace is still there, and stays
                return
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
        if self.closed:
            return
        self.closed = True
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
        self._last: State | None = None
        self.fields = jobs.fields_of(self._job)

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
        place = self.fields.place(labels)
        if not self.fields.known:
            with self.session.mutex:
                held = self.fields.begin(self._state, parts, labels, position, copy=copy)
        else:
            held = self.fields.take(parts, position, copy=copy)
        self._staged[position] = (digest, held, place)
        self._failed.pop(position, None)
        return sum(value.nbytes for value in held.values())

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
            if self.fields.replaces:
                for name in self._all_pending():
                    old = self._state.arrays.get(name)
                    replaced[name] = -1 if old is None else old.layout.generation
                    whole.append(name)
            self._commit({"finished": True, "replace": replaced}, whole)

    def _all_pending(self) -> list[str]:
        planned = self.fields.plan.new if self.fields.plan else []
        new = [entry["layout"]["name"] for entry in planned if entry.get("pending")]
        return list(dict.fromkeys([*self._state.pending, *new]))

    def _commit(self, extra: Mapping[str, Any], whole: Sequence[str] = ()) -> None:
        self._use_committed_arrays()
        staged = sorted(self._staged.items())
        positions = [position for position, _ in staged]
        record = {"job": self.job_id, "done": runs(positions), **extra}
        raw = [np.array([entry[0] for _, entry in staged], "<u8").tobytes()]
        if self.fields.dims:
            record["places"] = len(self.fields.dims)
            raw.append(np.array([entry[2] for _, entry in staged], "<i4").tobytes())
        record["failed"] = [failure_json(failure) for failure in self._failed.values()]
        bases = self._describe_fields(record)
        writes, cells = self._writes(bases)
        if self.fields.plan is not None:
            writes += self.fields.plan.writes
            record["new"] = self.fields.plan.new
            for name, boxes in self.fields.plan.cells.items():
                cells.setdefault(name, []).extend(boxes)
            replace = {**record.get("replace", {}), **self.fields.plan.replaced}
            record["replace"] = {
                k: v for k, v in replace.items() if extra or k in self.fields.plan.replaced
            }
        pending = [self._state.pending[name] for name in whole if name in self._state.pending]
        self.session.commit(writes, cells, record, raw, pending)
        self._staged.clear()
        self._failed.clear()
        if self.fields.plan is not None:
            self.fields.plan.clear()

    def _use_committed_arrays(self) -> None:
        """Arrays that were only planned are the state's once a commit has made them."""
        for name, array in self.fields.arrays.items():
            self.fields.arrays[name] = self._state.array(name, array.layout.generation) or array

    def _describe_fields(self, record: dict[str, Any]) -> Mapping[str, int]:
        """Note fields and bases with the first result of the job."""
        job = self._job
        if job.fields is not None or not self.fields.arrays:
            return job.bases
        bases = (
            {}
            if self.fields.dims
            else {name: array.rows for name, array in self.fields.arrays.items()}
        )
        record["fields"], record["bases"] = list(self.fields.arrays), bases
        record["label_dims"] = list(self.fields.dims)
        return bases

    def _writes(
        self, bases: Mapping[str, int]
    ) -> tuple[list[Write], dict[str, list[tuple[Index, Index, int]]]]:
        writes: list[Write] = []
        cells: dict[str, list[tuple[Index, Index, int]]] = {}
        staged = sorted(self._staged.items())
        for name, array in self.fields.arrays.items():
            made = self._by_label(name, array, staged) if self.fields.dims else self._by_row(
                name, array, staged, bases[name])  # fmt: skip
            for write, start, stop in made:
                writes.append(write)
                cells.setdefault(name, []).append((start, stop, int(ItemStatus.DONE)))
            if not self.fields.dims:
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
        order = [self.fields.dims.index(layout.meta["dims"][axis]) for axis in layout.cells]
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
        array = _own_array(self.saver, self._state, name)
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
        return self.session.read(array, box(start, shape)).reshape(item_shape(array))


def _own_array(saver: ChunkedSaver, state: State, name: str) -> ArrayState | None:
    """Return the array that a job writes: while it replaces one, that is the new one."""
    aside = state.pending.get(name) if saver.approach == "overwrite" else None
    return aside or state.arrays.get(name)


def runs(positions: Sequence[int]) -> list[list[int]]:
    """Return sorted positions as [first, stop] pairs.

    >>> runs([0, 1, 2, 5, 7, 8])
    [[0, 3], [5, 6], [7, 9]]
    """
    groups = groupby(enumerate(positions), key=lambda pair: pair[1] - pair[0])
    found = [[position for _, position in group] for _, group in groups]
    return [[group[0], group[-1] + 1] for group in found]
