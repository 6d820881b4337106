"""The queue alone, with a store that does what the test says."""

from __future__ import annotations

import errno
import math
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from savers import StorageError
from savers._labelled._handles import Submission
from savers._labelled._queue import WriteQueue
from savers._labelled._sink import Sink

LAYOUT = SimpleNamespace(
    name="t2m", generation=0, chunks=(4,), shape=(8,), values_dtype=np.dtype("f4")
)


class Refusing(Sink):
    """Takes every chunk but the first."""

    def put(self, layout, index, block):
        if index == (0,):
            raise PermissionError(errno.EACCES, "not here")
        return [list(index), 1, 1, ""]

    def record(self, chunks, writes):
        pass

    def release(self, layout, index):
        pass

    def fill(self, layout):
        return 0

    def weight(self, layout):
        return 1


def test_memory_of_a_write_that_failed_is_not_used_again_while_a_chunk_of_it_is_read():
    released, forgotten, seen = threading.Event(), threading.Event(), []

    def read():
        assert forgotten.wait(30)
        seen.append(released.is_set())
        return np.ones(4, "f4")

    queue = WriteQueue(Refusing(), 2, 1 << 20, keeps=False)
    one = Submission({}, {}, {"t2m": lambda: "lead_time=0"}, 32, released.set)
    slots = [queue.slot(LAYOUT, (number,)) for number in (0, 1)]
    queue.make_room(32, [], wait=True, deadline=math.inf)
    wholes = [(slots[0], lambda: np.zeros(4, "f4")), (slots[1], read)]
    queue.submit(one, wholes, [], now=True)
    with pytest.raises(StorageError, match="t2m"):
        one.future.result(30)
    queue.forget(one)
    forgotten.set()
    queue.flush(30)
    queue.stop()
    assert seen == [False]


class Interrupted(Refusing):
    """Takes all chunks; the first record is cut short by Ctrl-C."""

    def __init__(self):
        self.recorded, self.gate = [], threading.Event()

    def put(self, layout, index, block):
        return [list(index), 1, 1, ""]

    def record(self, chunks, writes):
        if not self.gate.is_set():
            self.gate.set()
            raise KeyboardInterrupt
        self.recorded += writes


def test_what_was_being_recorded_when_somebody_interrupted_is_recorded_by_the_next_flush():
    sink = Interrupted()
    queue = WriteQueue(sink, 1, 1 << 20, keeps=False)
    one = Submission({}, {}, {"t2m": lambda: "lead_time=0"}, 0, lambda: None)
    queue.make_room(0, [], wait=True, deadline=math.inf)
    with pytest.raises(KeyboardInterrupt):
        queue.submit(one, [], [], now=True)
    assert queue.flush(5) == []
    queue.stop()
    assert sink.recorded == [one]
    assert one.future.done()
