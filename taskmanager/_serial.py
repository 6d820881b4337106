"""Work on the caller's own thread."""

from __future__ import annotations

from collections import deque
from time import perf_counter
from typing import TYPE_CHECKING

from taskmanager._execute import (
    device_of,
    failed,
    run_chunk,
    set_up,
    setup_failed,
    tear_down,
    timed_out,
)
from taskmanager._task import Context, Task, set_context

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from taskmanager._pool import Outcome, TaskPlan, Work

__all__ = ["SerialPool"]

#: Seconds of tiny items that one `poll` runs before it gives the thread back.
SLICE = 0.5e-3


class SerialPool:
    """Run items inside `poll`, one after the other.

    Notes
    -----
    A running item can't be ended: `timeout` is checked when it has returned. `KeyboardInterrupt`
    leaves `poll` as it would leave a plain loop.
    """

    workers = 1

    def __init__(self, plan: TaskPlan) -> None:
        self._plan = plan
        self._context = Context(0, device_of(0), seed=plan.seed)
        self._task: Task | None = None
        self._queue: deque[Sequence[Work]] = deque()
        self._chunk: Sequence[Work] = ()
        self._running: Iterator[Outcome] = iter(())
        self._ready: list[Outcome] = []
        self._woken = False
        self._closed = False

    def submit(self, chunk: Sequence[Work]) -> None:
        """Queue a chunk; it runs inside `poll`."""
        if self._closed:
            message = "submit after close: this pool has ended"
            raise RuntimeError(message)
        self._queue.append(chunk)

    def poll(self, timeout: float | None) -> list[Outcome]:
        """Run the next item (or half a millisecond of tiny ones) and return what became of it.

        With nothing queued it returns an empty list at once: nobody else could bring anything.
        """
        del timeout
        if not self._woken and not self._closed:
            self._run_slice()
        self._woken = False
        ready, self._ready = self._ready, []
        return ready

    def _run_slice(self) -> None:
        task, keep, limit = self._set_up(), self._ready.append, self._plan.timeout
        end = perf_counter() + SLICE
        while not self._woken:
            for outcome in self._running:
                keep(outcome if limit is None else self._in_time(outcome, limit))
                if perf_counter() > end:
                    return
            if not self._queue:
                return
            self._chunk = self._queue.popleft()
            self._running = run_chunk(
                task, self._plan, self._chunk, self._context, passing=(KeyboardInterrupt,)
            )

    def _set_up(self) -> Task:
        if self._task is not None:
            set_context(self._context)  # several pools may take turns on this thread
            return self._task
        try:
            task = self._plan.factory()
            set_up(task, self._context)
        except Exception as error:
            raise setup_failed(0, error) from error
        self._task = task
        return task

    def _in_time(self, outcome: Outcome, limit: float) -> Outcome:
        if outcome.seconds <= limit or outcome.error is not None:
            return outcome
        work = next(work for work in self._chunk if work.index == outcome.index)
        consequence = "executor='serial' can't end it early: use executor='processes'"
        error = timed_out(work, outcome.seconds, limit, consequence)
        return failed(outcome.index, error, outcome.seconds)

    def wake(self) -> None:
        """Make a running `poll` return after its current item."""
        self._woken = True

    def close(self, *, grace: float | None = None) -> None:
        """Drop what is queued and tear the task down."""
        del grace
        if self._closed:
            return
        self._closed = True
        self._queue.clear()
        task, self._task = self._task, None
        if task is not None:
            set_context(self._context)
            tear_down(task)
        set_context(Context())
