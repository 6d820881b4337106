"""Jobs into an `HDF5Saver`, read back with plain h5py."""

from __future__ import annotations

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from savers import HDF5Saver, verify
from taskmanager import TaskManager


def read(path, name="x"):
    with h5py.File(path, "r") as file:
        return file[name][...]


def row(item):
    return np.array([item, item * item], np.float64)


def table(items):
    return np.array([[item, item * item] for item in items], np.float64)


@pytest.mark.parametrize("executor", ["serial", "threads", "processes"])
def test_a_job_is_resumed_and_grows(tmp_path, executor):
    path = tmp_path / "out.h5"
    for count, executed in ((70, 70), (70, 0), (100, 30)):
        with HDF5Saver(path, "x") as saver, TaskManager(row, executor=executor) as manager:
            run = manager.submit_tasks(range(count), saver, save_interval=20)
        assert (run.counts["executed"], run.counts["resumed"]) == (executed, count - executed)
        np.testing.assert_array_equal(read(path), table(range(count)))
    assert verify(path) == []


def test_fields_of_results_are_datasets(tmp_path):
    path = tmp_path / "out.h5"
    with HDF5Saver(path) as saver, TaskManager(lambda n: {"n": n, "t": f"text {n}"}) as manager:
        manager.submit_tasks(range(10), saver, save_interval=4)
    assert read(path, "n").tolist() == list(range(10))
    assert [text.decode() for text in read(path, "t")] == [f"text {n}" for n in range(10)]


def test_labels_place_results(tmp_path):
    path = tmp_path / "out.h5"
    times = np.array(["2020-01-01", "2020-01-02"], "M8[D]")
    coords = {"time": times, "member": [10, 11, 12]}
    items = [(t, m) for m in (12, 10, 11) for t in range(2)]
    saver = HDF5Saver(path, "x", dims=["time", "member", "cell"], coords=coords)
    with saver, TaskManager(lambda item: row(item[1])) as manager:
        run = manager.submit_tasks(
            items, saver, labels=lambda item: {"time": times[item[0]], "member": item[1]}
        )
        np.testing.assert_array_equal(next(iter(run.results())), row(12))
    wanted = np.broadcast_to(table([10, 11, 12]), (2, 3, 2))
    np.testing.assert_array_equal(read(path), wanted)
    with h5py.File(path) as file:
        assert file["x"].dims[1][0][:].tolist() == [10, 11, 12]


def test_a_failure_leaves_missing_values_and_is_tried_again(tmp_path):
    path = tmp_path / "out.h5"
    bad = {3}

    def task(item):
        if item in bad:
            raise ValueError(item)
        return row(item)

    with HDF5Saver(path, "x") as saver, TaskManager(task, errors="collect") as manager:
        manager.submit_tasks(range(6), saver, save_interval=2)
        assert np.isnan(read(path)[3]).all()
        bad.clear()
        run = manager.submit_tasks(range(6), saver, save_interval=2)
        assert run.counts["executed"] == 1
    assert not np.isnan(read(path)).any()


def test_a_run_replaces_an_array_as_a_whole(tmp_path):
    path = tmp_path / "out.h5"
    with HDF5Saver(path, "x") as saver:
        saver.save(table(range(5)))
    seen = []
    with HDF5Saver(path, "x", "overwrite") as saver:

        def task(item):
            seen.append(len(read(path)))
            return row(-item)

        with TaskManager(task) as manager:
            manager.submit_tasks(range(9), saver, save_interval=3)
    assert set(seen) == {5}
    np.testing.assert_array_equal(read(path), [row(-item) for item in range(9)])


PROGRAM = """
import os, sys, time
import numpy as np
from savers import HDF5Saver
from taskmanager import TaskManager

def task(item):
    if item == int(sys.argv[2]):
        time.sleep(1)  # time to commit what is finished, most likely
        os._exit(9)
    print("run", item, flush=True)
    return np.array([item, item * item], np.float64)

with HDF5Saver(sys.argv[1], "x", chunks=4) as saver:
    TaskManager(task).submit_tasks(range(40), saver, save_interval=10)
"""


def test_a_killed_job_is_completed_by_the_same_call(tmp_path):
    path = tmp_path / "out.h5"
    runs = []
    for stop in (25, -1):
        command = [sys.executable, "-c", PROGRAM, path, str(stop)]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=dict(os.environ)
        )
        runs.append([int(line.split()[1]) for line in done.stdout.splitlines()])
        assert done.returncode == (9 if stop >= 0 else 0), done.stderr
    assert runs[0] == list(range(25))
    assert runs[1] in [list(range(first, 40)) for first in (0, 10, 20)]
    np.testing.assert_array_equal(read(path), table(range(40)))
    assert verify(path) == []
