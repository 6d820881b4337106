"""Save the array results of many tasks, exactly once and where their labels say."""

from __future__ import annotations

from savers._chunked import ChunkedSaver
from savers._jobs import Failure, ItemStatus, JobLedger, JobSpec, JobState, JobWriter
from savers._saver import Saver
from savers._verify import Finding, verify
from savers._zarr import ZarrSaver
from savers.errors import (
    AlreadyExistsError,
    ClosedError,
    CoordinateNotFoundError,
    FormatError,
    InvalidInputError,
    LedgerCorruptedError,
    LedgerMismatchError,
    NotFoundError,
    SaverError,
    StorageError,
    StoreInUseError,
)

__all__ = [
    "AlreadyExistsError",
    "ChunkedSaver",
    "ClosedError",
    "CoordinateNotFoundError",
    "Failure",
    "Finding",
    "FormatError",
    "InvalidInputError",
    "ItemStatus",
    "JobLedger",
    "JobSpec",
    "JobState",
    "JobWriter",
    "LedgerCorruptedError",
    "LedgerMismatchError",
    "NotFoundError",
    "Saver",
    "SaverError",
    "StorageError",
    "StoreInUseError",
    "ZarrSaver",
    "verify",
]
