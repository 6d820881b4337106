"""Save the array results of many tasks, exactly once and where their labels say."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from savers._jobs import Failure, ItemStatus, JobLedger, JobSpec, JobState, JobWriter
from savers._saver import Saver
from savers.errors import (
    AlreadyExistsError,
    BlockingReadError,
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

if TYPE_CHECKING:
    from savers._async_zarr import AsyncZarrSaver
    from savers._chunked import ChunkedSaver
    from savers._hdf5 import HDF5Saver
    from savers._netcdf import NetCDFSaver
    from savers._reading import open_dataset, open_dataset_async
    from savers._reading_many import open_many_async
    from savers._verify import Finding, verify
    from savers._zarr import ZarrSaver
    from savers._zarrs import ZarrsSettings

__all__ = [
    "AlreadyExistsError",
    "AsyncZarrSaver",
    "BlockingReadError",
    "ChunkedSaver",
    "ClosedError",
    "CoordinateNotFoundError",
    "Failure",
    "Finding",
    "FormatError",
    "HDF5Saver",
    "InvalidInputError",
    "ItemStatus",
    "JobLedger",
    "JobSpec",
    "JobState",
    "JobWriter",
    "LedgerCorruptedError",
    "LedgerMismatchError",
    "NetCDFSaver",
    "NotFoundError",
    "Saver",
    "SaverError",
    "StorageError",
    "StoreInUseError",
    "ZarrSaver",
    "ZarrsSettings",
    "open_dataset",
    "open_dataset_async",
    "open_many_async",
    "verify",
]

#: Loaded when they are first asked for, so that a worker or a command starts at once.
_LATER = {
    "AsyncZarrSaver": "savers._async_zarr",
    "ChunkedSaver": "savers._chunked",
    "Finding": "savers._verify",
    "HDF5Saver": "savers._hdf5",
    "NetCDFSaver": "savers._netcdf",
    "ZarrSaver": "savers._zarr",
    "ZarrsSettings": "savers._zarrs",
    "open_dataset": "savers._reading",
    "open_dataset_async": "savers._reading",
    "open_many_async": "savers._reading_many",
    "verify": "savers._verify",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    found = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])
