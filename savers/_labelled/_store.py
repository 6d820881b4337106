"""A store that several writers fill by label: its arrays and labels, and one writer's way into it.

Arrays and labels change under the dataset's lock, which is held for a moment. Chunks are put and
recorded without it, in a stream of this writer's own.
"""

from __future__ import annotations

import functools
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._chunked._labelled_plan import LabelledPlan, stored_labels
from savers._codecs._codec import DirectChunks
from savers._labelled._apart import Apart
from savers._labelled._claims import Claims
from savers._labelled._object_claims import ObjectClaims
from savers._labelled._process_claims import ProcessClaims
from savers._labelled._sink import Sink
from savers._labelled._slots import Coverage, known_values
from savers._labelled._streams import Replica, WriterStream, is_writing, writers_of
from savers._session._chunk_store import ChunkStore
from savers._session._publishing import patiently
from savers._session._transactions import described
from savers._stores._bucket._store import ObjectStore
from savers._stores._store import ChangedError, LocalStore
from savers._values._regions import box
from savers.errors import InvalidInputError, StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from savers._chunked._saver import ChunkedSaver
    from savers._labelled._handles import Submission
    from savers._ledger._state import ArrayLayout, State
    from savers._session._session import Session
    from savers._values._coordinates import Labels
    from savers._values._placement import Axes

__all__ = ["LabelledStore"]

#: Seconds to wait for the dataset where there is a way without it; a job may hold it for hours.
SHORT_PATIENCE = 2.0
#: How the names of objects begin that writers have aside.
ASIDE = "writer-"

Index = tuple[int, ...]


