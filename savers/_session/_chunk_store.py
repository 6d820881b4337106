"""Chunks between memory and the store: encode and put side by side, load and check.

A chunk that readers may look at, that holds committed values, or whose array is yet to be recorded
is written aside and renamed after its record; any other goes straight to its key.
"""

from __future__ import annotations

import contextlib
import json
import math
import uuid
from functools import partial
from operator import itemgetter, lt, mul
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import numpy as np
from crc32c import crc32c

from savers._codecs._codec import FileCodec
from savers._codecs._engine import Engine, Parcel
from savers._ledger._state import ArrayState
from savers._stores._bucket._store import ObjectStore
from savers._stores._store import LocalStore, MappingStore, StagingStore
from savers.errors import FormatError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from savers._codecs._choice import ChunkCodec
    from savers._codecs._codec import Bytes
    from savers._format import Format
    from savers._ledger._state import ArrayLayout, PieceRef, State
    from savers._stores._location import Location
    from savers._stores._store import Store

__all__ = ["Block", "ChunkId", "ChunkStore", "Put"]

Index = tuple[int, ...]
ChunkId = tuple[str, int, Index]  # array, generation, chunk
Block = tuple[ArrayState, Index, "NDArray[Any]"]  # the values of a chunk


class Put(NamedTuple):
    """A chunk that was written, and is true once a record says so.

    Attributes
    ----------
    id : array, generation and index of the chunk
    size, crc : int
        Bytes and CRC-32C of the stored object; 0 says that there is none, only the fill value.
    token : str
        Where it waits to be renamed to `key`, "" where it lies there already.
    key : str
    """

    id: ChunkId
    size: int
    crc: int
    token: str
    key: str

    def entry(self) -> list[Any]:
        """Return what a record says of the chunk."""
        return [self.id[2], self.size, self.crc, self.token]


