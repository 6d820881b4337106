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
    from savers._chunked._saver import ChunkedSaver
    from savers._codecs._zarrs import ZarrsSettings
    from savers._hdf5._saver import HDF5Saver
    from savers._labelled._saver import AsyncZarrSaver
    from savers._maintenance._verify import Finding, verify
    from savers._netcdf._saver import NetCDFSaver
    from savers._reading._dataset import open_dataset, open_dataset_async
    from savers._reading._many import open_many_async
    from savers._zarr._saver import ZarrSaver

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
    "AsyncZarrSaver": "savers._labelled._saver",
    "ChunkedSaver": "savers._chunked._saver",
    "Finding": "savers._maintenance._verify",
    "HDF5Saver": "savers._hdf5._saver",
    "NetCDFSaver": "savers._netcdf._saver",
    "ZarrSaver": "savers._zarr._saver",
    "ZarrsSettings": "savers._codecs._zarrs",
    "open_dataset": "savers._reading._dataset",
    "open_dataset_async": "savers._reading._dataset",
    "open_many_async": "savers._reading._many",
    "verify": "savers._maintenance._verify",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    found = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_LATER])
