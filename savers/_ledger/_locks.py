"""One driver a dataset: who holds it, and when a dead holder is taken over.

A lock is a small file that names its holder: host, boot, process and the time that process
started. On the same host a holder is dead when that very process is gone (a process id alone can
be used again); on another host when its lease ran out. The file appears by `link`, which fails
where one exists on every file system; taking over is serialized by a second such file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
import weakref
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from savers._stores._files import make_side_folder, refuse_link, storage_errors, write_all
from savers.errors import StorageError, StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

__all__ = ["Holder", "Lock", "current_holder"]

#: Seconds after which a holder on another host that did not renew its lease counts as dead.
LEASE = 60.0
#: Seconds to wait for somebody else's takeover.
PATIENCE = 1.5


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


class Lock:
    """The lock of one dataset.

    Parameters
    ----------
    path : Path
        The lock file.
    subject : str
        What it protects, for messages.
    """

    def __init__(self, path: Path, subject: str) -> None:
        self.path = path
        self.subject = subject
        self.holder: Holder | None = None
        self.took_over = False
        self.lost = False
        self._renewal: threading.Timer | None = None
        self._mutex = threading.Lock()

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
            with contextlib.suppress(OSError):  # without it the holder lets go later
                self._wanted_file().touch()
            time.sleep(0.02)
        with contextlib.suppress(OSError):  # left there, it costs the next updater a turn
            self._wanted_file().unlink(missing_ok=True)
        self.holder = mine
        self._renew_later()

    def read(self) -> Holder | None:
        """Return who the lock names; None where it can't be read."""
        return read_holder(self.path)

    def is_there(self) -> bool:
        """Return whether somebody took the lock and did not let go of it."""
        return self.path.exists()

    def abandoned(self) -> bool:
        """Return whether the last holder died with it."""
        return is_abandoned(self.path)

    def _wanted_file(self) -> Path:
        return self.path.with_name(self.path.name + ".wanted")

    def wanted(self) -> bool:
        """Return whether another process waits for the lock."""
        return self._wanted_file().exists()

    def _try(self, mine: Holder) -> bool:
        with storage_errors("lock", self.path):
            make_side_folder(self.path.parent)
            refuse_link(self.path)
            if create_lock_file(self.path, mine):
                return True
            return is_abandoned(self.path) and self._take_over(mine)

    def _take_over(self, mine: Holder) -> bool:
        """Replace a dead holder; only one process at a time gets to look and replace."""
        with self._only_one(mine):
            if not is_abandoned(self.path):
                return False
            self._replace(mine)
        self.took_over = True
        return True

    def _refused(self) -> StoreInUseError:
        found = read_holder(self.path)
        who = found.describe() if found else "another process"
        message = f"{self.subject} is in use by {who}; wait for it to end, or end it"
        return StoreInUseError(message)

    def _renew_later(self) -> None:
        """Keep the lease while this process lives, however long its tasks take."""
        if self.holder is None:
            return
        timer = threading.Timer(LEASE / 4, _renew, [weakref.ref(self)])
        timer.name, timer.daemon = "savers-lease", True
        self._renewal = timer
        timer.start()

    def check(self) -> None:
        """Renew the lease, and make sure that nobody took over in the meantime.

        Raises
        ------
        StoreInUseError
            Another process took over while this one did not renew its lease.
        """
        with self._mutex:
            self._check()

    def _check(self) -> None:
        mine = self.holder
        if self.lost:
            raise self._refused()
        if mine is None or time.time() - mine.renewed < LEASE / 5:
            return
        renewed = replace(mine, renewed=time.time())
        with storage_errors("renew the lock", self.path), self._only_one(mine):
            found = read_holder(self.path)
            if found is None or found.token != mine.token:
                self.lost = True
                raise self._refused()
            self._replace(renewed)
        self.holder = renewed

    def _only_one(self, mine: Holder) -> AbstractContextManager[None]:
        """Whoever replaces the file looks at it first; between the two nobody else replaces it."""
        return _exclusive(self.path.with_name(self.path.name + ".takeover"), mine)

    def _replace(self, holder: Holder) -> None:
        aside = self.path.with_name(f"{self.path.name}.{holder.token}")
        _write(aside, holder)
        os.replace(aside, self.path)

    def release(self) -> None:
        """Let others in. Idempotent."""
        timer, self._renewal = self._renewal, None
        if timer is not None:
            timer.cancel()
        with self._mutex:
            mine, self.holder = self.holder, None
        if mine is None or mine.pid != os.getpid():
            return
        found = read_holder(self.path)
        if found is not None and found.token == mine.token:
            with contextlib.suppress(OSError):
                self.path.unlink()


