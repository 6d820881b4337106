"""From items to final outcomes: chunks go to the pool, failures come back and are tried again.

The flow knows nothing of saving. It asks `room` how many items may be handed out, so whoever takes
the results decides how fast the work goes.
"""

from __future__ import annotations

import heapq
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING

from taskmanager._chunks import chunk_size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from taskmanager._inputs import Entry, Source
    from taskmanager._policy import RetryPolicy
    from taskmanager._pool import Outcome, Pool

__all__ = ["Chunking", "Flow", "Settled"]

Settled = tuple["Entry", "Outcome"]


@dataclass(slots=True)
class Chunking:
    """How many items go to a worker at once.

    Parameters
    ----------
    fixed : int or None
        The size asked for; None follows the measured time of the items.
    most : int
        Items that all workers' automatic chunks may have together.
    workers : int
    """

    fixed: int | None
    most: int
    workers: int

    def size(self, items: int, seconds: float) -> int:
        """Return the size, given how many items took how many seconds so far."""
        if self.fixed is not None:
            return self.fixed
        if not items:
            return 1
        size = chunk_size(seconds / items, save_interval=self.most, max_workers=self.workers)
        return min(size, 2 * items)  # a few quick items are no proof


class Flow:
    """Run the items of a source on a pool.

    Parameters
    ----------
    pool : Pool
    source : Source
    retry : RetryPolicy
    chunking : Chunking
    room : callable
        Takes the number of items out in the pool; returns how many more may go there.

    Attributes
    ----------
    executed : int
        Calls of the task, retries included.
    seconds : float
        Time they took, summed over the workers.
    retried : int
        Calls that failed and were repeated.
    """

    def __init__(
        self,
        pool: Pool,
        source: Source,
        retry: RetryPolicy,
        chunking: Chunking,
        room: Callable[[int], int],
        on_retry: Callable[[Entry, Outcome, float], None] | None = None,
    ) -> None:
        self.executed = self.retried = 0
        self.seconds = 0.0
        self._pool = pool
        self._source = source
        self._retry = retry
        self._chunking = chunking
        self._room = room
        self._on_retry = on_retry
        self._out: dict[int, Entry] = {}
        self._later: list[tuple[float, int, Entry]] = []
        self._bell: SimpleQueue[None] = SimpleQueue()  # safe to ring in a signal handler

    @property
    def done(self) -> bool:
        """True once every item of the source has its final outcome."""
        return self._source.ended and not self._out and not self._later

    @property
    def out(self) -> int:
        """Number of items that have no final outcome yet."""
        return len(self._out) + len(self._later)

    def step(self, patience: float) -> list[Settled]:
        """Hand out what there is room for and return final outcomes that arrived.

        Parameters
        ----------
        patience : float
            Seconds to wait for them at most. A `wake` ends the wait.
        """
        self._feed()
        if self._later:
            patience = min(patience, max(0.0, self._later[0][0] - monotonic()))
        if self._out:
            return self.settle(self._pool.poll(patience))
        if not self.done:
            with suppress(Empty):
                self._bell.get(timeout=max(patience, 0.0))
        return []

    def wake(self) -> None:
        """End the wait of a running `step`; safe from any thread and from a signal handler."""
        if self._bell.empty():
            self._bell.put(None)
        self._pool.wake()

    def settle(self, outcomes: Sequence[Outcome]) -> list[Settled]:
        """Return the outcomes that are final; plan the retries of the others."""
        settled: list[Settled] = []
        out = self._out
        for outcome in outcomes:
            entry = out.pop(outcome.index, None)
            if entry is None:  # a late answer of an item that was settled before
                continue
            if not outcome.counts:
                self._plan_retry(entry, 0.0)
                continue
            self.executed += 1
            self.seconds += outcome.seconds
            if outcome.error is None or not self._tried_again(entry, outcome, outcome.error):
                settled.append((entry, outcome))
        return settled

    def _tried_again(self, entry: Entry, outcome: Outcome, error: BaseException) -> bool:
        entry.attempts += 1
        if not self._retry.again(error, entry.attempts):
            return False
        delay = self._retry.delay(entry.attempts)
        self.retried += 1
        if self._on_retry:
            self._on_retry(entry, outcome, delay)
        self._plan_retry(entry, delay)
        return True

    def _plan_retry(self, entry: Entry, delay: float) -> None:
        heapq.heappush(self._later, (monotonic() + delay, entry.work.index, entry))

    def _feed(self) -> None:
        self._feed_retries()
        source, workers = self._source, self._pool.workers
        while not source.ended:
            size = self._chunking.size(self.executed, self.seconds)
            out = len(self._out)
            # One chunk runs, one waits in each worker; a slow input is for idle workers only.
            if out and out >= (workers if source.slow else 2 * workers * size):
                return
            room = self._room(out)
            if room < size and (out or room <= 0):
                return
            entries = source.take(min(size, room))
            if not entries:
                return
            self._submit(entries)

    def _feed_retries(self) -> None:
        now = monotonic()
        while self._later and self._later[0][0] <= now:
            self._submit([heapq.heappop(self._later)[2]])

    def _submit(self, entries: list[Entry]) -> None:
        chunk = [entry.work for entry in entries]
        self._out.update(zip([work.index for work in chunk], entries, strict=True))
        self._pool.submit(chunk)
