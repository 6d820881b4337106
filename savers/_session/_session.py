"""The one owner of a dataset in this process: stage, commit, publish, recover.

All savers of a process that name the same dataset share one session, so no chunk has two writers.
A commit is three steps: chunks that are whole go to the store (aside, where readers would see
them), one record says so and carries the rest, and only then are staged chunks renamed.
Publishing follows about a second later: it puts chunks that are not yet whole into the store and
tells readers the new shape.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
import uuid
import warnings
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from savers._ledger._file_lock import FileLock, moment
from savers._ledger._home import Home
from savers._ledger._ledger import Ledger, replay
from savers._ledger._object_lock import ObjectLock
from savers._ledger._object_stream import RecordInDoubtError
from savers._ledger._state import ArrayLayout
from savers._session._chunk_store import ChunkStore
from savers._session._commit import CommitPlan
from savers._session._open_chunks import OpenChunks
from savers._session._publishing import Publisher, is_lagging, patiently, refuse_changed
from savers._session._transactions import Transactions, described
from savers._stores._bucket._store import ObjectStore
from savers._stores._bucket._uploads import side_by_side
from savers._stores._location import ledger_folder
from savers._stores._store import MappingStore
from savers._values._regions import pieces
from savers.errors import ClosedError, StorageError, StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from savers._format import Format
    from savers._ledger._lock import Lock
    from savers._ledger._state import ArrayState, PieceRef, State
    from savers._session._chunk_store import ChunkId
    from savers._session._commit import Box, Write
    from savers._stores._location import Location
    from savers._values._regions import Region

__all__ = ["LATER", "Session"]

#: Seconds between a commit and its publication; longer where publishing takes over 5 % of it.
PUBLISH_AFTER = 1.0
#: Seconds to wait for another process to let go of the dataset.
PATIENCE = 1.0
#: The same for updates, which take turns.
UPDATE_PATIENCE = 60.0

#: What publishing in the background leaves to the next commit, flush or close, which will tell.
LATER = (StorageError, StoreInUseError)

Index = tuple[int, ...]


class Session:
    """The open dataset: its lock, its ledger, its chunks in memory. Safe to use from threads."""

    def __init__(self, location: Location, dataset: str, fmt: Format, *, synced: bool) -> None:
        self.location = location
        self.dataset = dataset
        self.format = fmt
        self.store = fmt.open_store(location, dataset)
        self.synced = synced
        self.mutex = threading.RLock()
        self.users = 0
        self.pid = os.getpid()
        self.attrs: dict[str, Any] = {}
        self.job_active = False
        #: True while only updates use it: then it is let go when another process wants it.
        self.yielding = True
        self.folder = None if location.path is None else ledger_folder(location.path)
        self.chunks = ChunkStore(location, self.store, fmt, dataset)
        self.transactions = Transactions(self)
        self._lock = self._make_lock()
        self._ledger: Ledger | None = None
        self._created = False
        self._root_id = ""
        self._looked: Sequence[str] | None = None
        self.open_chunks = OpenChunks()
        self._recent: tuple[Any, NDArray[Any]] | None = None
        self._dirty = False
        self._timer: threading.Timer | None = None
        self._last_publish = float("-inf")
        self._publish_cost = 0.0

    def _make_lock(self) -> Lock | None:
        name = f"{quote(self.dataset, safe='')}.lock"
        subject = f"{self.dataset!r} in {self.location.name}"
        if self.folder is not None:
            return FileLock(self.folder / name, subject)
        keys, prefix = self.location.ledger(self.dataset)
        if not isinstance(keys, ObjectStore):
            return None
        lock = ObjectLock(keys.beside(keys.prefix + prefix), name, subject)
        if isinstance(self.store, ObjectStore):
            self.store.keep_aside(f"{keys.prefix}{prefix}staged/", lock.assert_held)
            self.store.documents = True
        return lock

    # -- opening -----------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """True while this process holds the dataset."""
        return self._ledger is not None

    def peek(self) -> State:
        """Return the state without taking the dataset, for checks before anything changes."""
        if self._ledger is not None:
            return self._ledger.state
        self.transactions.refresh()
        return replay(self.home(), self.dataset)[0]

    @contextlib.contextmanager
    def looking(self, names: Collection[str], *, before: bool = True) -> Iterator[None]:
        """While a dataset is opened: what says what is there is read once, side by side.

        With `before`, what lies there is looked at before the dataset is taken, too.
        """
        if self._ledger is not None:
            yield
            return
        self._looked = self.format.documents(names)
        try:
            if before:
                side_by_side(self.location.look(self._looked, self.dataset))
            yield
        finally:
            self._looked = None
            self.location.forget()

    def crashed(self) -> bool:
        """Return whether the last owner of the dataset may have died with it open.

        Where there are no locks nobody can tell.
        """
        if self._ledger is not None:
            return False
        if isinstance(self.store, MappingStore):
            return self.has_ledger()
        return self._lock is not None and self._lock.abandoned()

    def has_ledger(self) -> bool:
        """Return whether the dataset has a ledger of its own."""
        return bool(self.home().streams(self.dataset))

    def array_of_others(self, name: str) -> tuple[str, ArrayState] | None:
        """Return the dataset of this store that keeps an array, when it is another than this."""
        home = self.home()
        for dataset in home.datasets():
            if dataset != self.dataset:
                array = replay(home, dataset)[0].arrays.get(name)
                if array is not None:
                    return dataset, array
        return None

    def open(self, *, yielding: bool = False, wait: float | None = None) -> State:
        """Take the dataset, and finish what a crash left; return the state.

        Parameters
        ----------
        yielding : bool
            True for updates: they wait for each other, and let go when another process wants the
            dataset or when they have been idle for a while (`let_others_in`).
        wait : float, optional
            Seconds to wait for another process, in place of the usual ones.

        Raises
        ------
        StoreInUseError
            Another process holds the dataset.
        LedgerCorruptedError, LedgerMismatchError
            The ledger is damaged, or another program changed the store.
        """
        self.yielding = yielding and (self.yielding or self._ledger is None)
        if self._ledger is None:
            if self._lock is not None:
                usual = UPDATE_PATIENCE if yielding else PATIENCE
                self._lock.acquire(wait=usual if wait is None else wait)
            else:
                self._warn_of_others()
            try:
                self.transactions.refresh()
                self._look_again()
                self._open_ledger()
            except BaseException:
                self._let_go()
                raise
        return self.ledger.state

    def _look_again(self) -> None:
        """Others may have changed what was seen, before they let go of the dataset."""
        questions = [self._lock.prove] if isinstance(self._lock, ObjectLock) else []
        if self._looked is not None:
            questions += self.location.look(self._looked, self.dataset)
        side_by_side(questions)

    def home(self) -> Home:
        """Return where the ledger lies."""
        if self.folder is not None:
            return Home(self.folder, None)
        return Home(None, *self.location.ledger(self.dataset))

    def _warn_of_others(self) -> None:
        """Memory belongs to this process, a transaction finds out; else others may write unseen."""
        if not self.location.private and self.transactions.store is None:
            message = (
                f"{self.location.name} is written to without conditional writes: nothing keeps a "
                "second process out; see docs/stores.md"
            )
            warnings.warn(message, UserWarning, stacklevel=2)

    def _open_ledger(self) -> None:
        ledger = Ledger(self.home(), self.dataset, synced=self.synced)
        if self._lock is not None and self._lock.took_over:
            ledger.fence()
        if ledger.existed and not self._same_store(ledger):
            ledger = Ledger(self.home(), self.dataset, synced=self.synced)
        self._ledger, self._created = ledger, ledger.existed
        if ledger.existed:
            ledger.begin()
            self._recover(ledger.state)
        elif self._lock is not None and self._lock.took_over:
            self.chunks.finish_renames(ledger.state)  # of a first commit without a record

    def _same_store(self, ledger: Ledger) -> bool:
        """A ledger whose store is gone or another one is set aside, not mixed with new data."""
        exists, store_id = self.format.store_id(self.store)
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

    def _recover(self, state: State) -> None:
        """Finish the last commit, refuse a store that somebody else changed, remove leftovers."""
        self.chunks.finish_renames(state)
        refuse_changed(self.format, self.store, self.location.name, state)
        if self.transactions.store is not None:  # what was saved is published, and all there is
            self._dirty = is_lagging(state)
            return
        if self._lock is None or self._lock.took_over:
            for array in (*state.arrays.values(), *state.pending.values()):
                self.chunks.remove_unknown(array)
        self._dirty = True
        self.publish()

    @property
    def ledger(self) -> Ledger:
        """The open ledger.

        Raises
        ------
        ClosedError
            The dataset is not open.
        """
        if self._ledger is None:
            message = f"{self.dataset!r} in {self.location.name} is closed"
            raise ClosedError(message)
        return self._ledger

    # -- closing -----------------------------------------------------------------------------------

    def undo(self) -> None:
        """Go back to the last commit, where a transaction came to nothing."""
        self.open_chunks.clear()
        self._recent = None
        self._open_ledger()

    def let_go(self) -> None:
        """Let others in, as it is."""
        self._let_go()

    def close(self) -> None:
        """Publish, and let others in. Idempotent."""
        with self.mutex:
            timer = self._timer
            try:
                self.publish()
                if self._ledger is not None:
                    self._ledger.tidy()
            finally:
                self._settle_last()
                self._let_go()
        if timer is not None and timer is not threading.current_thread():
            timer.join()  # outside the mutex, for which it may be waiting

    def done(self) -> None:
        """Let others in after a change, unless a job goes on."""
        if not self.job_active:
            self.close()

    def _settle_last(self) -> None:
        """A record that arrives later than the next opening would speak of chunks that are gone."""
        if self._ledger is not None and self._ledger.in_doubt:
            with contextlib.suppress(*LATER):
                self._ledger.settle()

    def _let_go(self) -> None:
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()
        self.open_chunks.clear()
        self._recent = None
        self.chunks.close()
        if self._lock is not None:
            self._lock.release()
        if self.folder is not None:
            with contextlib.suppress(OSError):  # it holds a ledger
                self.folder.rmdir()

    def let_others_in(self) -> None:
        """After an update: let go of the dataset where another process waits for it."""
        if self.yielding and self._lock is not None and self._lock.wanted():
            self.close()

    # -- committing --------------------------------------------------------------------------------

    def append(self, record: dict[str, Any]) -> None:
        """Append a record that goes with no data."""
        with self.transactions.unit(described(self.dataset, record)):
            self._make_ready()
            self.ledger.append(record)

    def _make_ready(self) -> None:
        """Make sure that the dataset is held, nothing is half done and the store is there."""
        self._settle()
        self._make_root()
        self.store.barrier()
        self._begin()

    def _settle(self) -> None:
        """Make sure that the dataset is held and nothing is half done."""
        if self._lock is not None:
            self._lock.check()
        self.ledger.settle()
        self.chunks.rename_staged()
        self.store.barrier()

    @contextlib.contextmanager
    def root_lock(self) -> Iterator[None]:
        """Datasets of one store share its root."""
        if self.folder is None:
            yield
            return
        with moment(self.folder / "@root.lock"):
            yield

    def _make_root(self) -> None:
        """Make the root of a new store; in a bucket the next `barrier` waits for it."""
        if self._created:
            return
        self._root_id = self.format.store_id(self.store)[1] or uuid.uuid4().hex
        if isinstance(self.store, ObjectStore):
            self.store.later(partial(patiently, self._note_id))
        else:
            patiently(self._note_id)

    def _note_id(self) -> None:
        with self.root_lock():
            self._root_id = self.format.store_id(self.store)[1] or self._root_id
            self.format.create_root(self.store, self._root_id, self.attrs)

    def _begin(self) -> None:
        """The store has its id before the ledger has a record."""
        if not self._created:
            self.ledger.begin(self._root_id)
            self._created = True
        known = self.ledger.state.settings.get("attrs", {})
        if any(known.get(name) != value for name, value in self.attrs.items()):
            settings = {"attrs": {**known, **self.attrs}}
            self.ledger.append({"kind": "settings", "settings": settings})

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
        record = {"kind": "commit", **(extra or {})}
        with self.transactions.unit(described(self.dataset, record, cells)):
            self._commit(
                CommitPlan(writes, cells, sum(map(len, raw)), whole, self.chunk_block), record, raw
            )

    def _commit(self, plan: CommitPlan, record: dict[str, Any], raw: Sequence[bytes]) -> None:
        self._settle()
        self._make_root()
        self._make_room(record.get("new", ()))
        puts = self.chunks.put_all(plan.blocks(), self.ledger.state)
        try:
            self.store.barrier()
            self._begin()
            record["arrays"] = plan.entries(puts)
            self.ledger.append(record, [*raw, *plan.payload])
        except RecordInDoubtError:
            raise
        except BaseException:
            self.chunks.drop(puts)
            raise
        self.chunks.stand(puts)
        self._after_commit(plan)

    def _make_room(self, new: Sequence[Mapping[str, Any]]) -> None:
        """New arrays find nothing at their keys that a dead writer put there."""
        if self._lock is None or self._lock.took_over:
            for entry in new:
                if not entry.get("adopted"):
                    self.chunks.make_room(ArrayLayout.from_json(entry["layout"]))

    def _after_commit(self, plan: CommitPlan) -> None:
        """From here on the commit stands: what fails now is tried again, never reported as lost."""
        for chunk in plan.touched:
            self._keep_open(plan, chunk)
        with contextlib.suppress(*LATER):
            self.chunks.rename_staged()
        self._dirty = True
        self._schedule()

    def _keep_open(self, plan: CommitPlan, chunk: ChunkId) -> None:
        """Bring an open chunk in memory up to the commit, and forget one that is in the store."""
        array, block = self.ledger.state.array(chunk[0], chunk[1]), self.open_chunks.get(chunk)
        if array is None or chunk[2] not in array.loose:
            self.open_chunks.forget(chunk)
        elif block is not None:
            plan.apply(chunk, block)
        elif self._has_room(array):
            self.open_chunks.keep(chunk, self._load(array, chunk[2]))

    def _has_room(self, array: ArrayState) -> bool:
        """Open chunks beyond the limit stay in the ledger alone, and are read when they fill."""
        size = math.prod(array.layout.chunks) * array.layout.values_dtype.itemsize
        return self.open_chunks.nbytes + size <= self.chunks.limit

    def chunk_block(self, array: ArrayState, index: Index) -> NDArray[Any]:
        """Return the committed values of a chunk; the caller must not change them."""
        block = self.open_chunks.get((array.layout.name, array.layout.generation, index))
        return self._load(array, index) if block is None else block

    def _load(self, array: ArrayState, index: Index) -> NDArray[Any]:
        return self.chunks.load(array, index, self._read_piece)

    def _read_piece(self, piece: PieceRef) -> bytes:
        return self.ledger.read(piece)

    def read(self, array: ArrayState, region: Region, extent: Index | None = None) -> NDArray[Any]:
        """Return the committed values of a contiguous region (of an array of shape `extent`)."""
        values = np.empty(region.shape, array.layout.values_dtype)
        for piece in pieces(region, array.layout.chunks, extent or array.extent()):
            values[piece.source] = self._recent_block(array, piece.chunk)[piece.inside]
        return values

    def _recent_block(self, array: ArrayState, index: Index) -> NDArray[Any]:
        """Neighbouring results are read one after the other: keep the chunk they share."""
        if index in array.loose:
            return self.chunk_block(array, index)
        stamp = (array.layout.name, array.layout.generation, index, array.chunks.get(index))
        if self._recent is None or self._recent[0] != stamp:
            self._recent = (stamp, self.chunk_block(array, index))
        return self._recent[1]

    # -- publishing --------------------------------------------------------------------------------

    def _schedule(self) -> None:
        """Publish now if that was long ago, else when its time has come.

        A bucket takes its time for that, so there a thread does it while the caller goes on.
        """
        if not self.format.timed or self.transactions.under_way:
            return
        wait = max(PUBLISH_AFTER, 20 * self._publish_cost)
        due = self._last_publish + wait - time.monotonic()
        aside = isinstance(self.store, ObjectStore) and not self.yielding
        if due <= 0 and not aside:
            with contextlib.suppress(*LATER):  # committed all the same; flush will tell
                self.publish()
        elif self._timer is None:
            self._timer = threading.Timer(max(0.0, due), _publish_later, [weakref.ref(self)])
            self._timer.name = "savers-publish"
            self._timer.daemon = True
            self._timer.start()

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
            if self._ledger is None:
                return
            if not self._dirty:
                self._remove_left()
                return
            begin = time.monotonic()
            if self._created:
                with self.transactions.unit(f"{self.dataset}: published"):
                    self._make_ready()
                    Publisher(self).publish()
            self._dirty = False
            self._last_publish = time.monotonic()
            self._publish_cost = self._last_publish - begin

    def _remove_left(self) -> None:
        """Where no commit came after the one that failed; who lost the dataset leaves it."""
        if self.chunks.has_left:
            with contextlib.suppress(*LATER):
                self._make_ready()
                Publisher(self).remove_left()

    def mark_changed(self) -> None:
        """Have the next publication show what was appended beside commits."""
        self._dirty = True

    def remove_generation(self, layout: ArrayLayout, generation: int) -> None:
        """Delete all chunk objects of a generation that readers don't see."""
        if (layout.generation - generation) % 2:
            self.format.remove_chunks(self.store, layout.renumbered(generation))


def _publish_later(reference: weakref.ref[Session]) -> None:
    session = reference()
    if session is None or session.pid != os.getpid():
        return
    with contextlib.suppress(*LATER, ClosedError):  # flush and close will tell
        if session.yielding:
            session.close()
        else:
            session.publish()
