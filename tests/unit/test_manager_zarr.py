"""Jobs into a `ZarrSaver`, read back with plain zarr; the usage forms of its document."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import subprocess
import sys
import warnings
from collections import namedtuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import numpy as np
import pytest
import zarr

from savers import ZarrSaver
from taskmanager import LedgerMismatchError, SaveEvery, Task, TaskFailedError, TaskManager
from taskmanager.testing import RecordingTask

if TYPE_CHECKING:
    from collections.abc import Iterator

EXECUTORS = ["serial", "threads", "processes"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.zarr"


@pytest.fixture
def saver(path: Path) -> Iterator[ZarrSaver]:
    with ZarrSaver(path, dataset_name="experiment_1") as saver:
        yield saver


def read(path: Path, name: str = "experiment_1") -> Any:
    return zarr.open_group(path, mode="r")[name][...]


def table(items: Any) -> Any:
    return np.array([[item, item * item] for item in items], np.float64)


class MyTask(Task):
    def process_item(self, item: int) -> Any:
        return np.array([item, item * item], np.float64)


def test_form_1_of_the_document(path: Path) -> None:
    items = range(250)
    saver = ZarrSaver(path, dataset_name="experiment_1")
    run = TaskManager(MyTask).submit_tasks(items, saver=saver, save_interval=100)
    np.testing.assert_array_equal(read(path), table(items))  # before the saver is closed
    assert run.counts["saved"] == 250
    np.testing.assert_array_equal(list(run.results()), table(items))
    saver.close()


def test_forms_2_and_3_overwrite_then_update(path: Path) -> None:
    with ZarrSaver(path, dataset_name="daily_metrics", approach="overwrite") as saver:
        saver.save([1.0, 2.0])
        saver.save(np.arange(30.0))
    with ZarrSaver(path, dataset_name="daily_metrics", approach="update") as saver:
        saver.save([50.0, 51.0, 52.0, 53.0], indices=[5, 10, 15, 20])
    expected = np.arange(30.0)
    expected[[5, 10, 15, 20]] = [50, 51, 52, 53]
    np.testing.assert_array_equal(read(path, "daily_metrics"), expected)


def test_form_4_a_mapping_store_instead_of_a_path() -> None:
    store = fsspec.filesystem("memory").get_mapper("/form-4/zarr-data")
    saver = ZarrSaver(store, dataset_name="remote_dataset", approach="append")
    with saver, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such stores promise less, and the saver says so
        TaskManager(MyTask).submit_tasks(range(5), saver, save_interval=2)
    found = zarr.open_group(store, mode="r")["remote_dataset"][...]
    np.testing.assert_array_equal(found, table(range(5)))
    fsspec.filesystem("memory").rm("/form-4", recursive=True)


def test_form_4_a_zarr_store() -> None:
    store: dict[str, Any] = {}
    memory = zarr.storage.MemoryStore(store)
    with ZarrSaver(memory, dataset_name="remote_dataset", approach="append") as saver:
        TaskManager(MyTask).submit_tasks(range(5), saver, save_interval=2)
    found = zarr.open_group(memory, mode="r")["remote_dataset"][...]
    np.testing.assert_array_equal(found, table(range(5)))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_rows_belong_to_their_items(
    executor: str, path: Path, saver: ZarrSaver, tmp_path: Path
) -> None:
    task = RecordingTask(tmp_path / "calls", seconds={0: 0.3, 7: 0.1})
    manager = TaskManager(task, executor=executor, max_workers=2)
    manager.submit_tasks(range(60), saver, save_interval=9)
    np.testing.assert_array_equal(read(path), table(range(60)))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_failures_leave_holes_that_the_next_call_fills(
    executor: str, path: Path, saver: ZarrSaver, tmp_path: Path
) -> None:
    task = RecordingTask(tmp_path / "calls", fails={0: 1, 11: 1, 29: 1})
    manager = TaskManager(task, executor=executor, max_workers=2, errors="collect")
    run = manager.submit_tasks(range(30), saver, save_interval=4)
    assert [failure.index for failure in run.failures] == [0, 11, 29]
    found = read(path)
    assert np.isnan(found[[0, 11]]).all()
    results = list(run.results())
    assert results[0] is results[11] is results[29] is None
    run = manager.submit_tasks(range(30), saver, save_interval=4)
    assert (run.counts["executed"], run.counts["resumed"]) == (3, 27)
    np.testing.assert_array_equal(read(path), table(range(30)))
    assert manager.submit_tasks(range(30), saver).counts["executed"] == 0


def test_a_new_saver_object_resumes(path: Path, tmp_path: Path) -> None:
    task = RecordingTask(tmp_path / "calls", fails={25: 1})
    for _ in range(2):
        saver = ZarrSaver(path, dataset_name="experiment_1")
        with saver, contextlib.suppress(TaskFailedError):
            TaskManager(task).submit_tasks(range(40), saver, save_interval=10)
    assert task.calls() == {item: 1 + (item == 25) for item in range(40)}
    np.testing.assert_array_equal(read(path), table(range(40)))


def test_jobs_lie_behind_each_other(path: Path, saver: ZarrSaver) -> None:
    manager = TaskManager(MyTask)
    manager.submit_tasks(range(5), saver)
    manager.submit_tasks(range(50, 53), saver)
    assert manager.submit_tasks(range(5), saver).counts["executed"] == 0
    assert manager.submit_tasks(range(50, 55), saver).counts["executed"] == 2
    np.testing.assert_array_equal(read(path), table([*range(5), *range(50, 55)]))


def test_ways_out_of_a_mismatch(path: Path, saver: ZarrSaver, tmp_path: Path) -> None:
    task = RecordingTask(tmp_path / "calls", fails={3: 9})
    manager = TaskManager(task, errors="collect")
    manager.submit_tasks(range(5), saver)
    with pytest.raises(LedgerMismatchError, match="item 0 differs: got 10"):
        manager.submit_tasks([10, 11], saver)
    manager.submit_tasks([10, 11], saver, resume="new")
    found = read(path)
    assert found[:, 0].tolist()[:3] == [0, 1, 2]
    np.testing.assert_array_equal(found[-2:], table([10, 11]))
    run = manager.submit_tasks([20, 21, 3], saver)
    assert run.counts["failed"] == 1
    run = manager.submit_tasks([30, 31], saver, resume="restart")
    assert run.counts["saved"] == 2
    np.testing.assert_array_equal(read(path)[-2:], table([30, 31]))
    assert 20 not in read(path)[:, 0]


def field_results(item: int) -> Any:
    return {"wind": np.full((2, 3), item, np.float32), "count": item}


Point = namedtuple("Point", "x y")  # noqa: PYI024


@dataclasses.dataclass
class State:
    u: Any
    v: Any


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (field_results, ["wind", "count"]),
        (lambda item: Point(item, item + 0.5), ["x", "y"]),
        (lambda item: State(np.zeros(2), item), ["u", "v"]),
        (lambda item: (item, np.ones(3)), ["experiment_1_0", "experiment_1_1"]),
    ],
)
def test_fields_go_to_one_array_each(
    function: Any, names: list[str], path: Path, saver: ZarrSaver
) -> None:
    run = TaskManager(function).submit_tasks(range(6), saver, save_interval=4)
    group = zarr.open_group(path, mode="r")
    assert sorted(group.array_keys()) == sorted(names)
    assert {group[name].shape[0] for name in names} == {6}
    back = list(run.results())
    assert [sorted(result) for result in back] == [sorted(names)] * 6
    for name in names:
        np.testing.assert_array_equal([result[name] for result in back], group[name][...])


def test_a_result_of_another_shape_is_its_items_failure(path: Path, saver: ZarrSaver) -> None:
    def ragged(item: int) -> Any:
        return {"wind": np.zeros(3 if item == 4 else 2), "count": item}

    run = TaskManager(ragged, errors="skip").submit_tasks(range(6), saver)
    assert [failure.index for failure in run.failures] == [4]
    assert "'wind'" in str(run.failures[0].error)
    assert (run.counts["saved"], run.counts["skipped"]) == (5, 1)
    assert read(path, "count").shape == (6,)
    assert TaskManager(ragged, errors="skip").submit_tasks(range(6), saver).counts["executed"] == 0


def labelled(path: Path) -> ZarrSaver:
    return ZarrSaver(
        path,
        dataset_name="t",
        dims=("member", "time", "x"),
        coords={"member": [0, 1, 2], "time": np.arange(4), "x": [0.0, 1.0]},
    )


@pytest.mark.parametrize("executor", EXECUTORS)
def test_labels_place_results(executor: str, path: Path) -> None:
    items = [(member, time) for time in (3, 1, 0, 2) for member in (2, 0, 1)]
    with labelled(path) as saver:
        manager = TaskManager(place, executor=executor, max_workers=2)
        run = manager.submit_tasks(items, saver, save_interval=5, labels=labels_of)
        again = manager.submit_tasks(items[::-1], saver, labels=labels_of)
        assert (run.counts["saved"], again.counts["executed"]) == (12, 0)
        assert [r.tolist() for r in again.results()] == [place(i).tolist() for i in items[::-1]]
    found = read(path, "t")
    assert found.shape == (3, 4, 2)
    for member, time in items:
        assert found[member, time].tolist() == [10 * member + time, -1]


def place(item: tuple[int, int]) -> Any:
    return np.array([10.0 * item[0] + item[1], -1.0])


def labels_of(item: tuple[int, int]) -> dict[str, object]:
    return {"member": item[0], "time": item[1]}


def test_an_unknown_label_is_its_items_failure(path: Path) -> None:
    with labelled(path) as saver:
        run = TaskManager(place, errors="collect").submit_tasks(
            [(0, 0), (9, 0)], saver, labels=labels_of
        )
    assert [(failure.index, failure.item) for failure in run.failures] == [(1, (9, 0))]
    assert "member" in str(run.failures[0].error)


def test_an_overwriting_run_replaces_the_array_as_a_whole(path: Path) -> None:
    with ZarrSaver(path, dataset_name="experiment_1") as saver:
        saver.save(table(range(100, 108)))
    seen: list[Any] = []

    def work(item: int) -> Any:
        if item == 15:
            seen.append(read(path))
        return np.array([item, item * item], np.float64)

    with ZarrSaver(path, dataset_name="experiment_1", approach="overwrite") as saver:
        TaskManager(work).submit_tasks(range(20), saver, save_interval=5)
    np.testing.assert_array_equal(seen[0], table(range(100, 108)))
    np.testing.assert_array_equal(read(path), table(range(20)))


def test_an_overwriting_run_in_another_layout_goes_on_and_reads_its_own(path: Path) -> None:
    with ZarrSaver(path, dataset_name="experiment_1") as saver:
        saver.save([-1.0] * 30)

    def work(item: int) -> Any:
        if item == stop[0]:
            raise ValueError(item)
        return float(item)

    stop: list[int | None] = [15]
    manager, settings = TaskManager(work, errors="collect"), {"approach": "overwrite", "chunks": 3}
    with ZarrSaver(path, dataset_name="experiment_1", **settings) as saver:
        results = list(manager.submit_tasks(range(20), saver, save_interval=4).results())
        assert [float(value) for value in results if value is not None][:15] == [*range(15)]
    assert read(path).tolist() == [-1] * 30
    stop[0] = None
    with ZarrSaver(path, dataset_name="experiment_1", **settings) as saver:
        assert manager.submit_tasks(range(20), saver).counts["executed"] == 1
    assert read(path).tolist() == [*range(20)]


def test_small_intervals_leave_few_files(path: Path, saver: ZarrSaver) -> None:
    TaskManager(MyTask).submit_tasks(range(100), saver, save_interval=1)
    saver.close()
    chunks = [file for file in (path / "experiment_1" / "c").rglob("*") if file.is_file()]
    assert 1 <= len(chunks) < 10


class Noisy(Task):
    def process_item(self, item: int) -> Any:
        return self.context.rng.standard_normal(4) + item


DRIVER = """
import os, sys
import numpy as np
from savers import ZarrSaver
from taskmanager import Task, TaskManager

