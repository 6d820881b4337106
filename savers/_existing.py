"""What lies at a path: a store, and the ledgers that were kept for it. Reads only.

The command line starts here: nothing is locked, created or finished, so it works while somebody
else writes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from savers._frames import read_frames
from savers._ledger import Home, replay
from savers._location import ledger_folder, locate
from savers._locks import is_dead, read_holder
from savers._store import MappingStore
from savers._zarr import ZarrFormat
from savers.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from savers._format import Format
    from savers._location import Location
    from savers._locks import Holder
    from savers._state import State
    from savers._store import Store

__all__ = ["Dataset", "Existing", "Replayed", "find"]


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
    lock : Path or None
        Its lock file; None where the store has none.
    """

    name: str
    home: Home
    lock: Path | None

    def holder(self) -> Holder | None:
        """Return who writes to it now."""
        found = None if self.lock is None else read_holder(self.lock)
        return None if found is None or is_dead(found, time.time()) else found

    def crashed(self) -> bool:
        """Return whether its last writer ended without closing it."""
        return self.lock is not None and self.lock.exists() and self.holder() is None

    def stream_stamp(self) -> tuple[str, int]:
        """Return the newest stream and its size."""
        streams = self.home.streams(self.name)
        data = self.home.load(streams[-1]) if streams else None
        return (streams[-1] if streams else "", len(data or b""))

    def replay(self) -> Replayed:
        """Read the ledger.

        Raises
        ------
        LedgerCorruptedError
            A record is damaged; the text names stream and position.
        """
        data: memoryview | None = None
        while data is None:  # a writer that goes on in a new stream removes the old one
            state, stream = replay(self.home, self.name)
            data = self.home.load(stream) if stream else memoryview(b"")
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
    fmt, exists = _format(location)
    sequential = _sequential(location)
    found = Existing(location, fmt, exists, tuple(_datasets(location)), sequential)
    if not (exists or found.datasets or sequential):
        there = location.path is not None and location.path.exists()
        what = "neither a Zarr store nor a ledger" if there else "nothing"
        message = f"expected a store at {location.name}, found {what}"
        raise NotFoundError(message)
    return found


def _format(location: Location) -> tuple[Format, bool]:
    """Return the format, and whether a store of it is there at all."""
    for number, keys in ((3, ("zarr.json",)), (2, (".zgroup", ".zarray"))):
        if location.path is not None and not location.path.is_dir():
            continue
        if any(location.store.get(key) is not None for key in keys):
            return ZarrFormat(3 if number == 3 else 2), True
    return ZarrFormat(3), False


def _datasets(location: Location) -> list[Dataset]:
    if location.path is not None:
        folder = ledger_folder(location.path)
        home = Home(folder, None)
        return [
            Dataset(name, home, folder / f"{quote(name, safe='')}.lock") for name in home.datasets()
        ]
    store = location.store
    if not isinstance(store, MappingStore):
        return []
    marks = {key.partition("/.ledger/")[0] for key in store.list("") if "/.ledger/" in key}
    return [Dataset(name, Home(None, store, f"{name}/.ledger/"), None) for name in sorted(marks)]


def _sequential(location: Location) -> Path | None:
    if location.path is None:
        return None
    path = ledger_folder(location.path) / "sequential.log"
    return path if path.is_file() else None
