"""The ledger: an append-only stream of records that is the truth about what is saved.

One stream belongs to one dataset, and only the holder of its lock appends to it. Opening replays
the newest stream and goes on in a new one that begins with a snapshot, so a ledger stays as small
as its state and a writer that lost its lock appends to a stream nobody reads.
"""

from __future__ import annotations

import contextlib
import errno
import uuid
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from savers._ledger._file_stream import FileStream, StreamLostError
from savers._ledger._frames import Frame, encode_frame, raw_offset, read_frames
from savers._ledger._home import Home, stream_prefix
from savers._ledger._object_stream import ObjectStream, RecordInDoubtError, saved_after_all
from savers._ledger._records import fold, snapshot
from savers._ledger._state import PieceRef, State
from savers._stores._files import make_side_folder
from savers.errors import LedgerCorruptedError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["FORMAT", "Ledger", "replay"]

#: Version of the ledger format; raised when an older reader would misread a newer ledger.
FORMAT = 1
#: A stream is compacted once it has grown by this many bytes beyond four times its snapshot.
COMPACT_BYTES = 16 << 20
#: Streams of former writers of which the seal is kept, so that no late append of theirs succeeds.
MOST_SEALS = 100
#: The same when it is closed: what is left lying is small, or mostly true.
TIDY_BYTES = 1 << 20


def replay(home: Home, dataset: str) -> tuple[State, str]:
    """Return the state of a dataset and the name of its stream ("" where it has none).

    Raises
    ------
    LedgerCorruptedError
        A record before the last one is damaged, or the format is newer than this program.
    """
    state, names, _ = _replay(home, dataset)
    return state, names[-1] if names else ""


def _replay(home: Home, dataset: str) -> tuple[State, list[str], memoryview | None]:
    names, data = home.streams(dataset), None
    while names and data is None:
        data = home.load(names[-1])
        if data is None:  # its owner went on in a new stream at this moment
            names = home.streams(dataset)
    if data is None:
        return State(), [], None
    state = State()
    for frame in read_frames(data, names[-1]):
        _fold(state, frame, names[-1])
    return state, names, data


#: What folding a record that says nonsense raises.
_NONSENSE = (KeyError, ValueError, TypeError, IndexError, OverflowError, AttributeError, zlib.error)


def _fold(state: State, frame: Frame, name: str) -> None:
    """A record whose checksum is right may still come from a broken or hostile program."""
    try:
        _check_format(frame.record, name)
        fold(state, frame.record, frame.raw, frame.raw_at)
    except _NONSENSE as error:
        at = frame.raw_at + len(frame.raw)
        message = f"ledger {name} holds a record before byte {at} that makes no sense: {error!r}"
        raise LedgerCorruptedError(message) from error


def _check_format(record: dict[str, Any], name: str) -> None:
    if record["kind"] == "header" and record["format"] > FORMAT:
        message = f"ledger {name} has format {record['format']}, this program reads up to {FORMAT}"
        raise LedgerCorruptedError(message)


class Unsure(NamedTuple):
    """A new stream of which it is not known whether it is there, with all that it is to hold."""

    stream: FileStream | ObjectStream
    name: str
    frames: list[bytes]
    first: bytes


