"""The one owner of a dataset in this process: stage, commit, publish, recover.

All savers of a process that name the same dataset share one session, so no chunk has two writers.
A commit is three steps: chunks that are whole go to the store (aside, where readers would see
them), one record says so and carries the rest, and only then are staged chunks renamed.
Publishing follows about a second later: it puts chunks that are not yet whole into the store and
tells readers the new shape.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import threading
import time
import uuid
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from crc32c import crc32c

from savers._jobs import ItemStatus
from savers._ledger import Home, Ledger, replay
from savers._locks import Lock, moment
from savers._regions import chunk_box, pieces
from savers._state import ArrayState, State
from savers._store import LocalStore, MappingStore, ledger_folder
from savers.errors import ClosedError, FormatError, LedgerMismatchError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from savers._codecs import ChunkCodec
    from savers._format import Format
    from savers._regions import Piece, Region
    from savers._state import ArrayLayout
    from savers._store import Location

__all__ = ["Session", "Write", "session_for"]

#: Seconds between a commit and its publication; longer where publishing takes over 5 % of it.
PUBLISH_AFTER = 1.0
#: Seconds to wait for another process that updates the same dataset.
PATIENCE = 1.0

Index = tuple[int, ...]
ChunkId = tuple[str, int, Index]  # array, generation, chunk
Box = tuple[Index, Index, int]  # first and one-past-last cell along the cell axes, and a status


@dataclass(frozen=True, slots=True)
class Write:
    """A block on its way into a region of an array.

    Parameters
    ----------
    array : ArrayState
    region : Region
    block : ndarray
        Values in the array's dtype, in the caller's shape for `region`.
    at_once : bool
        True puts every touched chunk into the store with the commit, whole or not.
    """

    array: ArrayState
    region: Region
    block: NDArray[Any]
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class _Put:
    """A chunk that was written by a commit that has no record yet."""

    id: ChunkId
    size: int
    crc: int
    token: str
    key: str


Block = tuple[ArrayState, Index, "NDArray[Any]"]  # the values of a chunk


class Session:
    """The open dataset: its lock, its ledger, its chunks in memory. Safe to use from threads."""

    def __init__(self, location: Location, dataset: str, fmt: Format, *, synced: bool) -> None:
        self.location = location
        self.dataset = dataset
        self.format = fmt
        self.store = location.store
        self.synced = synced
        self.mutex = threading.RLock()
        self.users = 0
        self.pid = os.getpid()
        self.attrs: dict[str, Any] = {}
        self.job_active = False
        self.folder: Path | None = None if location.path is None else ledger_folder(location.path)
        self._lock = (
            None
            if self.folder is None
            else Lock(
                self.folder / f"{quote(dataset, safe='')}.lock", f"{dataset!r} in {location.name}"
            )
        )
        self._ledger: Ledger | None = None
        self._created = False
        self._blocks: dict[ChunkId, NDArray[Any]] = {}
        self._codecs: dict[tuple[str, int], ChunkCodec] = {}
        self._threads: ThreadPoolExecutor | None = None
        self._unrenamed: list[tuple[str, str]] = []
        self._gone: list[str] = []
        self._recent: tuple[Any, NDArray[Any]] | None = None
        self._dirty = False
        self._timer: threading.Timer | None = None
        self._last_publish = float("-inf")
        self._publish_cost = 0.0

    # -- opening and closing -----------------------------------------------------------------------

    def peek(self) -> State:
        """Return the state without taking the dataset, for checks before anything changes."""
        if self._ledger is not None:
            return self._ledger.state
        return replay(self._home(), self.dataset)[0]

    @property
    def is_open(self) -> bool:
        """True while this process holds the dataset."""
        return self._ledger is not None

    def open(self) -> State:
        """Take the dataset, and finish what a crash left; return the state.

        Raises
        ------
        StoreInUseError
            Another process holds the dataset.
        LedgerCorruptedError, LedgerMismatchError
            The ledger is damaged, or another program changed the store.
        """
        if self._ledger is None:
            if self._lock is not None:
                self._lock.acquire(wait=PATIENCE)
            try:
                self._ledger = self._opened()
            except BaseException:
                self._let_go()
                raise
        return self._ledger.state

    def _home(self) -> Home:
        if self.folder is not None:
            return Home(self.folder, None)
        store = self.store
        if not isinstance(store, MappingStore):
            message = f"{self.location.name} can't keep a ledger"
            raise FormatError(message)
        return Home(None, store, f"{self.dataset}/.ledger/")

    def _opened(self) -> Ledger:
        ledger = Ledger(self._home(), self.dataset, synced=self.synced)
        exists, store_id = self.format.store_id(self.store)
        if ledger.existed and not self._same_store(ledger, exists=exists, store_id=store_id):
            ledger = Ledger(self._home(), self.dataset, synced=self.synced)
        self._created = False
        if ledger.existed:
            ledger.begin()
            self._ledger = ledger
            self._created = True
            self._recover(ledger.state)
        self._ledger = ledger
        return ledger

    def _same_store(self, ledger: Ledger, *, exists: bool, store_id: str) -> bool:
        """A ledger whose store is gone or another one is set aside, not mixed with new data."""
        if exists and store_id == ledger.state.store_id:
            return True
        reason = "is gone" if not exists else "is another one"
        where = ledger.set_aside()
        message = (
            f"the ledger of {self.dataset!r} was kept for a store that {reason}: "
            f"{self.location.name}; it was set aside as {where} and a new one is begun"
        )
        warnings.warn(message, UserWarning, stacklevel=2)
        return False

    def create(self) -> None:
        """Make the store and its ledger, where they are not there yet."""
        if self._created:
            return
        ledger = self._book()
        _, store_id = self.format.store_id(self.store)
        store_id = store_id or uuid.uuid4().hex
        self.format.create_root(self.store, store_id, self.attrs)
        self.store.barrier()
        ledger.begin(store_id)
        self._created = True

    def _book(self) -> Ledger:
        if self._ledger is None:
            message = f"{self.dataset!r} in {self.location.name} is closed"
            raise ClosedError(message)
        return self._ledger

    def close(self) -> None:
        """Publish, and let others in. Idempotent."""
        with self.mutex:
            timer = self._timer
            try:
                self.publish()
            finally:
                self._let_go()
        if timer is not None and timer is not threading.current_thread():
            timer.join()  # outside the mutex, for which it may be waiting

    def _let_go(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()
        self._blocks.clear()
        self._codecs.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=True)
            self._threads = None
        if self._lock is not None:
            self._lock.release()
            self._remove_empty_folders()

    def _remove_empty_folders(self) -> None:
        if self.folder is not None:
            for folder in (self.folder / "staged", self.folder):
                with contextlib.suppress(OSError):
                    folder.rmdir()

    # -- committing ----------------------------------------------------------------------------------

    def append(self, record: dict[str, Any], raw: Sequence[bytes] = ()) -> None:
        """Append a record that goes with no data."""
        self._check_alive()
        self.create()
        self._book().append(record, raw)

    def _check_alive(self) -> None:
        """Make sure that this process still holds the dataset, and that nothing is half done."""
        if self._lock is not None:
            self._lock.check()
        self._rename_staged()
        self.store.barrier()

    def commit(
        self,
        writes: Sequence[Write],
        cells: Mapping[str, Sequence[Box]],
        extra: Mapping[str, Any] | None = None,
        raw: Sequence[bytes] = (),
        whole: Sequence[ArrayState] = (),
    ) -> None:
        """Make blocks and their cells durable in one step.

        Parameters
        ----------
        writes : sequence of Write
        cells : mapping of array name to boxes
            The cells that are settled by this commit.
        extra : mapping
            Further fields of the record (new arrays, the items of a job).
        raw : sequence of bytes
            Raw bytes that those fields speak of; they come first in the record.
        whole : sequence of ArrayState
            Arrays of which nothing may stay in the ledger alone after this commit.

        Raises
        ------
        StorageError
            Nothing is committed, and the same call can be made again.
        """
        self._check_alive()
        self.create()
        plan = _Plan(self, cells, sum(map(len, raw)), whole)
        for write in writes:
            plan.add(write)
        puts: list[_Put] = []
        try:
            puts = self._put_all(plan.blocks())
            self.store.barrier()
            record = {"kind": "commit", **(extra or {}), "arrays": plan.entries(puts)}
            self._book().append(record, [*raw, *plan.payload])
        except BaseException:
            self._forget(plan, puts)
            raise
        self._after_commit(plan, puts)

    def _after_commit(self, plan: _Plan, puts: Sequence[_Put]) -> None:
        """From here on the commit stands: what fails now is tried again, never reported as lost."""
        for put in puts:
            self._blocks.pop(put.id, None)
            if put.token:
                self._unrenamed.append((put.token, put.key))
        plan.keep_open_blocks()
        with contextlib.suppress(StorageError):
            self._rename_staged()
        self._dirty = True
        self._schedule()

    def _forget(self, plan: _Plan, puts: Sequence[_Put]) -> None:
        """Drop what a failed commit changed in memory or left aside."""
        for chunk in plan.touched:
            self._blocks.pop(chunk, None)
        for put in puts:
            if put.token:
                self._drop_staged(put.token)

    def _drop_staged(self, token: str) -> None:
        if isinstance(self.store, LocalStore):
            with contextlib.suppress(OSError):
                (self.store.scratch / token).unlink()

    def _key(self, chunk: ChunkId) -> str:
        name, generation, index = chunk
        array = self._book().state.array(name, generation)
        if array is None:
            message = f"array {name!r} is gone"
            raise FormatError(message)
        return self.format.chunk_key(array.layout, index)

    def _rename_staged(self) -> None:
        store = self.store
        if not isinstance(store, LocalStore):
            return
        while self._unrenamed:
            token, key = self._unrenamed[0]
            store.publish(token, key)
            self._unrenamed.pop(0)

    def _put_all(self, blocks: Sequence[Block]) -> list[_Put]:
        """Encode and write chunks side by side; on a failure none of them is left aside."""
        if not blocks:
            return []
        if self._threads is None:
            count = min(4, os.cpu_count() or 1)
            self._threads = ThreadPoolExecutor(count, thread_name_prefix="savers-encode")
        state = self._book().state
        futures = [self._threads.submit(self._put, state, *block) for block in blocks]
        done, errors = [], []
        for future in futures:
            try:
                done.append(future.result())
            except BaseException as error:  # noqa: BLE001 -- raised below, once all have ended
                errors.append(error)
        if errors:
            for put in done:
                self._drop_staged(put.token) if put.token else None
            raise errors[0]
        return done

    def _put(self, state: State, array: ArrayState, index: Index, block: NDArray[Any]) -> _Put:
        layout = array.layout
        data = self.codec(layout).encode(to_stored(block))
        key, token = self.format.chunk_key(layout, index), ""
        committed = index in array.chunks or _visible(array, index, state)
        if isinstance(self.store, LocalStore) and committed:
            token = self._new_token()
            self.store.stage(token, data)
        else:
            self.store.write(key, data)
        chunk = (layout.name, layout.generation, index)
        return _Put(chunk, len(data), crc32c(data), token, key)

    def _new_token(self) -> str:
        return f"{quote(self.dataset, safe='')}@{uuid.uuid4().hex}"

    def codec(self, layout: ArrayLayout) -> ChunkCodec:
        """Return the codec of an array."""
        key = (layout.name, layout.generation)
        if key not in self._codecs:
            self._codecs[key] = self.format.codec(layout)
        return self._codecs[key]

    # -- chunks in memory ------------------------------------------------------------------------------

    def chunk_block(self, array: ArrayState, index: Index) -> NDArray[Any]:
        """Return the committed values of a chunk; the caller must not change them."""
        chunk = (array.layout.name, array.layout.generation, index)
        block = self._blocks.get(chunk)
        return self._load(array, index) if block is None else block

    def _load(self, array: ArrayState, index: Index) -> NDArray[Any]:
        layout = array.layout
        dtype = layout.values_dtype
        block = np.full(layout.chunks, self.format.fill_value(layout), dtype)
        if index in array.chunks or array.adopted:
            data = self.store.get(self.format.chunk_key(layout, index))
            if data is not None:
                self._check_chunk(array, index, data)
                block = as_values(self.codec(layout).decode(data), dtype).copy()
        for piece in array.loose.get(index, ()):
            inside = tuple(slice(a, a + n) for a, n in zip(piece.start, piece.shape, strict=True))
            block[inside] = unpack(self._book().read(piece), dtype, piece.shape)
        return block

    def _check_chunk(self, array: ArrayState, index: Index, data: bytes) -> None:
        stored = array.chunks.get(index)
        if stored is not None and (len(data), crc32c(data)) != stored:
            key = self.format.chunk_key(array.layout, index)
            message = f"{key} in {self.location.name} is damaged: its checksum is not the ledger's"
            raise FormatError(message)

    def read(self, array: ArrayState, region: Region) -> NDArray[Any]:
        """Return the committed values of a contiguous region."""
        layout = array.layout
        values = np.empty(region.shape, layout.values_dtype)
        extent = array.extent()
        for piece in pieces(region, layout.chunks, extent):
            values[piece.source] = self._recent_block(array, piece.chunk)[piece.inside]
        return values

    def _recent_block(self, array: ArrayState, index: Index) -> NDArray[Any]:
        """Neighbouring results are read one after the other: keep the chunk they share."""
        stamp = (array.layout.name, array.layout.generation, index, array.chunks.get(index))
        if index in array.loose:
            return self.chunk_block(array, index)
        if self._recent is None or self._recent[0] != stamp:
            self._recent = (stamp, self.chunk_block(array, index))
        return self._recent[1]

    # -- publishing ------------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Publish now if that was long ago, else when its time has come."""
        wait = max(PUBLISH_AFTER, 20 * self._publish_cost)
        due = self._last_publish + wait - time.monotonic()
        if due <= 0:
            with contextlib.suppress(StorageError):  # committed all the same; flush will tell
                self.publish()
        elif self._timer is None:
            self._timer = threading.Timer(due, _publish_later, [weakref.ref(self)])
            self._timer.name = "savers-publish"
            self._timer.daemon = True
            self._timer.start()

    def publish_soon(self) -> None:
        """Have the next publication take place even where no commit calls for it."""
        self._dirty = True

    def publish_now(self, gone: Sequence[str] = ()) -> None:
        """Publish, and take arrays that are no more from readers."""
        self._gone = [*self._gone, *gone]
        self._dirty = True
        self.publish()

    def publish(self) -> None:
        """Show readers everything that is committed.

        Raises
        ------
        StorageError
            Readers see what they saw before; a later call tries again.
        """
        with self.mutex:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if self._ledger is None or not self._dirty:
                return
            begin = time.monotonic()
            self._check_alive()
            self._publish_arrays(self._ledger.state)
            self._dirty = False
            self._last_publish = time.monotonic()
            self._publish_cost = self._last_publish - begin

    def _publish_arrays(self, state: State) -> None:
        shapes = self.shapes(state)
        puts = self._put_all(list(self._unsaved_chunks(state, shapes)))
        self.store.barrier()
        changed = {n: s for n, s in shapes.items() if s != state.arrays[n].published}
        if puts or changed:
            self._record_publication(state, shapes, puts)
        with self._root_lock():
            self.format.publish(self.store, state, shapes, self.attrs, self._gone)
        self._gone = []
        self.store.barrier()
        self._remove_stale(state)

    def _record_publication(
        self, state: State, shapes: Mapping[str, Index], puts: Sequence[_Put]
    ) -> None:
        entries = []
        for name, shape in shapes.items():
            mine = [put for put in puts if put.id[0] == name]
            if not mine and shape == state.arrays[name].published:
                continue
            generation = state.arrays[name].layout.generation
            chunks = [_chunk_entry(put) for put in mine]
            entries.append(
                {"array": name, "generation": generation, "shape": shape, "chunks": chunks}
            )
        try:
            self._book().append({"kind": "publish", "arrays": entries})
        except BaseException:
            for put in puts:
                self._drop_staged(put.token)
            raise
        self._unrenamed += [(put.token, put.key) for put in puts if put.token]
        self._rename_staged()
        self.store.barrier()

    def shapes(self, state: State) -> dict[str, Index]:
        """Return the shape in which each array is to be shown."""
        shapes = {n: a.extent() for n, a in state.arrays.items() if not a.layout.meta.get("along")}
        for name, array in state.arrays.items():
            along = array.layout.meta.get("along")
            if along:
                lengths = [
                    shapes[other.layout.name][0] for other in state.arrays.values()
                    if other.layout.growing and other.layout.meta["dims"][:1] == [along]
                ]  # fmt: skip
                shapes[name] = (max(lengths, default=0),)
        return shapes

    def _unsaved_chunks(self, state: State, shapes: Mapping[str, Index]) -> Iterator[Block]:
        """Chunks that are shown, but of which something is only in the ledger."""
        for name, shape in shapes.items():
            array = state.arrays[name]
            for index in array.loose:
                starts = (i * n for i, n in zip(index, array.layout.chunks, strict=True))
                if all(start < size for start, size in zip(starts, shape, strict=True)):
                    yield array, index, self.chunk_block(array, index)

    @contextlib.contextmanager
    def _root_lock(self) -> Iterator[None]:
        """Datasets of one store share its root document."""
        if self.folder is None:
            yield
        else:
            with moment(self.folder / "root.lock"):
                yield

    def _remove_stale(self, state: State) -> None:
        """Delete the chunks of replaced generations, now that no reader is sent to them."""
        for name, generation in list(state.stale.items()):
            array = state.arrays.get(name)
            if array is not None and generation >= 0:
                self.remove_generation(array.layout, generation)
            self._book().append({"kind": "clean", "array": name})

    def remove_generation(self, layout: ArrayLayout, generation: int) -> None:
        """Delete all chunk objects of a generation that readers don't see."""
        from savers._state import renumbered

        if (layout.generation - generation) % 2:
            self.format.remove_chunks(self.store, renumbered(layout, generation))

    # -- after a crash ---------------------------------------------------------------------------------

    def _recover(self, state: State) -> None:
        """Finish the last commit, refuse a store that somebody else changed, remove leftovers."""
        for token, chunk in state.staged.items():
            if isinstance(self.store, LocalStore) and (self.store.scratch / token).exists():
                self._unrenamed.append((token, self._key(chunk)))
        self._rename_staged()
        self._refuse_changed(state)
        self._remove_leftovers(state)
        self._dirty = True
        self.publish()

    def _refuse_changed(self, state: State) -> None:
        for name, array in state.arrays.items():
            if array.published is None:
                continue
            seen = self.format.published(self.store, array.layout)
            before = array.before if array.before is not None else array.published
            if seen not in (array.published, before, None) or (
                seen is None and name not in state.stale and array.before is not None
            ):
                message = (
                    f"{name!r} in {self.location.name} was changed by another program: the ledger "
                    f"knows shape {array.published}, the store has {seen}. Undo that change, or "
                    "move the ledger folder away to go on from what the store has"
                )
                raise LedgerMismatchError(message)

    def _remove_leftovers(self, state: State) -> None:
        """Objects of commits that never got their record."""
        store = self.store
        if not isinstance(store, LocalStore):
            return
        mine = f"{quote(self.dataset, safe='')}@"
        if store.scratch.is_dir():
            for entry in os.scandir(store.scratch):
                if entry.name.startswith(mine):
                    self._drop_staged(entry.name)
        if self._lock is not None and not self._lock.took_over:
            return
        for table in (state.arrays, state.pending):
            for array in table.values():
                self._remove_unknown(array)

    def _remove_unknown(self, array: ArrayState) -> None:
        if array.adopted:
            return
        for index, key in list(self.format.chunks_in(self.store, array.layout)):
            if index not in array.chunks:
                self.store.delete(key)


