"""What a write in the background is to its caller, and to those who carry it out."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from savers.errors import StorageError

__all__ = ["Submission", "WriteHandle"]

Index = tuple[int, ...]
Box = tuple[Index, Index]


class WriteHandle:
    """A write on its way: wait for it, ask for it, or await it.

    Safe to use from any thread. That a handle is dropped changes nothing for its write.
    """

    def __init__(self, future: Future[None], hurry: Callable[[], None] = lambda: None) -> None:
        self._future = future
        self._hurry = hurry

    def wait(self, timeout: float | None = None) -> None:
        """Return once the write is durable; its chunks are put although they may not be whole.

        Parameters
        ----------
        timeout : float, optional
            Seconds.

        Raises
        ------
        StorageError
            It failed; the text names array, labels and attempts. Its data is kept, and the next
            `flush` of the saver tries again.
        TimeoutError
            It is still on its way.
        """
        self._hurry()
        try:
            self._future.result(timeout)
        except FutureTimeoutError:
            if self._future.done():
                raise
            message = f"the write is not durable after {timeout} s; it goes on"
            raise TimeoutError(message) from None

    def done(self) -> bool:
        """Return whether it is durable or has failed."""
        return self._future.done()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return what went wrong, None for a write that is durable. Waits as `wait` does."""
        self._hurry()
        return self._future.exception(timeout)

    def __await__(self) -> Generator[Any, None, None]:
        self._hurry()
        return asyncio.wrap_future(self._future).__await__()


@dataclass(eq=False)
class Submission:
    """One `write` on its way into the store.

    Attributes
    ----------
    cells, parts : dict of str to list
        What a record says of it, by array.
    labels : dict of str to callable
        Returns its labels in words, by array, for messages.
    size : int
        Bytes that it counts for in the budget, until it is durable.
    release : callable
        Lets its memory be used again.
    left : int
        Chunks that are not yet in the store.
    flying : int
        Chunks of these that wait, or are being put.
    resting : bool
        True: a chunk of it waits for more values, until somebody asks.
    errors : list
        Why chunks could not be put; empty again when they are tried again.
    """

    cells: dict[str, list[Any]]
    parts: dict[str, list[Box]]
    labels: dict[str, Callable[[], str]]
    size: int = 0
    release: Callable[[], None] = lambda: None
    left: int = 0
    flying: int = 0
    resting: bool = False
    errors: list[StorageError] = field(default_factory=list)
    future: Future[None] = field(default_factory=Future)
    settled: bool = False

    def __post_init__(self) -> None:
        self.future.set_running_or_notify_cancel()  # nobody cancels it: its data is on its way

    def describe(self, array: str | None = None) -> str:
        """Return arrays and labels in words."""
        names = self.labels if array is None else (array,)
        return "; ".join(f"{name!r} at {self.labels[name]()}" for name in names)
