"""A record stream for each writer of labelled arrays, and the one state that all of them add up to.

Arrays and labels are in the dataset's own stream, which changes hands with its lock. What was
written is in streams of their own, one a writer, so that writers never wait for each other. A
writer that closes hands its records over to the dataset; what a dead one left is read where it is.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from typing import TYPE_CHECKING, Any

from savers._ledger._file_lock import FileLock, is_abandoned
from savers._ledger._frames import encode_frame, read_frames
from savers._ledger._home import Home, stream_prefix
from savers._ledger._ledger import FORMAT, replay
from savers._ledger._object_stream import ObjectStream
from savers._ledger._records import fold
from savers._stores._files import make_side_folder
from savers.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from savers._ledger._file_stream import FileStream
    from savers._ledger._state import State

__all__ = ["Replica", "WriterStream", "is_writing", "writers_of"]

#: The streams whose records the dataset's own stream has taken over, in its settings.
TAKEN = "taken_over"


def writers_of(home: Home) -> Home:
    """Return where the streams of writers lie, for the ledger at `home`."""
    if home.folder is not None:
        return Home(home.folder / "writers", None)
    return Home(None, home.store, f"{home.prefix}writers/")


class WriterStream:
    """The records of one writer; nobody else appends to it.

    Parameters
    ----------
    home : Home
        That of the writers.
    dataset : str
    store_id : str
    synced : bool
        True: records are fsynced.
    """

    def __init__(self, home: Home, dataset: str, store_id: str, *, synced: bool) -> None:
        self.home = home
        self.name = stream_prefix(dataset) + uuid.uuid4().hex
        self.count = 0
        self._header = {
            "kind": "header", "format": FORMAT, "store": store_id, "dataset": dataset
        }  # fmt: skip
        self._synced = synced
        self._stream: FileStream | ObjectStream | None = None
        self._lock: FileLock | None = None
        self._appending = threading.Lock()

    def sign_on(self) -> FileLock | None:
        """Show that this writer lives; None for stores that have no locks."""
        if self._lock is None and self.home.folder is not None:
            self._lock = FileLock(self.home.folder / f"{self.name}.lock", f"the writer {self.name}")
            self._lock.acquire()
        return self._lock

    def append(self, record: dict[str, Any]) -> None:
        """Append a record: from here on it is true.

        Raises
        ------
        StorageError
            It could not be written; the stream is as before.
        """
        with self._appending:
            if self._stream is None:
                self.sign_on()
                stream = self.home.stream(self.name, synced=self._synced)
                if self.home.folder is not None:
                    make_side_folder(self.home.folder)
                stream.create([encode_frame(self._header)])
                self._stream = stream
            if isinstance(self._stream, ObjectStream):
                self._stream.settle()  # said twice, a record says the same
            self._stream.append(encode_frame(record))
            self.count += 1

    def close(self, *, remove: bool = False) -> None:
        """Let go of the stream; with `remove` its records lie elsewhere by now. Idempotent."""
        if self._stream is not None:
            self._stream.close()
            if remove:
                self.home.remove(self.name)
        self._stream = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def is_writing(home: Home, name: str) -> bool:
    """Return whether the writer of a stream lives; one without locks counts as living."""
    if home.folder is None:
        return True
    lock: Path = home.folder / f"{name}.lock"
    return lock.exists() and not is_abandoned(lock)


class Replica:
    """The state of a dataset with the records of all its writers, read as far as they go.

    Parameters
    ----------
    home : Home
    dataset : str
    look : callable
        Called before each look, for stores that must be told to see what others committed.
    """

    def __init__(self, home: Home, dataset: str, look: Callable[[], None] = lambda: None) -> None:
        self.look = look
        self.home = home
        self.writers = writers_of(home)
        self.dataset = dataset
        self._state: State | None = None
        self._stamp: tuple[str, int] = ("", -1)
        self._read: dict[str, int] = {}
        self._reading = threading.Lock()

    def refresh(self) -> State:
        """Return the state as it is now.

        Raises
        ------
        LedgerCorruptedError
            A record is damaged.
        """
        with self._reading:
            self.look()
            while True:
                stamp = self._main_stamp()
                if self._state is None or stamp != self._stamp:
                    self._state, _ = replay(self.home, self.dataset)
                    self._stamp, self._read = stamp, {}
                self._read_writers(self._state)
                self.look()
                if self._main_stamp() == stamp:
                    return self._state
                self._state = None

    def follow(self, state: State) -> None:
        """Add to the state of who holds the dataset what writers recorded since the last time.

        Raises
        ------
        LedgerCorruptedError
            A record is damaged.
        """
        with self._reading:
            if self._state is not state:
                self._state, self._read = state, {}
            staged = state.staged  # of the dataset's own last record
            self._read_writers(state)
            state.staged = staged

    def _main_stamp(self) -> tuple[str, int]:
        names = self.home.streams(self.dataset)
        return (names[-1], self.home.extent(names[-1])) if names else ("", 0)

    def _read_writers(self, state: State) -> None:
        taken = set(state.settings.get(TAKEN, ()))
        for name in self.writers.streams(self.dataset):
            if name not in taken:
                self._read_stream(state, name)

    def _read_stream(self, state: State, name: str) -> None:
        data, begin = self.writers.load(name), self._read.get(name, 0)
        if data is None or len(data) <= begin:
            return
        for frame in read_frames(data[begin:], name):
            if frame.record["kind"] == "commit":
                fold(state, frame.record, frame.raw, 0)
            self._read[name] = begin + frame.end

    def dead(self) -> list[str]:
        """Return the streams whose writers are gone."""
        return [
            name
            for name in self.writers.streams(self.dataset)
            if not is_writing(self.writers, name)
        ]

    def records(self, names: list[str]) -> list[dict[str, Any]]:
        """Return all commits of some streams."""
        return [
            frame.record
            for name in names
            for frame in read_frames(self.writers.load(name) or memoryview(b""), name)
            if frame.record["kind"] == "commit"
        ]

    def remove(self, names: list[str]) -> None:
        """Remove streams that were taken over, with the marks of their writers."""
        for name in names:
            self.writers.remove(name)
            if self.writers.folder is not None:
                with contextlib.suppress(OSError, StorageError):
                    (self.writers.folder / f"{name}.lock").unlink()
