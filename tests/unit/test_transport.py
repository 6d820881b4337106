"""Large results through shared memory, small ones on the pipe."""

from __future__ import annotations

import dataclasses
import gc
import mmap
import os
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from taskmanager import TaskManager, _arena
from taskmanager._arena import Board, Lender, Reader, anonymous_file, map_arena
from taskmanager._executors import make_pool
from taskmanager._pool import TaskPlan, Work
from taskmanager._task import as_factory
from taskmanager._transport import LARGE_BYTES, Inbox, pack, send, unpack


@pytest.fixture
def memory():
    return mmap.mmap(-1, 64 << 20)


@pytest.fixture
def sides(memory):
    return Lender(memory), Reader(memory)


@dataclasses.dataclass
class Result:
    field: np.ndarray
    name: str


def lent(reader) -> int:
    gc.collect()
    return bytes(reader._flags).count(1)


def large(value=1.0, kib=128):
    return np.full(kib * 128, value)


def test_large_arrays_anywhere_in_a_result_travel_beside_the_pickle(sides):
    lender, reader = sides
    value = {"a": large(1), "b": [(Result(large(2), "two"),)], "c": np.arange(3)}
    payload, region = packed = pack(value, lender)
    assert len(payload) < 1000
    assert len(region.parts) == 2
    back = unpack(packed, reader)
    np.testing.assert_array_equal(back["a"], large(1))
    np.testing.assert_array_equal(back["b"][0][0].field, large(2))
    np.testing.assert_array_equal(back["c"], np.arange(3))


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(40_000.0).reshape(200, 200)),
        np.arange(80_000.0).reshape(200, 400)[:, ::2],
        np.arange(40_000.0).reshape(200, 200).T,
        np.arange(40_000).astype("datetime64[s]"),
        np.arange(40_000).astype(">i4"),
        np.zeros(40_000, [("a", "f4"), ("b", "i8")]),
        np.full(40_000, "text"),
    ],
    ids=["fortran", "strided", "transposed", "datetime", "big-endian", "structured", "text"],
)
def test_every_layout_comes_back_the_same(sides, array):
    lender, reader = sides
    packed = pack(array, lender)
    back = unpack(packed, reader)
    assert packed[1] is not None or array.dtype.kind == "M"
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "bool", "complex64"])
def test_large_tensors_share_the_memory_as_arrays_do(sides, dtype):
    torch = pytest.importorskip("torch")
    lender, reader = sides
    tensor = (torch.arange(200_000) % 3).to(getattr(torch, dtype)).reshape(400, 500)
    for value in (tensor, tensor.T, tensor[::2, 1:], tensor[0], torch.tensor(1.0)):
        payload, region = pack({"a": value}, lender)
        back = unpack((payload, region), reader)["a"]
        assert (back.dtype, back.shape) == (value.dtype, value.shape)
        assert torch.equal(back, value)
        assert (region is not None) == (value.nbytes >= LARGE_BYTES)
        del back


def test_small_arrays_stay_on_the_pipe(sides):
    lender, _ = sides
    assert pack(np.zeros(LARGE_BYTES - 1, np.uint8), lender)[1] is None
    assert pack(np.zeros(LARGE_BYTES, np.uint8), lender)[1] is not None


def test_arrays_are_views_that_can_be_written_to(sides):
    lender, reader = sides
    back = unpack(pack(large(1), lender), reader)
    assert not back.flags.owndata
    back += 1
    np.testing.assert_array_equal(back, large(2))


def test_a_region_goes_back_once_the_last_view_of_it_is_gone(sides):
    lender, reader = sides
    back = unpack(pack({"a": large(), "b": large()}, lender), reader)
    part = back["b"][10:20].reshape(2, 5)
    del back
    assert lent(reader) == 1
    np.testing.assert_array_equal(part, np.ones((2, 5)))
    del part
    assert lent(reader) == 0


FORKING = """
import mmap, os
import numpy as np
from taskmanager._arena import Lender, Reader
from taskmanager._transport import pack, unpack
memory = mmap.mmap(-1, 1 << 24)
reader = Reader(memory)
view = unpack(pack(np.ones(100_000), Lender(memory)), reader)
if (child := os.fork()) == 0:
    del view
    os._exit(0)
os.waitpid(child, 0)
print(bytes(reader._flags).count(1))
del view
print(bytes(reader._flags).count(1))
"""


