"""Items that were given up: what is told of them, and when they end the run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from savers import Failure
from taskmanager._events import emit
from taskmanager._run import ItemFailure
from taskmanager.errors import TaskFailedError

if TYPE_CHECKING:
    from taskmanager._inputs import Entry
    from taskmanager._policy import OnError
    from taskmanager._pool import Outcome

__all__ = ["Failures", "task_error"]


class Failures:
    """Collect failures, and say when there is a reason to stop.

    Parameters
    ----------
    errors : {"raise", "skip", "collect"}
    most : int or None
        How many are borne.
    """

    def __init__(self, errors: OnError, most: int | None) -> None:
        self._errors = errors
        self._most = most
        self._items: list[ItemFailure] = []

    def __len__(self) -> int:
        return len(self._items)

    @property
    def final(self) -> bool:
        """True when a failure is one for good: its item counts as skipped."""
        return self._errors == "skip"

    def in_order(self) -> tuple[ItemFailure, ...]:
        """Return the failures in the order of the input."""
        return tuple(sorted(self._items, key=lambda failure: failure.index))

    def add(self, entry: Entry, outcome: Outcome, error: BaseException) -> BaseException | None:
        """Take a failure; return what to end the run with, None to go on."""
        attempts = max(entry.attempts, 1)
        place = entry.place
        self._items.append(ItemFailure(place, entry.work.item, error, outcome.traceback, attempts))
        emit("item_failed", logging.WARNING, index=place, error=repr(error), attempts=attempts)
        if self._errors == "raise":
            return task_error(entry, outcome)
        if self._most is not None and len(self._items) > self._most:
            reason = task_error(entry, outcome)
            reason.add_note(f"the run ended as more than max_failures={self._most} items failed")
            return reason
        error.__traceback__ = None  # its text is kept; its frames would hold what the task held
        return None

    def record(self, entry: Entry, error: BaseException) -> Failure:
        """Return a failure as the ledger keeps it."""
        return Failure(
            entry.work.index,
            entry.digest,
            type(error).__name__,
            str(error),
            max(entry.attempts, 1),
            self.final,
        )


def task_error(entry: Entry, outcome: Outcome) -> TaskFailedError:
    """Return what is raised for an item that was given up."""
    error = outcome.error
    if isinstance(error, TaskFailedError):
        error.index, error.item = entry.place, entry.work.item
        return error
    shown = repr(entry.work.item)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    failure = TaskFailedError(
        f"item {entry.place} ({shown}) failed after {max(entry.attempts, 1)} attempt(s): "
        f"{type(error).__name__}: {error}",
        entry.place,
        entry.work.item,
    )
    failure.__cause__ = error
    if error is not None and error.__traceback__ is None and outcome.traceback:
        failure.add_note(f"In the worker:\n{outcome.traceback}")
    return failure
