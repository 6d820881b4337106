"""Uploads side by side: as many threads as there is work for, within a bound on their bytes.

The threads are daemons of our own, because the standard executors refuse work once the
interpreter begins to exit, which is when a saver that was left open publishes what it has.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Uploads", "side_by_side"]

#: Bytes on their way at a time; an upload larger than that goes alone.
MOST_BYTES = 128 << 20
#: Calls side by side that carry next to nothing.
MOST_CALLS = 32


class Uploads:
    """Calls that are under way until `wait` returns.

    Parameters
    ----------
    most : int
        Threads at a time.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._queue: SimpleQueue[tuple[Callable[[], None], int] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        lock = threading.Lock()
        self._room, self._done = threading.Condition(lock), threading.Condition(lock)
        self._open = self._bytes = 0
        self._errors: list[BaseException] = []

    def submit(self, call: Callable[[], None], size: int) -> None:
        """Have a call done in the background; waits while too many bytes are on their way."""
        with self._room:
            self._room.wait_for(lambda: not self._bytes or self._bytes + size <= MOST_BYTES)
            if len(self._threads) < min(self._open + 1, self.most):
                self._start()  # first: where no thread can be started, nothing is under way
            self._open += 1
            self._bytes += size
        self._queue.put((call, size))

    def _start(self) -> None:
        name = f"savers-upload-{len(self._threads)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _work(self) -> None:
        while (entry := self._queue.get()) is not None:
            call, size = entry
            try:
                call()
            except BaseException as error:  # noqa: BLE001 -- raised by `wait`
                self._errors.append(error)
            del call, entry  # what they hold is the caller's
            self._note_end(size)

    def _note_end(self, size: int) -> None:
        with self._done:
            self._open -= 1
            self._bytes -= size
            self._room.notify()
            if not self._open:
                self._done.notify_all()

    def wait(self) -> None:
        """Return once every call is done; raise what the first one that failed raised."""
        with self._done:
            self._done.wait_for(lambda: not self._open)
            errors, self._errors = self._errors, []
        if errors:
            raise errors[0]

    def close(self) -> None:
        """End the threads when the calls are done. Idempotent; a later call starts new ones."""
        with self._done:
            threads, self._threads = self._threads, []
        for _ in threads:
            self._queue.put(None)
        for thread in threads:
            thread.join()


def side_by_side(calls: Sequence[Callable[[], None]], most: int = MOST_CALLS) -> None:
    """Return once every call is done; raise what the first one that failed raised."""
    if len(calls) == 1:
        calls[0]()
        return
    uploads = Uploads(min(most, len(calls)))
    try:
        for call in calls:
            uploads.submit(call, 0)
        uploads.wait()
    finally:
        uploads.close()
