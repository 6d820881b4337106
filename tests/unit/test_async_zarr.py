"""AsyncZarrSaver: labels, order, limits, failures; read back with zarr and xarray."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import threading
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from savers import (
    AsyncZarrSaver,
    ClosedError,
    CoordinateNotFoundError,
    InvalidInputError,
    StorageError,
    verify,
)
from savers._labelled._queue import WriteQueue
from savers._labelled._store import LabelledStore
from tests.stores import consolidated_is_current, unchanged

HOUR = np.timedelta64(1, "h")
TIMES = np.datetime64("2024-01-01", "h") + 6 * HOUR * np.arange(4)
LEAD = np.arange(0, 24, 6).astype("m8[h]")
LAT, LON = np.array([90.0, 0.0, -90.0]), np.array([0.0, 180.0])
PARALLEL = {"time": TIMES, "lead_time": LEAD}
VALUES = np.arange(96.0).reshape(4, 4, 3, 2)

both = pytest.mark.parametrize("blocking", [True, False])


def at(time=slice(None), lead=slice(None), lat=LAT, lon=LON):
    return {"time": TIMES[time], "lead_time": LEAD[lead], "lat": lat, "lon": lon}


def one(i, j):
    return {"time": TIMES[i : i + 1], "lead_time": LEAD[j : j + 1], "lat": LAT, "lon": LON}


def opened(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(path).load()


def failing(monkeypatch, fails, error=None):
    """Have every put fail for which `fails(layout, index)` is true; returns the failed ones."""
    put, found = LabelledStore.put, []

    def refuse(self, layout, index, block):
        if fails(layout, index):
            found.append((layout.name, index))
            raise error or StorageError(errno.EACCES, "permission denied")
        return put(self, layout, index, block)

    monkeypatch.setattr(LabelledStore, "put", refuse)
    return found


# -- labels ----------------------------------------------------------------------------------------


@both
def test_slices_land_where_their_labels_say(tmp_path, blocking):
    path = tmp_path / "a"
    with AsyncZarrSaver(path, PARALLEL, blocking=blocking, attrs={"t": {"units": "K"}}) as saver:
        for i, j in np.ndindex(2, 4):
            saver.write(VALUES[i, j][None, None], one(i, j), "t")
        order = [3, 1, 0, 2]
        turned = {"lon": LON[::-1], "lead_time": LEAD[order], "lat": LAT, "time": TIMES[[3, 2]]}
        block = VALUES[[3, 2]][:, order][..., ::-1].transpose(3, 1, 2, 0)
        saver.write(block, turned, "t")
    found = opened(path)
    np.testing.assert_array_equal(found.t, VALUES)
    assert found.t.dims == ("time", "lead_time", "lat", "lon")
    np.testing.assert_array_equal(found.lead_time, LEAD)
    assert found.t.attrs == {"units": "K"}
    assert zarr.open_array(path / "t").chunks == (1, 1, 3, 2)
    assert consolidated_is_current(path)
    assert verify(path) == []


@both
def test_the_store_is_readable_while_it_is_written(tmp_path, blocking):
    path = tmp_path / "a"
    with AsyncZarrSaver(path, PARALLEL, blocking=blocking) as saver:
        saver.write(VALUES[0, 1][None, None], one(0, 1), "t").wait()
        found = opened(path)
        np.testing.assert_array_equal(found.t[0, 1], VALUES[0, 1])
        assert np.isnan(found.t[1:]).all()
        assert consolidated_is_current(path)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"lat": [90.0, 1.0, -90.0]}, CoordinateNotFoundError, "label 1.0 .* nearest is 0.0"),
        ({"lat": [90.0, 90.0, 0.0]}, InvalidInputError, "label 90.0 stands there twice"),
        ({"lat": LAT[:2]}, InvalidInputError, "got data of shape"),
        ({"time": TIMES[:1] + HOUR}, CoordinateNotFoundError, "not among the 4 of 'time'"),
        ({"time": TIMES[:1], "level": 1}, InvalidInputError, "expected dimensions"),
    ],
)
@both
def test_what_does_not_fit_changes_nothing(tmp_path, blocking, change, error, text):
    path = tmp_path / "a"
    with AsyncZarrSaver(path, PARALLEL, blocking=blocking) as saver:
        block = VALUES[0, 0][None, None]
        with pytest.raises(CoordinateNotFoundError):
            saver.write(block, {**one(0, 0), "time": TIMES[:1] + HOUR}, "t")
        assert not path.exists()
        saver.write(block, one(0, 0), "t").wait()
        with unchanged(path), pytest.raises(error, match=text):
            saver.write(block, {**one(0, 0), **change}, "t")
        with unchanged(path), pytest.raises(ValueError, match="."):
            saver.write([block, block], {**one(0, 0), **change}, ["new", "t"])
        with unchanged(path), pytest.raises(InvalidInputError, match="got complex128"):
            saver.write([block, block + 1j], one(0, 0), ["new", "t"])
    np.testing.assert_array_equal(opened(path).t[0, 0], VALUES[0, 0])


@both
def test_reopening_adds_labels_behind_the_stored_ones(tmp_path, blocking):
    path = tmp_path / "a"
    with AsyncZarrSaver(path, {"time": TIMES[:2]}, blocking=blocking) as saver:
        saver.write(VALUES[:2, 0], {"time": TIMES[:2], "lat": LAT, "lon": LON}, "t")
        saver.write(VALUES[:1, 0], {"time": TIMES[:1], "lat": LAT, "lon": LON}, "u")
    later = TIMES[[3, 2]].astype("M8[ns]")
    with AsyncZarrSaver(path, {"time": later}, blocking=blocking) as saver:
        saver.write(VALUES[2:4, 0], {"time": later[::-1], "lat": LAT, "lon": LON}, "t")
        assert len(saver.missing("u")) == 3
    found = opened(path)
    np.testing.assert_array_equal(found.time, TIMES[[0, 1, 3, 2]])
    np.testing.assert_array_equal(found.t, VALUES[[0, 1, 3, 2], 0])
    assert np.isnan(found.u[1:]).all()
    assert verify(path) == []


def test_other_coordinates_and_the_layout_must_agree(tmp_path):
    path = tmp_path / "a"
    with AsyncZarrSaver(path, PARALLEL) as saver:
        saver.write(VALUES, at(), "t")
    with unchanged(path):
        saver = AsyncZarrSaver(path, PARALLEL, chunked_coords={"time": 2})
        with pytest.raises(InvalidInputError, match="created with chunked_coords={'time': 1}"):
            saver.write(VALUES, at(), "t")
        saver.close()
        with AsyncZarrSaver(path, PARALLEL) as saver, pytest.raises(CoordinateNotFoundError):
            saver.write(VALUES, at(lat=LAT + 1), "t")


def test_integers_without_holes_are_integers(tmp_path):
    path = tmp_path / "a"
    with AsyncZarrSaver(path, {"time": TIMES}) as saver:
        saver.write(np.arange(4, dtype="i2"), {"time": TIMES}, "n")
        saver.write(np.arange(2, dtype="i2"), {"time": TIMES[:2]}, "holes")
    found = opened(path)
    assert found.n.dtype == np.int16
    np.testing.assert_array_equal(found.holes, [0, 1, np.nan, np.nan])


def test_labels_of_text_floats_and_scalars(tmp_path):
    path = tmp_path / "a"
    parallel = {"run": ["north", "south"], "quantile": [0.1, 0.9]}
    with AsyncZarrSaver(path, parallel, blocking=False) as saver:
        for run, quantile in [("south", 0.1), ("north", 0.9)]:
            coords = {"run": run, "quantile": quantile, "x": [1, 2, 3]}
            saver.write(np.full(3, quantile), coords, "t")
        saver.flush()
        assert saver.written("t") == [
            {"run": "north", "quantile": 0.9},
            {"run": "south", "quantile": 0.1},
        ]
    assert opened(path).t.sel(run="south", quantile=0.1).values.tolist() == [0.1] * 3


def test_curvilinear_coordinates_lie_on_index_dimensions(tmp_path):
    lat, lon = np.meshgrid(LAT, LON, indexing="ij")
    coords = {"time": TIMES, "lat": lat, "lon": lon}
    with AsyncZarrSaver(tmp_path / "a", {"time": TIMES}) as saver:
        saver.write(VALUES[:, 0], coords, "t")
        with pytest.raises(InvalidInputError, match="'lon' in .* has other values"):
            saver.write(VALUES[:, 0], {**coords, "lon": lon + 1}, "t")
    found = opened(tmp_path / "a")
    assert found.t.dims == ("time", "ilat", "ilon")
    np.testing.assert_array_equal(found.lon, lon)


@pytest.mark.parametrize("kind", ["dict", "zarr", "fsspec", "obstore", "power"])
@both
def test_stores_of_every_kind(tmp_path, kind, blocking):
    import fsspec
    import obstore.store

    memory = {
        "dict": dict, "zarr": zarr.storage.MemoryStore, "obstore": obstore.store.MemoryStore,
        "fsspec": lambda: fsspec.get_mapper(f"memory://{tmp_path}"), "power": lambda: None,
    }[kind]()  # fmt: skip
    durability = "power" if kind == "power" else "process"
    for first in (0, 2):
        with AsyncZarrSaver(
            tmp_path / "a", {"time": TIMES[: first + 2]}, store=memory, blocking=blocking,
            chunked_coords={"time": 4}, durability=durability,
        ) as saver:  # fmt: skip
            for t in range(first, first + 2):
                coords = {"time": TIMES[t : t + 1], "lat": LAT, "lon": LON}
                saver.write(VALUES[t : t + 1, 0], coords, "t")
            saver.flush()
            assert len(saver.written("t")) == first + 2
    target = memory if memory is not None else tmp_path / "a"
    if kind == "dict":
        target = zarr.storage.MemoryStore({key: zarr_buffer(v) for key, v in memory.items()})
    elif kind == "obstore":
        target = zarr.storage.ObjectStore(memory)
    elif kind == "fsspec":
        target = zarr.storage.MemoryStore({key: zarr_buffer(memory[key]) for key in memory})
    found = zarr.open_group(target, mode="r")
    np.testing.assert_array_equal(found["t"][:], VALUES[:, 0])


def zarr_buffer(data):
    return zarr.core.buffer.default_buffer_prototype().buffer.from_bytes(data)


# -- chunks that several writes share --------------------------------------------------------------


@both
@pytest.mark.parametrize("keyword", ["chunked_coords", "shard_coords"])
def test_slices_of_one_chunk_written_from_eight_threads_are_all_there(tmp_path, blocking, keyword):
    member = np.arange(32)
    values = np.arange(32.0 * 6).reshape(32, 3, 2)
    saver = AsyncZarrSaver(
        tmp_path / "a", {"member": member}, blocking=blocking, **{keyword: {"member": 32}}
    )

    def write(first):
        for i in range(first, 32, 8):
            coords = {"member": member[i : i + 1], "lat": LAT, "lon": LON}
            saver.write(values[i : i + 1], coords, "t")

    threads = [threading.Thread(target=write, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    saver.close()
    np.testing.assert_array_equal(opened(tmp_path / "a").t, values)
    assert verify(tmp_path / "a") == []


@both
def test_a_chunk_that_is_not_whole_is_rewritten_whole_later(tmp_path, blocking):
    path = tmp_path / "a"
    for part in (slice(0, 1), slice(1, 3), slice(3, 4)):  # three processes, as it were
        with AsyncZarrSaver(
            path, {"time": TIMES}, blocking=blocking, chunked_coords={"time": 4, "lat": 3}
        ) as saver:
            for t in range(4)[part]:
                coords = {"time": TIMES[t : t + 1], "lat": LAT, "lon": LON}
                saver.write(VALUES[t : t + 1, 0], coords, "t")
                saver.flush()
                assert len(saver.written("t")) == t + 1
    np.testing.assert_array_equal(opened(path).t, VALUES[:, 0])
    assert verify(path) == []


@both
def test_a_label_counts_once_all_its_cells_are_written(tmp_path, blocking):
    path = tmp_path / "a"
    with AsyncZarrSaver(path, {"time": TIMES}, blocking=blocking) as saver:
        saver.add_array({"time": TIMES, "lat": LAT, "lon": LON}, "t", dtype="f8")
        for n, lat in enumerate([LAT[:1], LAT[2:], LAT[1:2]]):
            values = VALUES[1:2, 0][:, np.searchsorted(-LAT, -lat)]
            saver.write(values, {"time": TIMES[1:2], "lat": lat, "lon": LON}, "t")
            saver.flush()
            assert len(saver.written("t")) == (n == 2)
        assert saver.written("t") == [{"time": TIMES[1]}]
    np.testing.assert_array_equal(opened(path).t[1], VALUES[1, 0])


def test_zeros_and_nan_count_as_written(tmp_path):
    with AsyncZarrSaver(tmp_path / "a", {"time": TIMES}) as saver:
        assert saver.missing("t") == [{"time": time} for time in TIMES]
        saver.write(np.zeros((1, 2)), {"time": TIMES[:1], "lon": LON}, "t")
        saver.write(np.full((1, 2), np.nan), {"time": TIMES[1:2], "lon": LON}, "t")
        assert saver.written("t") == [{"time": TIMES[0]}, {"time": TIMES[1]}]
        assert saver.missing("t") == [{"time": TIMES[2]}, {"time": TIMES[3]}]


# -- order -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 4])
def test_the_last_write_submitted_wins(tmp_path, chunk):
    saver = AsyncZarrSaver(
        tmp_path / "a", {"time": TIMES}, blocking=False, chunked_coords={"time": chunk}
    )
    with saver:
        for number in range(300):
            saver.write(np.full((1, 64), number), {"time": TIMES[:1], "x": np.arange(64)}, "t")
            if number % 7 == 0:
                saver.write(np.full((4, 64), -1), {"time": TIMES, "x": np.arange(64)}, "t")
    found = zarr.open_array(tmp_path / "a" / "t")[:]
    assert (found[0] == 299).all()
    assert (found[1:] == -1).all()
    assert verify(tmp_path / "a") == []


def test_a_part_that_comes_when_the_whole_chunk_was_just_put_is_merged_into_it(
    tmp_path, monkeypatch
):
    put, prepare, gate = LabelledStore.put, WriteQueue.prepare, threading.Event()
    saver = AsyncZarrSaver(
        tmp_path / "a", {"time": TIMES}, blocking=False, chunked_coords={"time": 4}
    )
    saver.add_array({"time": TIMES}, "t", dtype="f8")
    monkeypatch.setattr(LabelledStore, "put", lambda *args: (gate.wait(), put(*args))[1])
    whole = saver.write(np.arange(4.0), {"time": TIMES}, "t")

    def put_meanwhile(self, slot):
        prepare(self, slot)
        gate.set()
        whole.wait()

    monkeypatch.setattr(WriteQueue, "prepare", put_meanwhile)
    saver.write(np.full(1, 9.0), {"time": TIMES[:1]}, "t")
    saver.close()
    assert saver_values(tmp_path / "a").tolist() == [9, 1, 2, 3]


def test_a_part_that_comes_before_the_record_of_the_whole_chunk_is_merged_into_it(
    tmp_path, monkeypatch
):
    put, record = LabelledStore.put, LabelledStore.record
    was_put, gate = threading.Event(), threading.Event()
    saver = AsyncZarrSaver(
        tmp_path / "a", {"time": TIMES}, blocking=False, chunked_coords={"time": 4}
    )
    saver.add_array({"time": TIMES}, "t", dtype="f8")
    monkeypatch.setattr(LabelledStore, "record", lambda *args: (gate.wait(), record(*args))[1])
    monkeypatch.setattr(LabelledStore, "put", lambda *args: (put(*args), was_put.set())[0])
    saver.write(np.arange(4.0), {"time": TIMES}, "t")
    was_put.wait()
    timer = threading.Timer(0.3, gate.set)
    timer.start()
    saver.write(np.full(1, 9.0), {"time": TIMES[:1]}, "t")
    timer.join()
    saver.close()
    assert saver_values(tmp_path / "a").tolist() == [9, 1, 2, 3]


def test_the_caller_may_change_its_array_at_once(tmp_path):
    values = np.zeros((1, 200_000))
    with AsyncZarrSaver(tmp_path / "a", {"time": TIMES}, blocking=False) as saver:
        for i in range(4):
            values[:] = i
            saver.write(values, {"time": TIMES[i : i + 1], "x": np.arange(200_000)}, "t")
            values[:] = -1
    np.testing.assert_array_equal(opened(tmp_path / "a").t[:, 0], np.arange(4.0))


# -- handles and limits ----------------------------------------------------------------------------


def test_a_warm_write_puts_its_chunks_and_one_record_and_asks_for_nothing(tmp_path):
    asked = []

    class Counting(dict):
        def __getitem__(self, key):
            asked.append(("get", key))
            return super().__getitem__(key)

        def __setitem__(self, key, value):
            asked.append(("put", key))
            super().__setitem__(key, value)

        def __iter__(self):
            asked.append(("list", ""))
            return super().__iter__()

    names = [f"v{n}" for n in range(10)]
    with AsyncZarrSaver("x", {"time": TIMES}, store=Counting(), blocking=False) as saver:
        for t in range(3):
            asked.clear()
            coords = {"time": TIMES[t : t + 1], "lat": LAT, "lon": LON}
            saver.write([VALUES[:1, 0]] * 10, coords, names).wait()
        chunks = sorted(key for what, key in asked if what == "put" and "/c/" in key)
        assert chunks == [f"{name}/c/2/0/0" for name in names]
        assert len(asked) == 11  # and one record


def test_handles_and_coroutines(tmp_path):
    async def main():
        async with AsyncZarrSaver(tmp_path / "a", PARALLEL, blocking=False) as saver:
            await saver.write(VALUES[0, 0][None, None], one(0, 0), "t")
            jobs = [saver.async_write(VALUES[1, j][None, None], one(1, j), "t") for j in range(4)]
            await asyncio.gather(*jobs)
            assert len(saver.written("t")) == 5

    asyncio.run(main())
    np.testing.assert_array_equal(opened(tmp_path / "a").t[1], VALUES[1])


@pytest.mark.parametrize("keyword", [{}, {"shard_coords": {"time": 2}}, {"zarr_codecs": "fast"}])
def test_no_more_bytes_are_held_than_allowed(tmp_path, monkeypatch, keyword):
    put = LabelledStore.put
    gate = threading.Semaphore(0)
    monkeypatch.setattr(LabelledStore, "put", lambda *args: (gate.acquire(), put(*args))[1])
    times = np.arange(16)
    nbytes = 8 * 1000
    limit = 6 * nbytes
    saver = AsyncZarrSaver(
        tmp_path / "a", {"time": times}, blocking=False, max_inflight_bytes=limit, **keyword
    )

    def write():
        for t in times:
            saver.write(
                np.full((1, 1000), t), {"time": times[t : t + 1], "x": np.arange(1000)}, "t"
            )

    thread = threading.Thread(target=write)
    thread.start()
    while thread.is_alive():
        gate.release()
        thread.join(0.005)
    for _ in range(100):
        gate.release()
    saver.close()
    assert saver.peak_bytes <= limit + 2048  # masks of which values are there
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "a" / "t")[:, 0], times)


def test_no_room_raises_where_asked_for(tmp_path, monkeypatch):
    put, gate = LabelledStore.put, threading.Event()
    monkeypatch.setattr(LabelledStore, "put", lambda *args: (gate.wait(), put(*args))[1])
    saver = AsyncZarrSaver(
        tmp_path / "a", {"time": TIMES}, blocking=False, max_inflight_bytes=1000, on_full="raise"
    )
    coords = {"time": TIMES[:1], "x": np.arange(200)}
    saver.write(np.zeros((1, 200)), coords, "t")  # larger than the limit: alone
    with pytest.raises(StorageError, match="no room for a write of 1600 bytes"):
        saver.write(np.zeros((1, 200)), {**coords, "time": TIMES[1:2]}, "t")
    gate.set()
    saver.flush()
    saver.write(np.ones((1, 200)), {**coords, "time": TIMES[1:2]}, "t")
    saver.close()
    assert saver_values(tmp_path / "a")[:2, 0].tolist() == [0, 1]


def saver_values(path, name="t"):
    return zarr.open_array(path / name)[:]


def test_a_closed_saver_refuses_and_closes_again(tmp_path):
    saver = AsyncZarrSaver(tmp_path / "a", {"time": TIMES}, blocking=False)
    saver.write(np.zeros(1), {"time": TIMES[:1]}, "t")
    saver.close()
    saver.close()
    saver.flush()
    with pytest.raises(ClosedError):
        saver.write(np.zeros(1), {"time": TIMES[:1]}, "t")
    with pytest.raises(InvalidInputError, match="use write"):
        AsyncZarrSaver(tmp_path / "a", {"time": TIMES}).save([1.0])


def test_it_travels_to_a_worker(tmp_path):
    saver = AsyncZarrSaver(tmp_path / "a", {"time": TIMES}, blocking=False, pool_size=2)
    copy = pickle.loads(pickle.dumps(saver))
    with copy:
        copy.write(np.ones(1), {"time": TIMES[:1]}, "t")
    assert (copy.blocking, copy.pool_size) == (False, 2)
    saver.close()
    assert saver_values(tmp_path / "a")[0] == 1


@pytest.mark.parametrize(
    ("mode", "there", "error"),
    [("r+", False, FileNotFoundError), ("w-", True, FileExistsError), ("w", True, None)],
)
def test_modes_of_zarr(tmp_path, mode, there, error):
    path = tmp_path / "a"
    if there:
        with AsyncZarrSaver(path, {"time": TIMES}) as saver:
            saver.write(np.zeros(4), {"time": TIMES}, "old")
    with AsyncZarrSaver(path, {"time": TIMES[:1]}, zarr_kwargs={"mode": mode}) as saver:
        if error:
            with pytest.raises(error):
                saver.write(np.ones(1), {"time": TIMES[:1]}, "t")
            return
        saver.write(np.ones(1), {"time": TIMES[:1]}, "t")
    found = opened(path)
    assert list(found) == ["t"]
    assert found.sizes == {"time": 1}


@pytest.mark.parametrize(
    "settings",
    [
        {"zarr_kwargs": {"mode": "q"}},
        {"zarr_kwargs": {"nonsense": 1}},
        {"pool_size": 0},
        {"on_full": "wait"},
        {"chunked_coords": {"time": 0}},
        {"fs_factory": "local"},
        {"parallel_coords": {"time": [1, 1]}},
    ],
)
def test_settings_that_do_not_fit(tmp_path, settings):
    given = {"parallel_coords": {"time": TIMES}, **settings}
    with pytest.raises(InvalidInputError):
        AsyncZarrSaver(tmp_path / "a", **given)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_child_made_by_fork_opens_the_store_for_itself(tmp_path):
    saver = AsyncZarrSaver(tmp_path / "a", {"time": TIMES}, blocking=False)
    saver.write(np.zeros(1), {"time": TIMES[:1]}, "t").wait()
    child = os.fork()
    if not child:
        try:
            saver.write(np.ones(1), {"time": TIMES[1:2]}, "t").wait()
            saver.close()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    saver.write(np.full(1, 2.0), {"time": TIMES[2:3]}, "t")
    saver.close()
    assert saver_values(tmp_path / "a")[:3].tolist() == [0, 1, 2]
    assert verify(tmp_path / "a") == []


# -- failures --------------------------------------------------------------------------------------


def test_failed_background_writes_are_all_reported_and_none_is_lost(tmp_path, monkeypatch):
    times = np.arange(200)
    failed = failing(monkeypatch, lambda layout, index: index and index[0] % 2)
    saver = AsyncZarrSaver(tmp_path / "a", {"time": times}, blocking=False)
    handles = [saver.write(np.full(1, t), {"time": [t]}, "t") for t in times]
    with pytest.raises(ExceptionGroup) as caught:
        saver.flush()
    texts = [str(error) for error in caught.value.exceptions]
    assert len(texts) == 100
    assert all(any(f"'t' at time={t} " in text for text in texts) for t in times[1::2])
    for t, handle in enumerate(handles):
        assert handle.done()
        if t % 2:
            with pytest.raises(StorageError, match=f"'t' at time={t} .1 attempt.: .*denied"):
                handle.wait()
            assert handle.exception().errno == errno.EACCES
        else:
            handle.wait()
    assert [label["time"] for label in saver.missing("t")] == times[1::2].tolist()
    assert len(failed) == 100
    monkeypatch.undo()
    saver.write(np.full(1, -1), {"time": [0]}, "t").wait()  # not in the way of others
    saver.flush()
    saver.close()
    found = saver_values(tmp_path / "a")
    np.testing.assert_array_equal(found, [-1, *times[1:]])


def test_a_shard_that_could_not_be_put_keeps_its_values(tmp_path, monkeypatch):
    saver = AsyncZarrSaver(
        tmp_path / "a", {"time": TIMES}, blocking=False, shard_coords={"time": 4}
    )
    failing(monkeypatch, lambda layout, index: layout.name == "t")
    for t in range(3):
        saver.write(np.full((1, 2), t), {"time": TIMES[t : t + 1], "lon": LON}, "t")
    with pytest.raises(ExceptionGroup, match="3 writes"):
        saver.flush()
    with pytest.raises(ExceptionGroup, match="3 writes"):
        saver.flush()  # tried again, failed again
    monkeypatch.undo()
    saver.write(np.full((1, 2), 3), {"time": TIMES[3:], "lon": LON}, "t").wait()
    saver.close()
    np.testing.assert_array_equal(saver_values(tmp_path / "a")[:, 0], np.arange(4))


def test_a_write_that_failed_in_several_chunks_is_tried_again_in_all(tmp_path, monkeypatch):
    saver = AsyncZarrSaver(tmp_path / "a", {"time": TIMES}, blocking=False)
    failing(monkeypatch, lambda layout, index: layout.name == "t" and index[0] > 0)
    saver.write(np.arange(4.0), {"time": TIMES}, "t")
    with pytest.raises(ExceptionGroup, match="1 writes"):
        saver.flush()
    monkeypatch.undo()
    saver.flush()
    assert len(saver.written("t")) == 4
    saver.close()


def test_what_passes_is_tried_again(tmp_path, monkeypatch):
    tries = []
    failing(
        monkeypatch,
        lambda layout, index: layout.name == "t" and (tries.append(1) or len(tries) < 3),
        ConnectionResetError(errno.ECONNRESET, "reset"),
    )
    with AsyncZarrSaver(tmp_path / "a", {"time": TIMES}, blocking=False) as saver:
        saver.write(np.ones(1), {"time": TIMES[:1]}, "t")
    assert len(tries) == 3
    assert saver_values(tmp_path / "a")[0] == 1


def test_a_blocking_write_that_failed_is_reported_once_and_can_be_made_again(tmp_path, monkeypatch):
    with AsyncZarrSaver(tmp_path / "a", {"time": TIMES}, chunked_coords={"time": 2}) as saver:
        saver.write(np.zeros(1), {"time": TIMES[:1]}, "t")
        failing(monkeypatch, lambda layout, index: layout.name == "t")
        with pytest.raises(StorageError, match="'t' at time=2024-01-01T06"):
            saver.write(np.ones(1), {"time": TIMES[1:2]}, "t")
        monkeypatch.undo()
        assert saver.written("t") == [{"time": TIMES[0]}]
        saver.write(np.full(1, 2.0), {"time": TIMES[1:2]}, "t")
    assert saver_values(tmp_path / "a")[:2].tolist() == [0, 2]


def test_close_after_failures_keeps_the_data_until_it_is_saved(tmp_path, monkeypatch):
    saver = AsyncZarrSaver(tmp_path / "a", {"time": TIMES}, blocking=False)
    failing(monkeypatch, lambda layout, index: layout.name == "t")
    saver.write(np.ones(1), {"time": TIMES[:1]}, "t")
    with pytest.raises(ExceptionGroup, match="1 writes"):
        saver.close()
    monkeypatch.undo()
    saver.close()
    assert saver_values(tmp_path / "a")[0] == 1


def test_a_record_that_could_not_be_appended_is_appended_later(tmp_path, monkeypatch):
    saver = AsyncZarrSaver(tmp_path / "a", {"time": TIMES}, blocking=False)
    saver.write(np.zeros(1), {"time": TIMES[:1]}, "t").wait()

    def refuse(*args):
        raise StorageError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(LabelledStore, "record", refuse)
    handle = saver.write(np.ones(1), {"time": TIMES[1:2]}, "t")
    assert handle.exception().errno == errno.ENOSPC
    assert saver.written("t") == [{"time": TIMES[0]}]
    with pytest.raises(ExceptionGroup):
        saver.flush()
    monkeypatch.undo()
    saver.flush()
    assert saver.written("t") == [{"time": TIMES[0]}, {"time": TIMES[1]}]
    saver.close()
