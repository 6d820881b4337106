"""Every error that `taskmanager` raises on purpose, and the ledger's errors."""

from __future__ import annotations

from typing import Any

from savers.errors import LedgerCorruptedError, LedgerMismatchError, StoreInUseError

__all__ = [
    "LedgerCorruptedError",
    "LedgerMismatchError",
    "StoreInUseError",
    "TaskFailedError",
    "TaskManagerError",
    "TaskTimeoutError",
    "WorkerDiedError",
]


class TaskManagerError(Exception):
    """Base of all errors of this package."""


class TaskFailedError(TaskManagerError):
    """An item was given up; `__cause__` is the error of its last attempt.

    Attributes
    ----------
    index : int
        Position of the item in the input.
    item : object
        The item itself.
    """

    def __init__(self, message: str, index: int = -1, item: Any = None) -> None:
        super().__init__(message, index, item)
        self.index = index
        self.item = item

    def __str__(self) -> str:
        return str(self.args[0])


class TaskTimeoutError(TaskFailedError, TimeoutError):
    """An item ran longer than its `timeout`, or the run longer than its deadline."""

    def __str__(self) -> str:
        return str(self.args[0])


class WorkerDiedError(TaskFailedError):
    """The worker process of an item ended without an answer (killed, crashed, out of memory)."""
