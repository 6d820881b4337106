"""Claims of chunks in a bucket: an object for each, and one that says that its writer lives.

A claim is created where none is (If-None-Match), and replaced where it is the one that was read
(If-Match). It is void once the mark of its writer is gone or its lease ran out; whoever takes over
removes that mark first, so that a writer that merely slept finds out before it records anything.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from savers._labelled._claims import refused
from savers._ledger._lock import Holder, current_holder
from savers._ledger._object_lock import ObjectLock
from savers._stores._store import ChangedError
from savers.errors import StoreInUseError

if TYPE_CHECKING:
    from savers._stores._bucket._store import ObjectStore

__all__ = ["ObjectClaims"]

Index = tuple[int, ...]


class ObjectClaims:
    """The chunks that one writer may merge values into.

    Parameters
    ----------
    store : ObjectStore
        The objects below the prefix of the writers' streams.
    name : str
        The stream of this writer.
    """

    def __init__(self, store: ObjectStore, name: str) -> None:
        self.store = store
        self.name = name
        self.mark = self._mark_of(name)
        self._mine: dict[tuple[str, Index], str] = {}
        self._lock = threading.Lock()

    def _mark_of(self, name: str) -> ObjectLock:
        store = self.store.beside(self.store.prefix)  # a lock remembers versions by itself
        return ObjectLock(store, f"marks/{name}", f"the writer {name}")

    def take(self, array: str, index: Index, advice: str) -> None:
        """Claim a chunk; a writer that claims none asks the store for nothing.

        Raises
        ------
        StoreInUseError
            Another writer merges values into it; `advice` says how to avoid that.
        """
        with self._lock:
            if (array, index) in self._mine:
                return
            key = f"claims/{quote(array, safe='')}@{'.'.join(map(str, index))}"
            there = self._claim(key, self._signed())
            if there is not None:
                raise refused(array, there, advice)
            self._mine[array, index] = key

    def _signed(self) -> bytes:
        """Return what a claim of this writer says; it is seen to live from here on."""
        if self.mark.holder is None:
            self.mark.acquire()
            self.mark.prove()
        mine = self.mark.holder or current_holder()
        return json.dumps(asdict(replace(mine, token=self.name))).encode()

    def _claim(self, key: str, mine: bytes) -> Holder | None:
        """Make a claim this writer's; return who has it where that can't be."""
        while True:
            try:
                self.store.create(key, mine)
            except StoreInUseError:
                found = self.store.get(key)
            else:
                return None
            if found is None:
                continue  # it was released at this moment
            there = Holder(**json.loads(found))
            if self._lives(there):
                return there
            try:
                self.store.put(key, mine)
            except ChangedError:
                continue  # another one took over first
            return None

    def _lives(self, there: Holder) -> bool:
        """Return whether the writer of a claim may go on; one that may not is told so."""
        mark = self._mark_of(there.token)
        if not mark.is_there():
            return False
        if not mark.abandoned():
            return True
        self.store.delete(mark.key)
        return False

    def check(self) -> None:
        """Make sure that nobody took this writer for dead.

        Raises
        ------
        StoreInUseError
            Another writer took a chunk over.
        """
        self.mark.check()

    def release(self, array: str, index: Index) -> None:
        """Let another writer have a chunk."""
        with self._lock:
            key = self._mine.pop((array, index), None)
            if key is not None and not self.mark.lost:
                self.store.delete(key)

    def close(self) -> None:
        """Release all chunks."""
        for array, index in list(self._mine):
            self.release(array, index)
        self.mark.release()
        self.mark.store.close()
        self.store.close()