class ChunkStore:
    """The chunk objects of one dataset."""

    def __init__(self, location: Location, store: Store, fmt: Format, dataset: str) -> None:
        self.name = location.name
        self.store = store
        self._staging = store if isinstance(store, StagingStore) else None
        self.format = fmt
        self.mark = quote(dataset, safe="") + "@"
        self._codecs: dict[tuple[str, int], ChunkCodec] = {}
        #: Bytes of chunks in work at a time; the smallest `max_inflight_bytes` of the savers.
        self.limit: float = math.inf
        self._engine = Engine()
        self._unrenamed: list[tuple[str, str]] = []
        self._left: dict[str, ChunkId] = {}  # keys of chunks without a record

    def codec(self, layout: ArrayLayout) -> ChunkCodec:
        """Return the codec of an array."""
        key = (layout.name, layout.generation)
        if key not in self._codecs:
            self._codecs[key] = self._make_codec(layout)
        return self._codecs[key]

    def _make_codec(self, layout: ArrayLayout) -> ChunkCodec:
        codec = self.format.codec(layout)
        if isinstance(codec, FileCodec) and isinstance(self.store, LocalStore):
            codec.work_in(self.store.folder_aside(self._new_token()))
        return codec

    def _new_token(self) -> str:
        return f"{self.mark}{uuid.uuid4().hex}"

    # -- writing -----------------------------------------------------------------------------------

    def put_all(self, blocks: Iterable[Block], state: State) -> list[Put]:
        """Encode and write chunks side by side; after a failure none of them is left aside.

        `blocks` is asked for as many at a time as `limit` has room for.
        """
        puts: list[Put] = []
        for batch in self._batches(blocks):
            done, errors = self._engine.run([self._parcel(state, *block) for block in batch])
            puts += done
            if errors:
                self.drop(puts)
                raise errors[0]
        return puts

    def _batches(self, blocks: Iterable[Block]) -> Iterator[list[Block]]:
        """A chunk in work holds its values and, in the worst case, as many encoded bytes."""
        batch: list[Block] = []
        held = 0
        for block in blocks:
            batch.append(block)
            held += 2 * block[2].nbytes
            if held + 2 * block[2].nbytes > self.limit:
                yield batch
                batch, held = [], 0
        if batch:
            yield batch

    def _parcel(
        self, state: State, array: ArrayState, index: Index, block: NDArray[Any]
    ) -> Parcel[Any, Put]:
        codec, stored = self.codec(array.layout), to_stored(block)
        if isinstance(codec, FileCodec) and isinstance(self.store, LocalStore):
            put_file = partial(self._put_file, state, array, index, codec, self.store, stored)
            return Parcel([put_file], itemgetter(0), stored.nbytes)

        def put(shares: list[list[Bytes]]) -> Put:
            return self._put(state, array, index, codec.joined(stored, shares))

        return Parcel(codec.shares(stored), put, stored.nbytes)

    def _put(self, state: State, array: ArrayState, index: Index, parts: Sequence[Bytes]) -> Put:
        layout, (size, crc) = array.layout, _sums(parts)
        key, token = self._destination(state, array, index)
        if self._staging is not None and token:
            self._staging.stage(token, *parts)
        else:
            self._left[key] = (layout.name, layout.generation, index)
            self.store.write(key, *parts)
        return Put((layout.name, layout.generation, index), size, crc, token, key)

    def _put_file(
        self, state: State, array: ArrayState, index: Index,
        codec: FileCodec, store: LocalStore, block: NDArray[Any],
    ) -> Put:  # fmt: skip
        key, token = self._destination(state, array, index)
        if not token:
            self._left[key] = (array.layout.name, array.layout.generation, index)
        with codec.encoded(block, whole=_in_use(state, array, index)) as path:
            data = store.take(path, key, token)
        size, crc, token = (0, 0, "") if data is None else (len(data), crc32c(data), token)
        return Put((array.layout.name, array.layout.generation, index), size, crc, token, key)

    def _destination(self, state: State, array: ArrayState, index: Index) -> tuple[str, str]:
        """Return the key of a chunk, and a token where it must wait aside for its record."""
        layout = array.layout
        key = self.format.chunk_key(layout, index)
        if self._staging is None:
            return key, ""
        flat = isinstance(self.store, (MappingStore, ObjectStore))  # no folder could be left
        unknown = not flat and state.array(layout.name, layout.generation) is None  # made just now
        return key, self._new_token() if unknown or _in_use(state, array, index) else ""

    def put_whole(
        self,
        layout: ArrayLayout,
        index: Index,
        block: NDArray[Any],
        token: str,
        announce: Callable[[int, int], None],
    ) -> Put:
        """Encode a chunk and put it at its key in one step: readers see the old or the new one.

        `token` is the name that it has aside until it is whole, in stores that need one; `announce`
        is told its size and checksum before it is there.
        """
        parts = self.codec(layout).parts(to_stored(block))
        size, crc = _sums(parts)
        key = self.format.chunk_key(layout, index)
        announce(size, crc)
        if isinstance(self.store, LocalStore):
            self.store.stage(token, *parts)
            self.store.publish(token, key)
        else:
            put = self.store.put_chunk if isinstance(self.store, ObjectStore) else self.store.put
            put(key, parts[0] if len(parts) == 1 else b"".join(parts))
        return Put((layout.name, layout.generation, index), size, crc, "", key)

    def drop(self, puts: Sequence[Put]) -> None:
        """Remove what waits aside for a record that will not come."""
        for put in puts:
            if put.token:
                self.drop_token(put.token)

    def drop_token(self, token: str) -> None:
        """Remove one staged object."""
        if self._staging is not None:
            with contextlib.suppress(StorageError):  # left there, the next opening removes it
                self._staging.drop_staged(token)

    def stand(self, puts: Sequence[Put]) -> None:
        """Note that the record of these chunks stands: they may be renamed."""
        self._unrenamed += [(put.token, put.key) for put in puts if put.token]
        for put in puts:
            self._left.pop(put.key, None)

    @property
    def has_left(self) -> bool:
        """Whether chunks lie at their keys of which no record speaks, because a commit failed."""
        return bool(self._left)

    def remove_left(self, state: State) -> None:
        """Remove such chunks; only the holder of the dataset may, and they may be true by now."""
        arrays = {key: (state.array(*chunk[:2]), chunk[2]) for key, chunk in self._left.items()}
        known = {key for key, (array, index) in arrays.items() if array and index in array.chunks}
        self.store.delete_all([key for key in arrays if key not in known])
        self._left.clear()

    def rename_staged(self) -> None:
        """Move staged chunks to their keys.

        Raises
        ------
        StorageError
            One could not be moved; the next call tries it again.
        """
        while self._unrenamed and self._staging is not None:
            self._staging.publish(*self._unrenamed[0])
            self._unrenamed.pop(0)

    # -- after a crash -----------------------------------------------------------------------------

    def finish_renames(self, state: State) -> None:
        """Rename what the last record staged and a crash left aside; remove all else there."""
        aside = set(self._staging.staged()) if self._staging is not None else set()
        for token, (name, generation, index) in state.staged.items():
            array = state.array(name, generation)
            if array is not None and token in aside:
                self._unrenamed.append((token, self.format.chunk_key(array.layout, index)))
                aside.remove(token)
        self.rename_staged()
        for token in aside:
            if token.startswith(self.mark):
                self.drop_token(token)

    def make_room(self, layout: ArrayLayout) -> None:
        """Remove what a writer that died left of an array that it had no record of.

        On disk such chunks wait aside, and are gone by now.
        """
        if not isinstance(self.store, LocalStore) and not layout.generation:
            self.format.remove_chunks(self.store, layout)

    def remove_unknown(self, array: ArrayState) -> None:
        """Remove objects of commits that never got their record."""
        if array.adopted or array.layout.meta.get("writers"):
            return  # another program's, or of writers that may be at work
        found = self.format.chunks_in(self.store, array.layout)
        self.store.delete_all([key for index, key in found if index not in array.chunks])

    # -- reading -----------------------------------------------------------------------------------

    def load(
        self, array: ArrayState, index: Index, read: Callable[[PieceRef], bytes]
    ) -> NDArray[Any]:
        """Return the committed values of a chunk: its object, and the pieces newer than it.

        Raises
        ------
        FormatError
            The object does not match its checksum in the ledger.
        """
        layout, dtype = array.layout, array.layout.values_dtype
        block = np.full(layout.chunks, self.format.fill_value(layout), dtype)
        if index in array.chunks or (array.adopted and not self._is_left(layout, index)):
            data = self.format.read_chunk(self.store, layout, index)
            if data is not None:
                self._check(array, index, data)
                block = as_values(self.codec(layout).decode(data), dtype).copy()
        for piece in array.loose.get(index, ()):
            inside = tuple(slice(a, a + n) for a, n in zip(piece.start, piece.shape, strict=True))
            block[inside] = unpack(read(piece), dtype, piece.shape)
        return block

    def _is_left(self, layout: ArrayLayout, index: Index) -> bool:
        return self.has_left and self.format.chunk_key(layout, index) in self._left

    def _check(self, array: ArrayState, index: Index, data: bytes) -> None:
        stored = array.chunks.get(index)
        known = (stored, *array.rewriting.get(index, ()))
        if stored is not None and (len(data), crc32c(data)) not in known:
            key = self.format.chunk_key(array.layout, index)
            message = f"{key} in {self.name} is damaged: its checksum is not the ledger's"
            raise FormatError(message)

    def close(self) -> None:
        """End the threads. Idempotent."""
        self._engine.close()
        for codec in self._codecs.values():
            if isinstance(codec, FileCodec):
                codec.close()
        self._codecs.clear()
        self._unrenamed.clear()
        self._left.clear()
        self.store.close()


