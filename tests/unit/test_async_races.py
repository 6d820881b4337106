"""AsyncZarrSaver where several threads, or several savers, meet at one chunk at a bad moment."""

from __future__ import annotations

import asyncio
import errno
import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import zarr

from savers import AsyncZarrSaver, StorageError, StoreInUseError, verify
from savers._labelled._handles import Submission
from savers._labelled._queue import WriteQueue
from savers._labelled._sink import Sink
from savers._labelled._slots import Coverage, known_values
from savers._labelled._store import LabelledStore
from savers._ledger._records import fold, snapshot
from savers._ledger._state import ArrayLayout, State, fresh_array

TIMES = np.arange(4)
LAYOUT = SimpleNamespace(
    name="t", generation=0, chunks=(4,), shape=(8,), values_dtype=np.dtype("f4")
)


def opened(path, times=TIMES, chunk=4, **settings):
    saver = AsyncZarrSaver(path, {"time": times}, chunked_coords={"time": chunk}, **settings)
    saver.add_array({"time": times}, "t", dtype="f8")
    return saver


def values(path):
    return zarr.open_array(path / "t", mode="r")[:].tolist()


class Memory(Sink):
    """Has 1 to 4 in every chunk, in the first as written ones; takes or refuses new ones."""

    def __init__(self):
        self.there = {}
        self.refuses = False

    def put(self, layout, index, block):
        if self.refuses:
            raise PermissionError(errno.EACCES, "not here")
        self.there[index] = block.tolist()
        return [list(index), 1, 1, ""]

    def record(self, chunks, writes):
        pass

    def load(self, layout, index):
        coverage = Coverage((4,))
        if index == (0,):
            coverage.add((slice(0, 4),))
        return np.arange(1, 5, dtype="f4"), coverage

    def release(self, layout, index):
        pass

    def fill(self, layout):
        return np.nan

    def weight(self, layout):
        return 1


def submission(released=lambda: None):
    return Submission({}, {}, {"t": lambda: "time=0"}, 0, released)


# -- two savers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocking", [True, False])
def test_labels_that_another_saver_added_to_the_last_chunk_are_kept(tmp_path, blocking):
    path = tmp_path / "a"
    with opened(path, TIMES[:2], blocking=blocking) as first:
        with opened(path, TIMES[2:], blocking=blocking) as second:
            second.write(np.array([2.0, 3.0]), {"time": TIMES[2:]}, "t")
        first.write(np.array([0.0, 1.0]), {"time": TIMES[:2]}, "t")
    assert values(path) == [0, 1, 2, 3]
    assert verify(path) == []


def test_a_chunk_is_another_savers_only_once_its_record_stands(tmp_path, monkeypatch):
    path, record = tmp_path / "a", LabelledStore.record
    recording, gate = threading.Event(), threading.Event()

    def held_up(self, chunks, writes):
        recording.set()
        assert gate.wait(60)
        record(self, chunks, writes)

    with opened(path, blocking=False) as first, opened(path, blocking=True) as second:
        with monkeypatch.context() as patch:
            patch.setattr(LabelledStore, "record", held_up)
            whole = first.write(np.arange(4.0), {"time": TIMES}, "t")
            assert recording.wait(60)
            try:
                with pytest.raises(StoreInUseError, match="is being filled"):
                    second.write(np.full(1, 9.0), {"time": TIMES[:1]}, "t")
            finally:
                gate.set()
        whole.wait(60)
        second.write(np.full(1, 9.0), {"time": TIMES[:1]}, "t")
    assert values(path) == [9, 1, 2, 3]
    assert verify(path) == []


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_of_two_savers_the_last_write_counts_whoever_closes_first(tmp_path, order):
    path = tmp_path / "a"
    savers = {name: opened(path, chunk=1) for name in "ab"}
    for number, name in enumerate("aba"):
        savers[name].write(np.full(1, float(number)), {"time": TIMES[:1]}, "t")
        assert verify(path) == []
    savers["b"].write(np.full(1, 3.0), {"time": TIMES[1:2]}, "t")
    for name in order:
        savers[name].close()
        assert verify(path) == []
    assert values(path)[:2] == [2, 3]


