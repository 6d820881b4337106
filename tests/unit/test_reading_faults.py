"""What goes wrong while reading: refused requests, damage, cancelled loads, loops that end."""

from __future__ import annotations

import asyncio
import functools
import http.server
import pickle
import sys
import threading
from pathlib import Path

import fsspec
import numpy as np
import obstore.store
import pytest
import uvloop
import xarray
import zarr

import savers

sys.path.insert(0, str(Path(__file__).parent))
import reading_stores

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(params=LOOPS)
def run(request):
    """Run a coroutine in a new event loop, which must end with no task pending."""

    async def watched(call):
        found = await call
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return found

    def run_one(call):
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            return runner.run(watched(call))

    return run_one


@pytest.fixture
def path(tmp_path):
    return reading_stores.v3(tmp_path / "store.zarr")


class Moody(zarr.storage.WrapperStore):
    """Refuses, or never answers, requests for some objects."""

    refused = never = "nothing"
    begun, ended = 0, 0

    async def get(self, key, prototype, byte_range=None):
        if self.refused in key:
            message = f"403 Forbidden: {key}"
            raise PermissionError(message)
        self.begun += 1
        try:
            if self.never in key:
                await asyncio.Event().wait()
            return await super().get(key, prototype, byte_range)
        finally:
            self.ended += 1


def moody(path, **moods):
    store = Moody(zarr.storage.LocalStore(path))
    vars(store).update(moods)
    return store


def test_a_refused_request_names_its_object(path, run):
    store = moody(path)
    dataset = savers.open_dataset(store)

    async def opened():
        return await savers.open_dataset_async(store)

    awaited = run(opened())
    store.refused = "t2m/c"
    with pytest.raises(savers.StorageError, match=r"t2m/c/0/0/0.*403 Forbidden"):
        dataset.t2m.load()
    with pytest.raises(savers.StorageError, match=r"t2m/c/0/0/0.*403 Forbidden"):
        run(awaited.t2m.load_async())
    store.refused = "lat/c"
    with pytest.raises(savers.StorageError, match="lat/c/0"):
        savers.open_dataset(store)
    with pytest.raises(savers.StorageError, match="lat/c/0"):
        run(opened())
    store.refused = "nothing"
    xarray.testing.assert_identical(run(awaited.load_async()), dataset.load())


def test_damage_names_the_array(path, run):
    (path / "t2m/c/0/0/0").write_bytes(b"not what zstd wrote")
    with pytest.raises(savers.StorageError, match=r"can't decode t2m in .*store\.zarr"):
        savers.open_dataset(path).t2m.load()
    (path / "zarr.json").write_text("{")
    with pytest.raises(savers.FormatError, match=r"store\.zarr"):
        run(savers.open_dataset_async(path))


def test_cancelling_a_load_ends_its_requests(path, run):
    store = moody(path, never="t2m/c")

    async def cancelled():
        dataset = await savers.open_dataset_async(store)
        load = asyncio.create_task(dataset.t2m.load_async())
        while store.begun == store.ended:  # noqa: ASYNC110 -- the store has no event
            await asyncio.sleep(0)
        load.cancel()
        with pytest.raises(asyncio.CancelledError):
            await load
        assert store.begun == store.ended
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await dataset.t2m.load_async()
        assert store.begun == store.ended
        store.never = "nothing"
        return await dataset.t2m.load_async()

    assert run(cancelled()).shape == (6, 5, 8)


def test_cancelling_the_opening_ends_its_requests(path, run):
    store = moody(path, never="time/c")

    async def cancelled():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await savers.open_dataset_async(store)
        assert store.begun == store.ended
        store.never = "nothing"
        return await savers.open_dataset_async(store)

    assert run(cancelled()).sizes["time"] == 6


@pytest.mark.parametrize("kind", [reading_stores.v3, reading_stores.packed, reading_stores.sharded],
                         ids=lambda kind: kind.__name__)  # fmt: skip
def test_a_dataset_outlives_its_loop(tmp_path, run, kind):
    path = kind(tmp_path / "store.zarr")
    dataset = run(savers.open_dataset_async(path))
    expected = savers.open_dataset(path).load()
    for _ in range(3):
        found = run(dataset.isel(time=slice(1, None)).load_async())
        xarray.testing.assert_identical(found, expected.isel(time=slice(1, None)))


