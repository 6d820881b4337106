"""What goes wrong in earth2studio's IO backends: here each goes right.

One test a defect, named after what happens instead. Everything is read back with zarr or xarray.
"""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import threading
from collections import OrderedDict
from collections.abc import MutableMapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
import zarr

from savers import AsyncZarrSaver, CoordinateNotFoundError, InvalidInputError, StorageError
from tests.stores import unchanged

TIME = np.array(["2025-01-01", "2025-01-02"], "M8[ns]")
LEAD = np.arange(0, 48, 6).astype("m8[h]").astype("m8[ns]")
LAT = np.linspace(90, -90, 5)
LON = np.arange(0, 360, 60.0)
FIELD = np.arange(LAT.size * LON.size, dtype=np.float32).reshape(LAT.size, LON.size)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "forecast.zarr"


def parallel(**given):
    return OrderedDict({"time": TIME, "lead_time": LEAD, **given})


def coords(time=TIME[:1], lead_time=LEAD[:1], **given):
    return OrderedDict({"time": time, "lead_time": lead_time, "lat": LAT, "lon": LON, **given})


def field(mark):
    """One time and one lead time: (1, 1, lat, lon), another for each mark."""
    return (FIELD + 100 * mark)[None, None]


def read(path, name="t2m"):
    return zarr.open_group(path, mode="r")[name][...]


def start(code, *arguments):
    script = "import sys\nimport numpy as np\nfrom savers import AsyncZarrSaver\n"
    command = [sys.executable, "-c", script + textwrap.dedent(code), *map(str, arguments)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, **pipes)


def ended(process, timeout=60):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


# -- silent wrong data -----------------------------------------------------------------------------


def test_reversed_labels_land_where_they_say(path):
    with AsyncZarrSaver(path, parallel()) as saver:
        saver.write(field(0), coords(), "t2m")
        turned = coords(lead_time=LEAD[2::-1], lat=LAT[::-1])
        x = np.stack([FIELD + 100 * mark for mark in (3, 2, 1)])[None, :, ::-1]
        saver.write(x, turned, "t2m")
    got = read(path)[0]
    np.testing.assert_array_equal(got[0], FIELD + 100)
    np.testing.assert_array_equal(got[1], FIELD + 200)
    np.testing.assert_array_equal(got[2], FIELD + 300)


def test_permuted_labels_land_where_they_say(path):
    order = np.array([2, 0, 4, 1, 3])
    with AsyncZarrSaver(path, parallel()) as saver:
        saver.write(field(0), coords(), "t2m")
        saver.write(field(1)[:, :, order], coords(lat=LAT[order], lead_time=LEAD[1:2]), "t2m")
    np.testing.assert_array_equal(read(path)[0, 1], FIELD + 100)


def test_transposed_dimensions_keep_their_values(path):
    with AsyncZarrSaver(path, parallel()) as saver:
        saver.write(field(0), coords(), "t2m")
        turned = OrderedDict(lon=LON, lead_time=LEAD[1:2], lat=LAT, time=TIME[:1])
        saver.write(np.transpose(field(1), (3, 1, 2, 0)), turned, "t2m")
    np.testing.assert_array_equal(read(path)[0, 1], FIELD + 100)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"lead_time": np.array([7], "m8[h]")}, CoordinateNotFoundError),
        ({"lat": LAT + 0.5}, CoordinateNotFoundError),
        ({"lat": np.array([90, 45, 45, -45, -90.0])}, InvalidInputError),
        ({"lat": LAT[:4]}, InvalidInputError),
        ({"level": np.array([500])}, InvalidInputError),
    ],
    ids=["unknown", "unknown other", "duplicate", "shape", "dimension"],
)
def test_labels_that_do_not_fit_are_refused_before_anything_changes(path, given, error):
    (culprit,) = given
    with AsyncZarrSaver(path, parallel()) as saver:
        saver.write(field(0), coords(), "t2m")
        saver.flush()
        with unchanged(path), pytest.raises(error, match=culprit):
            saver.write(field(1), coords(**given), "t2m")
    np.testing.assert_array_equal(read(path)[0, 0], FIELD)


# -- one owner a chunk -----------------------------------------------------------------------------


