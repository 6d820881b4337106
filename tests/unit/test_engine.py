"""Work is shared between threads, and bounded in memory."""

from __future__ import annotations

import operator
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
import zarr

from savers import JobSpec, ZarrSaver
from savers._codecs._codec import DirectChunks
from savers._codecs._compressors import compressors_v3
from savers._codecs._engine import GRAIN, Engine, Parcel, _Work

MIB = 1 << 20
BLOSC = {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 1, "shuffle": "shuffle",
                                            "typesize": 4, "blocksize": 0}}  # fmt: skip
#: What a save may hold beside `max_inflight_bytes` and its data: three chunks that are on their way
#: in or out (here of 1 MiB; measured 3.1 MiB at each of 4, 16 and 64 MiB), records and documents.
CONSTANT = 4 * MIB


@pytest.fixture
def engine():
    engine = Engine(3)
    yield engine
    engine.close()


def parcels(calls, size):
    """Parcels of one share each, which give what their call gives."""
    return [Parcel([call], operator.itemgetter(0), size) for call in calls]


def test_little_work_stays_with_the_caller(engine):
    calls = [lambda: threading.current_thread().name] * 20
    names, errors = engine.run(parcels(calls, 10))
    assert names == [threading.current_thread().name] * 20
    assert errors == []


def test_much_work_is_shared_and_keeps_its_order(engine):
    together = threading.Barrier(3, timeout=30)

    def work(number):
        if number < 3:
            together.wait()  # passes only if three threads are at work
        return number

    calls = [lambda n=n: work(n) for n in range(9)]
    assert engine.run(parcels(calls, GRAIN)) == (list(range(9)), [])


def test_one_large_chunk_is_shared_out_and_finished_once(engine):
    together = threading.Barrier(3, timeout=30)
    finished = []

    def work(number):
        if number < 3:
            together.wait()
        return number

    def finish(made):
        finished.append(made)
        return sum(made)

    large = Parcel([lambda n=n: work(n) for n in range(6)], finish, 6 * GRAIN)
    assert engine.run([large]) == ([15], [])
    assert finished == [[0, 1, 2, 3, 4, 5]]


def test_a_chunk_of_which_a_share_failed_is_not_finished(engine):
    shares = [lambda: 1, lambda: 1 / 0, lambda: 3]
    broken, whole = Parcel(shares, pytest.fail, 3 * GRAIN), Parcel([lambda: 5], sum, GRAIN)
    values, errors = engine.run([broken, whole])
    assert values == [5]
    assert [type(error) for error in errors] == [ZeroDivisionError]


@pytest.mark.parametrize("size", [1, GRAIN])
def test_what_is_raised_is_handed_back_and_the_rest_is_done(engine, size):
    done = []
    calls = [lambda: done.append(1), lambda: 1 / 0, lambda: done.append(2)]
    values, errors = engine.run(parcels(calls, size))
    assert values == [None, None]
    assert sorted(done) == [1, 2]
    assert [type(error) for error in errors] == [ZeroDivisionError]


def test_work_that_waits_for_a_late_thread_holds_no_chunks():
    chunk = np.zeros(3)
    work = _Work(parcels([chunk.sum], GRAIN))
    gone = weakref.ref(chunk)
    del chunk
    work.share()
    assert work.wait() == ([0.0], [])
    assert gone() is None


def test_an_engine_works_again_after_close():
    engine = Engine(2)
    for _ in range(2):
        assert engine.run(parcels([lambda: 1, lambda: 2], GRAIN))[0] == [1, 2]
        engine.close()


@pytest.mark.parametrize("chosen", [None, True, False])
def test_blosc_gives_the_same_bytes_in_every_thread(chosen):
    from numcodecs import blosc

    block = np.random.default_rng(0).normal(size=MIB).cumsum().astype("f4")
    codec = DirectChunks(block.dtype, compressors_v3([BLOSC]), block.shape)
    found = [codec.encode(block)]
    blosc.use_threads, before = chosen, blosc.use_threads
    try:
        found.append(codec.encode(block))  # in the main thread
        threads = [
            threading.Thread(target=lambda: found.append(codec.encode(block))) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert blosc.use_threads is chosen
    finally:
        blosc.use_threads = before
    assert len(set(found)) == 1


def peak(call):
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("limit", [4 * MIB, 16 * MIB])
def test_a_save_holds_no_more_than_its_limit(tmp_path, limit):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(64, 256, 512))  # 64 chunks of 1 MiB that don't compress
    saver = ZarrSaver(tmp_path / "out", chunks=(1, 256, 512), max_inflight_bytes=limit)
    saver.save(rows[:1])
    assert peak(lambda: saver.save(rows[1:])) < limit + CONSTANT
    update = ZarrSaver(tmp_path / "out", approach="update", max_inflight_bytes=limit)
    inner = (slice(None), slice(1, 255))  # every chunk has to be put together
    assert (
        peak(lambda: update.save(-rows[:, 1:255], indices=inner)) < limit + CONSTANT + rows.nbytes
    )
    update.close()
    saver.close()
    found = zarr.open_group(tmp_path / "out", mode="r")["dataset"][:]
    np.testing.assert_array_equal(found[:, 1:255], -rows[:, 1:255])
    np.testing.assert_array_equal(found[:, [0, 255]], rows[:, [0, 255]])


def test_open_chunks_beyond_the_limit_are_not_kept_in_memory(tmp_path):
    labels = {"case": range(32), "step": range(2)}
    saver = ZarrSaver(
        tmp_path / "out", dims=("case", "step", "x"), coords=labels, max_inflight_bytes=2 * MIB,
        chunks=(1, 2, 65536), codecs=None,
    )  # fmt: skip
    jobs = saver.open_jobs()
    writer = jobs.begin(JobSpec("t", identity="labels"), 0)
    held = []
    for step in range(2):
        for case in range(32):
            value = np.full(65536, case + step / 4)
            writer.stage(2 * case + step, case, value, {"case": case, "step": step})
            writer.commit()
            held.append(saver.session().open_chunks.nbytes)
    writer.finish(64)
    jobs.close()
    saver.close()
    assert MIB < max(held) <= 2 * MIB
    assert held[-1] == 0
    found = zarr.open_group(tmp_path / "out", mode="r")["dataset"][:]
    expected = np.arange(32)[:, None] + np.arange(2) / 4
    np.testing.assert_array_equal(found, np.broadcast_to(expected[:, :, None], found.shape))
