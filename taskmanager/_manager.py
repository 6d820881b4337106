"""The way in: `TaskManager`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from taskmanager._inputs import Inputs
from taskmanager._job import run_job
from taskmanager._policy import OnError, RetryOn, RetryPolicy, SaveEvery
from taskmanager._settings import Call, ChunkSize, Settings, Write
from taskmanager._stream import Submissions, in_order, stream
from taskmanager._task import Task, as_factory, task_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Executor, Future
    from types import TracebackType

    from savers import Saver
    from taskmanager._progress import ProgressSetting
    from taskmanager._resume import Resume
    from taskmanager._run import Run

__all__ = ["TaskManager"]


class TaskManager:
    """Run a task over many items, save the results while they come, and go on after a crash.

    Parameters
    ----------
    task : Task class, Task, or function of an item
    executor : {"serial", "threads", "processes"} or concurrent.futures.Executor
        Where the work runs. An executor that is given is never shut down.
    max_workers : int, optional
        By default the number of usable cores.
    retries : int
        How often an item that failed is tried again.
    retry_on : exception type, tuple of them, or callable
        Which errors are worth it; a callable takes the exception and returns a bool.
    backoff : float
        Seconds before the first retry, doubled for each further one, with jitter.
    timeout : float, optional
        Seconds that an item may run, from the start of its execution.
    errors : {"raise", "skip", "collect"}
        What an item that fails for good does to the run. "raise": what is finished is saved, then
        `TaskFailedError` is raised. "collect": the run goes on, the job stays unfinished, and the
        next call tries the item again. "skip": the run goes on and the job counts as finished.
    progress : bool or callable, optional
        None shows a bar on a terminal, and elsewhere plain lines once a run takes over 2 s; a
        callable gets a `ProgressReport`.
    deadline : float, optional
        Seconds that a whole run may take; then what is finished is saved and `TaskTimeoutError`
        is raised.
    max_failures : int, optional
        With "skip" and "collect": how many failures are borne; one more ends the run.
    grace : float
        Seconds that running items get to end after Ctrl-C, SIGTERM, or an error that ends the run.
    max_inflight_bytes : int
        Results that wait to be saved hold about this much memory at most.

    Raises
    ------
    TypeError, ValueError
        A setting is of the wrong type or out of range; the text says what was expected.

    Notes
    -----
    Saving runs on a thread of its own. A task may use the memory of a
    result again as soon as it returned it. A
    manager can run any number of jobs, one after the other; workers live as long as a job.

    Examples
    --------
    >>> with TaskManager(lambda x: x * x) as manager:
    ...     run = manager.submit_tasks([1, 2, 3])
    >>> list(run.results())
    [1, 4, 9]
    >>> run.counts["executed"]
    3
    """

    def __init__(
        self,
        task: type[Task] | Task | Callable[..., Any],
        *,
        executor: str | Executor = "serial",
        max_workers: int | None = None,
        retries: int = 0,
        retry_on: RetryOn = Exception,
        backoff: float = 0.1,
        timeout: float | None = None,
        errors: OnError = "raise",
        progress: ProgressSetting = None,
        deadline: float | None = None,
        max_failures: int | None = None,
        grace: float = 10.0,
        max_inflight_bytes: int = 256 * 2**20,
    ) -> None:
        self._settings = Settings(
            name=task_name(task),
            version=str(getattr(task, "version", "")),
            factory=as_factory(task),
            executor=executor,
            max_workers=max_workers,
            retry=RetryPolicy(retries, retry_on, backoff),
            timeout=timeout,
            errors=errors,
            progress=progress,
            deadline=deadline,
            max_failures=max_failures,
            grace=grace,
            max_inflight_bytes=max_inflight_bytes,
        )
        self._submissions: Submissions | None = None
        self._closed = False

    def submit_tasks(
        self,
        items: Iterable[Any],
        saver: Saver | None = None,
        save_interval: int | SaveEvery = 100,
        *,
        chunk_size: ChunkSize = "auto",
        at_once: bool = False,
        kwargs_task: Mapping[str, Any] | None = None,
        save_kwargs: Mapping[str, Any] | None = None,
        resume: Resume = True,
        key: Callable[[Any], object] | None = None,
        labels: Callable[[Any], Mapping[str, object]] | None = None,
        seed: int | None = None,
        write: Write = "auto",
        keep_results: bool | None = None,
    ) -> Run:
        """Run the task over all items, save the results, and return what came of it.

        The same call again goes on where an earlier one ended, however it ended: finished items
        are not run, failed ones are, and a finished job calls nothing.

        Parameters
        ----------
        items : iterable
            Also lazy or endless: at most 250 items are taken ahead, unless `chunk_size` or
            `save_interval` asks for more.
        saver : savers.Saver, optional
            Where results go. Flushed before this returns or raises, never closed.
        save_interval : int or SaveEvery
            Commit after so many results, or so many seconds or bytes.
        chunk_size : int or "auto"
            Items that go to a worker at once; "auto" follows their measured time.
        at_once : bool
            Hand whole chunks to `Task.process_items`.
        kwargs_task : mapping, optional
            Keyword arguments of every `Task.process_item`.
        save_kwargs : mapping, optional
            Keyword arguments of the saver's `save`.
        resume : True, "new" or "restart"
            What to do with jobs that the saver knows: go on with the one that this is; "new"
            keeps an unfinished job as it is and starts behind it; "restart" discards it.
        key : callable, optional
            Returns what an item is known by (a number, a string, a tuple of such), wherever it
            stands in `items`. Without it items are known by position and value.
        labels : callable, optional
            Returns a mapping dimension -> label: where the result of an item belongs. Also what
            the item is known by, unless there is a `key`.
        seed : int, optional
            Of the random generators in `Task.context`; drawn, and kept by the ledger, by default.
        write : {"auto", "driver", "worker"}
            Who writes; "auto" decides ("worker" is not available yet).
        keep_results : bool, optional
            Keep results in memory for `Run.results`; by default only without a saver.

        Returns
        -------
        Run

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; nothing was changed.
        LedgerMismatchError
            The saver holds an unfinished job that is not this one; no task was run.
        TaskFailedError
            An item failed with ``errors="raise"``, or more than `max_failures` did.
        TaskTimeoutError
            The same for a timeout; or the run went past its `deadline`.
        StorageError
            The store refused; what was committed before is kept.
        """
        self._check_open()
        call = Call(
            Inputs(items, key, labels),
            saver,
            save_interval,
            chunk_size,
            at_once,
            {} if kwargs_task is None else kwargs_task,
            {} if save_kwargs is None else save_kwargs,
            resume,
            seed,
            write,
            keep_results,
        )
        return run_job(self._settings, call)

    def as_completed(
        self,
        items: Iterable[Any],
        *,
        chunk_size: ChunkSize = "auto",
        kwargs_task: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Iterator[tuple[int, Any]]:
        """Yield ``(index, result)`` as results come, without saving them.

        At most 250 items are out at once, so `items` may be endless. An item that is given up
        raises with ``errors="raise"`` and gives None else.
        """
        self._check_open()
        call = Call(Inputs(items), chunk_size=chunk_size, kwargs_task=kwargs_task or {}, seed=seed)
        return stream(self._settings, call)

    def map(
        self,
        items: Iterable[Any],
        *,
        chunk_size: ChunkSize = "auto",
        kwargs_task: Mapping[str, Any] | None = None,
        seed: int | None = None,
    ) -> Iterator[Any]:
        """Yield results in the order of the items, without saving them; see `as_completed`."""
        self._check_open()
        call = Call(Inputs(items), chunk_size=chunk_size, kwargs_task=kwargs_task or {}, seed=seed)
        return in_order(self._settings, call)

    def submit(self, item: Any) -> Future[Any]:
        """Run the task on one item and return its future; workers live until `close`.

        With ``executor="serial"`` the item runs before this returns.
        """
        self._check_open()
        if self._submissions is None:
            self._submissions = Submissions(self._settings)
        return self._submissions.submit(item)

    def close(self) -> None:
        """End the workers of `submit` after their current items. Idempotent."""
        self._closed = True
        if self._submissions is not None:
            self._submissions.close()
            self._submissions = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("this TaskManager was closed: make a new one")
