"""Threads that encode and write chunks side by side, until the very end of the process.

They are daemons of our own: the standard executors refuse work once the interpreter begins to
exit, which is when a saver that was left open publishes what it has. The caller, who waits anyway,
works with them; little work is not handed over at all.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["Engine"]

#: Bytes of values that are worth a hand-over between threads (about half a millisecond of work).
GRAIN = 256 << 10

T = TypeVar("T")


class Engine:
    """The caller and a few threads, which start with the first work for them; `close` ends them."""

    def __init__(self, threads: int | None = None) -> None:
        self._count = (threads or min(4, os.cpu_count() or 1)) - 1
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(
        self, calls: Sequence[Callable[[], T]], sizes: Sequence[int]
    ) -> tuple[list[T], list[BaseException]]:
        """Run all calls; return what they returned (in order), and what they raised.

        Parameters
        ----------
        calls : sequence of callable
        sizes : sequence of int
            Bytes of values that each call works on.
        """
        work = _Work(calls, list(_grouped(sizes)))
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


def _grouped(sizes: Sequence[int]) -> Iterator[range]:
    """Neighbouring calls that are together worth a hand-over."""
    first, held = 0, 0
    for number, size in enumerate(sizes):
        held += size
        if held >= GRAIN:
            yield range(first, number + 1)
            first, held = number + 1, 0
    if first < len(sizes):
        yield range(first, len(sizes))


class _Work(Generic[T]):
    """The calls of one `run`; whoever has time takes the next group of them."""

    def __init__(self, calls: Sequence[Callable[[], T]], groups: list[range]) -> None:
        self.calls = calls
        self.groups = deque(groups)
        self.count = len(groups)
        self.values: dict[int, T] = {}
        self.errors: dict[int, BaseException] = {}
        self.ended: SimpleQueue[None] = SimpleQueue()

    def share(self) -> None:
        """Take groups until there are none left."""
        while True:
            try:
                group = self.groups.popleft()
            except IndexError:
                return
            for number in group:
                self._call(number)
            self.ended.put(None)

    def _call(self, number: int) -> None:
        try:
            self.values[number] = self.calls[number]()
        except BaseException as error:  # noqa: BLE001 -- raised by the caller of `run`
            self.errors[number] = error

    def wait(self) -> tuple[list[T], list[BaseException]]:
        """Return values and errors once every group has ended."""
        for _ in range(self.count):
            self.ended.get()
        return (
            [self.values[number] for number in sorted(self.values)],
            [self.errors[number] for number in sorted(self.errors)],
        )


def _work(queue: SimpleQueue[Any]) -> None:
    for work in iter(queue.get, None):
        work.share()
        del work  # what it holds is the caller's
