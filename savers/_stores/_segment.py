"""Chunk objects in one append-only file, until a single-file format puts its file together.

A frame is a header of 24 bytes (``SEGF``, length of the JSON object, length of the raw bytes,
CRC-32C of the JSON object and of the header), the JSON object and the raw bytes. The JSON object
says what the frame does: ``{"put": key}``, ``{"stage": token}``, ``{"move": [token, key]}``,
``{"drop": key}``. The frames in their order give the index, so a crash loses nothing but a torn
last frame. That an object is whole is not checked here: the ledger knows its checksum.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import struct
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from crc32c import crc32c

from savers._stores._files import make_side_folder, storage_errors, sync_folder, write_parts

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from pathlib import Path

__all__ = ["Segment"]

_HEADER = struct.Struct("<4sIQI")
_CHECK = struct.Struct("<I")
_MARK = b"SEGF"
_LENGTH = _HEADER.size + _CHECK.size

Bytes = bytes | bytearray | memoryview


class Place(NamedTuple):
    """Where the bytes of an object lie in the segment."""

    at: int
    size: int


class Segment:
    """The segment of one dataset. Safe to use from threads; one process at a time appends.

    Parameters
    ----------
    path : Path
        In the ledger's folder; made with the first object.
    synced : bool
        True: `sync` returns once everything survives a power cut.
    """

    def __init__(self, path: Path, *, synced: bool) -> None:
        self.path = path
        self.synced = synced
        self._mutex = threading.RLock()
        self._objects: dict[str, Place] = {}
        self._staged: dict[str, Place] = {}
        self._descriptor = -1
        self._seen = (0, 0)  # inode and bytes of the file as the index has it
        self._end = 0  # of the last whole frame
        self._dirty = False  # something is not yet fsynced
        self._lost = False  # what was to be fsynced may be gone

    # -- reading -----------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        """Return an object, None where there is none."""
        with self._mutex:
            self._refresh()
            return self._read(self._objects.get(key))

    def get_staged(self, token: str) -> bytes | None:
        """Return an object that is aside, None where there is none."""
        with self._mutex:
            self._refresh()
            return self._read(self._staged.get(token))

    def names(self) -> list[str]:
        """Return the keys of all objects."""
        with self._mutex:
            self._refresh()
            return list(self._objects)

    def staged(self) -> list[str]:
        """Return the tokens of all objects aside."""
        with self._mutex:
            self._refresh()
            return list(self._staged)

    def size(self, keys: Collection[str]) -> int:
        """Return the bytes of some of the objects."""
        with self._mutex:
            return sum(self._objects[key].size for key in keys)

    def _read(self, place: Place | None) -> bytes | None:
        if place is None:
            return None
        with storage_errors("read", self.path):
            data = os.pread(self._descriptor, place.size, place.at)
            while len(data) < place.size:  # one call moves at most 2 GiB
                more = os.pread(self._descriptor, place.size - len(data), place.at + len(data))
                if not more:
                    raise OSError(errno.EIO, "the segment ends before the object does")
                data += more
        return data

    def _refresh(self) -> None:
        """Bring the index up to the file, which another process may have written."""
        with storage_errors("read", self.path):
            try:
                found = os.stat(self.path, follow_symlinks=False)
            except FileNotFoundError:
                self._forget()
                return
            if (found.st_ino, found.st_size) == self._seen:
                return
            if self._descriptor < 0 or found.st_ino != self._seen[0]:
                self._forget()
                flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
                self._descriptor = os.open(self.path, flags)
                found = os.fstat(self._descriptor)
            self._scan(found.st_size)
            self._seen = (found.st_ino, found.st_size)

    def _scan(self, size: int) -> None:
        if size <= self._end:
            return
        with mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ) as data:
            for record, place in _frames(data, self._end):
                self._fold(record, place)
                self._end = place.at + place.size

    def _fold(self, record: dict[str, Any], place: Place) -> None:
        if "put" in record:
            self._objects[record["put"]] = place
        elif "stage" in record:
            self._staged[record["stage"]] = place
        elif "move" in record:
            token, key = record["move"]
            if token in self._staged:
                self._objects[key] = self._staged.pop(token)
        else:
            self._objects.pop(record["drop"], None)
            self._staged.pop(record["drop"], None)

    # -- writing -----------------------------------------------------------------------------------

    def put(self, key: str, parts: Sequence[Bytes]) -> None:
        """Append an object under its key, in the place of any older one."""
        self._append({"put": key}, parts)

    def stage(self, token: str, parts: Sequence[Bytes]) -> None:
        """Append an object aside."""
        self._append({"stage": token}, parts)

    def move(self, token: str, key: str) -> None:
        """Give an object that is aside its key."""
        self._append({"move": [token, key]})

    def drop(self, key: str) -> None:
        """Forget an object, or one that is aside; no error where there is none."""
        with self._mutex:
            self._refresh()
            if key in self._objects or key in self._staged:
                self._append({"drop": key})

    def _append(self, record: dict[str, Any], parts: Sequence[Bytes] = ()) -> None:
        head = _head(record, sum(map(len, parts)))
        with self._mutex, storage_errors("append to", self.path):
            self._refresh()
            self._open_for_writing()
            self._write([head, *parts])
            place = Place(self._end + len(head), sum(map(len, parts)))
            self._end = place.at + place.size
            self._seen = (self._seen[0], self._end)
            self._fold(record, place)
            self._dirty = True

    def _open_for_writing(self) -> None:
        if self._descriptor >= 0:
            if self._seen[1] > self._end:  # half a frame, which would hide what follows
                os.ftruncate(self._descriptor, self._end)
            return
        make_side_folder(self.path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        self._descriptor = os.open(self.path, flags, 0o600)
        self._seen = (os.fstat(self._descriptor).st_ino, 0)

    def _write(self, parts: Sequence[Bytes]) -> None:
        """Append whole or not at all."""
        try:
            os.lseek(self._descriptor, self._end, os.SEEK_SET)
            write_parts(self._descriptor, parts)
        except BaseException:
            with contextlib.suppress(OSError):  # tried again before the next append
                os.ftruncate(self._descriptor, self._end)
            raise

    def sync(self) -> None:
        """Return once everything survives a power cut, where that was asked for."""
        with self._mutex:
            if not (self.synced and self._dirty):
                return
            with storage_errors("sync", self.path):
                if self._lost:  # a failed fsync may have dropped the pages: written again
                    self._rewrite(list(self._objects))
                self._lost = True
                os.fsync(self._descriptor)
                sync_folder(self.path.parent)
                sync_folder(self.path.parent.parent)
            self._dirty = self._lost = False

    def keep(self, keys: Collection[str]) -> None:
        """Forget all objects but these; without any the file is removed."""
        with self._mutex:
            self._refresh()
            if self._descriptor < 0 or self._objects.keys() == set(keys):
                return
            with storage_errors("replace", self.path):
                if keys:
                    self._rewrite(keys)
                else:
                    self.path.unlink()
                    self._forget()

    def _rewrite(self, keys: Collection[str]) -> None:
        """Go on in a new file with these objects and all that are aside."""
        aside = self.path.with_name(self.path.name + ".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(aside, flags, 0o600)
        try:
            for what, table, names in (
                ("put", self._objects, keys),
                ("stage", self._staged, list(self._staged)),
            ):
                for name in names:
                    data = self._read(table[name]) or b""
                    write_parts(descriptor, [_head({what: name}, len(data)), data])
            if self.synced:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(aside, self.path)
        if self.synced:
            sync_folder(self.path.parent)
        self._forget()
        self._refresh()

    # -- closing -----------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the file. Idempotent; a later call opens it again."""
        with self._mutex:
            self._forget()

    def _forget(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor, self._seen, self._end = -1, (0, 0), 0
        self._objects, self._staged = {}, {}
        self._dirty = self._lost = False


# -- frames --------------------------------------------------------------------------------------


def _head(record: dict[str, Any], size: int) -> bytes:
    """Return header and JSON object of a frame."""
    text = json.dumps(record, separators=(",", ":")).encode()
    header = _HEADER.pack(_MARK, len(text), size, crc32c(text))
    return header + _CHECK.pack(crc32c(header)) + text


def _frames(data: mmap.mmap, at: int) -> Iterator[tuple[dict[str, Any], Place]]:
    """Yield the frames from a position on; what is no frame (after a power cut) is skipped."""
    while 0 <= at < len(data):
        found = _frame(data, at)
        if found is None:
            at = data.find(_MARK, at + 1)
            continue
        yield found
        at = found[1].at + found[1].size


def _frame(data: mmap.mmap, at: int) -> tuple[dict[str, Any], Place] | None:
    header = data[at : at + _HEADER.size]
    check = data[at + _HEADER.size : at + _LENGTH]
    if len(check) < _CHECK.size or _CHECK.unpack(check)[0] != crc32c(header):
        return None
    mark, length, size, checksum = _HEADER.unpack(header)
    text = data[at + _LENGTH : at + _LENGTH + length]
    place = Place(at + _LENGTH + length, size)
    if mark != _MARK or crc32c(text) != checksum or place.at + size > len(data):
        return None
    return json.loads(text), place
