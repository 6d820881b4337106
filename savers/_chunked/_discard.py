"""Removing a job from its arrays, as if it had never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from savers._jobs import ItemStatus
from savers._session._commit import Write
from savers._values._regions import box, rows
from savers.errors import LedgerMismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from savers._ledger._state import ArrayState, Job, State
    from savers._session._session import Session

__all__ = ["Discard"]

Index = tuple[int, ...]


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
        extra = {"dropped": self.dropped, "rows": self.rows,
                 "discarded": self.job.state.job_id}  # fmt: skip
        self.session.commit(self.writes, self.cells, extra)
        self.session.publish()

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
