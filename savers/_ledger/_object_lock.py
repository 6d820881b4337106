"""One driver a dataset in a bucket: an object that names the holder and when it was last alive.

It is created where none is (If-None-Match), renewed and taken over where it is the one that was
read (If-Match), so that of two that try only one succeeds. It keeps drivers from working in vain;
that a driver which lost it can't commit any more is the business of the ledger's numbered objects.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
import weakref
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from savers._ledger._locks import LEASE, Holder, current_holder, is_dead
from savers._stores._store import ChangedError
from savers.errors import StorageError, StoreInUseError

if TYPE_CHECKING:
    from savers._stores._bucket._store import ObjectStore

__all__ = ["ObjectLock"]

#: Seconds between two looks whether somebody waits for the lock.
LOOK_EVERY = 1.0


class ObjectLock:
    """The lock of one dataset.

    Parameters
    ----------
    store : ObjectStore
        Where the lock lies. Nobody else may use this object: it remembers the lock's version.
    key : str
    subject : str
        What it protects, for messages.
    """

    def __init__(self, store: ObjectStore, key: str, subject: str) -> None:
        self.store = store
        self.key = key
        self.subject = subject
        self.holder: Holder | None = None
        self.took_over = False
        self.lost = False
        self._unproven = False
        self._looked = 0.0
        self._renewal: threading.Timer | None = None
        self._mutex = threading.Lock()

    def read(self) -> Holder | None:
        """Return who holds it, None where nobody does."""
        data = self.store.get(self.key)
        if data is None:
            return None
        try:
            return Holder(**json.loads(data))
        except (ValueError, TypeError):
            return None

    def is_there(self) -> bool:
        """Return whether somebody took the lock and did not let go of it."""
        return self.store.get(self.key) is not None

    def abandoned(self) -> bool:
        """Return whether the last holder died with it."""
        found = self.read()
        return found is not None and is_dead(found, time.time())

    def acquire(self, *, wait: float = 0.0) -> None:
        """Become the holder.

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
            with contextlib.suppress(StorageError, StoreInUseError):
                self.store.put(f"{self.key}.wanted", b"{}")
            time.sleep(0.1)
        self.holder, self._looked = mine, time.monotonic()
        self._renew_later()

    def _try(self, mine: Holder) -> bool:
        try:
            self.store.create(self.key, _dump(mine))
        except StoreInUseError:
            return self._take_over(mine)
        self._unproven = not self.store.requests.proven
        return True

    def _take_over(self, mine: Holder) -> bool:
        """Replace a dead holder; the condition of the put lets only one process do it."""
        found = self.read()
        if found is not None and not is_dead(found, time.time()):
            return False
        if found is None:
            return False  # let go at this moment: the next attempt creates it
        try:
            self.store.put(self.key, _dump(mine))
        except StoreInUseError:
            return False
        self.took_over = True
        return True

    def prove(self) -> None:
        """Find out whether the store honours conditions, where that is not known yet.

        Some take them and ignore them; then nobody is kept out, and is told so.
        """
        mine, unproven, self._unproven = self.holder, self._unproven, False
        if mine is None or not unproven:
            return
        try:
            self.store.create(self.key, _dump(replace(mine, token="probe")))  # noqa: S106 -- no secret
        except StoreInUseError:
            return
        self.store.ignores_conditions()
        self.store.put(self.key, _dump(mine))

    def _refused(self) -> StoreInUseError:
        found = self.read()
        who = found.describe() if found else "another process"
        return StoreInUseError(f"{self.subject} is in use by {who}; wait for it to end, or end it")

    def wanted(self) -> bool:
        """Return whether another process waits for the lock; looks once a second at most."""
        if time.monotonic() - self._looked < LOOK_EVERY:
            return False
        self._looked = time.monotonic()
        wanted = self.store.get(f"{self.key}.wanted") is not None
        if wanted:
            self.store.delete(f"{self.key}.wanted")
        return wanted

    # -- the lease -------------------------------------------------------------------------------

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
            self._renew(mine)

    def assert_held(self) -> None:
        """Look at the lock itself, before something of an unknown writer is replaced.

        Raises
        ------
        StoreInUseError
            Another process holds it.
        """
        mine = self.holder
        if mine is None:
            return
        if not self._is_mine(mine):
            self.lost = True
            raise self._refused()

    def _renew(self, mine: Holder) -> None:
        renewed = replace(mine, renewed=time.time())
        try:
            self.store.put(self.key, _dump(renewed))
        except ChangedError:
            self.lost = True
            raise self._refused() from None
        self.holder = renewed

    def _renew_later(self) -> None:
        if self.holder is None:
            return
        timer = threading.Timer(LEASE / 4, _renew, [weakref.ref(self)])
        timer.name, timer.daemon = "savers-lease", True
        self._renewal = timer
        timer.start()

    def release(self) -> None:
        """Let others in. Idempotent."""
        timer, self._renewal = self._renewal, None
        if timer is not None:
            timer.cancel()
        with self._mutex:
            mine, self.holder = self.holder, None
        if mine is None or mine.pid != os.getpid() or self.lost:
            return
        with contextlib.suppress(StorageError):  # left there, it is a dead holder's
            if time.time() - mine.renewed < LEASE / 2 or self._is_mine(mine):
                self.store.delete(self.key)

    def _is_mine(self, mine: Holder) -> bool:
        found = self.read()
        return found is not None and found.token == mine.token


def _renew(reference: weakref.ref[ObjectLock]) -> None:
    lock = reference()
    if lock is None or lock.holder is None or lock.holder.pid != os.getpid():
        return
    try:
        lock.check()
    except (StorageError, StoreInUseError):
        if lock.lost:
            return  # the next commit will tell
    lock._renew_later()  # noqa: SLF001 -- its own timer


def _dump(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()