def _in_use(state: State, array: ArrayState, index: Index) -> bool:
    """Return whether the object at a chunk's key holds committed values or may be looked at."""
    shared = array.layout.meta.get("writers")  # another writer may have put it
    return bool(shared) or index in array.chunks or visible(array, index, state)


def visible(array: ArrayState, index: Index, state: State) -> bool:
    """Return whether readers may look at a chunk now."""
    if state.arrays.get(array.layout.name) is not array:
        return False
    first = list(map(mul, index, array.layout.chunks))
    shown = (array.published, array.before)
    return any(shape is not None and all(map(lt, first, shape)) for shape in shown)


def _sums(parts: Sequence[Bytes]) -> tuple[int, int]:
    size, crc = 0, 0
    for part in parts:
        size, crc = size + len(part), crc32c(part, crc)
    return size, crc


# -- values as bytes -----------------------------------------------------------------------------


def pack(values: NDArray[Any]) -> bytes:
    """Return the bytes in which a ledger record carries values: raw, or JSON for text."""
    if values.dtype.kind in "UT":
        return json.dumps(values.astype(object).ravel().tolist()).encode()
    return np.ascontiguousarray(values).tobytes()


def unpack(data: bytes, dtype: np.dtype[Any], shape: Index) -> NDArray[Any]:
    """Return values from their bytes in a record."""
    if dtype.kind == "T":
        return np.array(json.loads(data), dtype=object).reshape(shape).astype(dtype)
    return np.frombuffer(data, dtype).reshape(shape)


def to_stored(values: NDArray[Any]) -> NDArray[Any]:
    """Return values as a store keeps them: times as integers (see `as_values`)."""
    return values.view("<i8") if values.dtype.kind in "Mm" else values


def as_values(stored: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return decoded values in the dtype that callers see (times are stored as integers)."""
    if dtype.kind in "Mm":
        return stored.astype("<i8").view(dtype)
    return stored.astype(dtype, copy=False)
