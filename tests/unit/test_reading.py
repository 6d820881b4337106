from __future__ import annotations

import asyncio
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

sys.path.insert(0, str(Path(__file__).parent))
import reading_stores

import savers


def peer(path, **options):
    """What xarray makes of the same store."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xarray.open_zarr(path, chunks=None, **options)


def read(path, **options):
    """The Dataset of the asynchronous function, all of it in memory."""

    async def opened():
        return await (await savers.open_dataset_async(path, **options)).load_async()

    return asyncio.run(opened())


def assert_same(found, expected):
    assert found.encoding == expected.encoding
    for name, variable in expected.variables.items():
        mine = found.variables[name]
        assert mine.dtype == variable.dtype
        assert repr(sorted(mine.encoding.items())) == repr(sorted(variable.encoding.items()))
    assert list(found.coords) == list(expected.coords) or set(found.coords) == set(expected.coords)
    xarray.testing.assert_identical(found, expected)


@pytest.mark.parametrize("kind", reading_stores.KINDS, ids=lambda kind: kind.__name__)
def test_both_functions_give_what_xarray_gives(tmp_path, kind):
    path = kind(tmp_path / "store.zarr")
    assert_same(savers.open_dataset(path), peer(path))
    assert_same(read(path), peer(path))


SELECTIONS = {
    "reversed": lambda ds: ds.isel(time=slice(None, None, -1), lon=slice(6, 1, -2)),
    "fancy": lambda ds: ds.isel(time=[4, 0, 0, 5], lat=[3, 1]),
    "pointwise": lambda ds: ds.isel(
        time=xarray.DataArray([0, 5, 2], dims="p"), lat=xarray.DataArray([4, 0, -1], dims="p")
    ),
    "labels": lambda ds: ds.sel(lat=[30.0, -60.0], lon=slice(90, 200)),
    "nearest": lambda ds: ds.sel(lat=28, lon=100, method="nearest"),
    "cell": lambda ds: ds.isel(time=-1, lat=2, lon=0),
    "mask": lambda ds: ds.isel(lon=np.arange(8) % 3 == 0),
    "nothing": lambda ds: ds.isel(time=slice(3, 3)),
    "one after another": lambda ds: ds.isel(time=slice(1, 6)).isel(time=[3, 1]).isel(lat=-1),
    "transposed": lambda ds: ds.transpose("lon", ...).isel(lon=slice(None, None, -3)),
}
CHOSEN = [reading_stores.v3, reading_stores.sharded, reading_stores.packed,
          reading_stores.big_endian, reading_stores.times_2d]  # fmt: skip


@pytest.mark.parametrize("choice", SELECTIONS)
@pytest.mark.parametrize("kind", CHOSEN, ids=lambda kind: kind.__name__)
def test_every_selection_is_read_lazily(tmp_path, kind, choice):
    path, select = kind(tmp_path / "store.zarr"), SELECTIONS[choice]

    async def selected():
        return await select(await savers.open_dataset_async(path)).load_async()

    expected = select(peer(path)).load()
    xarray.testing.assert_identical(asyncio.run(selected()), expected)
    xarray.testing.assert_identical(select(savers.open_dataset(path)).load(), expected)


@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_nested_groups(tmp_path, zarr_format, consolidated):
    path = tmp_path / "store.zarr"
    for group in ("forecast", "forecast/member0"):
        reading_stores.write(
            reading_stores.fields(), path, group=group, zarr_format=zarr_format, consolidated=False
        )
    if consolidated:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            zarr.consolidate_metadata(path)
    for group in ("forecast/member0", "/forecast", "forecast/"):
        expected = peer(path, group=group.strip("/"))
        assert_same(savers.open_dataset(path, group=group), expected)
        assert_same(read(path, group=group), expected)
    with pytest.raises(savers.NotFoundError, match="forecast/member1"):
        read(path, group="forecast/member1")
    with pytest.raises(savers.FormatError, match="found an array"):
        read(path, group="forecast/t2m")


DECODING = [
    {"decode_times": False},
    {"mask_and_scale": False},
    {"decode_cf": False},
    {"decode_coords": "all"},
    {"decode_coords": False},
    {"drop_variables": ["wet", "lon"]},
    {"decode_times": xarray.coders.CFDatetimeCoder(time_unit="s"), "decode_timedelta": False},
]


@pytest.mark.parametrize("options", DECODING, ids=str)
@pytest.mark.parametrize("kind", [reading_stores.packed, reading_stores.named_coordinates],
                         ids=lambda kind: kind.__name__)  # fmt: skip
def test_keywords_of_xarray_are_passed_on(tmp_path, kind, options):
    path = kind(tmp_path / "store.zarr")
    expected = peer(path, **options)
    assert_same(savers.open_dataset(path, **options), expected)
    assert_same(read(path, **options), expected)


def test_unknown_keywords_are_refused(tmp_path):
    path = reading_stores.v3(tmp_path / "store.zarr")
    with pytest.raises(TypeError, match="decode_time"):
        read(path, decode_time=False)


def test_a_synchronous_read_on_a_running_loop_names_load_async(tmp_path):
    path = reading_stores.v3(tmp_path / "store.zarr")

    async def blocked():
        dataset = await savers.open_dataset_async(path)
        with pytest.raises(savers.BlockingReadError, match=r"await ds\[...\]\.load_async\(\)"):
            _ = dataset.t2m.values
        assert "t2m" in repr(dataset)
        return dataset

    dataset = asyncio.run(blocked())
    np.testing.assert_array_equal(dataset.t2m, peer(path).t2m)  # no loop, nothing to hold up


def test_a_missing_store_is_not_found(tmp_path):
    for path in (tmp_path / "none.zarr", "memory://none.zarr", {}):
        with pytest.raises(savers.NotFoundError):
            savers.open_dataset(path)
        with pytest.raises(FileNotFoundError, match="expected"):
            read(path)


def test_no_thread_has_an_event_loop(tmp_path):
    path = reading_stores.sharded(tmp_path / "store.zarr")
    program = f"""
