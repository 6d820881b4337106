"""Threads that encode and write chunks side by side, until the very end of the process.

They are daemons of our own: the standard executors refuse work once the interpreter begins to
exit, which is when a saver that was left open publishes what it has. The caller, who waits anyway,
works with them; little work is not handed over at all, and a large chunk is shared out.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Engine", "Parcel"]

#: Bytes of values that are worth a hand-over between threads (about half a millisecond of work).
GRAIN = 256 << 10

S = TypeVar("S")
T = TypeVar("T")
Place = tuple[int, int]  # a share: number of its parcel, and its number there


@dataclass(frozen=True, slots=True)
class Parcel(Generic[S, T]):
    """Work on one chunk.

    Parameters
    ----------
    shares : sequence of callable
        Several threads may call them side by side, each once.
    finish : callable
        Called once, after them, with what they returned (in order); its result is the parcel's.
    size : int
        Bytes of values that all of it is about.
    """

    shares: Sequence[Callable[[], S]]
    finish: Callable[[list[S]], T]
    size: int


class Engine:
    """The caller and a few threads, which start with the first work for them; `close` ends them."""

    def __init__(self, threads: int | None = None) -> None:
        self._count = (threads or min(4, os.cpu_count() or 1)) - 1
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(self, parcels: Sequence[Parcel[Any, T]]) -> tuple[list[T], list[BaseException]]:
        """Do all parcels; return what they gave (in order), and what was raised in them."""
        work = _Work(parcels)
        helpers = min(self._count, len(work.groups) - 1)
        if helpers > 0 and not self._threads:
            self._start()
        for _ in range(helpers):
            self._queue.put(work)
        work.share()
        return work.wait()

    def _start(self) -> None:
        for number in range(self._count):
            name = f"savers-encode-{number}"
            thread = threading.Thread(target=_work, args=(self._queue,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self) -> None:
        """End the threads. Idempotent; the next work starts new ones."""
        threads, self._threads = self._threads, []
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            thread.join()


def _grouped(parcels: Sequence[Parcel[Any, T]]) -> Iterator[list[Place]]:
    """Neighbouring shares that are together worth a hand-over."""
    group: list[Place] = []
    held = 0.0
    for number, parcel in enumerate(parcels):
        for place in range(len(parcel.shares)):
            group.append((number, place))
            held += parcel.size / len(parcel.shares)
            if held >= GRAIN:
                yield group
                group, held = [], 0.0
    if group:
        yield group


class _Work(Generic[T]):
    """The parcels of one `run`; whoever has time takes the next group of their shares."""

    def __init__(self, parcels: Sequence[Parcel[Any, T]]) -> None:
        self.parcels = parcels
        self.groups = deque(_grouped(parcels))
        self.count = len(self.groups)
        self.made: list[list[Any]] = [[None] * len(parcel.shares) for parcel in parcels]
        self.open = [len(parcel.shares) for parcel in parcels]  # shares that have not ended
        self.values: dict[int, T] = {}
        self.errors: dict[int, BaseException] = {}
        self.ended: SimpleQueue[None] = SimpleQueue()
        self.counting = threading.Lock()

    def share(self) -> None:
        """Take groups until there are none left."""
        while True:
            try:
                group = self.groups.popleft()
            except IndexError:
                return
            for number, place in group:
                self._call(number, place)
            self.ended.put(None)

    def _call(self, number: int, place: int) -> None:
        parcel = self.parcels[number]
        try:
            self.made[number][place] = parcel.shares[place]()
            if self._is_last(number):
                self.values[number] = parcel.finish(self.made[number])
                self.made[number] = []
        except BaseException as error:  # noqa: BLE001 -- raised by the caller of `run`
            self.errors[number] = error

    def _is_last(self, number: int) -> bool:
        with self.counting:
            self.open[number] -= 1
            return not self.open[number]

    def wait(self) -> tuple[list[T], list[BaseException]]:
        """Return values and errors once every group has ended."""
        for _ in range(self.count):
            self.ended.get()
        self.parcels, self.made = (), []  # a thread that comes too late holds no chunks
        return (
            [self.values[number] for number in sorted(self.values)],
            [self.errors[number] for number in sorted(self.errors)],
        )


def _work(queue: SimpleQueue[Any]) -> None:
    for work in iter(queue.get, None):
        work.share()
        del work  # what it holds is the caller's
