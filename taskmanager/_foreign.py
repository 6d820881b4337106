"""Work on an executor that somebody else owns: MPI, loky, submitit, the standard pools."""

from __future__ import annotations

import pickle
import threading
import traceback
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from taskmanager._execute import (
    device_of,
    failed,
    run_chunk,
    set_up,
    setup_failed,
    task_maker,
)
from taskmanager._mailbox import Mailbox
from taskmanager._pickling import portable_error, wrap
from taskmanager._task import Context, Task
from taskmanager.errors import TaskManagerError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from taskmanager._pool import Outcome, TaskPlan, Work

__all__ = ["ForeignPool"]


class ForeignPool:
    """Run chunks on an executor that the caller owns; it is never shut down here.

    Notes
    -----
    What such an executor can't give: `timeout` (its workers can't be ended one by one),
    `context.worker_id` (0 everywhere), `teardown` (it does not tell when a worker ends), and
    outcomes item by item (a chunk comes back as a whole).
    """

    def __init__(self, executor: Executor, plan: TaskPlan, max_workers: int) -> None:
        if plan.timeout is not None:
            message = (
                f"timeout={plan.timeout:g} needs workers that can be ended, and "
                f"{type(executor).__name__} can't end one: use executor='processes'"
            )
            raise ValueError(message)
        self.workers = max_workers
        self._executor = executor
        self._plan = _Shipped.of(plan, local=isinstance(executor, ThreadPoolExecutor))
        self._mailbox = Mailbox()
        self._flying: dict[Future[list[Outcome]], Sequence[Work]] = {}
        self._closed = False

    def submit(self, chunk: Sequence[Work]) -> None:
        """Hand a chunk to the executor."""
        if self._closed:
            message = "submit after close: this pool has ended"
            raise RuntimeError(message)
        try:
            future = self._executor.submit(_run_shipped, self._plan, list(chunk))
        except (BrokenExecutor, RuntimeError) as error:
            self._mailbox.break_with(self._broken(error))
            return
        self._flying[future] = chunk
        future.add_done_callback(self._arrive)

    def _arrive(self, future: Future[list[Outcome]]) -> None:
        chunk = self._flying.pop(future, ())
        if future.cancelled() or self._closed:
            return
        error = future.exception()
        if error is None:
            self._mailbox.deliver_all(future.result())
        elif isinstance(error, (BrokenExecutor, TaskManagerError)):
            self._mailbox.break_with(self._broken(error))
        elif len(chunk) > 1:  # run alone, the items show which of them can't travel
            for work in chunk:
                self.submit([work])
        else:
            self._mailbox.deliver(failed(chunk[0].index, error))

    def _broken(self, error: BaseException) -> TaskManagerError:
        if isinstance(error, TaskManagerError):
            return error
        message = (
            f"{type(self._executor).__name__} takes no more work "
            f"({type(error).__name__}: {error}); "
            "committed items are kept: the same call with a new executor runs the rest"
        )
        broken = TaskManagerError(message)
        broken.__cause__ = error
        return broken

    def poll(self, timeout: float | None) -> list[Outcome]:
        """Return what arrived, waiting up to `timeout` seconds for it."""
        return self._mailbox.collect(timeout) or []

    def wake(self) -> None:
        """Make a running `poll` return."""
        self._mailbox.wake()

    def close(self, *, grace: float | None = None) -> None:
        """Cancel what has not started and wait up to `grace` s for the rest."""
        if self._closed:
            return
        self._closed = True
        flying = list(self._flying)
        for future in flying:
            future.cancel()
        wait([future for future in flying if not future.cancelled()], timeout=grace)


class _Shipped:
    """A plan that is pickled once, and unpickled once by each worker that meets it."""

    def __init__(self, plan: TaskPlan, token: str, payload: bytes) -> None:
        self.plan = plan
        self.make_task = task_maker(plan.factory)
        self.token = token
        self.payload = payload

    @classmethod
    def of(cls, plan: TaskPlan, *, local: bool) -> _Shipped:
        return cls(plan, uuid4().hex, b"" if local else wrap(plan).payload)

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.token, self.payload)


_plans: dict[str, _Shipped] = {}
_here = threading.local()


def _received(token: str, payload: bytes) -> _Shipped:
    if token not in _plans:
        _plans.clear()  # a worker serves one plan at a time; older ones may be large
        _plans[token] = _Shipped(pickle.loads(payload), token, payload)
    return _plans[token]


def _run_shipped(shipped: _Shipped, chunk: Sequence[Work]) -> list[Outcome]:
    task, context = _prepared(shipped)
    outcomes = run_chunk(task, shipped.plan, chunk, context)
    if shipped.payload:  # this may be another process: errors have to travel back
        return [portable_error(outcome) for outcome in outcomes]
    return list(outcomes)


def _prepared(shipped: _Shipped) -> tuple[Task, Context]:
    """The task of this worker (a thread of some process), set up at its first chunk."""
    if getattr(_here, "token", None) != shipped.token:
        context = Context(0, device_of(0), seed=shipped.plan.seed)
        try:
            task = shipped.make_task()
            set_up(task, context)
        except BaseException as error:
            remote = traceback.format_exc() if shipped.payload else ""
            raise setup_failed(0, error, remote) from error
        _here.prepared, _here.token = (task, context), shipped.token
    prepared: tuple[Task, Context] = _here.prepared
    return prepared