def test_a_view_that_dies_in_a_fork_of_the_driver_gives_nothing_back():
    done = subprocess.run(
        [sys.executable, "-c", FORKING],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    assert done.stdout == "1\n0\n", done.stderr


def test_regions_are_used_again_lowest_first(sides):
    lender, reader = sides
    starts = set()
    for number in range(1000):
        packed = pack(large(number), lender)
        starts.add(packed[1].parts[0][0])
        np.testing.assert_array_equal(unpack(packed, reader), large(number))
    assert len(starts) == 1


def test_lent_regions_never_overlap(sides):
    lender, reader = sides
    rng = np.random.default_rng(1)
    held = {}
    for number in range(500):
        packed = pack(large(number, int(rng.integers(64, 900))), lender)
        if packed[1] is not None:
            held[number] = unpack(packed, reader)
        while len(held) > 20:
            held.pop(int(rng.choice(list(held))))
    assert len(held) == 20
    assert all((array == number).all() for number, array in held.items())


def test_without_room_results_take_the_pipe(sides, monkeypatch):
    monkeypatch.setattr(_arena, "BUDGET_BYTES", 1 << 20)
    lender, reader = sides
    held = [unpack(packed, reader) for packed in (pack(large(i, 256), lender) for i in range(12))]
    assert lent(reader) == 4
    assert [array[0] for array in held] == list(range(12))


def test_the_lender_waits_for_a_reader_that_gives_back(sides, monkeypatch):
    monkeypatch.setattr(_arena, "BUDGET_BYTES", 1 << 20)
    monkeypatch.setattr(_arena, "_PATIENCE_SECONDS", 10.0)
    lender, reader = sides
    held = [unpack(pack(large(i, 256), lender), reader) for i in range(4)]
    timer = threading.Timer(0.05, held.clear)
    timer.start()
    assert pack(large(4, 256), lender)[1] is not None
    timer.join()


def test_a_result_larger_than_the_arena_takes_the_pipe(memory):
    lender = Lender(memory)
    packed = pack(np.zeros(65 << 20, np.uint8), lender)
    assert packed[1] is None
    assert unpack(packed, Reader(memory)).nbytes == 65 << 20


def test_an_arena_has_no_name_and_takes_memory_where_it_was_written():
    memory = map_arena(fd := anonymous_file(1 << 40))
    os.close(fd)
    memory[1 << 39] = 1
    assert len(memory) == 1 << 40


def test_the_board_tells_what_runs_and_since_when(memory):
    board = Board(memory)
    before = time.monotonic()
    board.note(12, 3)
    running, count, since = Board(memory).read()
    assert (running, count) == (12, 3)
    assert before - 1e-6 <= since <= time.monotonic()


def test_messages_arrive_whole_however_they_are_cut():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        inbox = Inbox(ours)
        assert inbox.receive() is None
        theirs.sendall(b"\x05\0\0\0")
        assert inbox.receive() is None
        theirs.sendall(b"\0\0\0\0hel")
        assert inbox.receive() is None
        theirs.sendall(b"lo")
        send(theirs, b"")
        send(theirs, b"again")
        assert [inbox.receive() for _ in range(4)] == [b"hello", b"", b"again", None]
        theirs.close()
        with pytest.raises(EOFError):
            inbox.receive()


# --- through a pool -----------------------------------------------------------------------


def field(item):
    return {"field": large(item, 1024), "number": item}


def small(item):
    return np.full(10, item)


def outcomes_of(task, count, per_chunk=5):
    pool = make_pool("processes", TaskPlan(as_factory(task), {}), 2)
    try:
        for start in range(0, count, per_chunk):
            pool.submit([Work(i, i) for i in range(start, start + per_chunk)])
        arrived = 0
        while arrived < count:
            for outcome in pool.poll(10.0):
                arrived += 1
                yield outcome
    finally:
        pool.close(grace=5.0)


def test_a_consumer_that_keeps_every_view_gets_every_result():
    kept = {outcome.index: outcome.value for outcome in outcomes_of(field, 200)}
    assert all((kept[i]["field"] == i).all() and kept[i]["number"] == i for i in range(200))


def test_owned_says_whether_the_memory_may_be_kept():
    assert {outcome.owned for outcome in outcomes_of(field, 5)} == {False}
    assert {outcome.owned for outcome in outcomes_of(small, 5)} == {True}


def test_views_outlive_their_worker_and_their_pool():
    first = next(iter(outcomes_of(field, 5)))
    gc.collect()
    assert (first.value["field"] == first.index).all()


class ReleasedMeanwhile:
    """Flags of which the driver clears one just after it was looked at for the first time."""

    def __init__(self, flags, slot):
        self.flags, self.slot, self.looks = flags, slot, 0

    def look(self):
        now = bytes(self.flags)
        self.looks += 1
        self.flags[self.slot] = 0
        return now

    def __bytes__(self):
        return self.look()

    def __getitem__(self, slot):
        return self.look()[slot] if slot == self.slot else self.flags[slot]

    def __setitem__(self, slot, value):
        self.flags[slot] = value


def test_a_region_released_while_the_worker_looks_is_not_lent_twice(sides):
    lender, _ = sides
    data = [memoryview(bytes(1 << 20))]
    first, second = lender.place(data), lender.place(data)
    lender._flags = ReleasedMeanwhile(lender._flags, first.slot)
    lender._flags.flags[second.slot] = 0
    for _ in range(3):
        lender.place(data)
    lent = [slot for _, _, slot in lender._lent]
    assert len({*lent}) == len(lent)
    assert not {*lent} & {*lender._free}
    assert len(lender._free) == len({*lender._free})


def full(item):
    return np.full(1 << 15, float(item))


def test_large_results_that_are_used_at_once_are_each_their_own():
    with TaskManager(full, executor="processes", max_workers=2, progress=False) as manager:
        for item, value in enumerate(manager.map(range(1500))):
            assert value[0] == value[-1] == item
