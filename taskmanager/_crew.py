"""One worker process as the driver sees it."""

from __future__ import annotations

import signal
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

from taskmanager._arena import LOADING, STARTING, Board, Reader
from taskmanager._execute import failed, timed_out
from taskmanager._pool import Outcome
from taskmanager._transport import Inbox, send, unpack
from taskmanager.errors import WorkerDiedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from mmap import mmap
    from socket import socket

    from taskmanager._pool import Work
    from taskmanager._transport import Packed

__all__ = ["Member", "death_of"]

ENDED = "its worker process was ended"


class Member:
    """What a worker was given, what it is doing, and what its end means."""

    def __init__(self, key: int, worker_id: int, sock: socket, memory: mmap) -> None:
        self.key = key
        self.worker_id = worker_id
        self.sock = sock
        self.inbox = Inbox(sock)
        self.assigned: dict[int, Work] = {}
        self.ready = False
        self.deaf = False  # its end of the pipe is closed
        self.innocent = False  # it is ended for no fault of the item it runs
        self.pid = 0
        self._board = Board(memory)
        self._board.note(STARTING)
        self._reader = Reader(memory)
        self._late: Outcome | None = None

    @property
    def idle(self) -> bool:
        """True when it can take a chunk now."""
        return self.ready and not self.assigned and not self.deaf

    def take(self, chunk: Sequence[Work], message: bytes) -> None:
        """Give it a chunk."""
        self.assigned = {work.index: work for work in chunk}
        self.send(message)

    def send(self, message: bytes) -> None:
        """Send a message; to a dead worker it is lost, and its end will be reported."""
        with suppress(ConnectionError):
            send(self.sock, message)

    def drop(self) -> list[Work]:
        """Take back what it has not answered."""
        works, self.assigned = list(self.assigned.values()), {}
        return works

    def settle(
        self,
        plain: list[tuple[int, float, Any]],
        packed: list[tuple[int, float, bool, Packed]],
    ) -> Iterator[Outcome]:
        """Return the outcomes of a message."""
        done, worker_id = self.assigned.pop, self.worker_id
        for index, seconds, value in plain:
            done(index, None)
            yield Outcome(index, value, None, "", seconds, worker_id, True, True)
        for index, seconds, good, content in packed:
            done(index, None)
            yield self._unpacked(index, seconds, content, good=good)

    def _unpacked(self, index: int, seconds: float, content: Packed, *, good: bool) -> Outcome:
        try:
            value: Any = unpack(content, self._reader)
        except Exception as error:
            message = f"item {index}: its result can't be unpickled here: {error}"
            return failed(index, TypeError(message), seconds, self.worker_id)
        outcome = Outcome(index, seconds=seconds, worker_id=self.worker_id)
        if good:
            outcome.value, outcome.owned = value, content[1] is None
        else:
            outcome.error, outcome.traceback = value
        return outcome

    def stage(self) -> int:
        """Return what the board says: an item's index, or a stage."""
        return self._board.read()[0]

    def remaining(self, limit: float) -> float:
        """Seconds until what it runs is overdue."""
        running, count, since = self._board.read()
        if running < 0 or self.innocent or self._late is not None:
            return limit
        return max(0.0, since + limit * count - monotonic())

    def overdue(self, limit: float) -> bool:
        """True, once, when what it runs is overdue: it has to be killed then."""
        running, count, since = self._board.read()
        if self.remaining(limit) > 0 or running not in self.assigned:
            return False
        seconds = monotonic() - since
        self.innocent = True
        if count == 1:  # of a batch nobody knows which item it was: they run again one by one
            error = timed_out(self.assigned[running], seconds, limit, ENDED)
            self._late = failed(running, error, seconds, self.worker_id)
        return True

    def culprit(self, code: int | None) -> Outcome | None:
        """Return the outcome of the item that its end is charged to, if any."""
        if self._late is not None:
            return self._late if self.assigned.pop(self._late.index, None) else None
        running, count, since = self._board.read()
        if running == LOADING and len(self.assigned) == 1:
            running, count = next(iter(self.assigned)), 1
        if self.innocent or count > 1 or running not in self.assigned:
            return None
        work = self.assigned.pop(running)
        message = f"item {work.index}: its worker process {death_of(code)}"
        error = WorkerDiedError(message, work.index, work.item)
        return failed(work.index, error, monotonic() - since, self.worker_id)


def death_of(code: int | None) -> str:
    """Return how a process ended, in words."""
    if code is None:
        return "is gone"
    if code >= 0:
        return f"ended by itself with exit status {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"was killed by {name}{hint}"
