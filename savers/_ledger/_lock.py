"""One driver a dataset: who holds it, and when a dead holder is taken over.

A lock is a small document that names its holder: host, boot, process and the time that process
started. On the same host a holder is dead when that very process is gone (a process id alone can
be used again); on another host when its lease ran out. Where the document lies, and how only one of
two puts it there, is up to the kind of lock.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
import weakref
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from savers.errors import StorageError, StoreInUseError

__all__ = ["Holder", "Lock", "current_holder"]

#: Seconds after which a holder on another host that did not renew its lease counts as dead.
LEASE = 60.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock."""

    host: str
    boot: str
    pid: int
    started: str
    since: float
    renewed: float
    token: str

    def describe(self) -> str:
        """Return the holder in words."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} since {since}"


def _boot_id() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def process_start(pid: int) -> str:
    """Return when a process started, in the kernel's own clock; "" where there is none."""
    with contextlib.suppress(OSError, IndexError):
        text = Path(f"/proc/{pid}/stat").read_text()
        fields = text.rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    return ""


def current_holder() -> Holder:
    """Return this process as a holder, with a token of its own."""
    now = time.time()
    pid = os.getpid()
    return Holder(
        socket.gethostname(), _boot_id(), pid, process_start(pid), now, now, uuid.uuid4().hex
    )


def is_dead(holder: Holder, now: float) -> bool:
    """Return whether a holder can no longer write."""
    if holder.host == socket.gethostname() and holder.boot == _boot_id():
        return process_start(holder.pid) != holder.started
    if holder.host == socket.gethostname() and holder.boot and _boot_id():
        return True  # this host was started anew since
    return now - holder.renewed > LEASE


class Lock(ABC):
    """The lock of one dataset.

    Parameters
    ----------
    subject : str
        What it protects, for messages.

    Attributes
    ----------
    holder : Holder or None
        This process, while it holds the lock.
    took_over : bool
        True: the last holder died with it.
    lost : bool
        True: another process took it over.
    """

    #: Seconds between two attempts to get it.
    pause: ClassVar[float]

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.holder: Holder | None = None
        self.took_over = False
        self.lost = False
        self._renewal: threading.Timer | None = None
        self._mutex = threading.Lock()

    # -- where the document lies -----------------------------------------------------------------

    @abstractmethod
    def read(self) -> Holder | None:
        """Return who the lock names; None where nobody holds it, or it can't be read."""

    @abstractmethod
    def is_there(self) -> bool:
        """Return whether somebody took the lock and did not let go of it."""

    def abandoned(self) -> bool:
        """Return whether the last holder died with it."""
        found = self.read()
        return found is not None and is_dead(found, time.time())

    @abstractmethod
    def wanted(self) -> bool:
        """Return whether another process waits for the lock."""

    @abstractmethod
    def _want(self) -> None:
        """Let the holder see that somebody waits."""

    @abstractmethod
    def _create(self, mine: Holder) -> bool:
        """Put the document where there is none; False where there is one."""

    @abstractmethod
    def _take_over(self, mine: Holder) -> bool:
        """Replace a dead holder; only one process at a time gets to look and replace."""

    @abstractmethod
    def _renew(self, renewed: Holder) -> bool:
        """Put a later version of one's own document; False where it is another's now."""

    @abstractmethod
    def _remove(self, mine: Holder) -> None:
        """Remove one's own document, and nobody else's."""

    # -- holding it --------------------------------------------------------------------------------

    def acquire(self, *, wait: float = 0.0) -> None:
        """Become the holder. A holder that can wait sees that somebody wants it (`wanted`).

        Raises
        ------
        StoreInUseError
            A living process holds it (after `wait` seconds); the text names it.
        """
        deadline = time.monotonic() + wait
        mine = current_holder()
        self.took_over = self.lost = False
        while not self._try(mine):
            if time.monotonic() >= deadline:
                raise self._refused()
            self._want()
            time.sleep(self.pause)
        self.holder = mine
        self._renew_later()

    def _try(self, mine: Holder) -> bool:
        if self._create(mine):
            return True
        self.took_over = self._take_over(mine)
        return self.took_over

    def check(self) -> None:
        """Renew the lease when it is time, and make sure that nobody took over.

        Raises
        ------
        StoreInUseError
            Another process took over while this one did not renew its lease.
        """
        with self._mutex:
            mine = self.holder
            if self.lost:
                raise self._refused()
            if mine is None or time.time() - mine.renewed < LEASE / 5:
                return
            renewed = replace(mine, renewed=time.time())
            if not self._renew(renewed):
                raise self._lose()
            self.holder = renewed

    def release(self) -> None:
        """Let others in. Idempotent."""
        timer, self._renewal = self._renewal, None
        if timer is not None:
            timer.cancel()
        with self._mutex:
            mine, self.holder = self.holder, None
        if mine is not None and mine.pid == os.getpid() and not self.lost:
            self._remove(mine)

    def _is_mine(self, mine: Holder) -> bool:
        found = self.read()
        return found is not None and found.token == mine.token

    def _lose(self) -> StoreInUseError:
        self.lost = True
        return self._refused()

    def _refused(self) -> StoreInUseError:
        found = self.read()
        who = found.describe() if found else "another process"
        return StoreInUseError(f"{self.subject} is in use by {who}; wait for it to end, or end it")

    def _renew_later(self) -> None:
        """Keep the lease while this process lives, however long its tasks take."""
        if self.holder is None:
            return
        timer = threading.Timer(LEASE / 4, _keep, [weakref.ref(self)])
        timer.name, timer.daemon = "savers-lease", True
        self._renewal = timer
        timer.start()


def _keep(reference: weakref.ref[Lock]) -> None:
    lock = reference()
    if lock is None or lock.holder is None or lock.holder.pid != os.getpid():
        return
    try:
        lock.check()
    except (StorageError, StoreInUseError):
        if lock.lost:
            return  # the next commit will tell
    lock._renew_later()  # noqa: SLF001 -- its own timer
