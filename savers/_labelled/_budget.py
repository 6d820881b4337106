"""The bytes that writes on their way take, within a limit."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from savers.errors import StorageError

if TYPE_CHECKING:
    import threading

    from savers._labelled._slots import Slot

__all__ = ["Budget"]


class Budget:
    """Bytes of writes that are not durable yet. Guarded by the lock of its queue.

    Parameters
    ----------
    limit : int
        Bytes that may be held; a write that is larger goes alone.
    change : Condition
        Told when there is more room.

    Attributes
    ----------
    held, peak : int
        Bytes of writes on their way: now, and at most.
    kept : int
        Bytes of writes that failed.
    """

    def __init__(self, limit: int, change: threading.Condition) -> None:
        self.limit = limit
        self.held = self.peak = self.kept = 0
        self._change = change

    def fits(self, size: int) -> bool:
        """Return whether there is room for so many bytes more."""
        return not self.held or self.held + size <= self.limit

    @property
    def stuck(self) -> bool:
        """True while writes that failed fill it."""
        return self.kept >= self.limit

    def hold(self, size: int) -> None:
        """Count so many bytes more."""
        self.held += size
        self.peak = max(self.peak, self.held)
        if size < 0:
            self._change.notify_all()

    def set_aside(self, size: int) -> None:
        """Count bytes that were held as those of a write that failed."""
        self.hold(-size)
        self.kept += size

    def take_back(self, size: int) -> None:
        """Count the bytes of a write that failed as held again."""
        self.kept -= size
        self.hold(size)

    def weigh(self, slot: Slot, copies: int) -> None:
        """Count the values of a slot anew, each so many times."""
        size = slot.nbytes(copies)
        kept = size if slot.failed else 0
        self.kept += kept - slot.kept
        self.hold(size - kept - slot.size)
        slot.size, slot.kept = size - kept, kept

    def refusal(self, size: int) -> StorageError:
        """Return what to raise where there is no room for so many bytes."""
        message = (
            f"no room for a write of {size} bytes: {self.held} of max_inflight_bytes="
            f"{self.limit} are held by writes that are not durable yet"
        )
        if self.kept:
            message += f", {self.kept} bytes more by writes that failed; flush() tries them again"
        return StorageError(errno.EAGAIN, message)