def _renew(reference: weakref.ref[Lock]) -> None:
    lock = reference()
    if lock is None or lock.holder is None or lock.holder.pid != os.getpid():
        return
    try:
        lock.check()
    except (StorageError, StoreInUseError):
        if lock.lost:
            return  # the next commit will tell
    lock._renew_later()  # noqa: SLF001 -- its own timer


def read_holder(path: Path) -> Holder | None:
    """Return the holder that a lock file names; None where it can't be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "rb") as file:
            return Holder(**json.loads(file.read(4096)))
    except (OSError, ValueError, TypeError):
        return None


def is_abandoned(path: Path) -> bool:
    """Return whether a lock file names a dead holder, or nobody.

    Its content is there before its name, so that only a power cut can have taken it.
    """
    found = read_holder(path)
    if found is not None:
        return is_dead(found, time.time())
    return path.is_file() and not path.is_symlink() and read_holder(path) is None


def _write(path: Path, holder: Holder) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o600)
    try:
        write_all(descriptor, json.dumps(asdict(holder)).encode())
    finally:
        os.close(descriptor)


def create_lock_file(path: Path, holder: Holder) -> bool:
    """Make the lock file appear whole, where there is none."""
    aside = path.with_name(f"{path.name}.{holder.token}")
    _write(aside, holder)
    try:
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(aside)
    return True


@contextlib.contextmanager
def _exclusive(path: Path, mine: Holder) -> Iterator[None]:
    """Hold `path` for a moment. A holder that died there is passed by once it is dead.

    Processes of one host queue at the folder's `flock`, so that between them the file is never
    contested; the file alone serves hosts (and file systems) that `flock` does not reach.
    """
    deadline = time.monotonic() + PATIENCE
    with _queue(path.parent, deadline) as my_turn:
        while not create_lock_file(path, mine):
            if is_abandoned(path) or (my_turn and _left_by(mine, path)):
                with contextlib.suppress(OSError):
                    path.unlink()
            elif time.monotonic() >= deadline:
                found = read_holder(path)
                message = f"{path} is held by {found.describe() if found else 'another process'}"
                raise StoreInUseError(message)
            else:
                time.sleep(0.01)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _left_by(mine: Holder, path: Path) -> bool:
    """Return whether this very process left the file: it is its turn now, so it is not held."""
    found = read_holder(path)
    return found is not None and (found.host, found.boot, found.pid, found.started) == (
        mine.host,
        mine.boot,
        mine.pid,
        mine.started,
    )


@contextlib.contextmanager
def _queue(folder: Path, deadline: float) -> Iterator[bool]:
    """Wait for the folder's `flock`; yields whether it was got."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    got = False
    try:
        while time.monotonic() < deadline and not got:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.002)
            except OSError:
                break  # a file system without flock
            else:
                got = True
        yield got
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def moment(path: Path) -> Iterator[None]:
    """Hold `path` for a short critical section between processes."""
    with contextlib.ExitStack() as stack:
        with storage_errors("lock", path):
            make_side_folder(path.parent)
            refuse_link(path)
            stack.enter_context(_exclusive(path, current_holder()))
        yield
