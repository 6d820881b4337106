"""The records of a writer as objects, numbered; each is created where none is.

Whoever takes a dataset over first seals the stream of the last writer: the object that comes next
is created empty. A writer that wakes up late then can't append any more, whatever
its clock told it.
"""

from __future__ import annotations

import contextlib
import errno
import uuid
from collections import deque
from typing import TYPE_CHECKING

from savers._ledger._frames import encode_frame
from savers.errors import LedgerCorruptedError, StorageError, StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from savers._stores._store import KeyStore

__all__ = ["ObjectStream", "RecordInDoubtError", "load_stream", "saved_after_all", "seal_stream"]

#: Objects after which a stream is compacted.
MOST_OBJECTS = 100
#: Bytes of the newest records that are kept in memory.
MOST_KEPT = 16 << 20


class RecordInDoubtError(StorageError):
    """A store did not answer: a record may stand, or may not. The next opening finds out."""


def saved_after_all(name: str) -> RecordInDoubtError:
    """Return what tells of a record that stands although its writer was told that it failed."""
    message = f"{name} holds what seemed to fail before: it is saved; make the saver anew"
    return RecordInDoubtError(errno.EIO, message)


class ObjectStream:
    """Records in a store without appends: one object each, numbered.

    Parameters
    ----------
    store : KeyStore
    prefix : str
        Of the keys, without the slash.
    """

    def __init__(self, store: KeyStore, prefix: str) -> None:
        self.store = store
        self.prefix = prefix
        self.size = 0
        self._begins: list[int] = []
        self._kept: deque[tuple[int, bytes]] = deque()
        self._kept_bytes = 0
        self._doubtful = b""  # the record that may stand or not

    @property
    def in_doubt(self) -> bool:
        """True while a record may stand or not."""
        return bool(self._doubtful)

    @property
    def full(self) -> bool:
        """True when so many objects are better put together."""
        return len(self._begins) >= MOST_OBJECTS

    def create(self, frames: Sequence[bytes]) -> None:
        """Begin the stream with `frames` in one object."""
        self.append(b"".join(frames))

    def append(self, frame: bytes) -> int:
        """Put one frame; return where it begins.

        Raises
        ------
        StoreInUseError
            Another writer took over.
        RecordInDoubtError
            The store did not answer; `settle` finds out.
        """
        try:
            self.store.create(_key(self.prefix, len(self._begins)), frame)
        except StorageError as error:
            self._doubtful = frame
            raise RecordInDoubtError(error.errno, str(error)) from error
        return self._add(frame)

    def settle(self) -> bool:
        """Find out whether a record in doubt stands, and keep it from arriving late.

        Its place is taken by a record that says nothing, unless it has arrived.

        Returns
        -------
        bool
            True where it stands, although its writer was told that it failed.

        Raises
        ------
        StoreInUseError
            Another writer took over.
        """
        doubtful = self._doubtful
        if not doubtful:
            return False
        key = _key(self.prefix, len(self._begins))
        nothing = {"kind": "settings", "settings": {}, "instead": uuid.uuid4().hex}
        frame = encode_frame(nothing)
        stands = self.store.get(key) == doubtful  # a store without conditions would not tell
        if not stands:
            try:
                self.store.create(key, frame)
            except StoreInUseError:
                if self.store.get(key) != doubtful:
                    raise
                stands = True
        self._add(doubtful if stands else frame)
        return stands

    def _add(self, frame: bytes) -> int:
        begin, self._doubtful = self.size, b""
        self._begins.append(begin)
        self._keep(begin, frame)
        self.size += len(frame)
        return begin

    def _keep(self, begin: int, frame: bytes) -> None:
        self._kept.append((begin, frame))
        self._kept_bytes += len(frame)
        while len(self._kept) > 1 and self._kept_bytes > MOST_KEPT:
            self._kept_bytes -= len(self._kept.popleft()[1])

    def read(self, at: int, size: int) -> bytes:
        """Return bytes of the stream."""
        begin, frame = self._frame(at)
        return frame[at - begin : at - begin + size]

    def _frame(self, at: int) -> tuple[int, bytes]:
        for begin, frame in reversed(self._kept):
            if begin <= at:
                return begin, frame
        number = next(n for n in reversed(range(len(self._begins))) if self._begins[n] <= at)
        key = _key(self.prefix, number)
        found = self.store.get(key)
        if found is None:
            message = f"{key} of the ledger is gone"
            raise StorageError(message)
        return self._begins[number], found

    def remove(self) -> None:
        """Remove the stream, whose place another one took."""
        keys = [_key(self.prefix, number) for number in range(len(self._begins))]
        with contextlib.suppress(StorageError):  # left there, the next opening removes it
            self.store.delete_all(keys)

    def close(self) -> None:
        """Forget the stream. Idempotent."""
        self._kept.clear()


def _key(prefix: str, number: int) -> str:
    return f"{prefix}/{number:012d}"


def load_stream(store: KeyStore, prefix: str) -> list[bytes] | None:
    """Return the objects of a stream; None where one of them was removed since they were listed.

    Raises
    ------
    LedgerCorruptedError
        A number is missing among them.
    """
    keys = sorted(store.list(f"{prefix}/"))
    for number, key in enumerate(keys):
        if key != _key(prefix, number):
            if not list(store.list(_key(prefix, 0))):
                return None  # its owner went on in a new stream, and is removing this one
            message = f"ledger {prefix} lacks its record object number {number}"
            raise LedgerCorruptedError(message)
    found = store.get_all(keys)
    return [data for data in found if data is not None] if None not in found else None


def seal_stream(store: KeyStore, prefix: str, count: int) -> bool:
    """Keep the writer of a stream from appending; False where it holds more than `count` objects.

    It is sealed whatever its writer does: of two objects with one number only one is created.
    """
    try:
        store.create(_key(prefix, count), b"")
    except StoreInUseError:
        return False
    return True