class Noisy(Task):
    def process_item(self, item):
        if item == int(sys.argv[2]):
            os.kill(os.getppid() if sys.argv[3] == "processes" else os.getpid(), 9)
        return self.context.rng.standard_normal(4) + item

if __name__ == "__main__":
    saver = ZarrSaver(sys.argv[1], dataset_name="experiment_1")
    manager = TaskManager(Noisy, executor=sys.argv[3], max_workers=2)
    run = manager.submit_tasks(range(200), saver, save_interval=20, seed=11)
    saver.close()
    print(run.counts["resumed"], run.counts["executed"])
"""


def drive(path: Path, crash_at: int, executor: str) -> subprocess.CompletedProcess[str]:
    script = path.parent / "driver.py"
    script.write_text(DRIVER)
    return subprocess.run(
        [sys.executable, script, path, str(crash_at), executor],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_killed_run_ends_with_the_same_bytes_as_an_undisturbed_one(tmp_path: Path) -> None:
    disturbed, undisturbed = tmp_path / "a" / "out.zarr", tmp_path / "b" / "out.zarr"
    disturbed.parent.mkdir()
    undisturbed.parent.mkdir()
    assert drive(disturbed, 130, "serial").returncode == -9
    second = drive(disturbed, -1, "processes")
    resumed, executed = map(int, second.stdout.split())
    assert resumed >= 130 - (2 * 20 + 20)  # two intervals and a chunk of one worker
    assert executed == 200 - resumed
    assert drive(undisturbed, -1, "threads").returncode == 0
    np.testing.assert_array_equal(read(disturbed), read(undisturbed))
    chunks = [sorted((p / "experiment_1" / "c").rglob("*")) for p in (disturbed, undisturbed)]
    files = [[file.read_bytes() for file in found if file.is_file()] for found in chunks]
    assert files[0] == files[1]


def test_seconds_and_bytes_into_zarr(path: Path, saver: ZarrSaver) -> None:
    every = SaveEvery(items=7, seconds=0.05, nbytes=100)
    TaskManager(MyTask).submit_tasks(range(40), saver, every)
    np.testing.assert_array_equal(read(path), table(range(40)))
