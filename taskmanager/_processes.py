"""Work in processes of our own, which may die, hang or be killed at any time."""

from __future__ import annotations

import itertools
import os
import pickle
import selectors
from collections import Counter, deque
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from taskmanager._arena import STARTING
from taskmanager._crew import Member, death_of
from taskmanager._execute import failed, setup_failed
from taskmanager._launch import Launcher
from taskmanager._pickling import dump, wrap
from taskmanager._worker import CHUNK, OUTCOMES, READY, STOP, UNLOADABLE, UNPREPARED
from taskmanager.errors import TaskManagerError, WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from taskmanager._pool import Outcome, TaskPlan, Work

__all__ = ["ProcessPool"]

#: Ends in a row, none of them of a worker that was ready, after which the pool gives up: a task
#: whose `setup` dies does so every time, a start may be hit by somebody else's doing.
LIMITS = {"in setup()": 3, "while it started": 10}


class ProcessPool:
    """Run chunks in up to `max_workers` processes; they start when there is work for them.

    Notes
    -----
    A dead worker fails the item that it was running (`WorkerDiedError`) and nothing else: the
    other items of its chunk run again, one by one, and a new worker takes its place. An item over
    its `timeout` is ended with its worker. Results are pickled; arrays over 64 KiB arrive as views
    of memory shared with the worker (`Outcome.owned` is False) and should be copied soon.

    Raises
    ------
    TypeError
        The task can't be pickled; the text names the attribute.
    """

    def __init__(self, plan: TaskPlan, max_workers: int) -> None:
        self.workers = max_workers
        self._plan = plan
        self._parcel = wrap(replace(plan, own=False))
        self._launcher: Launcher | None = None
        self._queue: deque[Sequence[Work]] = deque()
        self._crew: dict[int, Member] = {}
        self._keys = itertools.count()
        self._ready: list[Outcome] = []
        self._error: Exception | None = None
        self._stillborn: Counter[str] = Counter()
        self._woken = False
        self._closed = False
        self._selector = selectors.DefaultSelector()
        self._bell, self._bell_rope = os.pipe()
        os.set_blocking(self._bell, False)
        os.set_blocking(self._bell_rope, False)
        self._selector.register(self._bell, selectors.EVENT_READ, self._hear_bell)

    def submit(self, chunk: Sequence[Work]) -> None:
        """Queue a chunk; an idle worker gets it at once."""
        if self._closed:
            message = "submit after close: this pool has ended"
            raise RuntimeError(message)
        self._queue.append(chunk)
        self._hand_out()

    def poll(self, timeout: float | None) -> list[Outcome]:
        """Return what arrived, waiting up to `timeout` seconds for it.

        Raises
        ------
        TaskManagerError
            Workers can't be prepared: `setup` failed, or workers die before they are ready.
        """
        end = None if timeout is None else monotonic() + timeout
        while not self._closed:  # after it: what arrived while the pool closed
            self._step(None if end is None else max(0.0, end - monotonic()))
            if self._ready or self._woken or (end is not None and monotonic() >= end):
                break
            if self._error is not None:
                raise self._error
        self._woken = False
        ready, self._ready = self._ready, []
        return ready

    def _step(self, wait: float | None) -> None:
        """Wait for something to happen, and let it."""
        overdue = self._end_overdue()
        waits = [seconds for seconds in (wait, overdue) if seconds is not None]
        quick = self._ready or self._error is not None
        for key, _ in self._selector.select(0 if quick else min(waits, default=None)):
            key.data()
        self._hand_out()

    def _hear_bell(self) -> None:
        with suppress(BlockingIOError):
            os.read(self._bell, 4096)
        self._woken = True

    def wake(self) -> None:
        """Make a running (or else the next) `poll` return."""
        with suppress(OSError):  # a full pipe wakes as well, a closed pool needs no waking
            if not self._closed:
                os.write(self._bell_rope, b"!")

    # -- handing out ---------------------------------------------------------------------------

    def _hand_out(self) -> None:
        idle = [member for member in self._crew.values() if member.idle]
        while self._queue and idle and not self._closed:
            if self._assign(idle[-1], self._queue.popleft()):
                idle.pop()
        while self._error is None and not self._closed and self._understaffed():
            self._hire()

    def _understaffed(self) -> bool:
        starting = sum(not member.ready for member in self._crew.values())
        return len(self._queue) > starting and len(self._crew) < self.workers

    def _hire(self) -> None:
        if self._launcher is None:
            self._launcher = Launcher(self._parcel, self.workers)
            self._selector.register(self._launcher, selectors.EVENT_READ, self._hear_launcher)
        key = next(self._keys)
        taken = {member.worker_id for member in self._crew.values()}
        worker_id = next(number for number in itertools.count() if number not in taken)
        member = Member(key, worker_id, *self._launcher.start(key, worker_id))
        self._crew[key] = member
        self._selector.register(member.sock, selectors.EVENT_READ, partial(self._hear, member))

    def _assign(self, member: Member, chunk: Sequence[Work]) -> bool:
        try:
            payload = dump([(w.index, w.item) for w in chunk], by_value=self._parcel.by_value)
        except Exception as error:
            self._unsendable(chunk, error)
            return False
        member.take(chunk, CHUNK + payload)
        return True

    def _unsendable(self, chunk: Sequence[Work], error: Exception) -> None:
        if len(chunk) > 1:
            self._again(chunk)
            return
        message = f"item {chunk[0].index} can't be sent to a worker process: {error}"
        self._ready.append(failed(chunk[0].index, TypeError(message)))

    def _again(self, works: Iterable[Work]) -> None:
        """Queue items first of all, one by one: so each shows by itself what it does."""
        self._queue.extendleft([work] for work in reversed(list(works)))

    # -- hearing -------------------------------------------------------------------------------

    def _hear(self, member: Member) -> None:
        if member.deaf:
            return
        try:
            while (message := member.inbox.receive()) is not None:
                self._heed(member, bytes(message[:1]), memoryview(message)[1:])
        except EOFError:
            self._selector.unregister(member.sock)
            member.deaf = True
            if self._launcher is not None:
                self._launcher.kill(member.key)  # most likely it has ended already

    def _heed(self, member: Member, kind: bytes, content: memoryview) -> None:
        if kind == OUTCOMES:
            self._ready += member.settle(*pickle.loads(content))
        elif kind == READY:
            member.ready = True
            self._stillborn.clear()
        elif kind == UNPREPARED:
            error, text = pickle.loads(content)
            self._error = self._error or setup_failed(member.worker_id, error, text)
        elif kind == UNLOADABLE:
            self._unloadable(member, *pickle.loads(content))

    def _unloadable(self, member: Member, error: BaseException, text: str) -> None:
        works = member.drop()
        if len(works) > 1:
            self._again(works)
            return
        message = f"item {works[0].index} can't be unpickled in a worker process: {error}"
        outcome = failed(works[0].index, TypeError(message), 0.0, member.worker_id)
        outcome.traceback = text
        self._ready.append(outcome)

    def _hear_launcher(self) -> None:
        launcher = self._launcher
        if launcher is None:
            return
        try:
            reports = launcher.reports()
        except EOFError:
            self._lose_launcher(launcher)
            return
        for report in reports:
            self._heed_report(report)

    def _heed_report(self, report: dict[str, Any]) -> None:
        if "started" in report:
            self._crew[report["started"]].pid = report["pid"]
        elif "ended" in report:
            self._bury(self._crew.pop(report["ended"]), report["code"])
        else:
            message = f"worker processes can't import the main script:\n{report['failed']}"
            self._error = self._error or TaskManagerError(message)

    def _lose_launcher(self, launcher: Launcher) -> None:
        """Somebody killed the process that makes workers, and with it all of them."""
        self._selector.unregister(launcher)
        launcher.close()
        self._launcher = None
        how = f"the process that starts workers {death_of(launcher.code)}"
        self._note_stillborn(how, "while it started")
        for key in list(self._crew):
            member = self._crew.pop(key)
            member.innocent = True
            self._bury(member, None)

    # -- death and time ------------------------------------------------------------------------

    def _bury(self, member: Member, code: int | None) -> None:
        self._hear(member)  # what it sent before it ended
        if not member.deaf:
            self._selector.unregister(member.sock)
            member.deaf = True
        member.sock.close()
        if not member.ready and not member.innocent:
            stage = "while it started" if member.stage() == STARTING else "in setup()"
            self._note_stillborn(f"a worker process {death_of(code)}", stage)
        culprit = member.culprit(code)
        if culprit is not None:
            self._ready.append(culprit)
        self._again(member.drop())

    def _note_stillborn(self, how: str, stage: str) -> None:
        self._stillborn[stage] += not self._closed
        if (times := self._stillborn[stage]) >= LIMITS[stage]:
            message = f"{how} {stage}, {times} times in a row; no item was run there"
            self._error = self._error or WorkerDiedError(message)

    def _end_overdue(self) -> float | None:
        """Kill the workers whose item is overdue; return the seconds to the next look."""
        limit = self._plan.timeout
        busy = [member for member in self._crew.values() if member.assigned]
        if limit is None or not busy or self._launcher is None:
            return None
        for member in busy:
            if member.overdue(limit):
                self._launcher.kill(member.key)
        return min(member.remaining(limit) for member in busy)

    # -- the end -------------------------------------------------------------------------------

    def close(self, *, grace: float | None = None) -> None:
        """End the workers after their current chunk, or by force once `grace` s passed.

        When it returns no process is left. Outcomes that arrived meanwhile are for the next `poll`.
        """
        if self._closed:
            return
        self._closed = True
        self._queue.clear()
        end = None if grace is None else monotonic() + grace
        try:
            self._dismiss()
            while self._crew and (end is None or monotonic() < end):
                self._step(None if end is None else max(0.0, end - monotonic()))
        finally:
            self._release()

    def _dismiss(self) -> None:
        for member in self._crew.values():
            if member.ready:
                member.send(STOP)
            elif self._launcher is not None:
                self._launcher.kill(member.key)

    def _release(self) -> None:
        if self._launcher is not None:
            self._launcher.close()
        self._selector.close()
        for member in self._crew.values():
            member.sock.close()
        self._crew.clear()
        for fd in (self._bell, self._bell_rope):
            os.close(fd)
