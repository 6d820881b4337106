"""Files and folders as a store and its ledger need them: whole writes, clear errors, no links."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from typing import TYPE_CHECKING

from savers.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["make_side_folder", "refuse_link", "storage_errors", "sync_folder", "write_all"]

Bytes = bytes | bytearray | memoryview


@contextlib.contextmanager
def storage_errors(operation: str, path: Path) -> Iterator[None]:
    """Turn an OSError into a `StorageError` that names path, operation and free space."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        free = _free_space(path)
        message = f"can't {operation} {path}: {error.strerror or error} ({free})"
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


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder survive a power cut; no error where it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # removed since; its parent is on the list as well
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