@pytest.fixture
def server(path):
    """An HTTP server of the folder of `path`: it knows GET and HEAD, and lists nothing for zarr."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}/{path.name}"
        made.shutdown()
        thread.join()


def test_every_transport_reads_in_every_loop(path, run, server):
    reading_stores.write(reading_stores.fields(), f"memory://{path}")
    targets = [
        f"memory://{path}",
        f"file://{path}",
        server,
        fsspec.get_mapper(server),
        zarr.storage.FsspecStore.from_url(server, read_only=True),
        zarr.storage.LocalStore(path),
        obstore.store.LocalStore(path),
        {file.relative_to(path).as_posix(): file.read_bytes() for file in _files(path)},
    ]
    expected = savers.open_dataset(path).load()
    for target in targets:
        for _ in range(2):
            dataset = run(savers.open_dataset_async(target))
            xarray.testing.assert_identical(run(dataset.load_async()), expected)
            xarray.testing.assert_identical(savers.open_dataset(target).load(), expected)


def _files(path):
    return [file for file in path.rglob("*") if file.is_file()]


def test_what_a_server_does_not_have_is_not_found(run, server):
    with pytest.raises(savers.NotFoundError, match="none"):
        run(savers.open_dataset_async(f"{server}.none"))
    with pytest.raises(savers.NotFoundError, match="none"):
        savers.open_dataset(f"{server}.none.nc")


def test_a_dataset_can_be_pickled(path, run):
    for opened in (run(savers.open_dataset_async(path)), savers.open_dataset(path)):
        dataset = pickle.loads(pickle.dumps(opened))
        found = run(dataset.load_async())
        xarray.testing.assert_identical(found, savers.open_dataset(path).load())


def test_dask_chunks_on_request(path, run):
    expected = savers.open_dataset(path).load()
    for dataset in (
        savers.open_dataset(path, chunks={}),
        run(savers.open_dataset_async(path, chunks={"time": -1})),
    ):
        assert dataset.t2m.chunks is not None
        xarray.testing.assert_identical(dataset.compute(scheduler="synchronous"), expected)


# -- many stores -----------------------------------------------------------------------------------


def test_many_stores_bring_datasets_and_errors(tmp_path, run):
    paths = [reading_stores.v3(tmp_path / f"{n}.zarr") for n in range(5)]
    paths.insert(2, tmp_path / "none.zarr")

    async def opened():
        return {path: found async for path, found in await savers.open_many_async(paths, limit=3)}

    found = run(opened())
    assert found.keys() == set(paths)
    assert isinstance(found.pop(tmp_path / "none.zarr"), savers.NotFoundError)
    for dataset in found.values():
        xarray.testing.assert_identical(dataset.lon, reading_stores.fields().lon)


def test_no_more_stores_than_the_limit_are_opened_at_a_time(path, run):
    class Counting(Moody):
        now = most = 0

        async def get(self, *args):
            Counting.now += 1
            Counting.most = max(Counting.most, Counting.now)
            try:
                await asyncio.sleep(0.001)
                return await super().get(*args)
            finally:
                Counting.now -= 1

    taken = []

    def stores():
        for n in range(12):
            taken.append(n)
            yield Counting(zarr.storage.LocalStore(path))

    async def opened():
        seen = 0
        async for _ in savers.open_many_async(stores(), limit=2):
            seen += 1
            assert len(taken) <= seen + 2

    run(opened())
    assert len(taken) == 12
    assert Counting.most <= 2 * 5  # the documents of two roots


def test_leaving_many_stores_ends_what_is_under_way(path, run):
    stores = [moody(path), *(moody(path, never="zarr.json") for _ in range(3))]

    async def first():
        async with savers.open_many_async(stores, limit=4) as opened:
            return (await anext(opened))[1]

    assert isinstance(run(first()), xarray.Dataset)
    assert all(store.begun == store.ended for store in stores)
    with pytest.raises(savers.InvalidInputError, match="limit"):
        savers.open_many_async(stores, limit=0)


def test_large_arrays_are_decoded_off_the_loop(tmp_path, run):
    path = tmp_path / "large.zarr"
    data = np.random.default_rng(1).integers(0, 1000, (8, 512, 512)).astype("i2")
    made = xarray.Dataset({"t2m": (("time", "lat", "lon"), data * 0.5)})
    pack = {"dtype": "i2", "scale_factor": 0.5, "chunks": (4, 512, 512)}
    reading_stores.write(made, path, encoding={"t2m": pack})

    async def loaded():
        loop_thread, seen = threading.get_ident(), []
        dataset = await savers.open_dataset_async(path)
        sys.setprofile(lambda frame, *_: seen.append(frame.f_code.co_name))
        try:
            found = await dataset.t2m.load_async()
        finally:
            sys.setprofile(None)
        assert loop_thread == threading.get_ident()
        assert "_scale_offset_decoding" not in seen, "decoded on the event loop"
        assert "_decode_single" not in seen, "decoded on the event loop"
        return found

    xarray.testing.assert_identical(run(loaded()), made.t2m)