class Ledger:
    """The open ledger of a dataset: its state, and the stream that new records go to.

    Parameters
    ----------
    home : Home
    dataset : str
    synced : bool
        True: records are fsynced (``durability="power"``).
    """

    def __init__(self, home: Home, dataset: str, *, synced: bool) -> None:
        self.home = home
        self.dataset = dataset
        self.synced = synced
        self.state, self._names, self._read_old = _replay(home, dataset)
        self._old = self._names[-1] if self._names else ""
        self._begun = False
        self._unsure: Unsure | None = None
        self._behind = False  # True once the stream holds a record that the state does not
        self._stream: FileStream | ObjectStream | None = None
        self._snapshot = 0  # bytes of the stream when it began
        self._compact_at = 0
        self._lost = False

    @property
    def existed(self) -> bool:
        """True when there was a ledger before this one was opened."""
        return bool(self._old) and (self.home.folder is not None or bool(self.state.store_id))

    @property
    def in_doubt(self) -> bool:
        """True while a record may stand although its writer was told that it failed."""
        doubtful = isinstance(self._stream, ObjectStream) and self._stream.in_doubt
        return self._unsure is not None or self._behind or doubtful

    def is_current(self) -> bool:
        """Return whether the store has what this writer put there last, and nothing newer."""
        names = self.home.streams(self.dataset)
        if self._stream is None or names[-1:] != [self._old]:
            return names[-1:] == ([self._old] if self._old else [])
        return len(self.home.load(self._old) or b"") == self._stream.size

    def set_aside(self) -> str:
        """Take the streams out of use; return where the newest one went."""
        where = ""
        for name in self.home.streams(self.dataset):
            where = self.home.set_aside(name)
        return where

    def begin(self, store_id: str | None = None) -> None:
        """Start the stream that this writer appends to, with a snapshot of the state.

        A new ledger comes into being with its first record.
        """
        while self._old and not self.home.seal(self._old):  # the last writer is still at it
            self._replay()
        self.state.store_id = store_id or self.state.store_id or uuid.uuid4().hex
        self._begun = True
        if self._old:
            self._compact()

    def fence(self) -> None:
        """Keep a writer that was taken over before its first record from beginning the ledger."""
        if self.existed or not self.home.seals:
            return
        name = self._next_name()
        if self.home.seal_unborn(name):
            self._old, self._names = name, [*self._names, name]
        else:  # it has begun it
            self._replay()

    def _replay(self) -> None:
        self.state, self._names, self._read_old = _replay(self.home, self.dataset)
        self._old = self._names[-1] if self._names else ""

    def _next_name(self) -> str:
        epoch = int(self._old.rpartition("@")[2] or "0") + 1 if self._old else 1
        return f"{stream_prefix(self.dataset)}{epoch:08d}"

    def _compact(self, first: bytes = b"") -> int:
        """Go on in a new stream; return where its `first` frame after the snapshot begins."""
        name = self._next_name()
        header = {"kind": "header", "format": FORMAT, "store": self.state.store_id,
                  "dataset": self.dataset}  # fmt: skip
        records = [(header, []), *snapshot(self.state, self.read)]
        stream = self.home.stream(name, synced=self.synced)
        frames = [encode_frame(record, raw) for record, raw in records]
        if self.home.folder is not None:
            make_side_folder(self.home.folder)
        try:
            stream.create([*frames, first])
        except RecordInDoubtError:
            self._unsure = Unsure(stream, name, frames, first)
            raise
        self._replace_stream(stream, name, frames)
        self._lost = False
        return stream.size - len(first)

    def _replace_stream(
        self, stream: FileStream | ObjectStream, name: str, frames: list[bytes]
    ) -> None:
        """Go on in the new stream; pieces are from now on read from it."""
        self._old = name
        before, self._stream, self._read_old = self._stream, stream, None
        fresh = State()
        for frame in read_frames(memoryview(b"".join(frames)), name):
            if frame.record["kind"] in ("array", "header"):
                fold(fresh, frame.record, frame.raw, frame.raw_at)
        for mine, theirs in (
            (self.state.arrays, fresh.arrays),
            (self.state.pending, fresh.pending),
        ):
            for key, array in mine.items():
                array.loose = theirs[key].loose
        self._snapshot = sum(map(len, frames))
        self._compact_at = 4 * self._snapshot + COMPACT_BYTES
        if before is not None:
            before.remove()
            before.close()
            return
        for number, old in enumerate(reversed(self._names)):
            self.home.remove(old, sealed=number < MOST_SEALS)

    def append(self, record: dict[str, Any], raw: Sequence[bytes] = ()) -> None:
        """Append a record and fold it into the state: from here on it is true.

        Raises
        ------
        StorageError
            It could not be written (or synced); the ledger is as before.
        """
        if self._lost:
            self._compact()
        frame = encode_frame(record, raw)
        begin = self._write(frame)
        raw_at = raw_offset(frame)
        fold(self.state, record, memoryview(frame)[raw_at:-1], begin + raw_at)
        stream = self._open_stream()
        if stream.full or stream.size > self._compact_at:
            self._compact_at += COMPACT_BYTES  # tried again later where there is no room now
            with contextlib.suppress(StorageError):
                self._compact()

    def settle(self) -> None:
        """Find out what became of a record to which a store did not answer.

        Before it returns, no record may be appended and no chunk be put.

        Raises
        ------
        RecordInDoubtError
            It stands, although its writer was told that it failed.
        """
        unsure = self._unsure
        if unsure is not None:  # a newer stream may be there, and be read instead of this one
            if not unsure.stream.size:
                unsure.stream.create([*unsure.frames, unsure.first])
            if unsure.first:
                raise saved_after_all(unsure.name)
            self._unsure = None
            self._replace_stream(unsure.stream, unsure.name, unsure.frames)
        if isinstance(self._stream, ObjectStream):
            self._behind = self._stream.settle() or self._behind
        if self._behind:
            raise saved_after_all(self._old)

    def _write(self, frame: bytes) -> int:
        """Write a frame to the stream, or begin the stream with it; return where it begins."""
        if self._stream is None and self._begun:
            return self._compact(frame)
        try:
            return self._open_stream().append(frame)
        except StreamLostError:
            self._lost = True
            raise

    def _open_stream(self) -> FileStream | ObjectStream:
        if self._stream is None:
            message = f"the ledger of {self.dataset!r} is not open for writing"
            raise StorageError(errno.EBADF, message)
        return self._stream

    def read(self, piece: PieceRef) -> bytes:
        """Return the bytes of a piece."""
        if self._stream is None and self._read_old is not None:
            return bytes(self._read_old[piece.at : piece.at + piece.size])
        return self._open_stream().read(piece.at, piece.size)

    def tidy(self) -> None:
        """Before closing: leave a stream behind that is not much larger than what it says.

        In a bucket, where each old record costs a request, that is left to the next opening.
        """
        stream = self._stream
        if isinstance(stream, FileStream) and stream.size > 4 * self._snapshot + TIDY_BYTES:
            with contextlib.suppress(StorageError):  # no room: the longer stream is as true
                self._compact()

    def close(self) -> None:
        """Close the stream. Idempotent."""
        self._begun = False
        if self._stream is not None:
            self._stream.close()
            self._stream = None
