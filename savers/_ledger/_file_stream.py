"""The records of a writer in a local file: one write each, and whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING

from savers._stores._files import storage_errors, sync_folder, write_all
from savers.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["FileStream", "StreamLostError"]


class FileStream:
    """Records in a local file, one write each.

    Parameters
    ----------
    path : Path
    synced : bool
        True: a record is fsynced before `append` returns.
    """

    def __init__(self, path: Path, *, synced: bool) -> None:
        self.path = path
        self.synced = synced
        self.size = 0
        self.damaged = False
        self._descriptor = -1

    @property
    def full(self) -> bool:
        """A file takes any number of records."""
        return False

    def create(self, frames: Sequence[bytes]) -> None:
        """Begin the stream with `frames`; it appears whole or not at all."""
        aside = self.path.with_name(self.path.name + ".new")
        with storage_errors("write", self.path):
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(aside, flags | os.O_APPEND, 0o600)
            try:
                write_all(descriptor, b"".join(frames))
                if self.synced:
                    os.fsync(descriptor)
                os.replace(aside, self.path)
                self._sync_folders()
            except BaseException:
                os.close(descriptor)
                self.remove()  # a newer stream would be read instead of the one that goes on
                raise
        self.size = sum(map(len, frames))
        self._descriptor = descriptor

    def _sync_folders(self) -> None:
        if self.synced:
            sync_folder(self.path.parent)
            sync_folder(self.path.parent.parent)

    def append(self, frame: bytes) -> int:
        """Append one frame whole or not at all; return where it begins."""
        begin = self.size
        with storage_errors("append to", self.path):
            if self.damaged:
                self._cut()
            try:
                written = os.write(self._descriptor, frame)
                if written < len(frame):
                    write_all(self._descriptor, memoryview(frame)[written:])
            except BaseException:
                self.damaged = True
                with contextlib.suppress(OSError):
                    self._cut()
                raise
            self._sync()
        self.size += len(frame)
        return begin

    def _cut(self) -> None:
        os.ftruncate(self._descriptor, self.size)
        self.damaged = False

    def _sync(self) -> None:
        """After a failed fsync the pages may be gone for good: the stream must be written anew."""
        if not self.synced:
            return
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._cut()
            message = f"can't sync {self.path}: {error.strerror}; it will be written anew"
            raise StreamLostError(error.errno, message) from error

    def read(self, at: int, size: int) -> bytes:
        """Return bytes of the stream."""
        with storage_errors("read", self.path):
            data = os.pread(self._descriptor, size, at)
        if len(data) != size:
            message = f"can't read {size} bytes at {at} of {self.path}: it ends before"
            raise StorageError(errno.EIO, message)
        return data

    def remove(self) -> None:
        """Remove the stream, whose place another one took."""
        with contextlib.suppress(OSError):  # left there, the next opening removes it
            self.path.unlink()

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class StreamLostError(StorageError):
    """The stream may have lost what was appended last; it must be written anew."""
