"""Who owns a dataset: several savers, several processes, several datasets of one store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from savers import InvalidInputError, LedgerMismatchError, StoreInUseError, ZarrSaver, verify
from savers._ledger import _file_lock, _lock
from taskmanager import TaskManager

LABELS = {"dims": ("t", "m", "x"), "coords": {"t": np.arange(2), "m": np.arange(3)}}


def script(text: str, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", text, *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip


UPDATES = """
import sys, numpy as np
from savers import ZarrSaver
path, k, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
saver = ZarrSaver(path, approach="update")
for i in range(n):
    saver.save(np.full(2, 1000 * k + i), indices=[k + 8 * i, k + 8 * i + 4])
saver.close()
"""


def test_updates_of_four_processes_that_share_every_chunk_are_all_there(tmp_path):
    path, count = tmp_path / "a.zarr", 12
    with ZarrSaver(path, chunks=16) as saver:
        saver.save(np.zeros(8 * count, "i8"))
    started = [script(UPDATES, path, k, count) for k in range(4)]
    ended = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0] * 4, ended
    expected = [1000 * (j % 4) + j // 8 for j in range(8 * count)]
    assert zarr.open_group(path)["dataset"][:].tolist() == expected
    assert verify(path) == []


def test_an_idle_updater_lets_a_driver_in(tmp_path):
    path = tmp_path / "a.zarr"
    with ZarrSaver(path) as saver:
        saver.save([1, 2, 3])
    updater = ZarrSaver(path, approach="update")
    updater.save([5], indices=[0])
    driver = script(
        f"from savers import ZarrSaver\nwith ZarrSaver({str(path)!r}) as s: s.save([4])"
    )
    deadline = time.monotonic() + 30
    while driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _, err = driver.communicate(timeout=10)
    assert driver.returncode == 0, err
    updater.save([6], indices=[1])
    updater.close()
    assert zarr.open_group(path)["dataset"][:].tolist() == [5, 6, 3, 4]


def test_a_second_driver_is_refused_with_the_name_of_the_first(tmp_path):
    path = tmp_path / "a.zarr"
    with ZarrSaver(path) as saver:
        saver.save([1])
        second = script(f"from savers import ZarrSaver\nZarrSaver({str(path)!r}).save([2])")
        _, err = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"in use by process {os.getpid()} on" in err
    assert zarr.open_group(path)["dataset"][:].tolist() == [1]


def test_a_lost_lease_is_an_error_at_the_next_commit_and_ever_after(tmp_path, monkeypatch):
    monkeypatch.setattr(_lock, "LEASE", 1.0)
    saver = ZarrSaver(tmp_path / "a.zarr")
    saver.save([1.0])
    lock = tmp_path / "a.zarr.ledger" / "dataset.lock"
    first = json.loads(lock.read_text())
    time.sleep(0.6)  # renewed meanwhile, though nothing is committed
    renewed = json.loads(lock.read_text())
    assert renewed["token"] == first["token"]
    assert renewed["renewed"] > first["renewed"]
    with _file_lock.moment(lock.with_name("dataset.lock.takeover")):  # as a takeover does
        lock.write_text(json.dumps({**renewed, "token": "theirs", "host": "elsewhere"}))
    time.sleep(0.4)
    for _ in range(2):
        with pytest.raises(StoreInUseError, match="on elsewhere"):
            saver.save([2.0])
    saver.close()
    lock.unlink()
    assert zarr.open_group(tmp_path / "a.zarr")["dataset"][:].tolist() == [1.0]


def test_a_lock_that_this_process_failed_to_remove_is_no_obstacle(tmp_path):
    left = tmp_path / "@root.lock"
    left.write_text(json.dumps(asdict(_lock.current_holder())))
    with _file_lock.moment(left):
        assert left.exists()
    assert not left.exists()


def test_a_flush_publishes_what_a_crash_left_in_the_ledger(tmp_path):
    path = tmp_path / "a.zarr"
    died = script(
        f"import os\nfrom savers import ZarrSaver\nsaver = ZarrSaver({str(path)!r})\n"
        "for i in range(9): saver.save([i])\nos._exit(9)"
    )
    died.communicate(timeout=60)
    assert zarr.open_group(path)["dataset"].shape[0] < 9
    with ZarrSaver(path) as saver:
        saver.flush()
        assert zarr.open_group(path)["dataset"][:].tolist() == list(range(9))


def test_a_flush_of_nothing_makes_nothing(tmp_path):
    with ZarrSaver(tmp_path / "a.zarr") as saver:
        saver.flush()
    assert list(tmp_path.iterdir()) == []


# --- several datasets of one store ---------------------------------------------------------------


def fields(item: int) -> dict[str, object]:
    return {"u": np.full(3, float(item)), "v": float(item)}


def test_a_field_of_a_job_is_updated_through_the_dataset_that_keeps_it(tmp_path):
    path = tmp_path / "a.zarr"
    with ZarrSaver(path) as saver:
        TaskManager(fields, progress=False).submit_tasks(range(10), saver=saver)
    with ZarrSaver(path, "u", approach="update") as saver:
        saver.save([[9.0, 9.0, 9.0]], indices=[4])
    assert zarr.open_group(path)["u"][:, 0].tolist() == [0, 1, 2, 3, 9, 5, 6, 7, 8, 9]
    assert verify(path) == []


def test_an_array_of_another_dataset_is_refused_and_its_dataset_named(tmp_path):
    path = tmp_path / "a.zarr"
    with ZarrSaver(path) as saver:
        TaskManager(fields, progress=False).submit_tasks(range(3), saver=saver)
    with ZarrSaver(path, "w") as saver:
        with pytest.raises(InvalidInputError, match="'u'.*belongs to the dataset 'dataset'"):
            saver.save({"u": np.ones((1, 3)), "w": [1.0]})
        saver.save([1.0])
    assert "w" in zarr.open_group(path)
    assert zarr.open_group(path)["u"].shape == (3, 3)


def test_datasets_that_share_coordinates_open_together_and_must_agree(tmp_path):
    path = tmp_path / "a.zarr"
    time_, x = np.arange(5) * np.timedelta64(6, "h"), [1.0, 2.0]
    shared = {"dims": ("time", "x"), "coords": {"time": time_, "x": x}}
    with ZarrSaver(path, "a", **shared) as a, ZarrSaver(path, "b", **shared) as b:
        for saver in (a, b, a, b):
            saver.save(np.ones((2, 2)))
    opened = xr.open_zarr(path)
    assert opened.sizes == {"time": 4, "x": 2}
    assert (opened.time.values == time_[:4]).all()
    other = {"dims": ("time", "x"), "coords": {"time": time_, "x": x[::-1]}}
    with ZarrSaver(path, "c", **other) as saver, pytest.raises(InvalidInputError, match="'x'"):
        saver.save(np.ones((2, 2)))
    assert "c" not in zarr.open_group(path)


# --- jobs whose ground has changed ----------------------------------------------------------------


def labelled(item: tuple[int, int]) -> np.ndarray:
    if item == (1, 1) and not Path("fixed").exists():
        raise ValueError(item)
    return np.full(4, 10 * item[0] + item[1] + 0.5)


def run(path: Path, **settings: object) -> dict[str, int]:
    items = [(t, m) for t in range(2) for m in range(3)]
    with ZarrSaver(path, **{**LABELS, **settings}) as saver:
        manager = TaskManager(labelled, errors="collect", progress=False)
        done = manager.submit_tasks(
            items, saver=saver, save_interval=2, labels=lambda item: {"t": item[0], "m": item[1]}
        )
        return dict(done.counts)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"coords": {"t": np.arange(2), "m": np.arange(3)[::-1]}}, "coordinate 'm'"),
        ({"coords": {"t": np.arange(2), "m": np.arange(4)}}, "'m'"),
        ({"chunks": (1, 1, 4)}, "chunks"),
        ({"dtype": "float32"}, "dtype"),
    ],
    ids=["reversed labels", "more labels", "chunks", "dtype"],
)
def test_an_unfinished_job_is_not_continued_on_another_layout(
    tmp_path, monkeypatch, settings, says
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.zarr"
    assert run(path)["failed"] == 1
    before = zarr.open_group(path)["dataset"][:]
    Path("fixed").touch()
    with pytest.raises(LedgerMismatchError, match=says):
        run(path, **settings)
    np.testing.assert_array_equal(zarr.open_group(path)["dataset"][:], before)
    assert run(path)["executed"] == 1
    assert zarr.open_group(path)["dataset"][1, :, 0].tolist() == [10.5, 11.5, 12.5]


DIES_IN_RESTART = """
import os, sys, numpy as np
from savers import ZarrSaver
from savers._session._publishing import Publisher
from taskmanager import TaskManager
path = sys.argv[1]
saver = ZarrSaver(path)
original = Publisher.publish
def publish(self):
    if self.state.gone:
        os._exit(9)  # the record stands, the store still shows the array
    original(self)
