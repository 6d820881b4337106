"""From the `executor` argument to a pool."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import TYPE_CHECKING

from taskmanager._limits import usable_cores
from taskmanager._serial import SerialPool
from taskmanager._threads import ThreadPool

if TYPE_CHECKING:
    from taskmanager._pool import Pool, TaskPlan

__all__ = ["EXECUTORS", "default_workers", "make_pool"]

EXECUTORS = ("serial", "threads", "processes")


def make_pool(executor: str | Executor, plan: TaskPlan, max_workers: int | None = None) -> Pool:
    """Return the pool that runs `plan` where `executor` says; workers start with the first chunk.

    Parameters
    ----------
    executor : {"serial", "threads", "processes"} or concurrent.futures.Executor
    plan : TaskPlan
    max_workers : int, optional
        Number of workers; by default the number of usable cores. For an executor that was given,
        the number of its workers.

    Raises
    ------
    ValueError
        The executor is unknown, or can't give what the plan asks for.
    TypeError
        The task can't be sent to worker processes; the text names the attribute.
    """
    workers = default_workers(executor) if max_workers is None else max_workers
    if isinstance(executor, Executor):
        from taskmanager._foreign import ForeignPool

        return ForeignPool(executor, plan, workers)
    if executor == "serial":
        return SerialPool(plan)
    if executor == "threads":
        return ThreadPool(plan, workers)
    if executor == "processes":
        from taskmanager._processes import ProcessPool

        return ProcessPool(plan, workers)
    message = (
        f"expected executor to be one of {', '.join(map(repr, EXECUTORS))} "
        f"or a concurrent.futures.Executor, got {executor!r}"
    )
    raise ValueError(message)


def default_workers(executor: object) -> int:
    """Return the number of workers where none was given: the executor's own, else usable cores."""
    own = getattr(executor, "_max_workers", None)
    return own if isinstance(own, int) and own > 0 else usable_cores()
