"""A single file behind a URL: written here, put there as a whole whenever it is published.

The working copy, its ledger and its segment lie in the user's state folder, so a crash is finished
by the next run on this machine. Another one reads what was published, and is refused as a writer.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from savers._stores._bucket._store import ObjectStore
from savers._stores._files import make_side_folder
from savers._stores._location import Location, ledger_folder, local
from savers._stores._store import MappingStore
from savers.errors import InvalidTypeError

if TYPE_CHECKING:
    from savers._stores._store import Store

__all__ = [
    "RemoteFile",
    "WorkingCopy",
    "digest",
    "has_working_copy",
    "make_folder",
    "working_copy",
]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """An object of a store."""

    store: Store
    key: str

    def get(self) -> bytes | None:
        """Return the whole file, None where there is none."""
        return self.store.get(self.key)

    def put(self, data: bytes) -> None:
        """Replace the file in one step; in a bucket only the one that was read last.

        Raises
        ------
        StorageError
            It can't be put.
        ChangedError
            It is not the one that was read last (known in buckets alone).
        """
        self.store.put(self.key, data)
        self.store.barrier()


@dataclass(frozen=True, slots=True)
class WorkingCopy(Location):
    """The location of a file that is put to a URL.

    Parameters
    ----------
    remote : RemoteFile
    """

    remote: RemoteFile | None = None


def working_copy(location: Location, *, synced: bool = False) -> WorkingCopy:
    """Return where a file behind a URL is written on this machine. Nothing is created.

    Raises
    ------
    InvalidTypeError
        A store or mapping, in which no file lies.
    """
    parent, _, name = location.identity.rstrip("/").rpartition("/")
    if "://" not in parent or not name:
        message = f"expected the path or URL of a file, got {location.name}"
        raise InvalidTypeError(message)
    here = local(_folder(location) / name, synced=synced)
    remote = RemoteFile(_parent(location, parent), name)
    return WorkingCopy(location.name, location.identity, here.path, here.store, remote=remote)


def has_working_copy(location: Location) -> bool:
    """Return whether a file behind a URL was written on this machine."""
    name = location.identity.rstrip("/").rpartition("/")[2]
    return "://" in location.identity and ledger_folder(_folder(location) / name).is_dir()


def _folder(location: Location) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "tasksavers" / digest(location.identity.encode())[:32]


def digest(data: bytes | None) -> str:
    """Return by what a file is known again; "" for none."""
    return "" if data is None else hashlib.sha256(data).hexdigest()


def make_folder(path: Path) -> None:
    """Make the folder of a working copy, for its owner alone."""
    path.parent.parent.parent.mkdir(parents=True, exist_ok=True)
    make_side_folder(path.parent.parent)
    make_side_folder(path.parent)


def _parent(location: Location, parent: str) -> Store:
    """Return the store in which the file is an object."""
    store = location.store
    if isinstance(store, ObjectStore):
        above = store.prefix.rstrip("/").rpartition("/")[0]
        return store.beside(f"{above}/" if above else "")
    mapping = store.mapping if isinstance(store, MappingStore) else None
    filesystem = getattr(mapping, "fs", None)
    if filesystem is None:
        message = f"expected the path or URL of a file, got {location.name}"
        raise InvalidTypeError(message)
    root = str(mapping.root).rstrip("/").rpartition("/")[0]  # type: ignore[union-attr]
    secrets = store.secrets if isinstance(store, MappingStore) else ()
    return MappingStore(filesystem.get_mapper(root), parent, secrets)
