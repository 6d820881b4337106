"""Ctrl-C and SIGTERM: stop handing out work, save what is finished, end in time."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from queue import Empty, SimpleQueue
from time import monotonic
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType

__all__ = ["Interruption"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Turn the first signal into a request, the second (or the end of the grace) into its end.

    Handlers are installed only on the main thread and for signals that are not ignored; the
    earlier ones are put back on exit.

    Parameters
    ----------
    grace : float
        Seconds between the first signal and the end.
    on_request : callable
        Called from the handler of the first signal; it must only wake somebody.

    Attributes
    ----------
    signum : int
        The signal that came first, 0 while none did.
    """

    def __init__(self, grace: float, on_request: Callable[[], None]) -> None:
        self.signum = 0
        self.over = False
        self._grace = grace
        self._end = float("inf")
        self._on_request = on_request
        self._earlier: dict[int, Any] = {}
        self._left: SimpleQueue[None] = SimpleQueue()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for signum in _SIGNALS:
                if signal.getsignal(signum) is signal.SIG_IGN:
                    continue
                self._earlier[signum] = signal.signal(signum, self._on_signal)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    @property
    def remaining(self) -> float:
        """Seconds of grace that are left; all of it while nobody asked to stop."""
        return min(self._grace, max(0.0, self._end - monotonic()))

    def error(self) -> BaseException:
        """Return what the run ends with: exit status 130 for SIGINT, 143 for SIGTERM."""
        if self.signum == signal.SIGTERM:
            return SystemExit(128 + signal.SIGTERM)
        return KeyboardInterrupt()

    def _on_signal(self, signum: int, frame: FrameType | None) -> None:
        del frame
        if self.signum:
            self.over = True
            self._restore()
            raise self.error()
        self.signum = signum
        self._end = monotonic() + self._grace
        name = signal.Signals(signum).name
        # `write` on the descriptor: a handler must not wait for a lock of the stream.
        text = (
            f"\n{name}: saving what is finished, ending within {self._grace:g} s; once more: now\n"
        )
        try:
            os.write(sys.stderr.fileno(), text.encode())
        except (OSError, ValueError):  # a notebook's stream has no descriptor
            sys.stderr.write(text)
        # Not `threading`: its locks may be held by what this handler interrupted.
        _thread.start_new_thread(self._end_in_time, (threading.get_ident(), signum))
        self._on_request()

    def _end_in_time(self, main: int, signum: int) -> None:
        """Send the second signal ourselves when the main thread is still busy by then."""
        try:
            self._left.get(timeout=self._grace)
        except Empty:
            if self._earlier:  # the run has not ended in the meantime
                signal.pthread_kill(main, signum)

    def _restore(self) -> None:
        self._left.put(None)
        for signum, handler in self._earlier.items():
            signal.signal(signum, handler if handler is not None else signal.SIG_DFL)
        self._earlier.clear()
