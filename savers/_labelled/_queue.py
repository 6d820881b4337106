"""Chunks go into the store in the background, in order for each chunk, within a budget of bytes.

A write is recorded when the last of its chunks is in the store; writes that end together share a
record.
"""

from __future__ import annotations

import errno
import math
import threading
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from savers._labelled._budget import Budget
from savers._labelled._outcomes import Outcomes, failed
from savers._labelled._retries import tried
from savers._labelled._slots import Slot, padded
from savers._labelled._workers import Workers
from savers.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from savers._labelled._handles import Submission
    from savers._labelled._sink import Sink
    from savers._ledger._state import ArrayLayout

__all__ = ["Merge", "Whole", "WriteQueue"]

Index = tuple[int, ...]
SlotId = tuple[str, int, Index]
#: A part of a write: the slot, then either what makes the whole chunk, or where values go.
Whole = tuple[Slot, "Callable[[], NDArray[Any]]"]
Merge = tuple[Slot, tuple[slice, ...], "NDArray[Any]"]


class WriteQueue:
    """The chunks of one saver on their way. Safe to use from threads.

    Parameters
    ----------
    sink : Sink
    threads : int
    limit : int
        Bytes that may be held; a write that is larger goes alone.
    keeps : bool
        True: blocks that are in the store but not whole stay in memory while there is room.
    """

    def __init__(self, sink: Sink, threads: int, limit: int, *, keeps: bool) -> None:
        self.sink = sink
        self.keeps = keeps
        self._lock = threading.RLock()
        self._change = threading.Condition(self._lock)
        self._budget = Budget(limit, self._change)
        self._outcomes = Outcomes(self._budget)
        self._workers = Workers(threads, self._lock, self._take_out)
        self._recording = threading.Lock()
        self._slots: dict[SlotId, Slot] = {}
        self._chunks: list[Any] = []  # put, and not yet recorded
        self._whole: dict[SlotId, Slot] = {}  # done with, for others once their record stands
        self._ready: list[Submission] = []
        self._unrecorded: list[Submission] = []

    @property
    def peak(self) -> int:
        """Bytes that were held at most."""
        return self._budget.peak

    # -- submitting --------------------------------------------------------------------------------

    def slot(self, layout: ArrayLayout, index: Index) -> Slot:
        """Return the slot of a chunk, pinned for a call that is about to use it."""
        key = (layout.name, layout.generation, index)
        with self._lock:
            slot = self._slots.get(key)
            if slot is None:
                slot = self._slots[key] = Slot(layout, index)
            slot.layout = layout
            slot.pins += 1
            return slot

    def unpin(self, slots: Iterable[Slot]) -> None:
        """End the use of slots."""
        with self._lock:
            for slot in slots:
                slot.pins -= 1
                self._rest(slot)

    def prepare(self, slot: Slot) -> None:
        """Have the values of a pinned slot at hand, so that others can be merged into them."""
        with slot.opening:
            with self._lock:
                if slot.has_values:
                    return
            self._record()  # what was put a moment ago is found by its record
            with self._lock:
                unrecorded = [(layout.name, tuple(entry[0])) for layout, entry in self._chunks]
                if (slot.layout.name, slot.index) in unrecorded:
                    message = f"writes of {slot.layout.name!r} could not be recorded; flush() first"
                    raise StorageError(errno.EIO, message)
            block, coverage = self.sink.load(slot.layout, slot.index)
            with self._lock:
                if not slot.has_values:
                    slot.load(block, coverage)
                    self._weigh(slot)

    def make_room(
        self, size: int, merged: Sequence[tuple[ArrayLayout, Index]], *, wait: bool, deadline: float
    ) -> int:
        """Reserve bytes for a write; return those for the chunks that it opens.

        Parameters
        ----------
        size : int
            Bytes of the write itself.
        merged : sequence
            Chunks that it has a part of.
        wait : bool
            False: raise at once.
        deadline : float
            By the monotonic clock.

        Raises
        ------
        StorageError
            There is no room, or writes that failed fill it.
        """
        with self._lock:
            while True:
                opened = sum(self._opened(layout, index) for layout, index in merged)
                need = size + opened
                if self._budget.fits(need):
                    self._budget.hold(need)
                    return opened
                if self._evict():
                    continue
                if self._budget.stuck or not wait or time.monotonic() >= deadline:
                    raise self._budget.refusal(need)
                self._change.wait(max(0.0, min(1.0, deadline - time.monotonic())))

    def _opened(self, layout: ArrayLayout, index: Index) -> int:
        """Return the bytes that the block of a chunk takes, 0 where it is there."""
        slot = self._slots.get((layout.name, layout.generation, index))
        if slot is not None and slot.block is not None:
            return 0
        cells = math.prod(layout.chunks)
        return cells * layout.values_dtype.itemsize * self.sink.weight(layout)

    def free(self, size: int) -> None:
        """Give back reserved bytes."""
        with self._lock:
            self._budget.hold(-size)

    def _weigh(self, slot: Slot) -> None:
        self._budget.weigh(slot, self.sink.weight(slot.layout))

    def _evict(self) -> bool:
        """Let go of a block that nobody works on, or send one out that is not whole yet."""
        for slot in list(self._slots.values()):
            if slot.idle and slot.block is not None and not slot.failed:
                if slot.waiting:
                    self._enqueue(slot)
                    return False
                slot.block = slot.coverage = None
                self._weigh(slot)
                self._tidy(slot)
                return True
        return False

    def submit(
        self, submission: Submission, wholes: Sequence[Whole], merges: Sequence[Merge], *, now: bool
    ) -> None:
        """Take the parts of a write, all at once: the last one submitted wins in every chunk.

        Parameters
        ----------
        submission : Submission
            Room for its `size` was made.
        wholes, merges : sequence
            Their slots are pinned, those of `merges` prepared; the pins end with this call.
        now : bool
            True: put chunks that are not whole, too.
        """
        with self._lock:
            while any(slot.busy and slot.lent is None for slot, _, _ in merges):
                self._change.wait()  # before anything is taken: a flush sees all of it or nothing
            submission.left = len({id(part[0]) for part in (*wholes, *merges)})
            self._outcomes.begin(submission)
            for slot, make in wholes:
                slot.replace(make)
                self._weigh(slot)
                self._take(slot, submission)
            for slot, inside, values in merges:
                slot.merge(inside, values, self.sink.fill(slot.layout))
                self._weigh(slot)
                self._take(slot, submission)
                slot.urgent = slot.urgent or now or slot.complete
                submission.resting |= not slot.urgent
            slots = [*(part[0] for part in wholes), *(part[0] for part in merges)]
            for slot in slots:
                if slot.urgent:
                    self._enqueue(slot)
            if not submission.left:  # a write of no values
                self._ready.append(submission)
            self.unpin(slots)  # before a thread gets to them
        if not submission.left:
            self._record()

    def _take(self, slot: Slot, submission: Submission) -> None:
        superseded, slot.failed = slot.failed, []
        for one in (*superseded, submission):
            if one not in slot.waiting:
                slot.waiting.append(one)
                one.flying += 1
        for one in superseded:  # its values are replaced or go along
            self._outcomes.revive(one)

    def _enqueue(self, slot: Slot) -> None:
        slot.urgent = True
        if not (slot.queued or slot.busy):
            slot.queued = True
            self._workers.add(slot)

    # -- threads -----------------------------------------------------------------------------------

    def _take_out(self, slot: Slot) -> Callable[[], None]:
        """Return what puts the values that a slot has now."""
        writes, slot.waiting = slot.waiting, []
        return partial(self._put, slot, slot.take(), writes)

    def _put(self, slot: Slot, take: Callable[[], NDArray[Any]], writes: list[Submission]) -> None:
        block: NDArray[Any] | None = None
        try:
            block = padded(slot.layout, take(), self.sink.fill(slot.layout))
            with self._lock:
                slot.lent = block
                self._change.notify_all()
            layout, index = slot.layout, slot.index
            entry, _ = tried(lambda: self.sink.put(layout, index, block))
        except Exception as error:  # noqa: BLE001 -- reported at the handle, and by flush
            self._could_not(slot, take, block, writes, error)
        else:
            self._did(slot, block, writes, entry)

    def _did(
        self, slot: Slot, block: NDArray[Any], writes: list[Submission], entry: list[Any]
    ) -> None:
        with self._lock:
            self._chunks.append((slot.layout, entry))
            for one in writes:
                one.left -= 1
                one.flying -= 1
                if not one.left:
                    self._ready.append(one)
            ready = bool(self._ready)
            self._end(slot)
            if slot.pins and not slot.has_values:  # somebody is about to merge values into these
                slot.keep(block)
            self._rest(slot)
        if ready:
            self._record_soon()

    def _rest(self, slot: Slot) -> None:
        """Let go of values that are in the store, and of the chunk once it is whole there."""
        whole = slot.complete
        clean = slot.idle and not (slot.waiting or slot.failed)
        if clean and (whole or not self.keeps):
            slot.clear()
        self._weigh(slot)
        if self._tidy(slot) and whole:
            self._whole[slot.layout.name, slot.layout.generation, slot.index] = slot
            if not self._chunks:
                self._let_go()

    def _let_go(self) -> None:
        """Let other writers have chunks that are whole, and found by their records."""
        unrecorded = {(layout.name, tuple(entry[0])) for layout, entry in self._chunks}
        for key, slot in list(self._whole.items()):
            if (slot.layout.name, slot.index) not in unrecorded:
                del self._whole[key]
                if key not in self._slots:  # not in use again
                    self.sink.release(slot.layout, slot.index)

    def _end(self, slot: Slot) -> None:
        """A thread is done with a slot; what came meanwhile goes out next."""
        slot.busy, slot.lent = False, None
        if slot.urgent:
            self._enqueue(slot)
        self._change.notify_all()

    def _could_not(
        self,
        slot: Slot,
        take: Callable[[], NDArray[Any]],
        block: NDArray[Any] | None,
        writes: list[Submission],
        error: Exception,
    ) -> None:
        with self._lock:
            if slot.waiting:  # newer values are on their way to the same chunk: they go along
                again = [one for one in writes if one not in slot.waiting]
                slot.waiting[:0], writes = again, []
            for one in writes:
                one.flying -= 1
            slot.failed += [one for one in writes if one not in slot.failed]
            slot.give_back(take if block is None else lambda: block)
            self._end(slot)
            self._weigh(slot)
            for one in writes:
                self._outcomes.fail(one, error, slot.layout.name)

    def _tidy(self, slot: Slot) -> bool:
        """Forget a slot that holds nothing; True where that was so."""
        if not slot.idle or slot.has_values or slot.waiting or slot.failed:
            return False
        self._slots.pop((slot.layout.name, slot.layout.generation, slot.index), None)
        return True

    # -- records -----------------------------------------------------------------------------------

    def _record(self) -> None:
        """Record what is ready. Whoever comes while another one records finds it done."""
        with self._recording:
            self._record_ready()
        self._record_soon()

    def _record_soon(self) -> None:
        """Record what is ready; where another thread is at it, that one goes on with this.

        So what ends while a record is on its way shares the next one, and no thread waits for it.
        """
        while self._ready and self._recording.acquire(blocking=False):
            try:
                self._record_ready()
            finally:
                self._recording.release()

    def _record_ready(self) -> None:
        with self._lock:
            ready, self._ready = self._ready, []
            chunks = list(self._chunks)
        if not (ready or chunks):
            return
        try:
            tried(lambda: self.sink.record(chunks, ready))
        except Exception as error:  # noqa: BLE001 -- reported at the handles, and by flush
            with self._lock:
                self._unrecorded += ready
                for one in ready:
                    self._outcomes.fail(one, error, None)
                self._change.notify_all()
            return
        except BaseException:  # interrupted: the next one records it
            with self._lock:
                self._ready[:0] = ready
            raise
        with self._lock:
            del self._chunks[: len(chunks)]
            self._let_go()
        self._settle(ready)

    def _settle(self, ready: list[Submission]) -> None:
        for one in ready:
            one.release()
        with self._lock:
            for one in ready:
                self._outcomes.end(one)
            self._change.notify_all()
        for one in ready:
            if not one.future.done():
                one.future.set_result(None)

    # -- waiting -----------------------------------------------------------------------------------

    def flush(self, timeout: float, *, again: bool = True) -> list[StorageError]:
        """Put everything that was submitted; return the failures that nobody was told of yet.

        Parameters
        ----------
        timeout : float
            Seconds; what is not durable by then counts as failed, and goes on.
        again : bool
            True: try writes that failed, and were reported, once more.
        """
        deadline = time.monotonic() + timeout
        with self._lock:
            mine = list(self._outcomes.open.values())
            told = [
                slot for slot in self._slots.values() if again and self._outcomes.told(slot.failed)
            ]
            for slot in told:
                self._retry(slot)
            for slot in self._slots.values():
                if slot.waiting:
                    self._enqueue(slot)
            if again and not self._outcomes.unreported:
                self._ready += self._unrecorded
                for one in self._unrecorded:
                    self._outcomes.revive(one)
                self._unrecorded = []
        self._record()
        with self._lock:
            while late := [one for one in mine if one.flying or not one.settled]:
                if time.monotonic() >= deadline:
                    break
                self._change.wait(max(0.0, min(1.0, deadline - time.monotonic())))
            found = self._outcomes.report()
        too_late = TimeoutError(f"not durable after {timeout:g} s")
        return [*found, *(failed(one, too_late, None) for one in late)]

    def _retry(self, slot: Slot) -> None:
        slot.waiting[:0] = slot.failed
        again, slot.failed = slot.failed, []
        for one in again:
            one.flying += 1
            self._outcomes.revive(one)
        self._enqueue(slot)

    def hurry(self, one: Submission) -> None:
        """Put the chunks of a write that somebody waits for, whole or not."""
        with self._lock:
            for slot in self._slots.values() if one.resting and one.flying else ():
                if one in slot.waiting:
                    self._enqueue(slot)

    def forget(self, one: Submission) -> None:
        """Let go of a write whose failure its caller was told of, with its data."""
        with self._lock:
            self._unrecorded = [other for other in self._unrecorded if other is not one]
            unread = not one.flying
            for slot in list(self._slots.values()):
                if one in slot.failed:
                    slot.failed.remove(one)
                    if slot.pins:  # somebody is about to merge into these values
                        unread = False
                    elif not (slot.failed or slot.waiting or slot.busy):
                        slot.clear()
                    self._weigh(slot)
                    self._tidy(slot)
            self._outcomes.forget(one)
        if unread:  # else a thread still reads its memory, which goes with the last reader
            one.release()

    def unsaved(self) -> list[str]:
        """Return in words what is not durable."""
        with self._lock:
            return [one.describe() for one in self._outcomes.open.values()]

    def stop(self) -> None:
        """End the threads. The next write starts new ones."""
        self._workers.stop()