def test_every_slice_of_a_shared_chunk_is_kept(path):
    leads = np.arange(32)
    x = np.arange(32 * 6, dtype="f4").reshape(32, 6) + 1
    given = OrderedDict(lead_time=leads, lon=LON)
    with AsyncZarrSaver(path, {"lead_time": leads}, chunked_coords={"lead_time": 8}) as saver:
        saver.write(x, given, "t2m")
    np.testing.assert_array_equal(read(path), x)
    assert zarr.open_group(path, mode="r")["t2m"].chunks == (8, 6)


@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("kind", ["chunked_coords", "shard_coords"])
def test_every_slice_is_kept_when_eight_threads_share_chunks(path, kind, blocking):
    leads = np.arange(32)
    saver = AsyncZarrSaver(
        path, {"lead_time": leads}, blocking=blocking, **{kind: {"lead_time": 8}}
    )

    def write(lead):
        given = OrderedDict(lead_time=leads[lead : lead + 1], lon=LON)
        saver.write(np.full((1, 6), lead + 1.0, "f4"), given, "t2m")

    with saver, ThreadPoolExecutor(8) as threads:
        list(threads.map(write, np.random.default_rng(0).permutation(32)))
    np.testing.assert_array_equal(read(path)[:, 0], leads + 1)


# -- order and failures ----------------------------------------------------------------------------


def test_the_last_write_submitted_to_a_slice_wins(path):
    with AsyncZarrSaver(path, parallel(), blocking=False, pool_size=8) as saver:
        for lead in range(LEAD.size):
            for mark in range(25):
                saver.write(field(mark), coords(lead_time=LEAD[lead : lead + 1]), "t2m")
    for lead in range(LEAD.size):
        np.testing.assert_array_equal(read(path)[0, lead], FIELD + 2400)


def blocked(path, name="t2m", index=(0, 1)):
    """Put a file in the way of a chunk: it can't be written while that is there."""
    obstacle = path.joinpath(name, "c", *map(str, index))
    obstacle.parent.mkdir(parents=True, exist_ok=True)
    obstacle.write_text("in the way")
    return obstacle


def test_a_failed_background_write_costs_no_other_write(path):
    saver = AsyncZarrSaver(path, parallel(), blocking=False)
    saver.write(field(0), coords(), "t2m").wait()
    obstacle = blocked(path)
    ones = [(field(i), coords(lead_time=LEAD[i : i + 1]), "t2m") for i in (1, 2, 3)]
    handles = [saver.write(*one) for one in ones]
    with pytest.raises(StorageError, match=r"t2m.*lead_time"):
        handles[0].wait()
    for handle in handles[1:]:
        handle.wait()
    saver.write(field(4), coords(lead_time=LEAD[4:5]), "t2m").wait()
    assert [one["lead_time"] for one in saver.written("t2m")] == list(LEAD[[0, 2, 3, 4]])
    obstacle.unlink()
    with pytest.raises(ExceptionGroup):  # tells of it once
        saver.close()
    for lead in range(5):  # and tries once more
        np.testing.assert_array_equal(read(path)[0, lead], FIELD + 100 * lead)


def test_a_failure_names_array_labels_and_attempts_once_at_the_next_flush(path):
    saver = AsyncZarrSaver(path, parallel(), blocking=False)
    saver.write(field(0), coords(), "t2m").wait()
    obstacle = blocked(path)
    saver.write(field(1), coords(lead_time=LEAD[1:2]), "t2m")
    with pytest.raises(ExceptionGroup) as caught:
        saver.flush()
    (error,) = caught.value.exceptions
    assert isinstance(error, StorageError)
    for word in ("t2m", "time", "lead_time", "attempt"):
        assert word in str(error)
    obstacle.unlink()
    saver.close()
    np.testing.assert_array_equal(read(path)[0, 1], FIELD + 100)  # its data was kept


