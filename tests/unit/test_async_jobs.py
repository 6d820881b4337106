"""Jobs of the task manager into an AsyncZarrSaver, read back by label with plain libraries."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import pytest
import xarray as xr
import zarr

from savers import AsyncZarrSaver, InvalidInputError, JobSpec, StoreInUseError, verify
from savers._labelled._store import LabelledStore
from taskmanager import LedgerMismatchError, TaskFailedError, TaskManager

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
TIMES = np.arange("2024-01-01", "2024-01-05", dtype="datetime64[D]")
MEMBERS = np.arange(3)
LAT, LON = np.array([10.0, 20.0]), np.arange(5.0)
ITEMS = [(t, m) for t in range(len(TIMES)) for m in range(len(MEMBERS))]
COORDS = {"time": TIMES, "member": MEMBERS, "lat": LAT, "lon": LON}
CHUNKS: list[dict[str, Any]] = [
    {},
    {"chunked_coords": {"member": 2, "lat": 1}},
    {"chunked_coords": {"lon": 3}, "shard_coords": {"time": 2, "lon": 6}},
]


def field(item: tuple[int, int]) -> np.ndarray[Any, Any]:
    return 100.0 * item[0] + 10.0 * item[1] + np.arange(10.0).reshape(2, 5) / 16


def task(item: tuple[int, int]) -> dict[str, Any]:
    return {"t2m": field(item), "n": item[0] - item[1]}


def labels(item: tuple[int, int]) -> dict[str, object]:
    return {"member": MEMBERS[item[1]], "time": TIMES[item[0]]}


def opened(path: Path, **settings: Any) -> AsyncZarrSaver:
    saver = AsyncZarrSaver(path, {"time": TIMES, "member": MEMBERS}, **settings)
    saver.add_array(COORDS, "t2m")
    return saver


def run(saver: AsyncZarrSaver, call: Callable[..., Any] = task, **options: Any) -> dict[str, int]:
    settings = {"labels": labels, "save_interval": 5, "items": ITEMS, **options}
    with TaskManager(call, errors=settings.pop("errors", "raise")) as manager:
        return dict(manager.submit_tasks(settings.pop("items"), saver, **settings).counts)


def check(path: Path, items: list[tuple[int, int]] = ITEMS) -> None:
    """By label, through xarray and zarr: the results of these items, and nothing else."""
    with xr.open_zarr(path) as dataset:
        found = dataset.load()
    assert found["t2m"].dims == ("time", "member", "lat", "lon")
    np.testing.assert_array_equal(found["lat"], LAT)
    for item in items:
        there = found["t2m"].sel(time=TIMES[item[0]], member=MEMBERS[item[1]])
        np.testing.assert_array_equal(there, field(item))
    raw = zarr.open_group(path, mode="r")
    assert int(np.isfinite(raw["t2m"][:]).sum()) == 10 * len(items)
    assert verify(path) == []


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("executor", ["serial", "threads", "processes"])
def test_results_go_to_their_labels(tmp_path: Path, executor: str) -> None:
    with opened(tmp_path / "a") as saver, TaskManager(task, executor=executor) as manager:
        done = manager.submit_tasks(ITEMS[::-1], saver, 5, labels=labels)
        assert done.counts["saved"] == len(ITEMS)
        results = list(done.results())
        np.testing.assert_array_equal(results[0]["t2m"], field(ITEMS[-1]))
        assert saver.missing("t2m") == saver.missing("n") == []
        assert saver.written("n")[0] == {"time": TIMES[0], "member": 0}
        check(tmp_path / "a")  # before the saver is closed
        again = manager.submit_tasks(ITEMS[::-1], saver, 5, labels=labels)
        assert (again.counts["executed"], again.counts["resumed"]) == (0, len(ITEMS))
    check(tmp_path / "a")


@pytest.mark.parametrize("chunks", CHUNKS)
def test_chunks_and_shards_are_those_that_were_asked_for(tmp_path: Path, chunks: Any) -> None:
    path = tmp_path / "a"
    with opened(path, **chunks) as saver:
        assert run(saver)["saved"] == len(ITEMS)
    check(path)
    made = zarr.open_group(path, mode="r")["t2m"]
    expected = {"time": 1, "member": 1, "lat": 2, "lon": 5, **chunks.get("chunked_coords", {})}
    assert made.chunks == tuple(expected.values())
    shards = chunks.get("shard_coords")
    assert made.shards == (None if shards is None else tuple({**expected, **shards}.values()))
    with pytest.raises(LedgerMismatchError, match="another layout"):  # of the same job
        run(opened(path, chunked_coords={"time": 4}), items=[*ITEMS, (0, 0)])


def test_dimensions_that_nobody_named_come_behind_the_labels(tmp_path: Path) -> None:
    with AsyncZarrSaver(tmp_path / "a", {"time": TIMES, "member": MEMBERS}) as saver:
        run(saver)
    made = zarr.open_group(tmp_path / "a", mode="r")["t2m"]
    assert made.metadata.dimension_names == ("time", "member", "t2m_dim_2", "t2m_dim_3")
    np.testing.assert_array_equal(made[3, 2], field((3, 2)))


def test_jobs_without_labels_are_refused_and_told_how(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as saver:
        with pytest.raises(InvalidInputError, match="give submit_tasks labels="):
            run(saver, labels=None)
        assert run(saver)["saved"] == len(ITEMS)


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"time": TIMES[0], "member": 7}, "7"),
        ({"time": TIMES[0]}, "expected labels for"),
        ({"time": TIMES[0], "member": 0, "lat": 10.0}, "'lat'"),
    ],
)
def test_labels_that_do_not_fit_are_that_item_s_failure(
    tmp_path: Path, wrong: dict[str, object], text: str
) -> None:
    with opened(tmp_path / "a") as saver, TaskManager(task, errors="collect") as manager:
        done = manager.submit_tasks(
            [*ITEMS, (3, 0, "odd")], saver, 5,
            labels=lambda item: wrong if len(item) > 2 else labels(item),
        )  # fmt: skip
    assert (done.counts["saved"], done.counts["failed"]) == (len(ITEMS), 1)
    assert text in str(done.failures[0].error)
    check(tmp_path / "a")


def test_a_result_of_another_shape_fails_alone(tmp_path: Path) -> None:
    odd = {(1, 1)}

    def task_(item: tuple[int, int]) -> dict[str, Any]:
        return {**task(item), "t2m": np.ones(3)} if item in odd else task(item)

    with opened(tmp_path / "a") as saver:
        assert run(saver, task_, errors="collect")["failed"] == 1
        assert saver.missing("t2m") == [{"time": TIMES[1], "member": 1}]
        check(tmp_path / "a", [item for item in ITEMS if item != (1, 1)])
        odd.clear()
        counts = run(saver, task_)
        assert (counts["executed"], counts["saved"]) == (1, 1)
        assert saver.missing("t2m") == []
    check(tmp_path / "a")


@pytest.mark.parametrize("chunks", CHUNKS)
def test_a_restart_removes_what_the_unfinished_job_saved(tmp_path: Path, chunks: Any) -> None:
    broken = [True]

    def task_(item: tuple[int, int]) -> dict[str, Any]:
        if item == (2, 1) and broken:
            raise RuntimeError
        return task(item)

    path = tmp_path / "a"
    with opened(path, **chunks) as saver:
        saver.write(*part((3, 2)))
        with pytest.raises(TaskFailedError):
            run(saver, task_, items=ITEMS[:8], save_interval=1)
        assert len(saver.written("t2m")) == 8
        broken.clear()
        assert run(saver, task_, items=ITEMS[3:9], resume="restart")["executed"] == 6
        assert saver.missing("t2m") == [labels_in_order(i) for i in (*ITEMS[:3], *ITEMS[9:11])]
    check(path, [*ITEMS[3:9], ITEMS[11]])


def labels_in_order(item: tuple[int, int]) -> dict[str, object]:
    return {"time": TIMES[item[0]], "member": MEMBERS[item[1]]}


# ---- beside other writers ----


def part(item: tuple[int, int]) -> tuple[np.ndarray[Any, Any], dict[str, Any], str]:
    """Return the arguments of a direct write of an item."""
    where = {name: [label] for name, label in labels(item).items()}
    return field(item)[None, None], {**where, "lat": LAT, "lon": LON}, "t2m"


@pytest.mark.parametrize("chunks", CHUNKS)
def test_direct_writes_before_and_after_a_job(tmp_path: Path, chunks: Any) -> None:
    path = tmp_path / "a"
    with opened(path, **chunks) as saver:
        saver.write(*part((0, 0)))
        saver.write(*part((1, 1)))  # its chunk is kept in memory, not whole
        run(saver, items=ITEMS[2:9])
        saver.write(*part((0, 1)))
        saver.write(*part((3, 0)))
    check(path, [(0, 0), *ITEMS[1:10]])


@pytest.mark.parametrize("chunks", CHUNKS[:2])
def test_a_job_keeps_what_others_write_meanwhile(tmp_path: Path, chunks: Any) -> None:
    path = tmp_path / "a"
    with opened(path, **chunks) as saver, opened(path, **chunks) as other:
        saver.write(*part((0, 0)))
        other.write(*part((3, 2)))

        def task_beside(item: tuple[int, int]) -> dict[str, Any]:
            if item == (1, 0):
                other.write(*part((0, 1)))  # fills a chunk in which the job has no result
            return task(item)

        run(saver, task_beside, items=ITEMS[2:11], save_interval=1)
        for one in (saver, other):
            assert one.missing("t2m") == []
    check(path)


def test_chunks_that_another_writer_fills_end_the_job_until_they_are_whole(tmp_path: Path) -> None:
    path, chunks = tmp_path / "a", {"chunked_coords": {"member": 3}}
    with opened(path, **chunks) as saver, opened(path, **chunks) as other:
        other.write(*part((1, 0)))
        with pytest.raises(StoreInUseError, match="'member': 1"):
            run(saver, items=[*ITEMS[:3], *ITEMS[4:]], save_interval=1)
        assert len(saver.written("t2m")) == 1 + 3
        other.close()
        assert run(saver, items=[*ITEMS[:3], *ITEMS[4:]], save_interval=1)["resumed"] == 3
    check(path)


def test_chunks_of_a_job_are_closed_to_others_until_it_ends(tmp_path: Path) -> None:
    path, chunks = tmp_path / "a", {"chunked_coords": {"member": 3}}
    with opened(path, **chunks) as saver, opened(path, **chunks) as other:

        def task_beside(item: tuple[int, int]) -> dict[str, Any]:
            if item == (1, 0):
                wait_for(lambda: saver.written("t2m"))  # commits go on beside the task
                with pytest.raises(StoreInUseError, match="'member': 1"):
                    other.write(*part((0, 2)))
            return task(item)

        run(saver, task_beside, items=ITEMS[:2] + ITEMS[3:], save_interval=1)
        other.write(*part((0, 2)))
    check(path)


def test_a_direct_write_of_a_saver_in_a_job_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as saver:

        def writes(item: tuple[int, int]) -> dict[str, Any]:
            with pytest.raises(StoreInUseError, match="with a saver of its own"):
                saver.write(*part(item))
            return task(item)

        run(saver, writes)
        saver.write(*part((0, 0)))
    check(tmp_path / "a")


@pytest.mark.parametrize("chunks", CHUNKS[:2])
def test_what_is_written_can_be_asked_for_while_a_job_commits(tmp_path: Path, chunks: Any) -> None:
    with opened(tmp_path / "a", **chunks) as saver:
        look = LabelledStore.look

        def slow_look(self: LabelledStore) -> None:
            with self.lock:  # it is held before the session is looked at
                committing.wait(0.2)
                look(self)

        committing = threading.Event()
        ledger = saver.open_jobs()
        writer = ledger.begin(JobSpec("t", identity="labels"), 1)
        for n, item in enumerate(ITEMS[:3]):
            writer.stage(n, n, task(item), labels(item))
        with mock.patch.object(LabelledStore, "look", slow_look):
            asking = threading.Thread(target=saver.written, args=["t2m"], daemon=True)
            asking.start()
            writer.commit()
            asking.join(60)
            assert not asking.is_alive()
        assert len(saver.written("t2m")) == 3
        ledger.close()


def test_another_job_is_refused_while_one_runs(tmp_path: Path) -> None:
    with opened(tmp_path / "a") as saver, opened(tmp_path / "a") as other:
        ledger = saver.open_jobs()
        with pytest.raises(StoreInUseError, match="another job"):
            other.open_jobs()
        ledger.close()
        other.open_jobs().close()


PROGRAM = """
import sys
import numpy as np
from savers import AsyncZarrSaver
from tests.unit.test_async_jobs import opened, part
with opened(sys.argv[1]) as saver:
    for item in eval(sys.argv[2]):
        saver.write(*part(item))
    print(len(saver.written("t2m")))
