"""Files and folders as a store and its ledger need them: whole writes, clear errors, no links."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from savers.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

__all__ = [
    "make_side_folder",
    "refuse_link",
    "storage_errors",
    "sync_file",
    "sync_folder",
    "write_all",
    "write_parts",
]

#: As many parts as Linux and macOS take in one call (IOV_MAX).
MOST_PARTS = 1024

Bytes = bytes | bytearray | memoryview


class storage_errors:  # noqa: N801 -- used as the context managers of contextlib are
    """Turn an OSError into a `StorageError` that names path, operation and free space."""

    __slots__ = ("operation", "path")

    def __init__(self, operation: str, path: Path | str) -> None:
        self.operation = operation
        self.path = path

    def __enter__(self) -> None:
        """Nothing to do."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            free = _free_space(Path(self.path))
            reason = error.strerror or error
            message = f"can't {self.operation} {self.path}: {reason} ({free})"
            raise StorageError(error.errno, message) from error


def _free_space(path: Path) -> str:
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(folder).free / 1e6:.1f} MB free"
    return "free space unknown"


def write_all(descriptor: int, data: Bytes) -> None:
    """Write the whole of `data`; a short write is continued, as POSIX allows it at any time."""
    view = memoryview(data).cast("B")
    done = os.write(descriptor, view)
    while done < len(view):
        done += os.write(descriptor, view[done:])


def write_parts(descriptor: int, parts: Sequence[Bytes]) -> None:
    """Write parts one behind the other, many with one call."""
    for first in range(0, len(parts), MOST_PARTS):
        batch = parts[first : first + MOST_PARTS]
        done = os.writev(descriptor, batch)
        if done < sum(map(len, batch)):
            write_all(descriptor, memoryview(b"".join(batch))[done:])


def make_side_folder(folder: Path) -> None:
    """Make a folder of side files, for its owner alone; a link in its place is refused.

    Raises
    ------
    StorageError
        A symbolic link or something that is no folder lies there.
    """
    with storage_errors("make the folder", folder):
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            mode = folder.lstat().st_mode
            if not stat.S_ISDIR(mode):
                code = errno.ELOOP if stat.S_ISLNK(mode) else errno.ENOTDIR
                message = f"expected a folder, not a link or a file; move it away: {folder}"
                raise StorageError(code, message) from None


def refuse_link(path: Path) -> None:
    """Refuse a symbolic link in the place of a side file.

    Raises
    ------
    StorageError
        There is one.
    """
    if path.is_symlink():
        message = f"expected a file of ours, not a link; move it away: {path}"
        raise StorageError(errno.ELOOP, message)


def sync_file(path: Path | str) -> None:
    """Make what another program part wrote to a file survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path | str) -> None:
    """Make the entries of a folder survive a power cut; no error where it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # removed since; its parent is on the list as well
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