import asyncio, threading, zarr, savers
async def main():
    dataset = await savers.open_dataset_async({str(path)!r})
    await dataset.load_async()
asyncio.run(main())
assert zarr.core.sync.loop[0] is None
names = [thread.name for thread in threading.enumerate()]
assert names == ["MainThread"], names
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)


# -- requests --------------------------------------------------------------------------------------


class Waves(zarr.storage.WrapperStore):
    """Holds requests back until no other comes, then answers all of them: one wave."""

    def __init__(self, store):
        super().__init__(store)
        self.waiting, self.waves, self.seen = [], 0, []

    async def held(self, kind, name):
        self.seen.append((kind, name))
        answer = asyncio.get_running_loop().create_future()
        self.waiting.append(answer)
        if len(self.waiting) == 1:
            self.task = asyncio.ensure_future(self.release())
        await answer

    async def release(self):
        quiet, known = 0, 0
        while quiet < 200:
            await asyncio.sleep(0)
            quiet = quiet + 1 if len(self.waiting) == known else 0
            known = len(self.waiting)
        self.waves += 1
        for answer in self.waiting:
            answer.set_result(None)
        self.waiting = []

    async def get(self, key, prototype, byte_range=None):
        await self.held("GET", key)
        return await super().get(key, prototype, byte_range)

    async def exists(self, key):
        await self.held("HEAD", key)
        return await super().exists(key)

    async def list_dir(self, prefix):
        await self.held("LIST", prefix)
        async for name in super().list_dir(prefix):
            yield name


def raw_store(dataset, **options):
    """A store in memory without compression, so that nothing waits but requests."""
    made = zarr.storage.MemoryStore()
    encoding = {name: {"compressors": None} for name in dataset.variables}
    for name, more in options.pop("encoding", {}).items():
        encoding[name] |= more
    return reading_stores.write(dataset, made, encoding=encoding, **options)


@pytest.mark.parametrize("size", ["few", "many"])
@pytest.mark.parametrize("shards", [False, True])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_requests_wait_for_no_more_than_they_must(consolidated, zarr_format, shards, size):
    if shards and zarr_format == 2:
        pytest.skip("Zarr v2 has no shards")
    made = reading_stores.fields(valid=("time", np.arange(6).astype("M8[h]").astype("M8[ns]")))
    made = made.drop_vars("wet").assign_coords(lon=np.arange(8.0))
    if size == "many":
        made = made.assign({f"v{n}": made.t2m + n for n in range(120)})
    encoding = {"lon": {"chunks": (3,), "shards": (12,)}} if shards else {}
    store = Waves(raw_store(made, consolidated=consolidated, zarr_format=zarr_format,
                            encoding=encoding))  # fmt: skip

    async def opened():
        dataset = await savers.open_dataset_async(store)
        waves = store.waves
        await dataset.t2m.load_async()
        return waves, store.waves - waves, dataset

    opening, loading, dataset = asyncio.run(opened())
    assert opening <= (2 if consolidated else 4)
    assert loading == 1
    kinds = [kind for kind, _ in store.seen]
    assert kinds.count("HEAD") == 0
    assert kinds.count("LIST") == (0 if consolidated else 1)
    xarray.testing.assert_identical(dataset.t2m, made.t2m)
    assert len(set(store.seen)) == len(store.seen), "something was asked for twice"
