"""What `TaskManager.submit_tasks` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["Insights", "ItemFailure", "Run"]


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """An item that was given up in this run.

    Attributes
    ----------
    index : int
        Place of the item in the input.
    item : object
    error : BaseException
        The error of the last attempt.
    traceback : str
        Where it was raised, as text.
    attempts : int
        How often the item was tried.
    """

    index: int
    item: Any
    error: BaseException
    traceback: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Insights:
    """What a run took.

    Attributes
    ----------
    seconds : float
        Wall time of the run.
    task_seconds : float
        Time in the task, summed over the workers.
    save_seconds : float
        Time in the saver's thread.
    saved_bytes : int
        Size of the results that the saver took.
    workers : int
    """

    seconds: float = 0.0
    task_seconds: float = 0.0
    save_seconds: float = 0.0
    saved_bytes: int = 0
    workers: int = 1
    executed: int = 0

    @property
    def items_per_second(self) -> float:
        """Calls of the task per second of wall time."""
        return self.executed / self.seconds if self.seconds else 0.0

    @property
    def busy(self) -> float:
        """Share of the workers' time spent in the task, between 0 and 1."""
        available = self.seconds * self.workers
        return self.task_seconds / available if available else 0.0


@dataclass(frozen=True, slots=True)
class Run:
    """The outcome of a job.

    Attributes
    ----------
    counts : mapping of str to int
        ``items`` taken from the input; ``executed`` calls of the task in this run, retries
        included; ``resumed`` found done; ``saved`` committed by this call; ``failed`` given up for
        now; ``skipped`` given up for good.
    failures : tuple of ItemFailure
        What was given up in this run, in the order of the input.
    insights : Insights
    """

    counts: Mapping[str, int]
    failures: tuple[ItemFailure, ...] = ()
    insights: Insights = field(default_factory=Insights)
    _results: Callable[[], Iterator[Any]] = field(default=lambda: iter(()), repr=False)

    def results(self) -> Iterator[Any]:
        """Iterate over the results in the order of the items, None for an item that was given up.

        Results that were saved are read back one by one, those of earlier runs too.

        Raises
        ------
        NotImplementedError
            The saver can't read back, and ``keep_results=True`` was not asked for.
        """
        return self._results()