Publisher.publish = publish
TaskManager(lambda i: [1.0, i], progress=False).submit_tasks(
    range(5), saver=saver, resume="restart")
"""


def test_an_array_that_a_restart_removed_is_not_taken_for_somebody_elses(tmp_path):
    path = tmp_path / "a.zarr"

    def half(item: int) -> float:
        if item > 2:
            raise ValueError(item)
        return float(item)

    with ZarrSaver(path) as saver:
        TaskManager(half, errors="collect", progress=False).submit_tasks(range(5), saver=saver)
    died = script(DIES_IN_RESTART, path)
    _, err = died.communicate(timeout=60)
    assert died.returncode == 9, err
    assert zarr.open_group(path)["dataset"].shape == (5,)
    with ZarrSaver(path) as saver:
        saver.save([[1.0, 2.0]])  # of another shape than what was removed
    assert zarr.open_group(path)["dataset"][:].tolist() == [[1.0, 2.0]]
    assert verify(path) == []


def test_a_new_run_drops_what_an_unfinished_replacement_built(tmp_path):
    path = tmp_path / "a.zarr"
    with ZarrSaver(path) as saver:
        saver.save([7.0, 8.0])

    def half(item: int) -> float:
        if item == 2:
            raise ValueError(item)
        return float(item)

    with ZarrSaver(path, approach="overwrite") as saver:
        manager = TaskManager(half, errors="collect", progress=False)
        manager.submit_tasks(range(4), saver=saver)
        assert zarr.open_group(path)["dataset"][:].tolist() == [7.0, 8.0]
        whole = TaskManager(lambda item: 10.0 + item, progress=False)
        whole.submit_tasks(range(3), saver=saver, resume="new")
    assert zarr.open_group(path)["dataset"][:].tolist() == [10.0, 11.0, 12.0]
    assert verify(path) == []


def test_jobs_of_a_replaced_array_are_forgotten(tmp_path):
    path = tmp_path / "a.zarr"
    square = TaskManager(lambda item: float(item * item), progress=False)
    with ZarrSaver(path) as saver:
        square.submit_tasks(range(5), saver=saver)
    with ZarrSaver(path, approach="overwrite") as saver:
        saver.save([3.0])
    with ZarrSaver(path) as saver:
        assert square.submit_tasks(range(5), saver=saver).counts["executed"] == 5
    assert zarr.open_group(path)["dataset"][:].tolist() == [3.0, 0.0, 1.0, 4.0, 9.0, 16.0]


def test_a_finished_job_that_grew_is_unfinished_until_the_rest_is_done(tmp_path):
    def picky(item: int) -> float:
        if item == 4:
            raise ValueError(item)
        return float(item)

    with ZarrSaver(tmp_path / "a.zarr") as saver:
        manager = TaskManager(picky, errors="collect", progress=False)
        manager.submit_tasks(range(3), saver=saver)
        assert manager.submit_tasks(range(5), saver=saver).counts["failed"] == 1
        with pytest.raises(LedgerMismatchError, match="unfinished"):
            manager.submit_tasks(range(10, 13), saver=saver)
