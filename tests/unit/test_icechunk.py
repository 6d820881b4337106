"""An Icechunk repository: what is saved is a commit of it, and readers see commits alone."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from savers import (
    AsyncZarrSaver,
    HDF5Saver,
    NetCDFSaver,
    StorageError,
    StoreInUseError,
    ZarrSaver,
    open_dataset,
    open_dataset_async,
)
from savers._maintenance._inspect import inspect
from savers._maintenance._recover import recover
from savers._maintenance._verify import verify
from savers.errors import InvalidInputError, InvalidTypeError, SaverError
from taskmanager import TaskManager
from taskmanager.errors import TaskFailedError
from tests.faultproxy import FaultProxy
from tests.s3server import KEY, REGION, SECRET
from tests.stores import unchanged

icechunk = pytest.importorskip("icechunk", reason="needs icechunk: pip install icechunk")

STEPS = np.arange(4, dtype="timedelta64[h]")
LAT = np.array([10.0, 20.0])
GIVEN = {
    "repository": lambda repository: repository,
    "session": lambda repository: repository.writable_session("main"),
    "store": lambda repository: repository.writable_session("main").store,
}


@pytest.fixture(scope="module", autouse=True)
def _woken():
    """The threads of Icechunk, and what wakes them, live as long as the process."""
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    zarr.open_group(repository.writable_session("main").store, mode="a")


@pytest.fixture
def repository(tmp_path):
    return icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "r")))


@pytest.fixture(params=["repository", "store"])
def target(request, repository):
    return GIVEN[request.param](repository)


def read(repository, name="dataset"):
    """Read the branch with zarr alone."""
    return zarr.open_group(repository.readonly_session("main").store, mode="r")[name]


def messages(repository):
    return [commit.message for commit in repository.ancestry(branch="main")][::-1][1:]


# -- saving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", GIVEN)
def test_every_save_is_a_commit_that_says_what_it_brought(repository, given):
    with ZarrSaver(GIVEN[given](repository), dims=("item", "x")) as saver:
        for count in (3, 2, 1):
            saver.save(np.full((count, 2), float(count)))
            assert read(repository)[-1].tolist() == [count, count]
    assert read(repository)[:, 0].tolist() == [3, 3, 3, 2, 2, 1]
    assert messages(repository) == [f"dataset: dataset {r}" for r in ("0 to 2", "3 to 4", "5")]
    seen = xr.open_zarr(repository.readonly_session("main").store, consolidated=False)
    assert seen.dataset.dims == ("item", "x")
    assert seen.dataset[:, 1].values.tolist() == [3, 3, 3, 2, 2, 1]


def test_a_saver_goes_on_where_another_ended(repository, target):
    for first in (0, 2, 4):
        with ZarrSaver(target, chunks=3) as saver:
            saver.save([float(first), float(first + 1)])
    assert read(repository)[:].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(messages(repository)) == 3


def test_an_update_and_an_overwrite_are_seen_at_once_and_whole(repository, target):
    with ZarrSaver(target, chunks=2) as saver:
        saver.save(np.arange(5.0))
    with ZarrSaver(target, approach="update") as saver:
        saver.save([9.0, 8.0], indices=[0, 4])
    assert read(repository)[:].tolist() == [9, 1, 2, 3, 8]
    with ZarrSaver(target, approach="overwrite", chunks=2) as saver:
        for values in ([1.0, 2.0, 3.0], [4.0] * 7, [5.0]):
            saver.save(values)
            assert read(repository)[:].tolist() == values
    with ZarrSaver(target) as saver:
        saver.save([6.0])
    assert read(repository)[:].tolist() == [5, 6]


def test_arrays_of_several_fields_types_and_groups(repository, target):
    days = np.arange("2020-01-01", "2020-01-04", dtype="M8[D]")
    rows = [{"group/count": i, "name": f"item {i}", "day": day} for i, day in enumerate(days)]
    with ZarrSaver(target) as saver:
        saver.save(rows[:2])
        saver.save(rows[2:])
    assert read(repository, "group/count")[:].tolist() == [0, 1, 2]
    assert read(repository, "name")[:].tolist() == ["item 0", "item 1", "item 2"]
    seen = open_dataset(repository.readonly_session("main").store)
    assert seen.day.values[2] == np.datetime64("2020-01-03")


def test_labels_beyond_what_is_saved_are_shown_once_it_is(repository, target):
    days = np.arange("2020-01-01", "2020-01-11", dtype="M8[D]")
    settings = {"dims": ("time",), "coords": {"time": days}, "chunks": 2}
    for stop in (3, 7):
        with ZarrSaver(target, **settings) as saver:
            saver.save(np.ones(stop - (read(repository).shape[0] if stop > 3 else 0)))
        seen = xr.open_zarr(repository.readonly_session("main").store, consolidated=False)
        assert (seen.time.values == days[:stop]).all()


def test_what_is_open_is_published_when_nothing_changed_and_adds_no_commit(repository, target):
    with ZarrSaver(target) as saver:
        saver.save([1.0])
    before = messages(repository)
    with ZarrSaver(target) as saver:
        saver.flush()
    saver = ZarrSaver(target, approach="update")
    with pytest.raises(InvalidInputError):
        saver.save([1.0], indices=[7])
    saver.close()
    assert messages(repository) == before


def test_a_repository_in_memory(tmp_path):
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    with ZarrSaver(repository) as saver:
        saver.save([1.0])
        saver.save([2.0])
    assert read(repository)[:].tolist() == [1, 2]
    assert open_dataset(repository).dataset.values.tolist() == [1, 2]


# -- what is given ---------------------------------------------------------------------------------


def test_a_session_that_is_given_stays_as_it_is(repository):
    session = repository.writable_session("main")
    before = session.snapshot_id
    with ZarrSaver(session.store) as saver:
        saver.save([1.0])
    assert (session.snapshot_id, session.read_only, session.has_uncommitted_changes) == (
        before, False, False)  # fmt: skip
    fresh = repository.writable_session("main")
    zarr.open_group(fresh.store).create_array("mine", shape=(1,), dtype="f4")
    fresh.commit("mine")
    assert sorted(read(repository, "").array_keys()) == ["dataset", "mine"]


def test_changes_that_are_not_committed_are_refused(repository):
    session = repository.writable_session("main")
    zarr.open_group(session.store, mode="a").create_array("mine", shape=(1,), dtype="f4")
    for given in (session, session.store):
        with pytest.raises(InvalidInputError, match=r"session.commit\(...\) them first"):
            ZarrSaver(given)
    assert session.has_uncommitted_changes
    assert messages(repository) == []


def test_what_can_not_be_committed_is_refused(repository):
    with pytest.raises(InvalidInputError, match="repository.writable_session"):
        ZarrSaver(repository.readonly_session("main"))
    given = repository.writable_session("main").store.with_read_only(read_only=True)
    with pytest.raises(InvalidInputError, match="got a read-only one"):
        ZarrSaver(given)
    with pytest.raises(InvalidTypeError, match="ForkSession"):
        ZarrSaver(repository.writable_session("main").fork())
    with pytest.raises(InvalidInputError, match="zarr_format=3"):
        ZarrSaver(repository, zarr_format=2).save([1.0])
    memory = icechunk.Repository.create(icechunk.in_memory_storage())
    with pytest.raises(InvalidInputError, match=r"ZarrSaver\(repository\)"):
        ZarrSaver(memory.writable_session("main").store).save([1.0])
    assert messages(repository) == messages(memory) == []


def test_another_branch_is_kept(repository):
    repository.create_branch("side", repository.lookup_branch("main"))
    with ZarrSaver(repository.writable_session("side").store) as saver:
        saver.save([1.0])
        saver.save([2.0])
    assert messages(repository) == []
    side = zarr.open_group(repository.readonly_session("side").store, mode="r")
    assert side["dataset"][:].tolist() == [1, 2]


# -- others at work --------------------------------------------------------------------------------


def test_another_program_that_commits_other_arrays_loses_nothing(repository, target):
    with ZarrSaver(target) as saver:
        for number in range(4):
            saver.save([float(number)])
            session = repository.writable_session("main")
            group = zarr.open_group(session.store)
            group.create_array(f"other{number}", shape=(1,), dtype="i4")[:] = number
            session.commit("another program")
    assert read(repository)[:].tolist() == [0, 1, 2, 3]
    assert [read(repository, f"other{number}")[0] for number in range(4)] == [0, 1, 2, 3]


def test_attributes_of_the_root_that_another_program_adds_stay(repository, target):
    with ZarrSaver(target) as saver:
        for number in range(3):
            saver.save([float(number)])
            session = repository.writable_session("main")
            zarr.open_group(session.store).attrs[f"theirs{number}"] = number
            session.commit("another program")
        saver.save([3.0])
        with ZarrSaver(target, attrs={"mine": 1}) as other:  # in the same session
            other.save([4.0])
    root = zarr.open_group(repository.readonly_session("main").store, mode="r")
    assert {name: root.attrs[name] for name in ("theirs0", "theirs1", "theirs2", "mine")} == {
        "theirs0": 0, "theirs1": 1, "theirs2": 2, "mine": 1}  # fmt: skip
    assert root["dataset"][:].tolist() == [0, 1, 2, 3, 4]


def test_another_program_that_changes_the_same_array_wins(repository):
    with ZarrSaver(repository) as saver:
        saver.save([1.0, 2.0])
        session = repository.writable_session("main")
        zarr.open_group(session.store)["dataset"].resize(5)
        session.commit("resized")
        with pytest.raises(StoreInUseError, match="its commit stands"):
            saver.save([3.0])
        with pytest.raises(SaverError, match="was changed by another program"):
            saver.save([3.0])
    assert read(repository).shape == (5,)


def test_of_two_drivers_the_later_commit_is_refused_and_nothing_is_lost(repository):
    one = ZarrSaver(repository.writable_session("main"), approach="append")
    two = ZarrSaver(repository, approach="append")
    one.save([1.0])
    two.save([2.0])
    with pytest.raises(StoreInUseError, match="one driver at a time"):
        one.save([3.0])
    two.save([4.0])
    one.close()
    two.close()
    assert read(repository)[:].tolist() == [1, 2, 4]
    with ZarrSaver(repository) as saver:
        saver.save([5.0])
    assert read(repository)[:].tolist() == [1, 2, 4, 5]


def test_drivers_of_two_datasets_go_on_side_by_side(repository):
    one = ZarrSaver(repository.writable_session("main"), "one")
    two = ZarrSaver(repository, "two")
    for number in range(5):
        one.save([number])
        two.save([-number])
    one.close()
    two.close()
    assert read(repository, "one")[:].tolist() == [0, 1, 2, 3, 4]
    assert read(repository, "two")[:].tolist() == [0, -1, -2, -3, -4]


@pytest.mark.parametrize("other", ["foreign", "driver"])
def test_a_commit_right_behind_ours_is_looked_at(repository, faulty, faults, other):
    """Between our commit and the session that goes on from it there is a moment."""

    def meanwhile():
        if other == "driver":
            with ZarrSaver(repository) as driver:
                driver.save([7.0])
        else:
            session = repository.writable_session("main")
            zarr.open_group(session.store).create_array("foreign", shape=(1,), dtype="i4")
            session.commit("another program")

    with ZarrSaver(faulty) as saver:
        saver.save([1.0])
        faults += [meanwhile]
        saver.save([2.0])
        if other == "driver":
            with pytest.raises(StoreInUseError, match="another driver saves to 'dataset'"):
                saver.save([3.0])
        else:
            saver.save([3.0])
            saver.save([4.0])
    wanted = [1, 2, 7] if other == "driver" else [1, 2, 3, 4]
    assert read(repository)[:].tolist() == wanted


class Repository:
    """A repository some of whose commits fail (before they stand, or after), or are followed."""

    __module__ = "icechunk.repository"

    def __init__(self, repository, faults):
        self.repository = repository
        self.faults = faults

    @property
    def storage(self):
        return self.repository.storage

    def readonly_session(self, branch):
        return self.repository.readonly_session(branch)

    def writable_session(self, branch):
        return FaultySession(self.repository.writable_session(branch), self.faults)


class FaultySession:
    def __init__(self, session, faults):
        self._inner = session
        self._faults = faults

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def commit(self, *args, **kwargs):
        fault = self._faults.pop(0) if self._faults else ""
        if fault == "before":
            raise icechunk.IcechunkError("the connection was reset")
        there = self._inner.commit(*args, **kwargs)
        if callable(fault):
            fault()
        if fault == "interrupt":
            raise KeyboardInterrupt
        if fault == "after":
            raise icechunk.IcechunkError("the answer was lost")
        if fault == "again":  # as a storage that asks once more after a lost answer
            raise icechunk.ConflictError(None, there)
        return there


@pytest.fixture
def faults():
    return []


@pytest.fixture
def faulty(repository, faults):
    return Repository(repository, faults)


def test_a_commit_that_failed_is_not_there_and_can_be_made_again(repository, faulty, faults):
    with ZarrSaver(faulty, chunks=2) as saver:
        for number in range(6):
            faults += ["before"] * (number % 2)
            for _ in range(number % 2):
                with pytest.raises(StorageError, match="the connection was reset"):
                    saver.save([float(number)])
            saver.save([float(number)])
    assert read(repository)[:].tolist() == [0, 1, 2, 3, 4, 5]
    assert len(messages(repository)) == 6


@pytest.mark.parametrize("fault", ["after", "again"])
def test_a_commit_whose_answer_was_lost_stands_once(repository, faulty, faults, fault):
    with ZarrSaver(faulty, chunks=2) as saver:
        for number in range(5):
            faults += [fault] * (number != 2)
            saver.save([float(number)])
    assert read(repository)[:].tolist() == [0, 1, 2, 3, 4]
    assert len(messages(repository)) == 5


def test_an_interrupt_right_behind_a_commit(repository, faulty, faults):
    with ZarrSaver(faulty) as saver:
        saver.save([1.0])
        faults += ["interrupt"]
        with pytest.raises(KeyboardInterrupt):
            saver.save([2.0])
        saver.save([3.0])
    assert read(repository)[:].tolist() == [1, 2, 3]


@pytest.mark.parametrize("approach", ["append", "overwrite"])
@pytest.mark.parametrize("fault", ["before", "after", "again"])
def test_a_job_whose_commits_fail_is_completed_by_the_same_call(
    repository, faulty, faults, fault, approach
):
    with ZarrSaver(repository) as saver:
        saver.save({"value": [-1.0], "square": [np.zeros(3)]})
    faults += ["", "", fault, "", fault]
    manager = TaskManager(square, progress=False)
    for _ in range(3):
        with contextlib.suppress(StorageError), ZarrSaver(faulty, approach=approach) as saver:
            manager.submit_tasks(range(20), saver, save_interval=4)
    assert faults == []
    wanted = [*range(20)] if approach == "overwrite" else [-1, *range(20)]
    assert read(repository, "value")[:].tolist() == wanted
    assert read(repository, "square")[-1].tolist() == [361] * 3


# -- a bucket --------------------------------------------------------------------------------------


@pytest.fixture
def in_bucket(s3_server, bucket):
    def opened(endpoint=s3_server.endpoint):
        storage = icechunk.s3_storage(
            bucket=bucket, prefix="repository", endpoint_url=endpoint, region=REGION,
            access_key_id=KEY, secret_access_key=SECRET, allow_http=True, force_path_style=True,
        )  # fmt: skip
        return icechunk.Repository.open_or_create(storage)

    return opened


def test_a_repository_in_a_bucket(in_bucket):
    for given in GIVEN.values():
        with ZarrSaver(given(in_bucket()), chunks=4) as saver:
            for _ in range(3):
                saver.save(np.arange(3.0))
    assert read(in_bucket())[:].tolist() == [0, 1, 2] * 9
    with AsyncZarrSaver("", {"lead_time": STEPS}, store=in_bucket(), blocking=False) as saver:
        write(saver, *STEPS[:3])
        saver.flush()
        assert missing(saver) == [3]
    assert open_dataset(in_bucket()).t2m.values[2].tolist() == [2, 2]


def test_faults_in_front_of_a_bucket(in_bucket, s3_server):
    """An answer that was lost is a conflict with oneself, to Icechunk: it asks again."""
    proxy = FaultProxy(s3_server.port, seed=2, faults=("500", "reset before", "reset after"))
    try:
        repository = in_bucket(proxy.endpoint)
        proxy.rate = 0.15
        with ZarrSaver(repository, chunks=4) as saver:
            for number in range(20):
                saver.save([float(number)])
        proxy.rate = 0.0
    finally:
        proxy.close()
    assert sum(proxy.struck.values())
    assert read(in_bucket())[:].tolist() == [*range(20)]


def test_two_drivers_at_once_in_a_bucket(in_bucket):
    """Whoever commits first wins; nothing that was said to be saved is lost."""
    ZarrSaver(in_bucket(), "begin").close()
    start, saved = threading.Barrier(2), {}

    def drive(name):
        start.wait()
        saved[name] = []
        for number in range(8):
            with contextlib.suppress(StoreInUseError), ZarrSaver(in_bucket()) as saver:
                saver.save([100.0 * name + number])
                saved[name].append(100.0 * name + number)

    threads = [threading.Thread(target=drive, args=(name,)) for name in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(read(in_bucket())[:].tolist()) == sorted(saved[1] + saved[2])
    assert len(saved[1] + saved[2]) >= 8  # a commit is refused only because another one stands


def test_two_writers_of_labels_at_once_in_a_bucket(in_bucket):
    steps, start = np.arange(12, dtype="timedelta64[h]"), threading.Barrier(2)
    in_bucket()

    def drive(mine):
        start.wait()
        with AsyncZarrSaver("", {"lead_time": steps}, store=in_bucket()) as saver:
            write(saver, *mine)

    with ThreadPoolExecutor(2) as pool:
        for one in [pool.submit(drive, steps[first::2]) for first in (0, 1)]:
            one.result()
    assert read(in_bucket(), "t2m")[:, 0].tolist() == [*range(12)]
    with AsyncZarrSaver("", {"lead_time": steps}, store=in_bucket()) as saver:
        assert missing(saver) == []


def test_a_saver_of_a_bucket_takes_no_credentials_along(in_bucket):
    with ZarrSaver(in_bucket()) as saver, pytest.raises(InvalidTypeError, match="may hold cred"):
        pickle.dumps(saver)


# -- jobs ------------------------------------------------------------------------------------------


def square(item):
    return {"value": float(item), "square": np.full(3, item * item)}


def test_a_job_resumes_where_it_stopped(repository, target):
    calls = []

    def task(item):
        calls.append(item)
        if item == 23 and calls.count(23) == 1:
            raise RuntimeError("once")
        return square(item)

    manager = TaskManager(task, progress=False)
    with ZarrSaver(target, chunks=4) as saver, pytest.raises(TaskFailedError):
        manager.submit_tasks(range(40), saver, save_interval=5)
    seen = read(repository, "value")[:]
    assert seen[:23].tolist() == [*range(23)]
    with ZarrSaver(target, chunks=4) as saver:
        run = manager.submit_tasks(range(40), saver, save_interval=5)
        assert run.counts["resumed"] + run.counts["executed"] == 40
    assert read(repository, "value")[:].tolist() == [*range(40)]
    assert read(repository, "square")[:, 2].tolist() == [i * i for i in range(40)]
    before = messages(repository)
    assert any("job 1" in text and "finished" in text for text in before)
    with ZarrSaver(target, chunks=4) as saver:
        assert manager.submit_tasks(range(40), saver).counts["resumed"] == 40
    assert messages(repository) == before


def test_results_ahead_of_a_slow_one_are_kept_and_not_shown(repository):
    seen = []

    def task(item):
        if item == 0:
            wait_for(lambda: len(messages(repository)) >= 3)
            seen.append(repository.lookup_branch("main"))
        return float(item)

    with ZarrSaver(repository, chunks=1) as saver:
        manager = TaskManager(task, executor="threads", max_workers=2, progress=False)
        manager.submit_tasks(range(20), saver, save_interval=3, chunk_size=1)
    assert read(repository)[:].tolist() == [*range(20)]
    early = zarr.open_group(repository.readonly_session(snapshot_id=seen[0]).store, mode="r")
    assert early["dataset"].shape == (0,)


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_a_job_that_replaces_shows_the_old_until_it_is_complete(repository, target):
    with ZarrSaver(target, chunks=3) as saver:
        saver.save([-1.0] * 8)
    stop = [11]

    def task(item):
        if item == stop[0]:
            raise RuntimeError("here")
        return float(item)

    manager = TaskManager(task, progress=False)
    with ZarrSaver(target, approach="overwrite", chunks=3) as saver, pytest.raises(TaskFailedError):
        manager.submit_tasks(range(20), saver, save_interval=4)
    assert read(repository)[:].tolist() == [-1] * 8
    stop[0] = None
    with ZarrSaver(target, approach="overwrite", chunks=3) as saver:
        run = manager.submit_tasks(range(20), saver, save_interval=4)
    assert run.counts["resumed"] >= 8
    assert read(repository)[:].tolist() == [*range(20)]
    assert sorted(read(repository, "").array_keys()) == ["dataset"]


def test_worker_processes(repository):
    with ZarrSaver(repository, chunks=4) as saver:
        manager = TaskManager(square, executor="processes", max_workers=2, progress=False)
        manager.submit_tasks(range(20), saver, save_interval=5)
    assert read(repository, "value")[:].tolist() == [*range(20)]


def test_snapshots_that_expired_are_not_needed(repository, target):
    for first in (0, 3, 6):
        with ZarrSaver(target, chunks=2) as saver:
            saver.save([float(first + i) for i in range(3)])
        repository.expire_snapshots(older_than=now())
        repository.garbage_collect(delete_object_older_than=now())
    assert read(repository)[:].tolist() == [*range(9)]


def now():
    import datetime

    return datetime.datetime.now(datetime.UTC)


def test_more_commits_than_a_stream_of_records_holds(repository):
    with ZarrSaver(repository, chunks=64) as saver:
        for number in range(130):
            saver.save([float(number)])
    assert read(repository)[:].tolist() == [*range(130)]
    with ZarrSaver(repository) as saver:
        saver.save([130.0])
    assert read(repository)[-2:].tolist() == [129, 130]


# -- labels ----------------------------------------------------------------------------------------


def write(saver, *steps, name="t2m"):
    for step in steps:
        value = np.full((1, 2), float(step / np.timedelta64(1, "h")))
        saver.write(value, {"lead_time": [step], "lat": LAT}, name)


def missing(saver, name="t2m"):
    return [int(one["lead_time"].astype(int)) for one in saver.missing(name)]


@pytest.mark.parametrize("blocking", [True, False])
def test_labels_written_missing_and_reopened(repository, target, blocking):
    with AsyncZarrSaver("", {"lead_time": STEPS}, store=target, blocking=blocking) as saver:
        write(saver, *STEPS[2:0:-1])
        saver.flush()
        assert missing(saver) == [0, 3]
        assert read(repository, "t2m")[1:3, 0].tolist() == [1, 2]
    with AsyncZarrSaver("", {"lead_time": STEPS}, store=target, blocking=blocking) as saver:
        assert missing(saver) == [0, 3]
        write(saver, STEPS[0], STEPS[3], STEPS[1])
        saver.flush()
        assert missing(saver) == []
    assert read(repository, "t2m")[:, 1].tolist() == [0, 1, 2, 3]
    seen = xr.open_zarr(repository.readonly_session("main").store, consolidated=False)
    assert (seen.lead_time.values == STEPS).all()


def test_several_writers_of_one_store_see_each_other(repository):
    one = AsyncZarrSaver("", {"lead_time": STEPS[:2]}, store=repository.writable_session("main"))
    write(one, STEPS[0])
    two = AsyncZarrSaver("", {"lead_time": STEPS}, store=repository)
    write(two, STEPS[3])  # makes the array longer, of which the other knows nothing
    write(one, STEPS[1])
    assert missing(two) == [2]
    one.close()
    write(two, STEPS[2])
    two.close()
    assert read(repository, "t2m")[:, 0].tolist() == [0, 1, 2, 3]
    with AsyncZarrSaver("", {"lead_time": STEPS}, store=repository) as saver:
        assert missing(saver) == []


def test_results_that_share_a_chunk(repository, target):
    settings = {"store": target, "chunked_coords": {"lead_time": 4}}
    with AsyncZarrSaver("", {"lead_time": STEPS}, **settings) as saver:
        write(saver, STEPS[2], STEPS[0])
    with AsyncZarrSaver("", {"lead_time": STEPS}, **settings) as saver:
        write(saver, STEPS[1])
        assert missing(saver) == [3]
    assert read(repository, "t2m")[:3, 0].tolist() == [0, 1, 2]


def test_two_writers_who_merge_into_one_chunk(repository):
    settings = {"chunked_coords": {"lead_time": 4}}
    sessions = repository.writable_session("main")
    one = AsyncZarrSaver("", {"lead_time": STEPS}, store=sessions, **settings)
    two = AsyncZarrSaver("", {"lead_time": STEPS}, store=repository, **settings)
    write(one, STEPS[0])
    write(two, STEPS[1])
    with pytest.raises(StorageError, match="another writer changed the same objects"):
        write(one, STEPS[2])
    two.close()
    one.close()
    assert read(repository, "t2m")[:2, 0].tolist() == [0, 1]
    with AsyncZarrSaver("", {"lead_time": STEPS}, store=repository) as saver:
        assert missing(saver) == [2, 3]


@pytest.mark.parametrize("mode", ["w", "r+", "w-"])
def test_modes(repository, target, mode):
    with AsyncZarrSaver("", {"lead_time": STEPS}, store=target) as saver:
        write(saver, STEPS[0])
    again = AsyncZarrSaver("", {"lead_time": STEPS}, store=target, zarr_kwargs={"mode": mode})
    if mode == "w-":
        with pytest.raises(FileExistsError):
            write(again, STEPS[1])
        return
    with again:
        write(again, STEPS[1])
        assert missing(again) == ([0, 2, 3] if mode == "w" else [2, 3])


def test_a_label_whose_commit_failed_is_saved_by_the_next_flush(repository, faulty, faults):
    with AsyncZarrSaver("", {"lead_time": STEPS}, store=faulty, blocking=False) as saver:
        write(saver, STEPS[0])
        saver.flush()
        faults += ["before"]
        write(saver, STEPS[1])
        with pytest.raises(ExceptionGroup):
            saver.flush()
        assert 1 in missing(saver)
        saver.flush()
        assert missing(saver) == [2, 3]
    assert read(repository, "t2m")[:2, 0].tolist() == [0, 1]


# -- looking at it ---------------------------------------------------------------------------------


def test_verify_inspect_and_recover_look_at_a_repository(repository, target):
    with ZarrSaver(target, chunks=3) as saver:
        saver.save(np.arange(10.0))
    with ZarrSaver(target, approach="overwrite", chunks=3) as saver:
        saver.save(np.arange(8.0))
    assert verify(repository) == []
    assert [(one.array, one.after, one.chunks) for one in recover(repository)] == [
        ("dataset", (8,), 0)
    ]
    assert [tuple(one.published) for one in inspect(repository).arrays] == [(8,)]
    session = repository.writable_session("main")
    zarr.open_group(session.store)["dataset"][4] = 99.0
    session.commit("another program")
    assert [one.where for one in verify(repository)] == ["dataset/c.1"]


def test_the_folder_of_a_repository_is_refused(repository, tmp_path):
    with ZarrSaver(repository) as saver:
        saver.save([1.0])
    with unchanged(tmp_path / "r"):
        for open_it in (ZarrSaver, open_dataset, verify, inspect, recover):
            with pytest.raises(InvalidInputError, match="give icechunk.Repository.open"):
                open_it(tmp_path / "r")


def test_reading_on_an_event_loop(repository):
    with ZarrSaver(repository, dims=("x",)) as saver:
        saver.save([True, False])

    async def values(target):
        found = await open_dataset_async(target, run_state=True)
        return (await found.load_async()).dataset.values.tolist()

    session = repository.readonly_session("main")
    for target in (repository, session, session.store):
        assert asyncio.run(values(target)) == [True, False]


@pytest.mark.parametrize("saver", [HDF5Saver, NetCDFSaver])
def test_a_single_file_can_not_be_kept_there(repository, saver):
    with pytest.raises(InvalidInputError, match="expected the path or URL of a file"):
        saver(repository)
    assert messages(repository) == []


def test_the_code_of_the_page_runs(tmp_path, monkeypatch, capsys):
    page = (Path(__file__).parents[2] / "docs/stores.md").read_text()
    code = re.search(r"## Icechunk\n\n```python\n(.*?)```", page, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(code, names)
    printed = capsys.readouterr().out.splitlines()
    assert "; ".join(printed) in code
    assert names["seen"].energy.values.tolist() == [1, 2, 3]
