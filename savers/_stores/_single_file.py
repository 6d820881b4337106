"""The store behind a file that holds all arrays: a segment for what is on its way, and the file.

A committed file is never changed. Chunks go to a segment in the ledger's folder; a format builds
the next file beside, and `replace` moves it into its place.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from savers._stores._files import make_side_folder, storage_errors, sync_folder
from savers._stores._location import ledger_folder
from savers._stores._remote_file import WorkingCopy, digest, make_folder
from savers._stores._segment import Segment
from savers._stores._store import ChangedError, LocalStore
from savers.errors import FormatError, LedgerMismatchError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from savers._stores._location import Location
    from savers._stores._store import Bytes

__all__ = ["FileStore"]

#: Room for metadata that the next file may need beside the old one and the new chunks.
MARGIN = 1 << 20


class FileStore:
    """Chunks in a segment, and the file that readers see.

    Parameters
    ----------
    location : Location
    dataset : str
        Each dataset has a segment of its own.
    in_place : bool
        True: a file that is there is written to, and a crash may leave it unreadable.

    Raises
    ------
    FormatError
        A folder lies in the place of the file.
    """

    def __init__(self, location: Location, dataset: str, *, in_place: bool = False) -> None:
        path = location.path
        if path is None or not isinstance(location.store, LocalStore):
            message = f"expected a local path of a file, got {location.name}"
            raise FormatError(message)
        if path.is_dir():
            message = f"expected a file at {path}, found a folder"
            raise FormatError(message)
        self._path = path
        self.name = location.name
        self._remote = location.remote if isinstance(location, WorkingCopy) else None
        self._fetched = self._remote is None
        self.synced = location.store.synced
        self.in_place = in_place
        self.folder = ledger_folder(path)
        self.mark = quote(dataset, safe="") + "@"
        self._segment = Segment(
            self.folder / f"{quote(dataset, safe='')}.segment", synced=self.synced
        )
        self._birth = self.folder / "birth.json"
        self._unsent = self.folder / "unsent"  # holds the digest of what it is to replace
        self._base = ""
        self._renamed = False

    @property
    def path(self) -> Path:
        """The file; of a URL its copy here, brought up to it when it is first asked for."""
        if not self._fetched:
            self._fetched = True
            try:
                self._fetch()
            except BaseException:
                self._fetched = False
                raise
        return self._path

    # -- the store of chunks -----------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        return self._segment.get(key)

    def get_all(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        return [self.get(key) for key in keys]

    def put(self, key: str, data: Bytes) -> None:
        self._segment.put(key, [data])

    def put_all(self, documents: Mapping[str, Bytes]) -> None:
        for key, data in documents.items():
            self.put(key, data)

    def write(self, key: str, *parts: Bytes) -> None:
        self._segment.put(key, parts)

    def delete(self, key: str) -> None:
        self._segment.drop(key)

    def delete_all(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def list(self, prefix: str) -> Iterator[str]:
        return (key for key in self._segment.names() if key.startswith(prefix))

    def prune(self, prefix: str) -> None:
        """Nothing to do: there are no folders."""

    def barrier(self) -> None:
        self._segment.sync()
        if self.synced and self._renamed:
            with storage_errors("sync", self.path.parent):
                sync_folder(self.path.parent)
            self._renamed = False

    def stage(self, token: str, *parts: Bytes) -> str:
        self._segment.stage(token, parts)
        return token

    def publish(self, token: str, key: str) -> None:
        self._segment.move(token, key)

    def staged(self) -> Sequence[str]:
        return self._segment.staged()

    def get_staged(self, token: str) -> bytes | None:
        return self._segment.get_staged(token)

    def drop_staged(self, token: str) -> None:
        self._segment.drop(token)

    def close(self) -> None:
        """Let go of files. Idempotent; a later call opens them again."""
        self._segment.close()
        self._fetched = self._remote is None

    # -- the id of a store whose file is not there yet ---------------------------------------------

    def birth(self) -> str:
        """Return the id that the next file will have, "" where none was noted or it is void.

        A file that was there when the id was noted must be there still.
        """
        noted = self.noted()
        void = noted.get("file", False) and not self.path.exists()
        return "" if void else str(noted.get("store", ""))

    def noted(self) -> Mapping[str, Any]:
        """Return what was noted of a store whose file is not there yet; nothing afterwards."""
        with storage_errors("read", self._birth):
            try:
                return dict(json.loads(self._birth.read_bytes()))
            except FileNotFoundError:
                return {}
            except (TypeError, ValueError) as error:
                message = f"{self._birth} is not a JSON document: {error}"
                raise FormatError(message) from error

    def note_birth(self, store_id: str, kind: str) -> None:
        """Note id and format of the store, until there is a file that has them."""
        make_side_folder(self.folder)
        aside = self._birth.with_name(f"birth-{uuid.uuid4().hex}.new")
        noted = {"store": store_id, "format": kind, "file": self.path.exists()}
        data = json.dumps(noted).encode()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        with storage_errors("write", self._birth):
            try:
                descriptor = os.open(aside, flags, 0o600)
                try:
                    os.write(descriptor, data)
                    if self.synced:
                        os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                os.replace(aside, self._birth)
            except BaseException:
                with contextlib.suppress(OSError):
                    aside.unlink()
                raise
            if self.synced:
                sync_folder(self.folder)
        self._segment.keep([])  # what another store left here

    # -- the next file -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def next_file(self) -> Iterator[tuple[int, bool]]:
        """Make the next file: a copy of the last one, which takes its place when all went well.

        Yields
        ------
        descriptor : int
        old : bool
            False where there was no file yet, and the next one is empty.
        """
        if self.in_place and self.path.exists():
            yield from self._this_file()
            return
        built = self.folder / f"{self.mark}{uuid.uuid4().hex}.next"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with storage_errors("write", built):
                descriptor = os.open(built, flags, 0o666)
                try:
                    yield descriptor, self._copy_last(descriptor)
                    if self.synced:
                        os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            self._replace(built)
        except BaseException:
            with contextlib.suppress(OSError):
                built.unlink()
            raise

    def _this_file(self) -> Iterator[tuple[int, bool]]:
        with storage_errors("write in place to", self.path):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            try:
                yield descriptor, True
            finally:
                os.close(descriptor)

    def _copy_last(self, descriptor: int) -> bool:
        """Copy the file that readers see, sharing its blocks where the file system can."""
        try:
            source = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            found = os.fstat(source)
            os.fchmod(descriptor, found.st_mode & 0o777)
            _copy(source, descriptor, found.st_size)
        finally:
            os.close(source)
        return True

    # -- the file behind a URL ---------------------------------------------------------------------

    def written_elsewhere(self) -> bool:
        """Return whether a file behind a URL has no ledger on this machine."""
        return self._remote is not None and not any(self.folder.glob("*.log"))

    def _fetch(self) -> None:
        """Take over what is behind the URL, unless what is here has yet to be put there."""
        if self._remote is None:
            return
        make_folder(self._path)
        found = self._remote.get()
        here = self._path.read_bytes() if self._path.exists() else None
        self._base = digest(found)
        if self._unsent.exists() and found != here:
            if self._unsent.read_text() != self._base:
                raise LedgerMismatchError(self._replaced())
        elif found is None:
            with storage_errors("delete", self._path):
                self._path.unlink(missing_ok=True)
        elif found != here:
            aside = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex}.fetched")
            with storage_errors("write", self._path):
                aside.write_bytes(found)
                os.replace(aside, self._path)

    def _replaced(self) -> str:
        return (
            f"{self.name} was replaced by another program since it was read. What was saved is "
            f"in {self._path}: put one of the two files in the place of the other"
        )

    def send(self) -> None:
        """Put the file to its URL where that is still to be done.

        Raises
        ------
        LedgerMismatchError
            Another program replaced the one that is there.
        """
        if self._remote is None or not self._unsent.exists():
            return
        data = self._path.read_bytes()
        try:
            self._remote.put(data)
        except ChangedError as error:
            self._fetched = False  # looked at again, and refused again
            raise LedgerMismatchError(self._replaced()) from error
        self._base = digest(data)
        with storage_errors("delete", self._unsent):
            self._unsent.unlink()

    def require_room(self, keys: Collection[str]) -> None:
        """Refuse to build the next file where the old one and these chunks would not fit.

        Raises
        ------
        StorageError
            The file system has less room than they take.
        """
        with storage_errors("write", self.path):
            old = self.path.stat().st_size if self.path.exists() else 0
            needed = old + self._segment.size(keys) + MARGIN
            if shutil.disk_usage(self.folder).free < needed:
                reason = f"{os.strerror(errno.ENOSPC)}: {needed / 1e6:.1f} MB are needed"
                raise OSError(errno.ENOSPC, reason)

    def _replace(self, built: Path) -> None:
        """Move the next file into its place; the id is in it from now on."""
        with storage_errors("replace", self.path):
            if self._remote is not None:
                self._unsent.write_text(self._base)
            os.replace(built, self.path)
            self._renamed = True
        self.barrier()
        self.send()
        if self._birth.exists():
            with storage_errors("delete", self._birth):
                self._birth.unlink(missing_ok=True)

    def keep(self, keys: Collection[str]) -> None:
        """Forget all chunks but these: the file has them."""
        self._segment.keep(keys)

    def remove_leftovers(self) -> None:
        """Remove what a crash left of a next file."""
        with contextlib.suppress(OSError):
            for entry in os.scandir(self.folder):
                if entry.name.startswith(self.mark) and entry.name.endswith(".next"):
                    os.unlink(entry.path)


def _copy(source: int, target: int, size: int) -> None:
    done = 0
    try:
        while done < size:
            count = os.copy_file_range(source, target, size - done)
            if not count:
                break
            done += count
    except (AttributeError, OSError):  # not on this system, or not between these files
        if done:
            raise
    if done < size:
        with (
            os.fdopen(source, "rb", closefd=False) as old,
            os.fdopen(target, "wb", closefd=False) as new,
        ):
            shutil.copyfileobj(old, new, 1 << 20)
