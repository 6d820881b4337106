"""Threads that take work while there is some.

They are daemons that start with the first work, because standard executors refuse work once the
interpreter begins to exit.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Workers"]

W = TypeVar("W")


class Workers(Generic[W]):
    """Threads for one kind of work, first come, first served.

    Parameters
    ----------
    count : int
        Threads at most.
    lock : RLock
        Guards the work.
    take : callable
        Given a piece of work, with the lock held; what it returns is called without the lock.
    """

    def __init__(
        self, count: int, lock: threading.RLock, take: Callable[[W], Callable[[], None]]
    ) -> None:
        self._count = count
        self._lock = lock
        self._take = take
        self._come = threading.Condition(lock)
        self._work: deque[W] = deque()
        self._threads: list[threading.Thread] = []
        self._waiting = 0

    def add(self, work: W) -> None:
        """Have a thread take a piece of work; call it with the lock held."""
        self._work.append(work)
        if self._waiting:
            self._waiting -= 1
            self._come.notify()
        elif len(self._threads) < self._count:
            self._start()

    def _start(self) -> None:
        name = f"savers-write-{len(self._threads)}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._work:
                    if threading.current_thread() not in self._threads:
                        return
                    self._waiting += 1
                    self._come.wait()
                call = self._take(self._work.popleft())
            call()
            del call  # its values go before the next ones come

    def stop(self) -> None:
        """End the threads. The next work starts new ones."""
        with self._lock:
            threads, self._threads, self._waiting = self._threads, [], 0
            self._come.notify_all()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join()