class LabelledStore(Sink):
    """What one saver knows of the store, and its stream of records.

    Attributes
    ----------
    layouts : dict of str to ArrayLayout
        The arrays that it has seen.
    labels : dict of str to Labels
        The stored labels of their dimensions.
    lock : RLock
        Guards both; who takes the session's mutex, too, takes it afterwards.
    """

    def __init__(self, saver: ChunkedSaver, session: Session) -> None:
        self.saver = saver
        self.session = session
        self.layouts: dict[str, ArrayLayout] = {}
        self.labels: dict[str, Labels] = {}
        self.apart = Apart(session)
        self.replica = Replica(self.apart.seen, session.dataset, self.apart.look)
        self.chunks, self._readable = (
            ChunkStore(session.location, store, session.format, session.dataset)
            for store in (self.apart.store, self.apart.readable)
        )
        self._store_id = ""
        self._generations: dict[str, tuple[int, Index]] = {}
        self._grids: dict[str, NDArray[Any]] = {}
        self.lock = threading.RLock()
        self._put: dict[str, set[Index]] = {}  # chunks that a record speaks of, or will
        self._numbers = itertools.count()
        self._last = 0
        self._writer: WriterStream | None = None
        self._claims: Claims | ObjectClaims | ProcessClaims | None = None

    # -- arrays and labels -------------------------------------------------------------------------

    def known(self, names: Sequence[str]) -> bool:
        """Return whether all these arrays were seen."""
        return all(name in self.layouts for name in names)

    def update(self, names: Sequence[str], make: Callable[[LabelledPlan], None]) -> None:
        """Create arrays and add labels, as `make` plans them, and see what others made.

        Raises
        ------
        InvalidInputError
            `make` refused; nothing was changed.
        StorageError
            The store refused.
        StoreInUseError
            Another process kept the lock for too long.
        """
        try:
            patiently(lambda: self._update(names, make, wait=SHORT_PATIENCE))
        except StoreInUseError:
            if not self._see_without(names, make):
                patiently(lambda: self._update(names, make))

    def _see_without(self, names: Sequence[str], make: Callable[[LabelledPlan], None]) -> bool:
        """Return whether all that is asked for is there: then nobody needs the dataset."""
        with self.lock, self.session.mutex:
            state = self.session.peek()
            root, plan = self.saver.root_attributes(names), self._plan(state)
            if not root.items() <= state.settings.get("attrs", {}).items() or plan.grow():
                return False
            try:
                make(plan)
            finally:
                plan.plan.undo()
            if plan.plan.new:
                return False
            self._see(state)
            return True

    def _update(
        self,
        names: Sequence[str],
        make: Callable[[LabelledPlan], None],
        wait: float | None = None,
    ) -> None:
        session = self.session
        with self.lock, session.looking({*names, *self.saver.labels}, before=False):
            with session.mutex:
                session.attrs = {**session.attrs, **self.saver.root_attributes(names)}
                session.open(yielding=True, wait=wait)
                try:
                    self.grow()
                    self._change(make)
                    self._see(session.peek())
                except BaseException:
                    session.done()
                    raise
            session.done()

    def grow(self) -> None:
        """Give the store the labels that it does not have yet; the session is open."""
        self._change(lambda plan: plan.grow())

    def _plan(self, state: State) -> LabelledPlan:
        return LabelledPlan(self.saver, self.session, state, self.saver.labels, {})

    def _change(self, make: Callable[[LabelledPlan], object]) -> None:
        plan = self._plan(self.session.peek())
        make(plan)
        found = plan.plan
        if found.new or found.writes or found.extents:
            self.session.commit(found.writes, found.cells, found.extra)
        made = [entry["layout"]["name"] for entry in found.new if not entry.get("adopted")]
        self._put.update({name: set() for name in made})  # nobody can have put a chunk of these

    def _see(self, state: State) -> None:
        """Remember arrays and labels as they are now."""
        self._store_id = state.store_id
        for name, array in state.arrays.items():
            layout = array.layout
            stamp = (layout.generation, layout.shape)
            if layout.meta["dims"] == [name] and self._generations.get(name) != stamp:
                labels = stored_labels(self.session, state, name)
                if labels is not None:
                    self.labels[name] = labels
                self._generations[name] = stamp
        self.layouts = {name: array.layout for name, array in state.arrays.items()}

    def look(self) -> None:
        """See what others made, without the lock."""
        with self.lock, self.session.mutex:
            self._see(self.session.peek())

    def label(self, dimension: str) -> Labels:
        """Return the stored labels of a parallel dimension, with those that are to be added."""
        mine, there = self.saver.labels[dimension], self.labels.get(dimension)
        return mine if there is None else there.extended(mine)

    def check_grids(self, axes: Axes) -> None:
        """Compare n-d coordinates with those that the store has.

        Raises
        ------
        InvalidInputError
            They differ.
        """
        for name, values in axes.grids.items():
            if self._grids.get(name) is values:
                continue
            array = self.session.peek().arrays[name]
            stored = self.session.read(array, box((0,) * values.ndim, array.layout.shape))
            if not np.array_equal(stored, values):
                message = f"coordinate {name!r} in {self.saver.where} has other values"
                raise InvalidInputError(message)
            self._grids[name] = values

    # -- one writer's way in -----------------------------------------------------------------------

    @property
    def writer(self) -> WriterStream:
        """The stream of this writer."""
        with self.lock:
            if self._writer is None:
                home = writers_of(self.apart.home)
                store_id = self._store_id or self.session.peek().store_id
                self._writer = WriterStream(
                    home, self.session.dataset, store_id, synced=self.session.synced
                )
                self._writer.sign_on()
                self._claims = self._claims_of(self._writer)
            return self._writer

    def _claims_of(self, writer: WriterStream) -> Claims | ObjectClaims | ProcessClaims:
        store, chunks = writer.home.store, self.chunks.store
        if writer.home.folder is not None:
            return Claims(writer)
        if not isinstance(store, ObjectStore):
            return ProcessClaims(self.session, writer.name)
        claims = ObjectClaims(store.beside(store.prefix + writer.home.prefix), writer.name)
        if isinstance(chunks, ObjectStore):
            chunks.keep_aside(chunks.scratch, claims.mark.assert_held)
        return claims

    def put(self, layout: ArrayLayout, index: Index, block: NDArray[Any]) -> list[Any]:
        token = f"{ASIDE}{self.writer.name}-{next(self._numbers)}"
        announce = functools.partial(self._announce, layout, index)
        try:
            there = self.chunks.put_whole(layout, index, block, token, announce)
        except ChangedError:  # of an earlier run, or another writer's: the last one wins
            there = self.chunks.put_whole(layout, index, block, token, announce)
        return [*there.entry(), self._moment()]

    def _moment(self) -> int:
        """Return microseconds since 1970, later each time: of two writers the later one counts."""
        with self.lock:
            self._last = max(self._last + 1, time.time_ns() // 1000)
            return self._last

    def _announce(self, layout: ArrayLayout, index: Index, size: int, crc: int) -> None:
        """A chunk that a record speaks of, or will, may be a newer one from here on."""
        if self._was_put(layout, index):
            entry = {**_entry(layout.name), "rewriting": [[index, size, crc]]}
            self.writer.append({"kind": "commit", "arrays": [entry]})

    def _was_put(self, layout: ArrayLayout, index: Index) -> bool:
        """Return whether a chunk was put before; from here on it was."""
        with self.lock:
            if layout.name not in self._put:
                array = self.replica.refresh().arrays.get(layout.name)
                self._put[layout.name] = set() if array is None else set(array.chunks)
            there = index in self._put[layout.name]
            self._put[layout.name].add(index)
            return there

    def record(
        self, chunks: Sequence[tuple[ArrayLayout, list[Any]]], writes: Sequence[Submission]
    ) -> None:
        self.chunks.store.barrier()
        arrays: dict[str, dict[str, Any]] = {}
        parts: dict[str, list[Any]] = {}
        for layout, entry in chunks:
            known = arrays.setdefault(layout.name, _entry(layout.name))
            known["chunks"].append(entry[:-1])
            known["at"].append(entry[-1])
        for write in writes:
            for name, boxes in write.cells.items():
                arrays.setdefault(name, _entry(name))["cells"] += boxes
            for name, boxes in write.parts.items():
                parts.setdefault(name, []).extend(boxes)
        record: dict[str, Any] = {"kind": "commit", "arrays": list(arrays.values())}
        writer = self.writer
        if self._claims is not None:
            self._claims.check()
        writer.append({**record, "parts": parts} if parts else record)
        cells = {name: entry["cells"] for name, entry in arrays.items()}
        self.apart.commit(described(self.session.dataset, record, cells))

    def load(self, layout: ArrayLayout, index: Index) -> tuple[NDArray[Any], Coverage]:
        self.claim(layout, index)
        self.apart.begin()
        array = self.replica.refresh().arrays.get(layout.name)
        extent = tuple(
            min(n, size - i * n)
            for i, n, size in zip(index, layout.chunks, layout.shape, strict=True)
        )
        coverage = Coverage(extent)
        if array is None or index not in array.chunks:
            return np.full(layout.chunks, self.fill(layout), layout.values_dtype), coverage
        coverage.add_mask(known_values(array, index, extent))
        return self._readable.load(array, index, lambda _: b""), coverage

    def claim(self, layout: ArrayLayout, index: Index) -> None:
        """Make sure that no other writer merges values into a chunk.

        Raises
        ------
        StoreInUseError
            One does.
        """
        dims, cells = layout.meta["dims"], layout.cells
        several = [dims[axis] for axis in cells if layout.chunks[axis] > 1]
        one = ", ".join(f"{dim!r}: 1" for dim in several)
        advice = (
            f"Give each writer chunks of its own: chunked_coords={{{one}}} (and no shards along "
            f"them), or let it write all of {several} that share one"
            if several else "Let one writer write all values of a label"
        )  # fmt: skip
        if self._claims is None:
            self.writer  # noqa: B018 -- makes both
        if self._claims is not None:
            self._claims.take(layout.name, index, advice)

    def claim_shared(self, layout: ArrayLayout, index: Index) -> None:
        """Claim a chunk that is written whole, if it has room for several results.

        Raises
        ------
        StoreInUseError
            Another writer merges values into it.
        """
        if any(layout.chunks[axis] > 1 for axis in layout.cells):
            self.claim(layout, index)

    def release(self, layout: ArrayLayout, index: Index) -> None:
        if self._claims is not None:
            self._claims.release(layout.name, index)

    def fill(self, layout: ArrayLayout) -> object:
        return self.session.format.fill_value(layout)

    def weight(self, layout: ArrayLayout) -> int:
        codec = self.chunks.codec(layout)
        return 1 if isinstance(codec, DirectChunks) and not codec.chain else 2

    def close(self) -> None:
        """Hand this writer's records, and those of dead ones, over to the dataset.

        Where a job holds the dataset they stay where they are, and count.

        Raises
        ------
        StorageError
            It could not be; the records stay where they are, and count.
        """
        writer, self._writer = self._writer, None
        if self._claims is not None:
            self._claims.close()
            self._claims = None
        names: list[str] | None = None
        try:
            self._sweep()
            self.apart.look()
            names = self._hand_over(writer)
        finally:
            if writer is not None:
                writer.close(remove=names is not None)
            for chunks in (self.chunks, self._readable):
                chunks.close()
        self.replica.remove([name for name in names or () if writer is None or name != writer.name])

    def _hand_over(self, writer: WriterStream | None) -> list[str] | None:
        """Return the streams that were taken over, None where a job holds the dataset."""
        names = self.replica.dead()
        if writer is not None and writer.count:
            names = [*(name for name in names if name != writer.name), writer.name]
        try:
            if names:
                patiently(lambda: self._take_over(names))
        except StoreInUseError:
            return None
        return names

    def _sweep(self) -> None:
        """Remove what dead writers left aside."""
        store = self.session.store
        if not isinstance(store, LocalStore):
            return
        for token in store.staged():
            name = token.removeprefix(ASIDE).rpartition("-")[0]
            if token.startswith(ASIDE) and not is_writing(self.replica.writers, name):
                store.drop_staged(token)

    def _take_over(self, names: Sequence[str]) -> None:
        session = self.session
        with session.mutex, session.looking(self.layouts, before=False):
            session.open(yielding=True, wait=SHORT_PATIENCE)
            taken = set(session.peek().settings.get("taken_over", ()))
            records = self.replica.records([name for name in names if name not in taken])
            there = set(self.replica.writers.streams(session.dataset))
            with session.transactions.unit(f"{session.dataset}: a writer closed"):
                settled = {*names, *(taken & there)}
                session.append({**joined(records), "taken_over": sorted(settled)})
                session.mark_changed()
                if session.transactions.store is not None:  # elsewhere, once the record stands
                    for name in names:
                        writers_of(session.home()).remove(name)
        session.done()


def _entry(name: str) -> dict[str, Any]:
    return {"array": name, "chunks": [], "at": [], "cells": []}


def joined(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return one commit that says what several say."""
    parts: dict[str, list[Any]] = {}
    for record in records:
        for name, boxes in record.get("parts", {}).items():
            parts.setdefault(name, []).extend(boxes)
    arrays = [entry for record in records for entry in record["arrays"]]
    return {"kind": "commit", "arrays": arrays, "parts": parts}
