"""Planning a resume, without any I/O: whether this call is a known job, or a new one.

`Comparison` is fed with the first items of the input, and holds their digests against every job
in the ledger until it is clear which one this is. Nothing here reads, writes or runs anything.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from savers import ItemStatus, JobSpec, JobState
from taskmanager.errors import LedgerMismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Comparison", "Decision", "Resume", "settled"]

Resume = Literal[True, "new", "restart"]

_WAYS_OUT = (
    'Call with resume="new" to keep what is there and start behind it, or with resume="restart" '
    "to discard the unfinished job and start over."
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with the ledger before the run.

    Parameters
    ----------
    resume : JobState or None
        The job to go on with; None begins a new one.
    abandon, discard : tuple of int
        Jobs to abandon or to discard before that.
    """

    resume: JobState | None = None
    abandon: tuple[int, ...] = ()
    discard: tuple[int, ...] = ()


def settled(state: JobState) -> NDArray[np.bool_]:
    """Return which known items of a job need no run: done, or given up for good."""
    status = state.status[: state.known()]
    return np.isin(status, (ItemStatus.DONE, ItemStatus.SKIPPED))


@dataclass(slots=True)
class _Candidate:
    """A job that this call may be, as long as no item differs."""

    state: JobState
    known: int
    settled: NDArray[np.bool_]
    difference: str = ""

    def compare(self, start: int, digests: NDArray[np.uint64], items: Sequence[object]) -> None:
        ours = self.state.digests[start : min(self.known, start + len(digests))]
        odd = np.flatnonzero((ours != 0) & (ours != digests[: len(ours)]))
        if len(odd):
            position = start + int(odd[0])
            self.difference = (
                f"item {position} differs: got {_short(items[int(odd[0])])}, "
                "which is not the item saved at that position"
            )

    def unsettled(self, start: int, count: int) -> NDArray[np.bool_]:
        mask = np.ones(count, np.bool_)
        part = self.settled[start : start + count]
        mask[: len(part)] = ~part
        return mask


@dataclass(slots=True)
class Comparison:
    """Which job of the ledger a call is; fed with its first items.

    Parameters
    ----------
    states : sequence of JobState
        Every job in the ledger, oldest first.
    spec : JobSpec
        What the call asks for.
    resume : True, "new" or "restart"

    Examples
    --------
    >>> comparison = Comparison([], JobSpec("sum"), True)
    >>> comparison.wanted()
    0
    >>> comparison.decide(ended=False)
    Decision(resume=None, abandon=(), discard=())
    """

    states: Sequence[JobState]
    spec: JobSpec
    resume: Resume = True
    compared: int = 0
    _alive: list[_Candidate] = field(init=False, default_factory=list)
    _dropped: list[_Candidate] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        if self.resume == "new":
            return
        for state in self.states:
            candidate = _Candidate(state, state.known(), settled(state))
            candidate.difference = _spec_difference(state.spec, self.spec)
            (self._dropped if candidate.difference else self._alive).append(candidate)

    def wanted(self) -> int:
        """Return how many more items must be compared before `decide`."""
        if self.spec.identity != "position" or self.resume == "new":
            return 0
        return max((c.known for c in self._alive), default=0) - self.compared

    def feed(self, digests: NDArray[np.uint64], items: Sequence[object]) -> NDArray[np.bool_]:
        """Compare the next items.

        Returns
        -------
        ndarray of bool, shape (len(items),)
            Which of them may still have to run, whatever `decide` says in the end.
        """
        start = self.compared
        self.compared += len(digests)
        for candidate in self._alive:
            candidate.compare(start, digests, items)
        self._drop()
        mask = np.zeros(len(digests), np.bool_)
        for candidate in self._alive:
            mask |= candidate.unsettled(start, len(digests))
        if self.resume == "restart" or not self._unfinished():
            # It may turn out to be a new job, which needs them all.
            mask[:] = True
        return mask

    def decide(self, *, ended: bool) -> Decision:
        """Return what to do, once `wanted` items were compared or the input `ended`.

        Raises
        ------
        LedgerMismatchError
            A job is unfinished, and this call is neither that job nor a finished one.
        """
        if ended:
            self._drop_longer_than_input()
        match = self._best()
        unfinished = self._unfinished()
        if self.resume == "new":
            return Decision(abandon=tuple(s.job_id for s in unfinished))
        if self.resume == "restart":
            lost = unfinished or ([match.state] if match else [])
            return Decision(discard=tuple(s.job_id for s in lost))
        if match:
            return Decision(resume=match.state)
        if unfinished:
            raise LedgerMismatchError(self._explain(unfinished[-1]))
        return Decision()

    def _unfinished(self) -> list[JobState]:
        return [state for state in self.states if not state.finished]

    def _drop(self) -> None:
        self._dropped += [c for c in self._alive if c.difference]
        self._alive = [c for c in self._alive if not c.difference]

    def _drop_longer_than_input(self) -> None:
        """Drop unfinished jobs of which this call's input is only the beginning."""
        for candidate in self._alive:
            if candidate.known > self.compared and not candidate.state.finished:
                candidate.difference = (
                    f"the input ended after {self.compared} items, "
                    f"the job has {candidate.known} or more"
                )
        self._drop()

    def _best(self) -> _Candidate | None:
        """Return the candidate that knows most of these items; of equals the newest."""
        if self.spec.identity != "position":
            return max(
                self._alive, key=lambda c: (not c.state.finished, c.state.job_id), default=None
            )
        known = [c for c in self._alive if c.known or not c.state.finished]
        return max(
            known,
            key=lambda c: (min(c.known, self.compared), not c.state.finished, c.state.job_id),
            default=None,
        )

    def _explain(self, state: JobState) -> str:
        difference = next(c.difference for c in self._dropped if c.state is state)
        return (
            f"job {state.job_id} ({state.spec.task!r}) is unfinished and this call is another one: "
            f"{difference}. {_WAYS_OUT}"
        )


def _spec_difference(known: JobSpec, asked: JobSpec) -> str:
    if known.task != asked.task:
        return f"its task is {known.task!r}, got {asked.task!r}"
    if known.version != asked.version:
        return f"its task has version {known.version!r}, got {asked.version!r}"
    if known.arguments != asked.arguments:
        return (
            "the arguments in kwargs_task differ "
            f"(digest {known.arguments or 'of none'}, got {asked.arguments or 'none'})"
        )
    if known.identity != asked.identity:
        return f"its items are known by {known.identity}, got items known by {asked.identity}"
    if known.approach != asked.approach:
        return f"its saver has approach={known.approach!r}, got {asked.approach!r}"
    return ""


def _short(item: object) -> str:
    text = repr(item)
    return text if len(text) <= 80 else text[:77] + "..."
