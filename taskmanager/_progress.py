"""How far a run is: a bar on a terminal, plain lines elsewhere, or a function of the user's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, TextIO

__all__ = ["Progress", "ProgressReport", "ProgressSetting", "Ticker", "reporter"]


@dataclass(frozen=True, slots=True)
class ProgressReport:
    """How far a run is.

    Attributes
    ----------
    done : int
        Items that need no more work: resumed, finished in this run, or given up.
    total : int or None
        Items of the input, None when it has no length.
    resumed : int
        Items found done.
    failed : int
        Items given up in this run.
    saved : int
        Results committed by this run.
    nbytes : int
        Size of the results that the saver took.
    seconds : float
        Since the start of the run.
    """

    done: int
    total: int | None = None
    resumed: int = 0
    failed: int = 0
    saved: int = 0
    nbytes: int = 0
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Items per second of this run, without those found done."""
        return (self.done - self.resumed) / self.seconds if self.seconds > 0 else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds to go at this rate, None where nobody knows."""
        if self.total is None or not self.rate:
            return None
        return (self.total - self.done) / self.rate

    def __str__(self) -> str:
        of = f"/{self.total} ({100 * self.done / self.total:.0f} %)" if self.total else ""
        parts = [f"{self.done}{of} items", f"{self.rate:.3g} items/s"]
        if self.eta is not None:
            parts.append(f"{_duration(self.eta)} to go")
        if self.resumed:
            parts.append(f"{self.resumed} found done")
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.nbytes:
            parts.append(_size(self.nbytes))
        return ", ".join(parts)


ProgressSetting = bool | Callable[[ProgressReport], object] | None


class Progress(Protocol):
    """Where reports go."""

    every: float  #: Seconds between two reports.

    def show(self, report: ProgressReport) -> None:
        """Take a report."""

    def close(self, report: ProgressReport) -> None:
        """Take the last report."""


def reporter(setting: ProgressSetting, stream: TextIO | None = None) -> Progress | None:
    """Return what shows the progress, None for nothing.

    Parameters
    ----------
    setting : bool, callable or None
        None shows a bar on a terminal, and elsewhere plain lines once a run takes over 2 s.
    stream : text stream, optional
        Standard error by default.
    """
    if setting is False:
        return None
    if callable(setting):
        return _Calls(setting)
    stream = sys.stderr if stream is None else stream
    if stream.isatty():
        return _Bar(stream)
    return _Lines(stream, after=2.0 if setting is None else 0.0)


class _Calls:
    every = 0.1

    def __init__(self, function: Callable[[ProgressReport], object]) -> None:
        self._function = function

    def show(self, report: ProgressReport) -> None:
        self._function(report)

    close = show


class _Lines:
    """A line every few seconds, for log files."""

    def __init__(self, stream: TextIO, after: float) -> None:
        self.every = after or 5.0
        self._stream = stream
        self._quiet = bool(after)

    def show(self, report: ProgressReport) -> None:
        self._quiet = False
        self.every = 5.0
        print(report, file=self._stream, flush=True)

    def close(self, report: ProgressReport) -> None:
        if not self._quiet:
            self.show(report)


class _Bar:
    """One line that is drawn over and over; tqdm's bar where tqdm is installed."""

    every = 0.2

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._width = 0

    def show(self, report: ProgressReport) -> None:
        text = _meter(report) or str(report)
        print("\r" + text.ljust(self._width), end="", file=self._stream, flush=True)
        self._width = len(text)

    def close(self, report: ProgressReport) -> None:
        self.show(report)
        print(file=self._stream, flush=True)


def _meter(report: ProgressReport) -> str:
    try:
        from tqdm import tqdm
    except ImportError:
        return ""
    extra = [f"{report.failed} failed"] if report.failed else []
    extra += [_size(report.nbytes)] if report.nbytes else []
    return str(
        tqdm.format_meter(
            report.done,
            report.total,
            report.seconds,
            initial=report.resumed,
            postfix=", ".join(extra),
            ncols=100,
        )
    )


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def _size(nbytes: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


class Ticker:
    """Ask for a report only when it is time for one."""

    def __init__(self, progress: Progress | None, report: Callable[[], ProgressReport]) -> None:
        self._progress = progress
        self._report = report
        self._next = monotonic() + progress.every if progress else float("inf")

    def tick(self) -> None:
        """Show a report when the last one is old enough."""
        if self._progress and monotonic() >= self._next:
            self._progress.show(self._report())
            self._next = monotonic() + self._progress.every

    def close(self) -> None:
        """Show the last report."""
        if self._progress:
            self._progress.close(self._report())