def test_a_shard_that_failed_is_kept_and_written_by_a_later_flush(path):
    leads = np.arange(8)
    shared = {"lead_time": 4}
    saver = AsyncZarrSaver(path, {"lead_time": leads}, blocking=False, shard_coords=shared)
    given = OrderedDict(lead_time=leads[:4], lon=LON)
    saver.write(np.full((4, 6), 1.0), given, "t2m").wait()
    obstacle = blocked(path, index=(1,))
    for lead in range(4, 8):
        one = OrderedDict(lead_time=leads[lead : lead + 1], lon=LON)
        saver.write(np.full((1, 6), lead + 1.0), one, "t2m")
    with pytest.raises(ExceptionGroup):
        saver.flush()
    obstacle.unlink()
    saver.flush()
    np.testing.assert_array_equal(read(path)[4:, 0], [5, 6, 7, 8])
    saver.close()


# -- ends and rejections ---------------------------------------------------------------------------

LEFT_OPEN = """
    saver = AsyncZarrSaver(sys.argv[1], {"lead_time": np.arange(4)}, blocking=False)
    for lead in range(4):
        labels = {"lead_time": np.arange(lead, lead + 1), "lon": np.arange(6)}
        saver.write(np.full((1, 6), lead + 1.0), labels, "t2m")
    if sys.argv[2] == "error":
        raise RuntimeError("of the model")
    if sys.argv[2] == "exit":
        sys.exit(3)
"""


@pytest.mark.parametrize(("way", "status"), [("return", 0), ("error", 1), ("exit", 3)])
def test_a_process_that_does_not_close_ends_with_everything_saved(path, way, status):
    code, _, err = ended(start(LEFT_OPEN, path, way))
    assert code == status, err
    np.testing.assert_array_equal(read(path)[:, 0], [1, 2, 3, 4])


def test_a_refused_write_leaves_no_half_made_array(path):
    with AsyncZarrSaver(path, parallel()) as saver:
        saver.write(field(0), coords(), "t2m")
        with pytest.raises(InvalidInputError):
            saver.write(np.zeros((1, 1, 3, 3)), coords(), "u10m")
        with pytest.raises(InvalidInputError):
            saver.write([field(0), np.zeros((2, 2))], coords(), ["v10m", "msl"])
    assert sorted(zarr.open_group(path, mode="r").array_keys()) == [
        "lat", "lead_time", "lon", "t2m", "time",
    ]  # fmt: skip
    with xr.open_zarr(path) as dataset:
        assert list(dataset.data_vars) == ["t2m"]


# -- what is there ---------------------------------------------------------------------------------


def test_what_is_written_and_what_is_missing_is_told_by_label(path):
    with AsyncZarrSaver(path, {"lead_time": np.arange(4)}) as saver:
        for lead, value in ((2, 0.0), (1, np.nan)):
            labels = OrderedDict(lead_time=np.array([lead]), lon=LON)
            saver.write(np.full((1, 6), value), labels, "t2m")
        assert saver.written("t2m") == [{"lead_time": 1}, {"lead_time": 2}]
    with AsyncZarrSaver(path, {"lead_time": np.arange(4)}) as saver:
        assert saver.missing("t2m") == [{"lead_time": 0}, {"lead_time": 3}]


def test_what_was_never_written_does_not_read_as_zero(path):
    with AsyncZarrSaver(path, parallel()) as saver:
        saver.write(np.zeros((1, 1, 5, 6), "f4"), coords(), "t2m")
        counted = np.ones((1, 1, 5, 6), "i4")
        saver.write(counted, coords(), "count")
    with xr.open_zarr(path) as dataset:
        assert (dataset.t2m[0, 0] == 0).all()
        assert np.isnan(dataset.t2m[0, 1:]).all()
        assert (dataset["count"][0, 0] == 1).all()
        assert np.isnan(dataset["count"][1]).all()


def test_a_parallel_coordinate_is_extended_on_reopening(path):
    with AsyncZarrSaver(path, {"time": TIME}) as saver:
        saver.write(FIELD[None], OrderedDict(time=TIME[1:], lat=LAT, lon=LON), "t2m")
    later = np.array(["2025-01-03"], "M8[ns]")
    with AsyncZarrSaver(path, {"time": later}) as saver:
        saver.write(FIELD[None] + 9, OrderedDict(time=later, lat=LAT, lon=LON), "t2m")
    with xr.open_zarr(path) as dataset:
        np.testing.assert_array_equal(dataset.time, [*TIME, *later])
        assert np.isnan(dataset.t2m[0]).all()
        np.testing.assert_array_equal(dataset.t2m[1], FIELD)
        np.testing.assert_array_equal(dataset.t2m[2], FIELD + 9)