def _visible(array: ArrayState, index: Index, state: State) -> bool:
    """Return whether readers may look at a chunk now, so that it must not appear before its time."""
    if state.arrays.get(array.layout.name) is not array:
        return False
    shown = [shape for shape in (array.published, array.before) if shape is not None]
    return any(
        all(i * n < size for i, n, size in zip(index, array.layout.chunks, shape, strict=True))
        for shape in shown
    )


def _chunk_entry(put: _Put) -> list[Any]:
    return [put.id[2], put.size, put.crc, put.token]


def _publish_later(reference: weakref.ref[Session]) -> None:
    session = reference()
    if session is not None and session.pid == os.getpid():
        with contextlib.suppress(StorageError, ClosedError):  # flush and close will tell
            session.publish()


# -- planning one commit -----------------------------------------------------------------------------


class _Plan:
    """Which chunks a commit completes, and what rides in its record."""

    def __init__(
        self,
        session: Session,
        cells: Mapping[str, Sequence[Box]],
        raw: int,
        whole: Sequence[ArrayState],
    ) -> None:
        self.session = session
        self.cells = cells
        self.touched: dict[ChunkId, list[tuple[Piece, NDArray[Any]]]] = {}
        self.arrays: dict[tuple[str, int], ArrayState] = {}
        self.at_once: set[ChunkId] = set()
        self.payload: list[bytes] = []
        self._raw = raw
        for array in whole:
            self._add_open(array)

    def _add_open(self, array: ArrayState) -> None:
        name, generation = array.layout.name, array.layout.generation
        self.arrays[name, generation] = array
        for index in array.loose:
            self.touched.setdefault((name, generation, index), [])
            self.at_once.add((name, generation, index))

    def add(self, write: Write) -> None:
        layout = write.array.layout
        self.arrays[layout.name, layout.generation] = write.array
        block = write.region.arrange(write.block)
        extent = layout.shape
        if layout.growing:
            extent = (np.iinfo(np.int64).max, *extent[1:])
        for piece in pieces(write.region, layout.chunks, extent):
            chunk = (layout.name, layout.generation, piece.chunk)
            self.touched.setdefault(chunk, []).append((piece, block))
            if write.at_once:
                self.at_once.add(chunk)

    def blocks(self) -> list[Block]:
        """Return the chunks that go to the store with this commit."""
        return [
            (self.arrays[chunk[:2]], chunk[2], self._assembled(chunk))
            for chunk in self.touched
            if chunk in self.at_once or self._complete(chunk)
        ]

    def _complete(self, chunk: ChunkId) -> bool:
        """Every cell of the chunk is settled once this commit stands."""
        array, index = self.arrays[chunk[:2]], chunk[2]
        axes = array.layout.cells
        sizes = [array.layout.chunks[axis] for axis in axes]
        first = [index[axis] * n for axis, n in zip(axes, sizes, strict=True)]
        status = _window(array.status, first, sizes, growing=array.layout.growing)
        for start, stop, _ in self.cells.get(chunk[0], ()):
            inside = tuple(
                slice(max(0, a - f), max(0, b - f))
                for a, b, f in zip(start, stop, first, strict=True)
            )
            status[inside] = ItemStatus.DONE
        return bool(status.all())

    def _assembled(self, chunk: ChunkId) -> NDArray[Any]:
        array = self.arrays[chunk[:2]]
        parts = self.touched[chunk]
        shape = array.layout.chunks
        if len(parts) == 1 and parts[0][0].whole:
            piece, source = parts[0]
            block = source[piece.source]
            if block.shape == shape:
                return block
        block = self.session.chunk_block(array, chunk[2]).copy()
        for piece, source in parts:
            block[piece.inside] = source[piece.source]
        return block

    def entries(self, puts: Sequence[_Put]) -> list[dict[str, Any]]:
        """Return what the record says of each array; pieces of open chunks ride along."""
        stored = {put.id: put for put in puts}
        names = dict.fromkeys([*self.arrays, *((n, None) for n in self.cells)])
        entries: dict[str, dict[str, Any]] = {}
        for name, generation in names:
            entry = entries.setdefault(name, {"array": name})
            if generation is not None:
                entry["generation"] = generation
            entry["cells"] = list(self.cells.get(name, ()))
        offset = self._raw
        for chunk, parts in self.touched.items():
            entry = entries[chunk[0]]
            if chunk in stored:
                entry.setdefault("chunks", []).append(_chunk_entry(stored[chunk]))
                continue
            for piece, source in parts:
                values = source[piece.source]
                data = pack(values)
                start = [cut.start for cut in piece.inside]
                entry.setdefault("pieces", []).append(
                    [chunk[2], start, values.shape, offset, len(data)]
                )
                self.payload.append(data)
                offset += len(data)
        return list(entries.values())

    def keep_open_blocks(self) -> None:
        """Bring the open chunks in memory up to the commit."""
        blocks = self.session._blocks  # noqa: SLF001 -- the two are one idea in two classes
        state = self.session.peek()
        for chunk, parts in self.touched.items():
            array = state.array(chunk[0], chunk[1])
            if array is None or chunk[2] not in array.loose:
                continue
            if chunk not in blocks:
                blocks[chunk] = self.session.chunk_block(array, chunk[2])
                continue
            for piece, source in parts:
                blocks[chunk][piece.inside] = source[piece.source]


