"""Saving on a thread of its own, so that computing goes on meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeAlias

from savers import CoordinateNotFoundError, Failure, InvalidInputError
from taskmanager._events import emit

if TYPE_CHECKING:
    from collections.abc import Callable

    from savers import JobWriter
    from taskmanager._inputs import Entry
    from taskmanager._policy import SaveEvery
    from taskmanager._pool import Outcome

    _Message: TypeAlias = list[tuple[Entry, Outcome]] | Failure | "_Reached" | "_Release" | None

__all__ = ["Saving", "size_of"]


def size_of(value: object) -> int:
    """Return roughly how many bytes a result holds."""
    size = getattr(value, "nbytes", None)
    if isinstance(size, int):
        return size
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, (tuple, list)):
        return _size_of_sequence(value)
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    fields = getattr(value, "__dict__", None)
    return size_of(fields) if fields else 32


def _size_of_sequence(value: tuple[Any, ...] | list[Any]) -> int:
    if len(value) > 64:  # a long one is alike throughout
        return len(value) * size_of(value[0])
    return sum(map(size_of, value))


class Saving:
    """Take results in, stage them into a `JobWriter`, and commit as the policy says.

    Parameters
    ----------
    writer : JobWriter
        Used by this object's thread alone until `finish` has returned.
    policy : SaveEvery
    max_bytes : int
        Half of it staged is committed at once, whatever the policy says.
    wake : callable
        Called, from the saving thread, when the driver waits for room or must look at something.

    Attributes
    ----------
    refused : deque of (Entry, Exception)
        Results that do not fit; they are the driver's to handle.
    error : BaseException or None
        What ended the saving: the store refused.
    saved : int
        Results committed.
    uncommitted : int
        Results taken in that are not committed yet.
    unstaged : int
        Of these: not yet looked at.
    held_bytes : int
        Roughly what they hold in memory.
    """

    def __init__(
        self, writer: JobWriter, policy: SaveEvery, max_bytes: int, wake: Callable[[], None]
    ) -> None:
        self.refused: deque[tuple[Entry, Exception]] = deque()
        self.error: BaseException | None = None
        self.saved = 0
        self.nbytes = 0
        self.seconds = 0.0
        self.wanted = False  # the driver waits for room
        self._writer = writer
        self._policy = policy
        self._max_bytes = max_bytes
        self._wake = wake
        self._queue: SimpleQueue[_Message] = SimpleQueue()
        self._put = self._queued_bytes = 0  # written by the driver
        self._looked_at = self._staged = self._refused = self._looked_bytes = 0  # by the thread
        self._staged_bytes = self._since_commit = 0
        self._oldest = 0.0
        self._failures = False
        self._finish: int | None = None
        self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="taskmanager-saving", daemon=True)
        self._thread.start()

    # --- the driver's side -------------------------------------------------------------------

    def put(self, results: list[tuple[Entry, Outcome]]) -> None:
        """Take results in, at once: the driver looks at the counts before it hands out work."""
        self._put += len(results)
        self._queued_bytes += sum(size_of(outcome.value) for _, outcome in results)
        self._queue.put(results)

    def fail(self, failure: Failure) -> None:
        """Take an item that was given up."""
        self._queue.put(failure)

    def commit_soon(self) -> None:
        """Commit what is there without waiting for the policy."""
        self._queue.put([])

    def release_soon(self) -> None:
        """Commit results that waited for earlier ones: nothing else may come to make it due."""
        self._queue.put(_Release())

    @property
    def unstaged(self) -> int:
        return self._put - self._looked_at

    @property
    def uncommitted(self) -> int:
        return self._put - self._refused - self.saved

    @property
    def held_bytes(self) -> int:
        return self._queued_bytes - self._looked_bytes + self._staged_bytes

    @property
    def mean_bytes(self) -> float:
        """Bytes of a result, on average so far."""
        return self._queued_bytes / self._put if self._put else 0.0

    def drain(self) -> None:
        """Return once everything put so far was looked at (or the saving ended)."""
        done = threading.Event()
        self._queue.put(_Reached(done))
        while not done.wait(0.05) and self._thread.is_alive():
            pass

    def finish(self, items: int | None, timeout: float | None = None) -> bool:
        """Commit the rest and end the thread.

        Parameters
        ----------
        items : int or None
            Number of items of the input when none is left to do: the job is finished.
        timeout : float, optional
            Seconds to wait at most.

        Returns
        -------
        bool
            False when the thread still works after `timeout`.
        """
        self._finish = items
        self._queue.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # --- the thread's side -------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (results := self._next()) is not None:
                self._take(results)
            if self._finish is None:
                self._commit()
            else:
                self._writer.finish(self._finish)
                self.saved = self._staged - self._writer.pending
                emit("committed", saved=self.saved, finished=self._finish)
        except BaseException as error:
            self.error = error
        self._wake()

    def _next(self) -> _Message:
        """Return what comes next, committing when time is up before anything comes."""
        seconds = self._policy.seconds
        while seconds is not None and self._since_commit:
            try:
                return self._queue.get(timeout=max(0.0, self._oldest + seconds - monotonic()))
            except Empty:
                self._commit()
        return self._queue.get()

    def _take(self, results: list[tuple[Entry, Outcome]] | Failure | _Reached | _Release) -> None:
        if isinstance(results, Failure):
            self._writer.fail(results)
            self._failures = True
        elif isinstance(results, _Reached):
            results.event.set()
        elif isinstance(results, _Release):
            if self._writer.pending:
                self._commit(anyway=True)
        elif results:
            for entry, outcome in results:
                self._stage(entry, outcome)
                self._commit_if_due()
            results.clear()
            self._tell()
        else:
            self._commit()

    def _stage(self, entry: Entry, outcome: Outcome) -> None:
        value, outcome.value = outcome.value, None  # the writer holds it now
        size = size_of(value)
        self.nbytes += size
        begin = monotonic()
        try:
            held = self._writer.stage(
                entry.work.index, entry.digest, value, entry.labels, copy=not outcome.owned
            )
        except (InvalidInputError, CoordinateNotFoundError) as error:
            self.nbytes -= size
            self._refused += 1
            self.refused.append((entry, error))
            self._wake()
        else:
            self._oldest = begin if not self._since_commit else self._oldest
            self._since_commit += 1
            self._staged += 1
            self._staged_bytes += held
        finally:
            self.seconds += monotonic() - begin
            self._looked_bytes += size
            self._looked_at += 1

    def _commit_if_due(self) -> None:
        age = monotonic() - self._oldest
        policy = self._policy
        if policy.due(self._since_commit, age, self._staged_bytes) or (
            self._staged_bytes * 2 >= self._max_bytes
        ):
            self._commit()

    def _commit(self, *, anyway: bool = False) -> None:
        if not (self._since_commit or self._failures or anyway):
            return
        begin = monotonic()
        self._writer.commit()
        self.seconds += monotonic() - begin
        self._since_commit = self._staged_bytes = 0
        self._failures = False
        self.saved = self._staged - self._writer.pending
        emit("committed", saved=self.saved, seconds=round(monotonic() - begin, 6))
        self._tell()

    def _tell(self) -> None:
        if self.wanted:
            self.wanted = False
            self._wake()


class _Release:
    """A request: commit if anything was held back."""

    __slots__ = ()


class _Reached:
    """A mark in the queue: everything before it was looked at."""

    __slots__ = ("event",)

    def __init__(self, event: threading.Event) -> None:
        self.event = event
