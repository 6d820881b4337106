"""What works for an open AsyncZarrSaver: its queue of chunks, and its way into the store."""

from __future__ import annotations

import itertools
import os
import sys
import time
from typing import TYPE_CHECKING

from savers._labelled._handles import Submission
from savers._labelled._queue import WriteQueue
from savers._labelled._store import LabelledStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from savers._labelled._saver import AsyncZarrSaver
    from savers._labelled._slots import Slot
    from savers._labelled._writes import ArrayWrite
    from savers._session._session import Session

__all__ = ["Background", "end"]

Index = tuple[int, ...]


class Background:
    """The parts of an open saver that work in the background."""

    def __init__(self, saver: AsyncZarrSaver, session: Session) -> None:
        self.pid = os.getpid()
        self.saver = saver
        self.store = LabelledStore(saver, session)
        limit = saver.settings.max_inflight_bytes
        self.queue = WriteQueue(self.store, saver.pool_size, limit, keeps=saver.blocking)

    def submit(self, writes: Sequence[ArrayWrite], *, copy: bool) -> Submission:
        """Take a write over: from here on the caller may change its values."""
        store, queue, saver = self.store, self.queue, self.saver
        size = sum(write.nbytes * store.weight(write.layout) for write in writes)
        deadline = time.monotonic() + saver.async_timeout
        merging = {(id(write.layout), piece.chunk): write.layout for write in writes
                   for _, piece in write.merges}  # fmt: skip
        room = queue.make_room(size, [(layout, key[1]) for key, layout in merging.items()],
                               wait=saver.on_full == "block", deadline=deadline)  # fmt: skip
        slots: list[Slot] = []
        try:
            for write in writes:
                write.take_over(rounding=write.layout.rounding, copy=copy)
            wholes = [
                (self._slot(slots, write, index), make)
                for write in writes
                for index, make in write.makers()
            ]
            merges = [
                (self._slot(slots, write, piece.chunk), piece.inside, block[piece.source])
                for write in writes
                for cells, group in itertools.groupby(write.merges, key=lambda pair: pair[0])
                for block in (write.values(cells),)
                for _, piece in group
            ]
            for slot, _ in wholes:
                store.claim_shared(slot.layout, slot.index)
            queue.free(room)  # the blocks themselves count from here on
            room = 0
            for slot in {id(merge[0]): merge[0] for merge in merges}.values():
                queue.prepare(slot)
            submission = _submission(writes, size)
            queue.submit(submission, wholes, merges, now=saver.blocking)
            slots = []  # taken
        except BaseException:
            queue.free(size)
            raise
        finally:
            queue.free(room)
            queue.unpin(slots)
        return submission

    def _slot(self, slots: list[Slot], write: ArrayWrite, index: Index) -> Slot:
        slot = self.queue.slot(write.layout, index)
        slots.append(slot)
        return slot

    def close(self) -> None:
        """End the threads, and hand the records over."""
        self.queue.stop()
        self.store.close()


def _submission(writes: Sequence[ArrayWrite], size: int) -> Submission:
    cells, parts = {}, {}
    for write in writes:
        whole, partial = write.settled()
        cells[write.layout.name] = whole
        if partial:
            parts[write.layout.name] = partial

    def release() -> None:
        for write in writes:
            write.staged.release()

    labels = {write.layout.name: write.described for write in writes}
    return Submission(cells, parts, labels, size, release)


def end(engine: Background) -> None:
    """The process ends: save what there is, and name on stderr what could not be."""
    if engine.pid != os.getpid():
        return
    saver, queue = engine.saver, engine.queue
    errors = queue.flush(saver.async_timeout)
    left = queue.unsaved()
    lines = [f"not saved: {what} in {saver.where}" for what in left]
    lines += map(str, errors if left else ())
    try:
        engine.close() if not left else queue.stop()
    except Exception as error:  # noqa: BLE001 -- its records count where they are
        lines.append(f"{saver.where}: {error}")
    sys.stderr.write("".join(f"savers: {line}\n" for line in lines))