def test_whose_chunk_is_newer_outlives_a_snapshot():
    layout = ArrayLayout("t", "f4", (4,), (1,), growing=False, cells=(0,))
    state = State("x", arrays={"t": fresh_array(layout)})
    newer = {"array": "t", "chunks": [[[0], 8, 2, ""]], "at": [2]}
    older = {"array": "t", "chunks": [[[0], 8, 1, ""]], "at": [1]}
    fold(state, {"kind": "commit", "arrays": [newer]}, memoryview(b""), 0)
    again = State()
    for record, raw in snapshot(state, lambda piece: b""):
        fold(again, record, memoryview(b"".join(raw)), 0)
    fold(again, {"kind": "commit", "arrays": [older]}, memoryview(b""), 0)
    assert again.arrays["t"].chunks[0,] == (8, 2)


# -- puts and records ------------------------------------------------------------------------------


def test_a_chunk_that_is_put_again_before_its_first_record_is_no_damage(tmp_path, monkeypatch):
    """As a process that is killed between the first record and the second one leaves it."""
    path, put, record = tmp_path / "a", LabelledStore.put, LabelledStore.record
    first_record, second_put, puts, records = threading.Event(), threading.Event(), [], []

    def counted(*args):
        entry = put(*args)
        puts.append(entry)
        if len(puts) == 2:
            second_put.set()
        return entry

    def once(*args):
        records.append(args)
        if len(records) > 1:
            raise StorageError(errno.ENOSPC, "no space left")
        first_record.set()
        assert second_put.wait(60)
        record(*args)

    saver = opened(path, chunk=1, blocking=False)
    with monkeypatch.context() as patch:
        patch.setattr(LabelledStore, "put", counted)
        patch.setattr(LabelledStore, "record", once)
        saver.write(np.zeros(1), {"time": TIMES[:1]}, "t")
        assert first_record.wait(60)
        handle = saver.write(np.ones(1), {"time": TIMES[:1]}, "t")
        assert handle.exception(60).errno == errno.ENOSPC
        assert values(path)[0] == 1
        assert verify(path) == []
    with pytest.raises(ExceptionGroup):
        saver.close()
    assert verify(path) == []
    assert values(path)[0] == 1


def test_records_are_read_while_another_thread_reads_more_of_them():
    layout = ArrayLayout("t", "f4", (4, 2), (4, 2), growing=False, cells=(0,))
    array = fresh_array(layout)

    class Mask:
        """While one is looked at, another thread reads a record with one more."""

        def __getitem__(self, inside):
            array.partial[2,] = np.ones(2, bool)
            return np.array([True, False])[inside]

    array.partial[0,] = array.partial[1,] = Mask()
    known = known_values(array, (0, 0), (4, 2))
    assert known[:2].tolist() == [[True, False]] * 2


# -- waiting ---------------------------------------------------------------------------------------


def test_a_write_of_a_part_that_somebody_waits_for_goes_out(tmp_path):
    async def main(saver):
        await asyncio.wait_for(saver.async_write(np.zeros(1), {"time": TIMES[:1]}, "t"), 60)
        await asyncio.wait_for(saver.write(np.ones(1), {"time": TIMES[1:2]}, "t"), 60)

    with opened(tmp_path / "a", blocking=False) as saver:
        asyncio.run(main(saver))
        saver.write(np.full(1, 2.0), {"time": TIMES[2:3]}, "t").wait(60)
        assert values(tmp_path / "a")[:3] == [0, 1, 2]
        assert len(saver.written("t")) == 3