# -- several processes -----------------------------------------------------------------------------

RANK = """
    rank, ranks = int(sys.argv[2]), 4
    labels = {"lead_time": np.arange(8), "lon": np.arange(6)}
    saver = AsyncZarrSaver(sys.argv[1], {"lead_time": np.arange(8)})
    print("ready", flush=True)
    sys.stdin.readline()
    saver.add_array(labels, ["t2m", "u10m"])
    for lead in range(rank, 8, ranks):
        mine = {**labels, "lead_time": np.array([lead])}
        saver.write([np.full((1, 6), lead + 1.0), np.full((1, 6), -1.0)], mine, ["t2m", "u10m"])
    saver.close()
"""


def race(path):
    """Let four ranks begin at the same moment; return (exit status, stderr) of each."""
    ranks = [start(RANK, path, rank) for rank in range(4)]
    try:
        for rank in ranks:
            rank.stdout.readline()
        for rank in ranks:
            rank.stdin.write("go\n")
            rank.stdin.flush()
        return [(rank.communicate(timeout=60)[1], rank.returncode) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def test_four_ranks_add_arrays_at_once(path):
    for err, code in race(path):
        assert code == 0, err
    np.testing.assert_array_equal(read(path)[:, 0], np.arange(8) + 1.0)
    np.testing.assert_array_equal(read(path, "u10m"), np.full((8, 6), -1.0))
    with xr.open_zarr(path) as dataset:
        assert sorted(dataset.data_vars) == ["t2m", "u10m"]


SHARES = """
    shared = {"lead_time": 8}
    saver = AsyncZarrSaver(sys.argv[1], {"lead_time": np.arange(8)}, **{sys.argv[2]: shared})
    saver.write(np.ones((1, 6)), {"lead_time": np.array([3]), "lon": np.arange(6)}, "t2m")
"""


@pytest.mark.parametrize("kind", ["chunked_coords", "shard_coords"])
def test_ranks_that_would_share_a_chunk_or_shard_are_refused_naming_the_size(path, kind):
    leads = np.arange(8)
    given = OrderedDict(lead_time=leads[:1], lon=np.arange(6))
    with AsyncZarrSaver(path, {"lead_time": leads}, **{kind: {"lead_time": 8}}) as saver:
        saver.write(np.full((1, 6), 5.0), given, "t2m")
        code, _, err = ended(start(SHARES, path, kind))
        assert code == 1
        last = err.splitlines()[-1]
        assert "t2m" in last
        assert "lead_time" in last
        assert kind.partition("_")[0].removesuffix("ed") in last
    assert read(path)[0].tolist() == [5.0] * 6
    assert np.isnan(read(path)[1:]).all()


# -- dtypes, times and attributes ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "i8", "f2", "f4", "f8", "c8", "c16"])
@pytest.mark.parametrize("blocking", [True, False])
def test_a_dtype_is_kept(path, dtype, blocking):
    x = (np.arange(30).reshape(1, 1, 5, 6) % 2).astype(dtype)
    with AsyncZarrSaver(path, parallel(), blocking=blocking) as saver:
        saver.write(x, coords(), "t2m")
    assert read(path).dtype == np.dtype(dtype)
    np.testing.assert_array_equal(read(path)[0, 0], x[0, 0])


@pytest.mark.parametrize("blocking", [True, False])
def test_bfloat16_is_kept_bit_for_bit(path, blocking):
    torch = pytest.importorskip("torch")
    x = torch.linspace(-3, 300, 30).reshape(1, 1, 5, 6).bfloat16()
    with AsyncZarrSaver(path, parallel(), blocking=blocking) as saver:
        saver.write(x, coords(), "t2m")
        x.zero_()
    again = torch.linspace(-3, 300, 30).reshape(5, 6).bfloat16()
    assert read(path).dtype == np.dtype("f4")
    np.testing.assert_array_equal(read(path)[0, 0], again.float().numpy())
    assert zarr.open_group(path)["t2m"].attrs["original_dtype"] == "bfloat16"


def test_times_are_exact_and_attributes_and_units_are_there(path):
    times = np.array(["2025-01-01T00:00:00.123456789", "2262-01-01"], "M8[ns]")
    attrs = {"title": "a forecast", "t2m": {"units": "K", "standard_name": "air_temperature"}}
    with AsyncZarrSaver(path, parallel(time=times), attrs=attrs) as saver:
        saver.write(field(0), coords(time=times[:1]), "t2m")
    with xr.open_zarr(path) as dataset:
        np.testing.assert_array_equal(dataset.time, times)
        np.testing.assert_array_equal(dataset.lead_time, LEAD)
        assert dataset.attrs["title"] == "a forecast"
        assert dataset.t2m.attrs["units"] == "K"
        assert dataset.t2m.dims == ("time", "lead_time", "lat", "lon")
    documents = json.loads((path / "zarr.json").read_text())["consolidated_metadata"]["metadata"]
    assert "units" in documents["lead_time"]["attributes"]


def test_dates_of_another_calendar_are_kept(path):
    cftime = pytest.importorskip("cftime")
    times = np.array([cftime.DatetimeNoLeap(2025, 2, 28), cftime.DatetimeNoLeap(2025, 3, 1)])
    with AsyncZarrSaver(path, {"time": times}) as saver:
        for number in (1, 0):
            labels = OrderedDict(time=times[number : number + 1], lat=LAT, lon=LON)
            saver.write(FIELD[None] + number, labels, "t2m")
    with xr.open_zarr(path) as dataset:
        assert list(dataset.time.values) == list(times)
        np.testing.assert_array_equal(dataset.t2m, [FIELD, FIELD + 1])


# -- back-pressure and requests --------------------------------------------------------------------


class CountingStore(MutableMapping):
    """A mapping that counts its requests, and can be held up."""

    def __init__(self):
        self.objects = {}
        self.requests = []
        self.open = threading.Event()
        self.open.set()

    def __getitem__(self, key):
        self.requests.append(("get", key))
        return self.objects[key]

    def __setitem__(self, key, data):
        self.requests.append(("set", key))
        assert self.open.wait(60)
        self.objects[key] = bytes(data)

    def __delitem__(self, key):
        self.requests.append(("delete", key))
        del self.objects[key]

    def __iter__(self):
        self.requests.append(("list", ""))
        return iter(list(self.objects))

    def __len__(self):
        return len(self.objects)


@pytest.mark.filterwarnings("ignore:.*conditional:UserWarning")
def test_a_warm_write_of_ten_arrays_asks_the_store_for_nothing(tmp_path):
    store = CountingStore()
    names = [f"v{number}" for number in range(10)]
    with AsyncZarrSaver("", parallel(), store=store, blocking=False) as saver:
        saver.write([field(0)] * 10, coords(), names).wait()
        store.requests.clear()
        saver.write([field(1)] * 10, coords(lead_time=LEAD[1:2]), names).wait()
        warm = list(store.requests)
    assert [kind for kind, _ in warm if kind != "set"] == []
    chunks = [key for _, key in warm if ".ledger" not in key]
    assert sorted(chunks) == [f"{name}/c/0/1/0/0" for name in sorted(names)]


@pytest.mark.filterwarnings("ignore:.*conditional:UserWarning")
def test_waiting_writes_are_bounded_by_bytes(tmp_path):
    from savers import SaverError

    store = CountingStore()
    x = np.ones((1, 1, 5, 6), "f4")
    given = {"store": store, "blocking": False, "max_inflight_bytes": 3 * x.nbytes}
    saver = AsyncZarrSaver("", parallel(), on_full="raise", **given)
    saver.write(x, coords(), "t2m").wait()
    store.open.clear()
    try:
        held = [saver.write(x, coords(lead_time=LEAD[i : i + 1]), "t2m") for i in (1, 2, 3)]
        with pytest.raises(SaverError, match="max_inflight_bytes"):
            saver.write(x, coords(lead_time=LEAD[4:5]), "t2m")
    finally:
        store.open.set()
    for handle in held:
        handle.wait()
    saver.close()
