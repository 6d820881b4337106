"""Jobs of an AsyncZarrSaver: every result goes to its labels, and is done in the same record.

A job holds the dataset, whose own stream takes its records; other writers go on beside it with
theirs. Before each commit the job reads what they recorded, and it claims the chunks that hold
several labels, as any writer does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from savers._chunked._job_fields import JobFields
from savers._chunked._jobs import ChunkedJob, ChunkedJobs
from savers._chunked._labelled_plan import LabelledPlan
from savers._chunked._save_plan import same_labels
from savers._labelled._streams import Replica
from savers._values._placement import Axes
from savers._values._regions import pieces
from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from savers._chunked._save_plan import SavePlan
    from savers._chunked._saver import ChunkedSaver
    from savers._jobs import JobSpec, JobWriter
    from savers._labelled._store import LabelledStore
    from savers._ledger._state import ArrayLayout, ArrayState, Job, State
    from savers._session._commit import Box, Write

__all__ = ["LabelledJobs"]

Index = tuple[int, ...]


class LabelledJobs(ChunkedJobs):
    """The jobs of the labelled arrays of a store.

    Parameters
    ----------
    saver : AsyncZarrSaver
    store : LabelledStore
        Its way into the store.
    options : mapping
        Keywords for the creation of arrays.
    """

    def __init__(
        self, saver: ChunkedSaver, store: LabelledStore, options: Mapping[str, Any]
    ) -> None:
        super().__init__(saver, options)
        self.store = store
        self._others = Replica(self.session.home(), self.session.dataset)
        self._claimed: dict[tuple[str, Index], ArrayLayout] = {}
        try:
            with self.session.mutex:
                store.grow()
                self.see_others()
                plan = LabelledPlan(saver, self.session, self._state, saver.labels, {})
                self.labels = {dimension: plan.label(dimension) for dimension in saver.labels}
        except BaseException:
            self.close()
            raise

    def see_others(self) -> None:
        """Know what other writers recorded until now."""
        self._others.follow(self._state)

    def claim(self, layout: ArrayLayout, index: Index) -> None:
        """Keep other writers out of a chunk that holds several labels, until the job ends.

        Raises
        ------
        StoreInUseError
            One fills it.
        """
        if (layout.name, index) not in self._claimed:
            self.store.claim_shared(layout, index)
            self._claimed[layout.name, index] = layout

    def _writer(self, job_id: int) -> JobWriter:
        return LabelledJob(self, job_id)

    def fields_of(self, job: Job) -> JobFields:
        return LabelledFields(self, job)

    def _require_places(self, spec: JobSpec) -> None:
        if spec.identity == "position":
            message = f"{self.saver!r} places results by label: give submit_tasks labels="
            raise InvalidInputError(message)

    def _check_layout(self, names: Sequence[str], *, settings: bool) -> None:
        """Stored labels keep their place, so only the settings of a job that goes on can differ."""
        if not settings:
            return
        planner = self.saver.planner(self.session, self.options)
        plan = LabelledPlan(self.saver, self.session, self._state, {}, {}).plan
        plan.planner = planner
        for name in names:
            if (array := self._state.arrays.get(name)) is not None:
                plan.check_settings(array.layout)
                self.saver.check_chunks(array.layout)

    def close(self) -> None:
        """Publish, and let others have the dataset and the chunks."""
        try:
            super().close()
        finally:
            for (_, index), layout in self._claimed.items():
                self.store.release(layout, index)
            self._claimed.clear()
            self.session.done()


class LabelledJob(ChunkedJob):
    """A job beside other writers."""

    def __init__(self, jobs: LabelledJobs, job_id: int) -> None:
        self.jobs = jobs
        super().__init__(jobs, job_id)

    def commit(self) -> None:
        with self.jobs.store.lock:  # always before the session's: claims may ask for it
            super().commit()

    def finish(self, items: int) -> None:
        with self.jobs.store.lock:
            super().finish(items)

    def _writes(self, bases: Mapping[str, int]) -> tuple[list[Write], dict[str, list[Box]]]:
        """Whole or not, chunks go into the store at once: others find them there."""
        writes, cells = super()._writes(bases)
        for write in writes:
            layout = write.array.layout
            for piece in pieces(write.region, layout.chunks, layout.shape):
                self.jobs.claim(layout, piece.chunk)
        self.jobs.see_others()
        return [replace(write, at_once=True) for write in writes], cells


class LabelledFields(JobFields):
    """The arrays of a job: their dimensions are those of `add_array`, or the labels come first."""

    def __init__(self, jobs: LabelledJobs, job: Job) -> None:
        super().__init__(jobs.saver, jobs.session, jobs.options, job)
        self.labels = jobs.labels
        self._by_label: LabelledPlan | None = None

    def place(self, labels: Mapping[str, object] | None) -> Index:
        if labels is None:
            message = f"expected labels for {', '.join(self.labels)}, got none"
            raise InvalidInputError(message)
        return super().place(labels)

    def _new_plan(self, state: State, dims: tuple[str, ...]) -> SavePlan:
        self._by_label = LabelledPlan(self.saver, self.session, state, self.saver.labels, {})
        return self._by_label.plan

    def _array(
        self, plan: SavePlan, name: str, value: NDArray[Any], dims: tuple[str, ...]
    ) -> ArrayState:
        labelled = self._by_label
        if labelled is None:
            message = "no result was planned yet"
            raise InvalidInputError(message)
        axes, options = self.saver.added(name) or (self._axes(name, value, dims), {})
        self._check_order(labelled, name, axes, dims)
        plan.planner = replace(plan.planner, options={**options, **self.options})
        array = labelled.array(name, axes, value.dtype, list(self.labels))
        self._check_kind(array, dims)
        return array

    def _axes(self, name: str, value: NDArray[Any], dims: tuple[str, ...]) -> Axes:
        """Dimensions that nobody named: those of the labels, then one for each axis."""
        own = [dimension for dimension in self.labels if dimension in dims]
        labels = {dimension: self.labels[dimension].values for dimension in own}
        leaf = name.rpartition("/")[2]
        rest = {f"{leaf}_dim_{len(own) + axis}": size for axis, size in enumerate(value.shape)}
        sizes = {**{dimension: len(values) for dimension, values in labels.items()}, **rest}
        return Axes(tuple(sizes), labels, sizes, (), {}, {})

    def _check_order(
        self, plan: LabelledPlan, name: str, axes: Axes, dims: tuple[str, ...]
    ) -> None:
        """Results are not turned to stored labels: they must have all of them, in their order."""
        for dimension, given in axes.labels.items():
            there = plan.label(dimension, given).values
            if dimension not in dims and not same_labels(there, given):
                message = (
                    f"{name!r} in {self.saver.where}: add_array was given other labels along "
                    f"{dimension!r} than the store has, or another order: results of a job have "
                    "all labels, in the order of the store"
                )
                raise InvalidInputError(message)