"""


def test_another_process_writes_and_closes_while_a_job_runs(tmp_path: Path) -> None:
    path = tmp_path / "a"
    told = []

    def outside(item: tuple[int, int]) -> dict[str, Any]:
        if item == (1, 0):
            command = [sys.executable, "-W", "error", "-c", PROGRAM, str(path), "[(0, 0), (3, 2)]"]
            ended = subprocess.run(
                command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
            )
            told.append((ended.returncode, ended.stdout, ended.stderr))
        return task(item)

    with opened(path) as saver:
        run(saver, items=[(0, 1)])
        run(saver, outside, items=ITEMS[2:11], save_interval=1)
        assert told in ([(0, "3\n", "")], [(0, "4\n", "")])  # item (0, 2) may be saved by then
        assert saver.missing("t2m") == []
        check(path)
    assert not list((tmp_path / "a.ledger" / "writers").glob("*.log"))  # all handed over
    check(path)


def test_labels_that_come_later_and_in_another_order(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with AsyncZarrSaver(path, {"time": TIMES[1::-1], "member": MEMBERS}) as saver:
        saver.add_array({**COORDS, "time": TIMES[:2]}, "t2m")
        run(saver, items=ITEMS[:6])
    with opened(path) as saver:
        run(saver, items=ITEMS[6:])
        assert saver.missing("t2m") == []
    assert zarr.open_group(path, mode="r")["time"].shape == (4,)
    check(path)
    with AsyncZarrSaver(path, {"time": TIMES, "member": MEMBERS}) as saver:
        saver.add_array({**COORDS, "lat": LAT[::-1]}, "t2m")
        with pytest.raises(TaskFailedError) as failed:
            run(saver, items=[(0, 0)], resume="new")
        assert "in the order of the store" in str(failed.value)