def test_a_flush_waits_for_all_of_a_write_or_for_nothing_of_it():
    entered, gate, waits = threading.Event(), threading.Event(), threading.Semaphore(0)
    queue = WriteQueue(Memory(), 2, 1 << 20, keeps=False)
    wait = queue._change.wait
    queue._change.wait = lambda *args: (waits.release(), wait(*args))[1]

    def made():
        entered.set()
        assert gate.wait(60)
        return np.zeros(4, "f4")

    slot, other = queue.slot(LAYOUT, (0,)), queue.slot(LAYOUT, (1,))
    queue.prepare(other)
    queue.submit(submission(), [(slot, made)], [], now=False)
    assert entered.wait(60)
    assert queue.slot(LAYOUT, (0,)) is slot
    part = [(one, (slice(0, 1),), np.full(1, 7, "f4")) for one in (slot, other)]
    writer = threading.Thread(target=queue.submit, args=(submission(), [], part), kwargs={"now": 0})
    writer.start()
    assert waits.acquire(timeout=60)  # it waits for the values that are being made
    found = []
    flusher = threading.Thread(target=lambda: found.extend(queue.flush(30)))
    flusher.start()
    assert waits.acquire(timeout=60)
    gate.set()
    for thread in (writer, flusher):
        thread.join()
    assert found == []
    assert queue.flush(60) == []
    queue.stop()
    assert queue.sink.there == {(0,): [7, 0, 0, 0], (1,): [7, 2, 3, 4]}


def test_a_write_that_began_before_close_is_saved(tmp_path, monkeypatch):
    make_room, entered, gate = WriteQueue.make_room, threading.Event(), threading.Event()
    saver = opened(tmp_path / "a", blocking=False)

    def slow(*args, **kwargs):
        entered.set()
        assert gate.wait(60)
        return make_room(*args, **kwargs)

    monkeypatch.setattr(WriteQueue, "make_room", slow)
    writer = threading.Thread(target=saver.write, args=(np.arange(4.0), {"time": TIMES}, "t"))
    writer.start()
    assert entered.wait(60)
    closer = threading.Thread(target=saver.close)
    closer.start()
    closer.join(0.5)  # room for it to close too early
    gate.set()
    for thread in (writer, closer):
        thread.join()
    assert values(tmp_path / "a") == [0, 1, 2, 3]
    assert saver._engine is None
    with AsyncZarrSaver(tmp_path / "a", {"time": TIMES}) as again:
        assert len(again.written("t")) == 4


# -- failures --------------------------------------------------------------------------------------


def test_values_that_another_write_is_about_to_be_merged_into_are_not_forgotten():
    queue, released = WriteQueue(Memory(), 2, 1 << 20, keeps=True), []
    slot = queue.slot(LAYOUT, (0,))
    queue.prepare(slot)
    failing = submission(lambda: released.append(1))
    queue.sink.refuses = True
    queue.submit(failing, [], [(slot, (slice(0, 1),), np.full(1, 7, "f4"))], now=True)
    with pytest.raises(StorageError):
        failing.future.result(60)
    queue.sink.refuses = False
    queue.make_room(0, [], wait=True, deadline=math.inf)
    slot = queue.slot(LAYOUT, (0,))
    queue.prepare(slot)
    queue.forget(failing)
    assert released == []  # its values may still be read
    later = submission()
    queue.submit(later, [], [(slot, (slice(1, 2),), np.full(1, 9, "f4"))], now=True)
    later.future.result(60)
    queue.stop()
    assert queue.sink.there[0,][1:] == [9, 3, 4]


def test_a_chunk_that_is_put_at_once_is_not_kept_beside_its_write():
    queue = WriteQueue(Memory(), 1, 1 << 20, keeps=False)
    slot = queue.slot(LAYOUT, (0,))
    one = submission()
    queue.make_room(16, [], wait=True, deadline=math.inf)
    queue.submit(one, [(slot, lambda: np.zeros(4, "f4"))], [], now=True)
    one.future.result(60)  # before the caller of `submit` did anything else
    assert slot.block is None
    assert queue.peak == 16
    queue.stop()


def test_values_that_could_not_be_made_are_made_again():
    queue, tries = WriteQueue(Memory(), 2, 1 << 20, keeps=False), []

    def made():
        tries.append(1)
        if len(tries) == 1:
            raise MemoryError("for a moment")
        return np.zeros(4, "f4")

    slot = queue.slot(LAYOUT, (0,))
    queue.submit(submission(), [(slot, made)], [], now=True)
    assert len(queue.flush(60)) == 1
    assert queue.flush(60) == []
    queue.stop()
    assert queue.sink.there[0,] == [0, 0, 0, 0]