def _window(
    status: NDArray[np.uint8], first: Sequence[int], sizes: Sequence[int], *, growing: bool
) -> NDArray[np.uint8]:
    """Return a copy of the status of a chunk's cells; those beyond a growing array are open."""
    cut = status[tuple(slice(f, f + n) for f, n in zip(first, sizes, strict=True))]
    if not growing or cut.shape == tuple(sizes):
        return cut.copy()
    window = np.zeros(sizes, np.uint8)
    window[tuple(map(slice, cut.shape))] = cut
    return window


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
    return stored.astype(dtype) if stored.dtype != dtype else stored


# -- one session a dataset and process -----------------------------------------------------------------

_sessions: dict[tuple[str, str], Session] = {}
_registry = threading.RLock()


def session_for(location: Location, dataset: str, fmt: Format, *, synced: bool) -> Session:
    """Return the session of a dataset, shared by all savers of this process; count one user more."""
    with _registry:
        key = (location.identity, dataset)
        session = _sessions.get(key)
        if session is None or session.pid != os.getpid():
            session = Session(location, dataset, fmt, synced=synced)
            _sessions[key] = session
        session.users += 1
        return session


def leave(session: Session) -> None:
    """Count one user less; the last one closes the session."""
    with _registry:
        session.users -= 1
        last = session.users <= 0
        if last and _sessions.get((session.location.identity, session.dataset)) is session:
            del _sessions[session.location.identity, session.dataset]
    if last and session.pid == os.getpid():
        session.close()


def _close_all() -> None:
    """At interpreter exit: what a saver left open is published."""
    for session in list(_sessions.values()):
        if session.pid == os.getpid():
            with contextlib.suppress(StorageError):
                session.close()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_sessions.clear)
