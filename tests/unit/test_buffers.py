"""Memory is used again within its bound, by one borrower at a time, in threads and after a fork."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from savers._values._buffers import BufferPool

MIB = 1 << 20


def test_a_returned_buffer_is_lent_again_and_begins_at_a_page():
    pool = BufferPool(4 * MIB)
    lent = pool.take(MIB)
    first = lent.array((MIB,), np.dtype("u1"))
    assert first.ctypes.data % 4096 == 0
    lent.release()
    again = pool.take(MIB - 100).array((MIB - 100,), np.dtype("u1"))
    assert np.shares_memory(first, again)


def test_a_buffer_far_too_large_or_too_small_is_not_lent():
    pool = BufferPool(16 * MIB)
    pool.take(4 * MIB).release()
    small, large = pool.take(MIB), pool.take(5 * MIB)
    assert pool.kept == 4 * MIB
    small.release()
    large.release()
    assert pool.kept == 10 * MIB


def test_what_is_kept_is_bounded_by_bytes():
    pool = BufferPool(4 * MIB)
    lent = [pool.take(MIB) for _ in range(9)]
    for one in lent:
        one.release()
    assert pool.kept == 4 * MIB
    pool.take(5 * MIB).release()
    assert pool.kept == 4 * MIB


def test_a_second_release_changes_nothing():
    pool = BufferPool(4 * MIB)
    lent = pool.take(MIB)
    lent.release()
    lent.release()
    assert pool.kept == MIB
    one, two = (pool.take(MIB).array((MIB,), np.dtype("u1")) for _ in range(2))
    assert not np.shares_memory(one, two)


def test_no_two_threads_ever_hold_one_buffer():
    pool = BufferPool(4 * MIB)

    def work(mark):
        for _ in range(50):
            lent = pool.take(128 << 10)
            mine = lent.array((16 << 10,), np.dtype("i8"))
            mine[:] = mark
            if not (mine == mark).all():
                return False
            lent.release()
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))


def test_a_forked_child_has_a_pool_of_its_own(may_fork):
    pool = BufferPool(4 * MIB)
    lent = pool.take(MIB)
    pool.take(2 * MIB).release()

    def child():
        lent.release()  # of the parent: not to be lent here
        pool.take(MIB).release()
        return pool.kept == MIB

    with pool._lock:  # as another thread might hold it at that moment
        status = may_fork(child)
    assert status == 0
    assert pool.kept == 2 * MIB


@pytest.fixture
def may_fork():
    """Run a function in a forked child; 0 where it returned True, 1 else."""

    def run(function):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = 0 if function() else 1
            finally:
                os._exit(code)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    return run
