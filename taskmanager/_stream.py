"""Results without a saver: as they come, in order, or one future an item."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any

from taskmanager._drive import kept_value, plan_of
from taskmanager._executors import make_pool
from taskmanager._failures import task_error
from taskmanager._flow import Flow
from taskmanager._inputs import Entry, Inputs, PlainSource
from taskmanager._job import draw_seed
from taskmanager._pool import Work
from taskmanager._room import LOOK_AHEAD, chunking_of, room_without_saver
from taskmanager._settings import Call
from taskmanager.errors import TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sized

    from taskmanager._settings import Settings

__all__ = ["Submissions", "in_order", "stream"]

_PATIENCE = 0.5


def stream(
    settings: Settings, call: Call, held: Sized = ()
) -> Generator[tuple[int, Any], None, None]:
    """Yield (place, result) as results come.

    Parameters
    ----------
    settings : Settings
    call : Call
    held : sized, optional
        Results that the consumer holds back: they count as taken ahead.
    """
    seed = draw_seed() if call.seed is None else call.seed
    pool = make_pool(settings.executor, plan_of(settings, call, seed), settings.workers)
    chunking = chunking_of(settings, call)

    def room(out: int) -> int:
        size = chunking.size(flow.executed, flow.seconds)
        return room_without_saver(out + len(held), size, pool.workers)

    flow = Flow(pool, PlainSource(call.inputs.items), settings.retry, chunking, room)
    try:
        yield from _results(settings, flow)
    except BaseException:
        pool.close(grace=0.0)
        raise
    pool.close()


def _results(settings: Settings, flow: Flow) -> Iterator[tuple[int, Any]]:
    end = monotonic() + (settings.deadline or inf)
    while not flow.done:
        for entry, outcome in flow.step(_PATIENCE):
            if outcome.error is not None and settings.errors == "raise":
                raise task_error(entry, outcome)
            yield entry.place, kept_value(settings, outcome)
        if monotonic() > end:
            raise TaskTimeoutError(f"the run took longer than deadline={settings.deadline:g} s")


def in_order(settings: Settings, call: Call) -> Iterator[Any]:
    """Yield results in the order of the items."""
    held: dict[int, Any] = {}
    following = 0
    results = stream(settings, call, held)
    try:
        for place, result in results:
            held[place] = result
            while following in held:
                yield held.pop(following)
                following += 1
    finally:
        results.close()


class Submissions:
    """Items that come one by one, each with its future, on workers that stay."""

    def __init__(self, settings: Settings) -> None:
        call = Call(Inputs(()), chunk_size=1)
        self._settings = settings
        self._pool = make_pool(
            settings.executor, plan_of(settings, call, draw_seed()), settings.workers
        )
        self._source = _Queued()
        chunking = chunking_of(settings, call)
        self._flow = Flow(self._pool, self._source, settings.retry, chunking, lambda _: LOOK_AHEAD)
        self._thread: threading.Thread | None = None

    def submit(self, item: Any) -> Future[Any]:
        """Queue an item."""
        future: Future[Any] = Future()
        self._source.put(item, future)
        if self._settings.executor == "serial":
            while not future.done():
                self._step()
            return future
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="taskmanager-submit", daemon=True
            )
            self._thread.start()
        self._flow.wake()
        return future

    def close(self) -> None:
        """Finish what was submitted and end the workers."""
        self._source.ended = True
        if self._thread is not None:
            self._flow.wake()
            self._thread.join()
        self._pool.close()

    def _run(self) -> None:
        try:
            while not self._flow.done:
                self._step()
        except BaseException as error:  # the pool is gone: nobody may wait for ever
            self._source.ended = True
            for future in self._source.open_futures():
                future.set_exception(error)

    def _step(self) -> None:
        for entry, outcome in self._flow.step(_PATIENCE):
            future = self._source.futures.pop(entry.place)
            if outcome.error is None:
                future.set_result(kept_value(self._settings, outcome))
            else:
                future.set_exception(task_error(entry, outcome))


class _Queued:
    """A source that is filled while it is emptied."""

    resumed = skipped = 0
    slow = False

    def __init__(self) -> None:
        self.taken = 0
        self._closing = False
        self.futures: dict[int, Future[Any]] = {}
        self._waiting: deque[Entry] = deque()
        self._count = 0

    @property
    def ended(self) -> bool:
        return self._closing and not self._waiting

    @ended.setter
    def ended(self, closing: bool) -> None:
        self._closing = closing

    def put(self, item: Any, future: Future[Any]) -> None:
        """Add an item."""
        place = self._count
        self._count += 1
        self.futures[place] = future
        self._waiting.append(Entry(Work(place, item), place))

    def take(self, most: int) -> list[Entry]:
        """Return what waits."""
        entries: list[Entry] = []
        while self._waiting and len(entries) < most:
            entry = self._waiting.popleft()
            if self.futures[entry.place].set_running_or_notify_cancel():
                entries.append(entry)
                self.taken += 1
            else:
                del self.futures[entry.place]
        return entries

    def open_futures(self) -> list[Future[Any]]:
        """Return the futures that nobody will answer any more."""
        futures = [future for future in self.futures.values() if not future.done()]
        self.futures.clear()
        self._waiting.clear()
        return futures

    def position(self, place: int) -> int:
        """Return `place`."""
        return place

    def complete(self) -> int | None:
        """Return the number of items."""
        return self.taken
