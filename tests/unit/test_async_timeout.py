"""A blocking write that took too long goes on, with the values that it was given."""

from __future__ import annotations

import threading
from collections import UserDict

import numpy as np
import pytest

from savers import AsyncZarrSaver

CELLS = 1 << 16  # 256 KiB a write: memory that is used again


class HeldUp(UserDict):
    """A mapping whose writes wait."""

    def __init__(self):
        super().__init__()
        self.open = threading.Event()
        self.open.set()

    def __setitem__(self, key, data):
        assert self.open.wait(60)
        super().__setitem__(key, bytes(data))


@pytest.mark.filterwarnings("ignore:HeldUp is written to without conditional writes")
def test_a_write_that_took_too_long_arrives_as_it_was_given():
    store = HeldUp()
    saver = AsyncZarrSaver("", {"lead_time": np.arange(5)}, store=store, pool_size=1)

    def write(lead):
        labels = {"lead_time": np.array([lead]), "x": np.arange(CELLS)}
        saver.write(np.full((1, CELLS), lead + 1.0, "f4"), labels, "t2m")

    write(0)
    store.open.clear()
    saver.async_timeout = 0.2
    for lead in (1, 2, 3):
        with pytest.raises(TimeoutError, match="it goes on"):
            write(lead)
    store.open.set()
    saver.async_timeout = 60
    write(4)
    saver.flush()
    assert [one["lead_time"] for one in saver.written("t2m")] == [0, 1, 2, 3, 4]
    saver.close()
    for lead in range(5):
        stored = np.frombuffer(store[f"t2m/c/{lead}/0"], "<f4")
        np.testing.assert_array_equal(stored, np.full(CELLS, lead + 1.0))
