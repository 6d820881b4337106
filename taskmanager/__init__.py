"""Run a task over many items, save while it runs, and go on after a crash."""

from __future__ import annotations

from taskmanager._events import events_to_file
from taskmanager._manager import TaskManager
from taskmanager._policy import SaveEvery
from taskmanager._progress import ProgressReport
from taskmanager._run import Insights, ItemFailure, Run
from taskmanager._task import Context, Task
from taskmanager.errors import (
    LedgerCorruptedError,
    LedgerMismatchError,
    StoreInUseError,
    TaskFailedError,
    TaskManagerError,
    TaskTimeoutError,
    WorkerDiedError,
)

__all__ = [
    "Context",
    "Insights",
    "ItemFailure",
    "LedgerCorruptedError",
    "LedgerMismatchError",
    "ProgressReport",
    "Run",
    "SaveEvery",
    "StoreInUseError",
    "Task",
    "TaskFailedError",
    "TaskManager",
    "TaskManagerError",
    "TaskTimeoutError",
    "WorkerDiedError",
    "events_to_file",
]
