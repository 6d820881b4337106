"""Every kind of store through the same tests: what a saver promises doesn't depend on the place.

Kinds are listed in `tests.stores`. Everything is read back with zarr, h5py or xarray alone.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr

from savers import (
    AsyncZarrSaver,
    HDF5Saver,
    NetCDFSaver,
    ZarrSaver,
    open_dataset,
    open_dataset_async,
)
from savers._stores._location import locate
from savers.errors import FormatError, InvalidInputError, InvalidTypeError
from savers.testing import SaverTests
from taskmanager import TaskManager
from tests.integration.killed_in_every_kind import ITEMS, SAVED, Squares, submitted
from tests.stores import ALL, BUCKET, FOR_FILES, IN_MEMORY, LASTING, ON_SERVERS, Place

pytestmark = [
    pytest.mark.may_leak("files", "threads", reason="obstore and s3fs keep connections open"),
    pytest.mark.filterwarnings("ignore:.*without conditional writes:UserWarning"),
]

STEPS = np.arange(4, dtype="timedelta64[h]")
LAT, LON = np.array([10.0, 20.0]), np.array([1.0, 2.0, 3.0])


@pytest.fixture(scope="module", autouse=True)
def servers(request):
    """Servers of this machine, started before the first test looks around."""
    found = {}
    for name in set(ON_SERVERS.values()):
        try:
            found[name] = request.getfixturevalue(name)
            found[name].make_bucket(BUCKET)
        except pytest.skip.Exception as reason:
            found[name] = reason
    return found


def server_of(kind, servers):
    server = servers[ON_SERVERS[kind]] if kind in ON_SERVERS else None
    if isinstance(server, pytest.skip.Exception):
        pytest.skip(str(server))
    return server


def reachable(kind, servers):
    try:
        server_of(kind, servers)
    except pytest.skip.Exception:
        return False
    return True


@pytest.fixture(params=ALL)
def place(request, tmp_path, servers):
    return Place(request.param, tmp_path, server_of(request.param, servers))


# -- ZarrSaver -----------------------------------------------------------------------------------


def test_it_is_appended_to_updated_and_replaced(place):
    def save(data, indices=None, **settings):
        with ZarrSaver(place.target, storage_options=place.options or None, **settings) as saver:
            saver.save(data, indices)

    save({"dataset": np.arange(5.0), "other": [True]}, chunks=2)
    save([5.0])
    save([-1.0, -4.0], [1, 4], approach="update")
    assert place.read().tolist() == [0.0, -1.0, 2.0, 3.0, -4.0, 5.0]
    save(np.ones((2, 3), "i2"), approach="overwrite")
    np.testing.assert_array_equal(place.read(), np.ones((2, 3), "i2"))
    assert place.read("other").tolist() == [True]


def test_a_save_returns_once_a_bucket_has_answered_for_all_of_it(tmp_path, servers):
    place = Place("s3_url", tmp_path, server_of("s3_url", servers))
    with ZarrSaver(
        place.target, chunks=2, durability="power", storage_options=place.options
    ) as saver:
        for number in range(1, 4):
            saver.save([1.0, 2.0])
            there = {entry["path"] for entry in place.server.store(BUCKET).list().collect()}
            chunks = {f"{place.key}/dataset/c/{index}" for index in range(number)}
            records = [path for path in there if path.startswith(f"{place.key}.ledger/dataset@")]
            assert chunks <= there
            assert len(records) >= number


#: Kinds of which each is written to in a way of its own, without a server (on servers:
#: test_saver_in_a_bucket.py). With the variable, all of them: `tests/torture_kinds.py`.
WAYS = ALL if os.environ.get("TASKSAVERS_ALL_KINDS") else (
    "path", "dict", "memory_mapper", "obstore", "wrapped_memory", "own_zarr", "dir_mapper"
)  # fmt: skip

#: Stores that make their folder themselves as soon as they are used, or before.
MAKE_FOLDERS = ("obstore_local", "logged_folder", "icechunk")
#: Why a saver does not travel to another process, where it does not.
STAYS = {
    **dict.fromkeys(IN_MEMORY, "saves into memory of this process"),
    **dict.fromkeys(("s3_map", "s3_mapper", "s3_fsspec_store"), "holds credentials in its store"),
    **dict.fromkeys(("s3_obstore", "s3_zarr_obstore"), "holds credentials in its store"),
    **dict.fromkeys(("az_obstore", "gs_obstore"), "holds credentials in its store"),
    **dict.fromkeys(("s3_url", "az_url", "gs_url"), "came without its credentials"),
}


class TestZarrSaver(SaverTests):
    @pytest.fixture(autouse=True, params=WAYS)
    def _kind(self, request, tmp_path_factory, servers):
        self.kind, self.server = request.param, server_of(request.param, servers)
        self.folder = None
        if self.kind in MAKE_FOLDERS:
            self.folder = tmp_path_factory.mktemp("made")
        self.places: dict[Path, Place] = {}

    def place(self, path):
        if path not in self.places:
            folder = self.folder or path.parent
            self.places[path] = Place(self.kind, folder, self.server, path.name)
        return self.places[path]

    def make_saver(self, path, **settings):
        place = self.place(path)
        return ZarrSaver(place.target, storage_options=place.options or None, **settings)

    def read(self, path, name="dataset"):
        return self.place(path).read(name)

    def test_a_pickled_saver_goes_on(self, tmp_path):
        if self.kind not in STAYS:
            super().test_a_pickled_saver_goes_on(tmp_path)


@pytest.mark.parametrize("kind", STAYS)
def test_a_saver_that_can_not_travel_says_why(kind, tmp_path, servers):
    place = Place(kind, tmp_path, server_of(kind, servers))
    with (
        ZarrSaver(place.target, storage_options=place.options or None) as saver,
        pytest.raises((InvalidTypeError, InvalidInputError), match=STAYS[kind]),
    ):
        pickle.loads(pickle.dumps(saver)).save([2.0])


# -- a job that is killed ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(tmp_path_factory, servers):
    """A process that ran the same job into every kind of store was killed in all of them."""
    folder = tmp_path_factory.mktemp("killed")
    there = {kind: server_of(kind, servers) for kind in LASTING if reachable(kind, servers)}
    given = base64.b64encode(pickle.dumps((folder, there))).decode()
    program = "from tests.integration.killed_in_every_kind import main; main()"
    command = [sys.executable, "-W", "ignore", "-c", program]
    quiet = {**os.environ, "ICECHUNK_LOG": "error"}  # version 2 warns of its local storage there
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False, timeout=90, env=quiet
    )
    assert done.returncode == 9, done.stderr
    assert done.stderr == ""
    return folder


@pytest.mark.parametrize("kind", LASTING)
def test_a_killed_job_is_resumed_and_nothing_is_lost_or_twice(killed, kind, servers):
    place = Place(kind, killed / kind, server_of(kind, servers))
    counts = submitted(place)
    assert (counts["resumed"], counts["executed"]) == (SAVED, len(ITEMS) - SAVED)
    wanted = [[item, item**2] for item in ITEMS]
    np.testing.assert_array_equal(place.read("squares"), wanted)
    assert submitted(place)["executed"] == 0
    np.testing.assert_array_equal(place.read("squares"), wanted)


# -- AsyncZarrSaver ------------------------------------------------------------------------------


def labelled(place, **settings):
    return AsyncZarrSaver(
        "", {"lead_time": STEPS}, store=place.target, blocking=False,
        storage_options=place.options or None, **settings,
    )  # fmt: skip


def write(saver, number):
    step = STEPS[number : number + 1]
    field = np.full((1, 2, 3), number + 1.0)
    saver.write([field, -field], {"lead_time": step, "lat": LAT, "lon": LON}, ["t2m", "z500"])


def test_labelled_writes_are_there_after_reopening(place):
    settings = {"chunked_coords": {"lead_time": 3}}
    with labelled(place, **settings) as saver:
        for number in (2, 0):
            write(saver, number)
        saver.flush()
        assert [at["lead_time"] for at in saver.written("t2m")] == [STEPS[0], STEPS[2]]
    with labelled(place, **settings) as saver:
        assert [at["lead_time"] for at in saver.missing("z500")] == [STEPS[1], STEPS[3]]
        for number in (1, 3):
            write(saver, number)
    with labelled(place, **settings) as saver:
        assert saver.missing("t2m") == saver.missing("z500") == []
    assert place.read("z500")[:, 1, 2].tolist() == [-1.0, -2.0, -3.0, -4.0]


def test_two_labelled_writers_of_one_process_lose_nothing(place):
    with labelled(place) as one, labelled(place) as other:
        for number in range(4):
            write((one, other)[number % 2], number)
        one.flush()
        other.flush()
        assert one.missing("t2m") == other.missing("z500") == []
    assert place.read("t2m")[:, 0, 0].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_path_in_a_file_system_of_the_callers(tmp_path):
    place = Place("dir_mapper", tmp_path)
    for numbers in ((1, 3), (0, 2)):
        with AsyncZarrSaver(
            place.path.name, {"lead_time": STEPS}, fs_factory=place.filesystem, blocking=False
        ) as saver:
            for number in numbers:
                write(saver, number)
            saver.flush()
            done = sorted(set(numbers) | {1, 3})
            assert [at["lead_time"] for at in saver.written("t2m")] == list(STEPS[done])
    assert place.read("t2m")[:, 0, 0].tolist() == [1.0, 2.0, 3.0, 4.0]


def test_a_listing_hides_nothing_that_was_written_since(tmp_path, servers):
    """s3fs believes a listing that it has seen; two labelled writers lost sight of each other."""
    place = Place("s3_unconditional", tmp_path, server_of("s3_unconditional", servers))
    store, other = locate(place.target).store, servers["s3_server"].store(BUCKET, place.key)
    store.put("a/first", b"1")
    assert list(store.list("a/")) == ["a/first"]
    other.put("a/second", b"2")
    assert store.get("a/second") == b"2"
    assert sorted(store.list("a/")) == ["a/first", "a/second"]


# -- single files --------------------------------------------------------------------------------


@pytest.fixture
def _state_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def read_by_h5py(place, name):
    with h5py.File(io.BytesIO(place.content())) as file:
        return file[name][...]


def read_by_netcdf4(place, name):
    with netCDF4.Dataset("memory", memory=place.content()) as file:
        return np.asarray(file[name][...])


@pytest.mark.usefixtures("_state_of_its_own")
@pytest.mark.parametrize("kind", FOR_FILES)
@pytest.mark.parametrize(
    ("saver_type", "read"), [(HDF5Saver, read_by_h5py), (NetCDFSaver, read_by_netcdf4)]
)
def test_a_single_file_goes_on(saver_type, read, kind, tmp_path, servers):
    place = Place(kind, tmp_path, server_of(kind, servers), "out.nc")

    def saver_of(name, approach="append"):
        return saver_type(place.target, name, approach, storage_options=place.options or None)

    for count in (2, 4):
        with saver_of("squares") as saver:
            manager = TaskManager(Squares, executor="serial")
            run = manager.submit_tasks(range(count), saver=saver, save_interval=1)
            assert (run.counts["resumed"], run.counts["executed"]) == (count - 2, 2)
    with saver_of("squares", "update") as saver:
        saver.save([[-2.0, -4.0]], [2])
    with saver_of("other") as saver:
        saver.save([7])
    assert read(place, "squares").tolist() == [[0, 0], [1, 1], [-2, -4], [3, 9]]
    assert read(place, "other").tolist() == [7]


@pytest.mark.parametrize("kind", sorted({*ALL} - {*FOR_FILES}))
@pytest.mark.parametrize("saver_type", [HDF5Saver, NetCDFSaver])
def test_no_single_file_lies_in_a_store(saver_type, kind, tmp_path, servers):
    place = Place(kind, tmp_path, server_of(kind, servers), "out.nc")
    with pytest.raises(
        (FormatError, InvalidTypeError), match="expected (a|the path or URL of a) file"
    ):
        saver_type(place.target, storage_options=place.options or None).save([1])


# -- reading -------------------------------------------------------------------------------------


def test_it_is_opened_as_xarray_opens_it(place):
    labels = {"member": [3, 1, 2], "lat": LAT}
    with ZarrSaver(
        place.target, "t2m", dims=("member", "lat"), coords=labels,
        attrs={"t2m": {"units": "K"}, "title": "a forecast"},
        storage_options=place.options or None,
    ) as saver:  # fmt: skip
        saver.save(np.arange(6.0).reshape(3, 2))
    where = {"storage_options": place.options or None}

    async def opened():
        dataset = await open_dataset_async(place.target, **where)
        return await dataset.load_async()

    with xr.open_zarr(place.store()) as wanted:
        xr.testing.assert_identical(open_dataset(place.target, **where).load(), wanted.load())
        xr.testing.assert_identical(asyncio.run(opened()), wanted)
    assert wanted.t2m.sel(member=1).values.tolist() == [2.0, 3.0]
