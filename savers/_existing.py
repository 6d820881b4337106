"""What lies at a path: a store, and the ledgers that were kept for it. Reads only.

The command line starts here: nothing is locked, created or finished, so it works while somebody
else writes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from savers._hdf5._saver import HDF5Format, file_kind
from savers._labelled._streams import Replica
from savers._ledger._file_lock import FileLock
from savers._ledger._frames import read_frames
from savers._ledger._home import Home
from savers._ledger._ledger import replay
from savers._ledger._lock import is_dead
from savers._ledger._object_lock import ObjectLock
from savers._netcdf._saver import NetCDFFormat
from savers._stores._bucket._store import ObjectStore
from savers._stores._icechunk._branch import Branch
from savers._stores._location import ledger_folder, locate
from savers._stores._remote_file import has_working_copy, working_copy
from savers._stores._single_file import FileStore
from savers._stores._store import MappingStore
from savers._zarr._format import ZarrFormat, format_in, format_of
from savers.errors import NotFoundError, SaverError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from savers._format import Format
    from savers._ledger._lock import Holder, Lock
    from savers._ledger._state import State
    from savers._stores._location import Location
    from savers._stores._store import Store

__all__ = ["Dataset", "Existing", "Replayed", "find"]

#: Formats that keep everything in one file.
SINGLE_FILES: Mapping[str, Callable[[], Format]] = {"hdf5": HDF5Format, "netcdf": NetCDFFormat}


@dataclass(frozen=True)
class Replayed:
    """A ledger as it stood when it was read.

    Parameters
    ----------
    state : State
    stream : str
        Name of the stream.
    records, size : int
        Whole records, and bytes of the stream.
    torn : int
        Bytes behind the last whole record.
    """

    state: State
    stream: str
    records: int
    size: int
    torn: int


@dataclass(frozen=True)
class Dataset:
    """A dataset that has a ledger.

    Parameters
    ----------
    name : str
    home : Home
        Where its streams lie.
    lock : Lock or None
        Who may write; None where the store has no locks.
    """

    name: str
    home: Home
    lock: Lock | None

    def holder(self) -> Holder | None:
        """Return who writes to it now."""
        found = None if self.lock is None else self.lock.read()
        return None if found is None or is_dead(found, time.time()) else found

    def crashed(self) -> bool:
        """Return whether its last writer ended without closing it."""
        return self.lock is not None and self.lock.is_there() and self.holder() is None

    def stream_stamp(self) -> tuple[str, int]:
        """Return the newest stream and its size."""
        streams = self.home.streams(self.name)
        data = self.home.load(streams[-1]) if streams else None
        return (streams[-1] if streams else "", len(data or b""))

    def kinds(self) -> set[str]:
        """Return the formats of its arrays; none where its ledger is unreadable."""
        try:
            arrays = replay(self.home, self.name)[0].arrays.values()
        except SaverError:
            return set()
        return {array.layout.meta.get("format", "zarr") for array in arrays}

    def replay(self) -> Replayed:
        """Read the ledger.

        Raises
        ------
        LedgerCorruptedError
            A record is damaged; the text names stream and position.
        """
        data: memoryview | None = None
        while data is None:  # a writer that goes on in a new stream removes the old one
            _, stream = replay(self.home, self.name)
            data = self.home.load(stream) if stream else memoryview(b"")
        state = Replica(self.home, self.name).refresh()
        records, end = 0, 0
        for frame in read_frames(data, stream):
            records, end = records + 1, frame.end
        return Replayed(state, stream, records, len(data), len(data) - end)


@dataclass(frozen=True)
class Existing:
    """A store and the ledgers beside it.

    Parameters
    ----------
    location : Location
    format : Format
    exists : bool
        False where there are ledgers but no store any more.
    datasets : tuple of Dataset
    sequential : Path or None
        The ledger of a saver that knows only `save`.
    """

    location: Location
    format: Format
    exists: bool
    datasets: tuple[Dataset, ...]
    sequential: Path | None

    def store(self, dataset: str = "") -> Store:
        """Return where the objects of a dataset lie."""
        return self.format.open_store(self.location, dataset)


def find(path: object, storage_options: Mapping[str, Any] | None = None) -> Existing:
    """Return what lies at a path, URL or store object.

    Raises
    ------
    NotFoundError
        Neither a store nor a ledger is there.
    """
    location = locate(path, storage_options)
    if location.path is None and has_working_copy(location):
        location = working_copy(location)
    datasets = tuple(_datasets(location))
    fmt, exists = _format(location, datasets)
    sequential = _sequential(location)
    found = Existing(location, fmt, exists, datasets, sequential)
    if not (exists or found.datasets or sequential):
        there = location.path is not None and location.path.exists()
        what = "neither a store nor a ledger" if there else "nothing"
        message = f"expected a store at {location.name}, found {what}"
        raise NotFoundError(message)
    return found


def _format(location: Location, datasets: Sequence[Dataset]) -> tuple[Format, bool]:
    """Return the format, and whether a store of it is there at all."""
    if location.path is not None and not location.path.is_dir():
        return _file_format(location, location.path, datasets)
    there = format_of(location.store)
    return format_in(location.store, there or 3), there is not None


def _file_format(
    location: Location, path: Path, datasets: Sequence[Dataset]
) -> tuple[Format, bool]:
    """Return the format that the ledgers speak of, else that of the file itself."""
    files = FileStore(location, "")
    noted = [files.noted().get("format"), *(kind for one in datasets for kind in one.kinds())]
    kind = next((one for one in noted if one in SINGLE_FILES), "") or file_kind(path)
    if not kind:
        return ZarrFormat(3), False
    return SINGLE_FILES[kind](), path.exists() or bool(files.birth())


def _datasets(location: Location) -> list[Dataset]:
    if location.path is not None:
        folder = ledger_folder(location.path)
        home = Home(folder, None)
        return [
            Dataset(name, home, FileLock(folder / _lock(name), name)) for name in home.datasets()
        ]
    if location.beside is not None:
        return [_in_bucket(location, name) for name in Home(None, location.beside).datasets()]
    if isinstance(location.store, Branch):
        return [_in_bucket(location, name) for name in Home(None, *location.ledger("")).datasets()]
    if not isinstance(location.store, (MappingStore, ObjectStore)):
        return []
    keys = location.store.list("")
    marks = {key.partition("/.ledger/")[0] for key in keys if "/.ledger/" in key}
    return [_in_bucket(location, name) for name in sorted(marks)]


def _in_bucket(location: Location, name: str) -> Dataset:
    keys, prefix = location.ledger(name)
    lock = ObjectLock(keys, prefix + _lock(name), name) if isinstance(keys, ObjectStore) else None
    return Dataset(name, Home(None, keys, prefix), lock)


def _lock(dataset: str) -> str:
    return f"{quote(dataset, safe='')}.lock"


def _sequential(location: Location) -> Path | None:
    if location.path is None:
        return None
    path = ledger_folder(location.path) / "sequential.log"
    return path if path.is_file() else None
