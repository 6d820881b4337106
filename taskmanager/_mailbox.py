"""Where worker threads and futures leave outcomes for the one thread that polls."""

from __future__ import annotations

from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from taskmanager._pool import Outcome

__all__ = ["Mailbox"]


class Mailbox:
    """Outcomes from any thread to one reader, which sleeps until there are some.

    While the reader has not looked yet, further outcomes cost one append: no lock, no wake-up.
    """

    def __init__(self) -> None:
        self._arrived: deque[Outcome] = deque()
        self._bell: SimpleQueue[bool] = SimpleQueue()  # put() is safe in signal handlers
        self._rung = False
        self._error: Exception | None = None

    def deliver(self, outcome: Outcome) -> None:
        """Leave an outcome."""
        self._arrived.append(outcome)
        self._ring()

    def deliver_all(self, outcomes: Iterable[Outcome]) -> None:
        """Leave several at once."""
        self._arrived.extend(outcomes)
        self._ring()

    def break_with(self, error: Exception) -> None:
        """Make `collect` raise, once it has returned what arrived before."""
        self._error = self._error or error
        self._ring()

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            self._bell.put(True)

    def wake(self) -> None:
        """Make a running (or else the next) `collect` return."""
        self._bell.put(False)

    def collect(self, timeout: float | None) -> list[Outcome] | None:
        """Return what arrived, an empty list after `wake`, None once `timeout` seconds passed."""
        if ready := self._drain():
            return ready
        try:
            rung = self._bell.get(timeout=timeout)
        except Empty:
            return None
        if rung:
            self._rung = False  # before draining: who comes later rings again
        return self._drain()

    def _drain(self) -> list[Outcome]:
        ready: list[Outcome] = []
        take = self._arrived.popleft
        while self._arrived:
            ready.append(take())
        if not ready and self._error is not None:
            raise self._error
        return ready
