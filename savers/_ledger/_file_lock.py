"""One driver a dataset in a folder: a small file that names the holder.

The file appears by `link`, which fails where one exists on every file system; taking over is
serialized by a second such file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from savers._ledger._lock import Holder, Lock, current_holder, is_dead
from savers._stores._files import make_side_folder, refuse_link, storage_errors, write_all
from savers.errors import StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = ["FileLock", "moment"]

#: Seconds to wait for somebody else's takeover.
PATIENCE = 1.5


class FileLock(Lock):
    """The lock of one dataset.

    Parameters
    ----------
    path : Path
        The lock file.
    subject : str
        What it protects, for messages.
    """

    pause = 0.02

    def __init__(self, path: Path, subject: str) -> None:
        super().__init__(subject)
        self.path = path

    def read(self) -> Holder | None:
        return read_holder(self.path)

    def is_there(self) -> bool:
        return self.path.exists()

    def abandoned(self) -> bool:
        return is_abandoned(self.path)

    def wanted(self) -> bool:
        return self._wanted_file().exists()

    def _want(self) -> None:
        with contextlib.suppress(OSError):  # without it the holder lets go later
            self._wanted_file().touch()

    def _wanted_file(self) -> Path:
        return self.path.with_name(self.path.name + ".wanted")

    def acquire(self, *, wait: float = 0.0) -> None:
        super().acquire(wait=wait)
        with contextlib.suppress(OSError):  # left there, it costs the next updater a turn
            self._wanted_file().unlink(missing_ok=True)

    def _try(self, mine: Holder) -> bool:
        with storage_errors("lock", self.path):
            make_side_folder(self.path.parent)
            refuse_link(self.path)
            return super()._try(mine)

    def _create(self, mine: Holder) -> bool:
        return create_lock_file(self.path, mine)

    def _take_over(self, mine: Holder) -> bool:
        if not is_abandoned(self.path):
            return False
        with self._only_one(mine):
            if not is_abandoned(self.path):
                return False
            self._replace(mine)
        return True

    def _renew(self, renewed: Holder) -> bool:
        with storage_errors("renew the lock", self.path), self._only_one(renewed):
            if not self._is_mine(renewed):
                return False
            self._replace(renewed)
        return True

    def _only_one(self, mine: Holder) -> AbstractContextManager[None]:
        """Whoever replaces the file looks at it first; between the two nobody else replaces it."""
        return _exclusive(self.path.with_name(self.path.name + ".takeover"), mine)

    def _replace(self, holder: Holder) -> None:
        aside = self.path.with_name(f"{self.path.name}.{holder.token}")
        _write(aside, holder)
        os.replace(aside, self.path)

    def _remove(self, mine: Holder) -> None:
        if self._is_mine(mine):
            with contextlib.suppress(OSError):
                self.path.unlink()


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
