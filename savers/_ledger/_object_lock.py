"""One driver a dataset in a bucket: an object that names the holder and when it was last alive.

It is created where none is (If-None-Match), renewed and taken over where it is the one that was
read (If-Match), so that of two that try only one succeeds. It keeps drivers from working in vain;
that a driver which lost it can't commit any more is the business of the ledger's numbered objects.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from savers._ledger._lock import LEASE, Holder, Lock
from savers._stores._store import ChangedError
from savers.errors import StorageError, StoreInUseError

if TYPE_CHECKING:
    from savers._stores._bucket._store import ObjectStore

__all__ = ["ObjectLock"]

#: Seconds between two looks whether somebody waits for the lock.
LOOK_EVERY = 1.0


class ObjectLock(Lock):
    """The lock of one dataset.

    Parameters
    ----------
    store : ObjectStore
        Where the lock lies. Nobody else may use this object: it remembers the lock's version.
    key : str
    subject : str
        What it protects, for messages.
    """

    pause = 0.1

    def __init__(self, store: ObjectStore, key: str, subject: str) -> None:
        super().__init__(subject)
        self.store = store
        self.key = key
        self._unproven = False
        self._looked = 0.0

    def read(self) -> Holder | None:
        data = self.store.get(self.key)
        if data is None:
            return None
        try:
            return Holder(**json.loads(data))
        except (ValueError, TypeError):
            return None

    def is_there(self) -> bool:
        return self.store.get(self.key) is not None

    def wanted(self) -> bool:
        """Return whether another process waits for the lock; looks once a second at most."""
        if time.monotonic() - self._looked < LOOK_EVERY:
            return False
        self._looked = time.monotonic()
        wanted = self.store.get(f"{self.key}.wanted") is not None
        if wanted:
            self.store.delete(f"{self.key}.wanted")
        return wanted

    def _want(self) -> None:
        with contextlib.suppress(StorageError, StoreInUseError):
            self.store.put(f"{self.key}.wanted", b"{}")

    def acquire(self, *, wait: float = 0.0) -> None:
        super().acquire(wait=wait)
        self._looked = time.monotonic()

    def _create(self, mine: Holder) -> bool:
        try:
            self.store.create(self.key, _dump(mine))
        except StoreInUseError:
            return False
        self._unproven = not self.store.requests.proven
        return True

    def _take_over(self, mine: Holder) -> bool:
        """Replace a dead holder; the condition of the put lets only one process do it."""
        return self.abandoned() and self._renew(mine)

    def _renew(self, renewed: Holder) -> bool:
        try:
            self.store.put(self.key, _dump(renewed))
        except ChangedError:
            return False
        return True

    def prove(self) -> None:
        """Find out whether the store honours conditions, where that is not known yet.

        Some take them and ignore them; then nobody is kept out, and is told so.
        """
        mine, unproven, self._unproven = self.holder, self._unproven, False
        if mine is None or not unproven:
            return
        probe = _dump(replace(mine, token="probe"))  # noqa: S106 -- no secret
        if self.store.refuses_twice(self.key, probe):
            return
        self.store.ignores_conditions()
        self.store.put(self.key, _dump(mine))

    def assert_held(self) -> None:
        """Look at the lock itself, before something of an unknown writer is replaced.

        Raises
        ------
        StoreInUseError
            Another process holds it.
        """
        mine = self.holder
        if mine is not None and not self._is_mine(mine):
            raise self._lose()

    def _remove(self, mine: Holder) -> None:
        with contextlib.suppress(StorageError):  # left there, it is a dead holder's
            if time.time() - mine.renewed < LEASE / 2 or self._is_mine(mine):
                self.store.delete(self.key)


def _dump(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()
