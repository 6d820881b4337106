"""What was seen to go wrong in an earlier saver and manager: here each goes right.

One test a defect, named after what happens instead.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import numcodecs
import numpy as np
import pytest
import zarr

from savers import InvalidInputError, ZarrSaver
from taskmanager import TaskFailedError, TaskManager
from tests.stores import Place, chunk_files, tree


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.zarr"


def read(path, name="dataset"):
    return zarr.open_group(path, mode="r")[name][...]


def start(code, *arguments):
    """Start another process that runs `code`."""
    script = "import sys, time\nfrom savers import *\nfrom taskmanager import *\n"
    command = [sys.executable, "-c", script + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# -- a kill in mid-append ----------------------------------------------------------------------

APPENDS = """
    import numpy as np
    with ZarrSaver(sys.argv[1], chunks=64) as saver:
        print("ready", flush=True)
        for number in range(100_000):
            saver.save(np.full((25, 8), number + 1.0))
"""


def test_a_kill_in_mid_append_leaves_no_fill_value_that_reads_as_data(path):
    seen = 0
    for pause in (0.05, 0.4, 1.3):
        process = start(APPENDS, path)
        assert process.stdout.readline() == "ready\n"
        time.sleep(pause)
        process.kill()
        process.communicate()
        if path.exists() and "dataset" in zarr.open_group(path, mode="r"):
            rows = read(path)
            assert not np.isnan(rows).any()
            assert (rows > 0).all()
            assert len(rows) % 25 == 0
            seen = max(seen, len(rows))
    with ZarrSaver(path) as saver:
        saver.save(np.zeros((1, 8)))
    rows = read(path)
    assert len(rows) > seen > 0
    assert (rows[:-1] > 0).all()
    assert (rows[-1] == 0).all()


# -- places ------------------------------------------------------------------------------------


def test_a_bucket_is_a_bucket_and_no_folder_of_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saver = ZarrSaver("s3://bucket/x", storage_options={
        "key": "k", "secret": "s", "endpoint_url": "http://127.0.0.1:9",
        "retry_timeout": 0.3,
    })  # fmt: skip
    with pytest.raises(OSError, match="bucket/x"):
        saver.save([1.0])
    assert tree(tmp_path) == {}


@pytest.mark.may_leak("files", reason="event loops of fsspec live as long as the process")
@pytest.mark.parametrize("kind", ["memory_mapper", "dict", "memory_store", "local_store"])
def test_an_fsspec_mapping_and_a_zarr_store_are_taken(tmp_path, kind):
    place = Place(kind, tmp_path)
    with ZarrSaver(place.target) as saver:
        saver.save([1, 2])
    assert place.read().tolist() == [1, 2]


# -- keywords ----------------------------------------------------------------------------------


def test_keywords_are_honoured_and_nonsense_is_refused(path):
    with ZarrSaver(path) as saver:
        saver.save([1, 2, 3], chunks=2, dtype="f4", compressor=numcodecs.GZip(3))
        with pytest.raises(TypeError, match="no keyword 'nonsense'"):
            saver.save([4], nonsense=True)
    array = zarr.open_group(path, mode="r")["dataset"]
    assert (array.chunks, array.dtype) == ((2,), np.dtype("f4"))
    assert type(array.metadata.codecs[1]).__name__ == "GzipCodec"


def test_a_hundred_saves_of_one_item_do_not_make_a_hundred_files(path):
    with ZarrSaver(path) as saver:
        for number in range(100):
            saver.save([float(number)])
    assert len(chunk_files(path)) < 10
    assert read(path).tolist() == list(range(100))


def test_floats_are_never_cut_to_integers(path):
    with ZarrSaver(path) as saver:
        saver.save([1, 2])
        with pytest.raises(InvalidInputError, match=r"can't hold the float64 value 2\.7"):
            saver.save([2.7])
    assert read(path).tolist() == [1, 2]


@pytest.mark.parametrize("indices", [np.array([0, 2]), 0, np.int64(0), [0]], ids=repr)
def test_update_takes_numpy_indices_and_index_zero(path, indices):
    wanted = np.zeros(3)
    with ZarrSaver(path) as saver:
        saver.save(wanted)
    with ZarrSaver(path, approach="update") as saver:
        saver.save(np.ones(np.size(indices)), indices=indices)
    wanted[indices] = 1
    assert read(path).tolist() == wanted.tolist()


def test_append_is_n_dimensional(path):
    with ZarrSaver(path) as saver:
        for number in range(3):
            saver.save([np.full((2, 3, 4), number)])
    assert read(path).shape == (3, 2, 3, 4)
    assert read(path)[:, 1, 2, 3].tolist() == [0, 1, 2]


def test_a_misspelt_approach_does_not_pass_the_constructor(path):
    with pytest.raises(ValueError, match=r"expected approach one of .*got 'apend'"):
        ZarrSaver(path, approach="apend")


# -- the manager -------------------------------------------------------------------------------


def bad_at_500(item):
    if item == 500:
        raise ValueError("bad item")
    return float(item)


def test_one_bad_item_of_a_thousand_costs_one_item(path):
    with ZarrSaver(path) as saver, TaskManager(bad_at_500, errors="collect") as manager:
        run = manager.submit_tasks(range(1000), saver=saver, save_interval=100)
    assert (run.counts["saved"], run.counts["failed"]) == (999, 1)
    assert [failure.index for failure in run.failures] == [500]
    rows = read(path)
    assert np.flatnonzero(np.isnan(rows)).tolist() == [500]
    assert rows[[0, 499, 501, 999]].tolist() == [0, 499, 501, 999]


def test_a_run_that_raises_has_saved_what_was_finished(path):
    with ZarrSaver(path) as saver, TaskManager(bad_at_500) as manager:
        with pytest.raises(TaskFailedError) as caught:
            manager.submit_tasks(range(1000), saver=saver, save_interval=100)
        assert caught.value.index == 500
    assert read(path)[:500].tolist() == list(range(500))


CTRL_C = """
    def task(item):
        if item == 150:
            print("here", flush=True)
        time.sleep(0.0 if item < 150 else 0.2)
        return float(item)

    if __name__ == "__main__":
        with ZarrSaver(sys.argv[1]) as saver, TaskManager(task) as manager:
            manager.submit_tasks(range(1000), saver=saver, save_interval=500)
