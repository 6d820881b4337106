"""Who may merge values into a chunk: a chunk that holds several results has one writer at a time.

A claim is a small file that appears by `link`, so that of several processes one makes it. It names
its writer, and is void once that writer has closed or died.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from savers._ledger._file_lock import create_lock_file, is_abandoned, moment, read_holder
from savers._stores._files import make_side_folder, storage_errors
from savers.errors import StoreInUseError

if TYPE_CHECKING:
    from pathlib import Path

    from savers._labelled._streams import WriterStream
    from savers._ledger._lock import Holder

__all__ = ["Claims", "refused"]

Index = tuple[int, ...]


class Claims:
    """The chunks that one writer may merge values into."""

    def __init__(self, writer: WriterStream) -> None:
        self.writer = writer
        self._mine: dict[tuple[str, Index], Path] = {}
        self._lock = threading.Lock()

    def take(self, array: str, index: Index, advice: str) -> None:
        """Claim a chunk.

        Raises
        ------
        StoreInUseError
            Another writer merges values into it; `advice` says how to avoid that.
        """
        with self._lock:
            self._take(array, index, advice)

    def _take(self, array: str, index: Index, advice: str) -> None:
        lock = self.writer.sign_on()
        folder = self.writer.home.folder
        if lock is None or lock.holder is None or folder is None or (array, index) in self._mine:
            return
        claims = folder / "claims"
        path = claims / f"{quote(array, safe='')}@{'.'.join(map(str, index))}"
        mine = replace(lock.holder, token=self.writer.name)
        with storage_errors("claim a chunk by", path):
            make_side_folder(claims)
            if not create_lock_file(path, mine):
                self._take_over(path, mine, array, advice)
        self._mine[array, index] = path

    def _take_over(self, path: Path, mine: Holder, array: str, advice: str) -> None:
        """Replace the claim of a writer that is gone; one process at a time looks and replaces."""
        with moment(path.parent / "@takeover"):
            there = read_holder(path)
            while there is not None and not self._lives(path, there):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()
                if create_lock_file(path, mine):
                    return
                there = read_holder(path)  # one that was made at this moment
        raise refused(array, there, advice)

    def _lives(self, path: Path, there: Holder) -> bool:
        mark = path.parent.parent / f"{there.token}.lock"
        return mark.exists() and not is_abandoned(mark)

    def check(self) -> None:
        """Nothing to do: a writer that slept finds its lease gone."""

    def release(self, array: str, index: Index) -> None:
        """Let another writer have a chunk."""
        with self._lock:
            path = self._mine.pop((array, index), None)
            if path is not None:
                with contextlib.suppress(OSError):
                    path.unlink()

    def close(self) -> None:
        """Release all chunks."""
        for array, index in list(self._mine):
            self.release(array, index)


def refused(array: str, there: Holder | None, advice: str) -> StoreInUseError:
    """Return the error for a chunk that another writer fills."""
    who = there.describe() if there is not None else "another writer"
    message = f"a chunk of {array!r} is being filled by {who}: one writer at a time. {advice}"
    return StoreInUseError(message)
