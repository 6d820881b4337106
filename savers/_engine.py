"""Threads that encode and write chunks side by side, until the very end of the process.

They are daemons of our own: the standard executors refuse work once the interpreter begins to
exit, which is when a saver that was left open publishes what it has.
"""

from __future__ import annotations

import os
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Engine"]

T = TypeVar("T")


class Engine:
    """A few threads, started with the first work and ended by `close`."""

    def __init__(self, threads: int | None = None) -> None:
        self._count = threads or min(4, os.cpu_count() or 1)
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def run(self, calls: Sequence[Callable[[], T]]) -> tuple[list[T], list[BaseException]]:
        """Run all calls; return what they returned (in order), and what they raised."""
        if not self._threads:
            self._start()
        answers: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()
        for number, call in enumerate(calls):
            self._queue.put((call, number, answers))
        ended = sorted((answers.get() for _ in calls), key=lambda answer: answer[0])
        return (
            [value for _, value, error in ended if error is None],
            [error for _, _, error in ended if error is not None],
        )

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


def _work(queue: SimpleQueue[Any]) -> None:
    for call, number, answers in iter(queue.get, None):
        try:
            answer: tuple[int, Any, BaseException | None] = (number, call(), None)
        except BaseException as error:  # noqa: BLE001 -- raised by the caller of `run`
            answer = (number, None, error)
        answers.put(answer)
        del call, answer