"""


def test_ctrl_c_saves_what_is_finished(path):
    process = start(CTRL_C, path)
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode in (130, -signal.SIGINT)
    rows = read(path)
    assert 150 <= len(rows) < 500
    assert rows.tolist() == list(range(len(rows)))


def test_the_same_job_twice_does_not_double_the_array(path):
    calls = []

    def task(item):
        calls.append(item)
        return float(item)

    for executed in (50, 0):
        with ZarrSaver(path) as saver, TaskManager(task) as manager:
            run = manager.submit_tasks(range(50), saver=saver, save_interval=7)
        assert run.counts["executed"] == executed
        assert run.counts["resumed"] == 50 - executed
    assert calls == list(range(50))
    assert read(path).tolist() == list(range(50))


def squares(first):
    return [number**2 for number in range(first, first + 25)]


def test_a_manager_used_again_saves_leftovers_once(tmp_path):
    with TaskManager(np.sqrt) as manager:
        for number in range(3):
            with ZarrSaver(tmp_path / f"{number}.zarr") as saver:
                manager.submit_tasks(squares(number), saver=saver, save_interval=10)
        with ZarrSaver(tmp_path / "all.zarr") as saver:
            for number in range(3):
                manager.submit_tasks(squares(number), saver=saver, save_interval=10)
    for number in range(3):
        wanted = list(range(number, number + 25))
        assert read(tmp_path / f"{number}.zarr").tolist() == wanted
        assert read(tmp_path / "all.zarr")[25 * number :][:25].tolist() == wanted


def slow_first(item):
    """Item 0 ends once others have been saved."""
    gate = os.environ["TASKSAVERS_TEST_GATE"]
    deadline = time.monotonic() + 60
    while item == 0 and not os.path.exists(gate) and time.monotonic() < deadline:
        time.sleep(0.01)
    return float(item)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_slow_first_item_does_not_hold_back_the_others(path, tmp_path, monkeypatch, executor):
    gate = tmp_path / "gate"
    monkeypatch.setenv("TASKSAVERS_TEST_GATE", str(gate))
    committed = []

    class Watched(ZarrSaver):
        def open_jobs(self, **save_kwargs):
            jobs = super().open_jobs(**save_kwargs)
            begin = jobs.begin

            def watched(spec, seed):
                writer = begin(spec, seed)
                commit = writer.commit

                def noted():
                    commit()
                    committed.append(int((writer.state.status == 1).sum()))
                    if committed[-1] >= 60:
                        gate.touch()

                writer.commit = noted
                return writer

            jobs.begin = watched
            return jobs

    with (
        Watched(path) as saver,
        TaskManager(slow_first, executor=executor, max_workers=2) as manager,
    ):
        run = manager.submit_tasks(range(100), saver=saver, save_interval=10)
    assert run.counts["saved"] == 100
    assert committed[0] < 60 <= max(committed)
    assert gate.exists()
    assert read(path).tolist() == list(range(100))
