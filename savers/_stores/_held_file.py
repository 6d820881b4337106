"""A file under a library that must not see an error of the disk.

libhdf5 may end the process when a write fails under an open handle. So the file layer holds the
error back: from then on it keeps what is written in memory, and the error is raised when the handle
is gone.
"""

from __future__ import annotations

import io
import os
from typing import Any

from savers._stores._files import write_all

__all__ = ["HeldFile"]


class HeldFile(io.RawIOBase):
    """Reads and writes of a descriptor, with errors held back.

    Parameters
    ----------
    descriptor : int
        Open for reading and writing; stays open.

    Attributes
    ----------
    error : OSError or None
        The first error of a write.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.error: OSError | None = None
        self._descriptor = descriptor
        self._at = 0
        self._late: list[tuple[int, bytes]] = []  # written since the error

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            late = [at + len(data) for at, data in self._late]
            offset += max(os.fstat(self._descriptor).st_size, *late, 0)
        elif whence == os.SEEK_CUR:
            offset += self._at
        self._at = offset
        return offset

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer; beyond the end there are zeros."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            count = os.preadv(self._descriptor, [view[done:]], self._at + done)
            if not count:
                view[done:] = bytes(len(view) - done)
                break
            done += count
        for at, data in self._late:
            first, last = max(at, self._at), min(at + len(data), self._at + len(view))
            if first < last:
                view[first - self._at : last - self._at] = data[first - at : last - at]
        self._at += len(view)
        return len(view)

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if self.error is None:
            try:
                os.lseek(self._descriptor, self._at, os.SEEK_SET)
                write_all(self._descriptor, view)
            except OSError as error:
                self.error = error
        if self.error is not None:
            self._late.append((self._at, bytes(view)))
        self._at += len(view)
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        size = self._at if size is None else size
        if self.error is None:
            try:
                os.ftruncate(self._descriptor, size)
            except OSError as error:
                self.error = error
        return size
