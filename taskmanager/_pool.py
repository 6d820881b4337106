"""What every place where work runs has in common: chunks go in, outcomes come out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from taskmanager._task import Task

__all__ = ["Outcome", "Pool", "TaskPlan", "Work"]


@dataclass(frozen=True, slots=True)
class TaskPlan:
    """All that a worker needs to run items; it travels to worker processes once.

    Parameters
    ----------
    factory : callable
        Makes the worker's task (see `as_factory`).
    kwargs : mapping
        Keyword arguments of every `process_item` / `process_items`.
    seed : int
        Seed of the run.
    at_once : bool
        Hand whole chunks to `process_items`; when a batch fails its items run one by one.
    timeout : float or None
        Seconds an item may run, counted from the start of its execution.
    own : bool
        Copy the arrays of a result as soon as its item returns: the result is saved later, when
        the task may have used its buffers again. (What crosses a process is copied anyway.)
    """

    factory: Callable[[], Task]
    kwargs: Mapping[str, Any]
    seed: int = 0
    at_once: bool = False
    timeout: float | None = None
    own: bool = False


@dataclass(slots=True)  # frozen would double what an item costs to hand out and to pickle
class Work:
    """One item on its way to a worker. `index` is its position in the job."""

    index: int
    item: Any


@dataclass(slots=True)
class Outcome:
    """What became of one item.

    Attributes
    ----------
    index : int
        Position of the item in the job.
    value : object
        The result, when `error` is None.
    error : BaseException or None
        Why the item failed. `TaskTimeoutError` and `WorkerDiedError` are the pool's own.
    traceback : str
        Formatted traceback of `error` from where it was raised.
    seconds : float
        Time the item ran.
    worker_id : int
        Number of the worker that ran it.
    counts : bool
        False where the item never got to run to its end through no fault of its own (its
        worker's death was another item's doing): it goes back to the queue without counting as
        an attempt. A pool normally resubmits such items itself.
    owned : bool
        True when nobody else holds the memory of `value` (it came from another process).
    """

    index: int
    value: Any = None
    error: BaseException | None = None
    traceback: str = ""
    seconds: float = 0.0
    worker_id: int = 0
    counts: bool = True
    owned: bool = False


class Pool(Protocol):
    """Workers that run chunks. The manager decides what runs; a pool decides where.

    Retries, failures and order are the manager's business: a pool reports every attempt.
    """

    #: Number of workers.
    workers: int

    def submit(self, chunk: Sequence[Work]) -> None:
        """Queue a chunk. Never blocks for long; called by the manager's thread only."""

    def poll(self, timeout: float | None) -> list[Outcome]:
        """Return outcomes that arrived, waiting up to `timeout` s (None: as long as it takes).

        Returns an empty list after the timeout, or at once when `wake` is called. Outcomes come
        as items finish, not as chunks do, where the executor can do that. After `close` it
        returns what arrived meanwhile.

        Raises
        ------
        TaskManagerError
            No worker can run anything: `Task.setup` failed, workers die before they are ready, or
            the executor that was given is broken. Everything that arrived before was returned.
        KeyboardInterrupt
            Raised by a task that runs on the caller's own thread.
        """

    def wake(self) -> None:
        """Make a running `poll` return; safe from a signal handler and from any thread."""

    def close(self, *, grace: float | None = None) -> None:
        """End the workers: after their current chunk (None), or by force once `grace` s passed.

        Queued chunks that no worker has started are dropped. Idempotent.
        """
