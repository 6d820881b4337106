"""Where the streams of a store's ledger lie, by their names."""

from __future__ import annotations

import contextlib
import mmap
import os
import uuid
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from savers._ledger._file_stream import FileStream
from savers._ledger._object_stream import ObjectStream, load_stream, seal_stream
from savers._stores._files import storage_errors
from savers.errors import LedgerCorruptedError

if TYPE_CHECKING:
    from pathlib import Path

    from savers._stores._store import KeyStore

__all__ = ["Home", "stream_prefix"]


def stream_prefix(dataset: str) -> str:
    """Return how the names of a dataset's streams begin."""
    return quote(dataset, safe="") + "@"


class Home:
    """Where the streams of a store's ledger lie: a local folder, or a prefix of a mapping."""

    def __init__(self, folder: Path | None, store: KeyStore | None, prefix: str = "") -> None:
        self.folder = folder
        self.store = store
        self.prefix = prefix
        self._loaded: dict[str, int] = {}

    def streams(self, dataset: str) -> list[str]:
        """Return the names of a dataset's streams, oldest first."""
        start = stream_prefix(dataset)
        return sorted(name for name in self._names() if name.startswith(start))

    def datasets(self) -> list[str]:
        """Return the datasets that have a stream."""
        return sorted({unquote(name.rpartition("@")[0]) for name in self._names() if "@" in name})

    def _names(self) -> list[str]:
        if self.folder is not None:
            if not self.folder.is_dir():
                return []
            found = os.listdir(self.folder)
            return [n.removesuffix(".log") for n in found if n.endswith(".log")]
        keys = self._store().list(self.prefix)
        names = {k[len(self.prefix) :].partition("/")[0] for k in keys}
        return sorted(name for name in names if "@" in name)

    def _store(self) -> KeyStore:
        if self.store is None:
            message = "a ledger needs a folder or a store"
            raise LedgerCorruptedError(message)
        return self.store

    def stream(self, name: str, *, synced: bool) -> FileStream | ObjectStream:
        """Return a stream that is not yet there."""
        if self.folder is not None:
            return FileStream(self.folder / f"{name}.log", synced=synced)
        return ObjectStream(self._store(), self.prefix + name)

    def extent(self, name: str) -> int:
        """Return what grows with each record of a stream: bytes of a file, objects of a store."""
        if self.folder is None:
            return len(list(self._store().list(f"{self.prefix}{name}/")))
        with contextlib.suppress(FileNotFoundError):
            return os.stat(self.folder / f"{name}.log").st_size
        return 0

    def load(self, name: str) -> memoryview | None:
        """Return the bytes of a stream, None where there is none."""
        if self.folder is not None:
            return _mapped(self.folder / f"{name}.log")
        objects = load_stream(self._store(), self.prefix + name)
        self._loaded[name] = len(objects or ())
        return None if objects is None else memoryview(b"".join(objects))

    def seal(self, name: str) -> bool:
        """Keep the writer of a stream from appending; False where it did so since the `load`.

        A file needs no seal: its writer is on this host, or finds its lease gone.
        """
        if self.folder is not None or name not in self._loaded or not self._store().exclusive:
            return True
        return seal_stream(self._store(), self.prefix + name, self._loaded[name])

    @property
    def seals(self) -> bool:
        """True where a writer can be kept from appending."""
        return self.folder is None and self._store().exclusive

    def seal_unborn(self, name: str) -> bool:
        """Keep anybody from beginning a stream; False where somebody did."""
        return seal_stream(self._store(), self.prefix + name, 0)

    def set_aside(self, name: str) -> str:
        """Take a stream out of use without losing it; return where it went."""
        if self.folder is not None:
            aside = self.folder / f"{name}.aside-{uuid.uuid4().hex[:8]}"
            with storage_errors("set aside", self.folder / f"{name}.log"):
                os.replace(self.folder / f"{name}.log", aside)
            return str(aside)
        store, prefix = self._store(), f"{self.prefix}aside-{uuid.uuid4().hex[:8]}/"
        store.put(prefix + name, bytes(self.load(name) or b""))
        self.remove(name)
        return prefix + name

    def remove(self, name: str, *, sealed: bool = False) -> None:
        """Remove a stream; with `sealed` its writer still can't append to it."""
        if self.folder is not None:
            with contextlib.suppress(OSError):  # left there, the next opening removes it
                (self.folder / f"{name}.log").unlink()
            return
        store = self._store()
        keys = sorted(store.list(f"{self.prefix}{name}/"))
        store.delete_all(keys[:-1] if sealed and store.exclusive else keys)


def _mapped(path: Path) -> memoryview | None:
    with storage_errors("read", path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            size = os.fstat(descriptor).st_size
            if not size:
                return memoryview(b"")
            return memoryview(mmap.mmap(descriptor, size, access=mmap.ACCESS_READ))
        finally:
            os.close(descriptor)
