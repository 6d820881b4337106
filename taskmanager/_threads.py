"""Work on daemon threads of our own (the standard ones are joined at interpreter exit)."""

from __future__ import annotations

import threading
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

from taskmanager._execute import (
    device_of,
    failed,
    run_chunk,
    set_up,
    setup_failed,
    task_maker,
    tear_down,
    timed_out,
)
from taskmanager._mailbox import Mailbox
from taskmanager._task import Context, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskmanager._pool import Outcome, TaskPlan, Work

__all__ = ["ThreadPool"]

ABANDONED = (
    "a thread can't be ended, so it goes on in the background and its result is dropped: "
    "use executor='processes' to end such items"
)


class ThreadPool:
    """Run items on `max_workers` threads of this process.

    Notes
    -----
    A thread can't be ended. An item over its `timeout` becomes a `TaskTimeoutError` and its thread
    is abandoned: another takes its place, and what it returns later is dropped. A `Task` instance
    is copied (`copy.copy`) for each thread, so that `setup` prepares each of them by itself.
    """

    def __init__(self, plan: TaskPlan, max_workers: int) -> None:
        self.workers = max_workers
        self.plan = plan
        self.chunks: SimpleQueue[Sequence[Work] | None] = SimpleQueue()
        self.mailbox = Mailbox()
        self._make_task = task_maker(plan.factory)
        self._threads: list[_Worker] = []
        self._closed = False

    def submit(self, chunk: Sequence[Work]) -> None:
        """Queue a chunk, and start a thread for it while there are fewer than `workers`."""
        if self._closed:
            message = "submit after close: this pool has ended"
            raise RuntimeError(message)
        self.chunks.put(chunk)
        if len(self._threads) < self.workers:
            self._threads.append(self._hire(len(self._threads)))

    def _hire(self, worker_id: int) -> _Worker:
        context = Context(worker_id, device_of(worker_id), seed=self.plan.seed)
        return _Worker(self, self._make_task, context)

    def poll(self, timeout: float | None) -> list[Outcome]:
        """Return what arrived, waiting up to `timeout` seconds for it."""
        end = None if timeout is None else monotonic() + timeout
        while True:
            waits = [self._next_overdue(), None if end is None else max(0.0, end - monotonic())]
            ready = self.mailbox.collect(min((w for w in waits if w is not None), default=None))
            if ready is not None:
                return ready
            if end is not None and monotonic() >= end:
                return []

    def _next_overdue(self) -> float | None:
        """Abandon the threads whose item is overdue; return the seconds to the next look."""
        limit = self.plan.timeout
        if limit is None or self._closed:
            return None
        for position, worker in enumerate(self._threads):
            if worker.abandon_if_overdue(limit):
                self._threads[position] = self._hire(worker.context.worker_id)
        return min((worker.remaining(limit) for worker in self._threads), default=None)

    def wake(self) -> None:
        """Make a running `poll` return."""
        self.mailbox.wake()

    def close(self, *, grace: float | None = None) -> None:
        """End the threads after their current chunk; those that need over `grace` s are left."""
        if self._closed:
            return
        self._closed = True
        _drop_all(self.chunks)
        for _ in self._threads:
            self.chunks.put(None)
        end = None if grace is None else monotonic() + grace
        for worker in self._threads:
            worker.join(None if end is None else max(0.0, end - monotonic()))


class _Worker:
    """A thread with a task of its own. `lock` guards what `poll` may take away from it."""

    def __init__(self, pool: ThreadPool, make_task: Callable[[], Task], context: Context) -> None:
        self.context = context
        self._pool = pool
        self._make_task = make_task
        self._lock = threading.Lock()
        self._left: dict[int, Work] = {}
        self._running: tuple[int, int, float] | None = None  # index, number of items, start
        self._abandoned = False
        name = f"taskmanager-{context.worker_id}"
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def join(self, timeout: float | None) -> None:
        self._thread.join(timeout)

    def _main(self) -> None:
        try:
            task = self._make_task()
            set_up(task, self.context)
        except BaseException as error:
            self._pool.mailbox.break_with(setup_failed(self.context.worker_id, error))
            return
        run = self._run if self._pool.plan.timeout is None else self._run_watched
        while not self._abandoned and (chunk := self._pool.chunks.get()) is not None:
            run(task, chunk)
        tear_down(task)

    def _run(self, task: Task, chunk: Sequence[Work]) -> None:
        deliver = self._pool.mailbox.deliver
        for outcome in run_chunk(task, self._pool.plan, chunk, self.context):
            deliver(outcome)

    def _run_watched(self, task: Task, chunk: Sequence[Work]) -> None:
        self._left = {work.index: work for work in chunk}
        plan = self._pool.plan
        for outcome in run_chunk(task, plan, chunk, self.context, started=self._started):
            with self._lock:
                if self._abandoned:
                    return
                self._running = None
                del self._left[outcome.index]
                self._pool.mailbox.deliver(outcome)

    def _started(self, index: int, count: int) -> None:
        self._running = (index, count, monotonic())

    def remaining(self, limit: float) -> float:
        """Seconds until the running item is overdue."""
        running = self._running
        if running is None:
            return limit
        return max(0.0, running[2] + limit * running[1] - monotonic())

    def abandon_if_overdue(self, limit: float) -> bool:
        """Take the chunk away from a thread whose item is overdue."""
        with self._lock:
            if self._running is None or self.remaining(limit) > 0:
                return False
            index, count, start = self._running
            self._abandoned = True
        if count == 1:
            self._report(self._left.pop(index), monotonic() - start, limit)
        for work in self._left.values():
            self._pool.chunks.put([work])
        return True

    def _report(self, work: Work, seconds: float, limit: float) -> None:
        error = timed_out(work, seconds, limit, ABANDONED)
        self._pool.mailbox.deliver(failed(work.index, error, seconds, self.context.worker_id))


def _drop_all(chunks: SimpleQueue[Sequence[Work] | None]) -> None:
    try:
        while True:
            chunks.get_nowait()
    except Empty:
        pass
