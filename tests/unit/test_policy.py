"""Retries, deadlines, limits on failures: when an item is tried again, and when a run ends."""

from __future__ import annotations

import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from taskmanager import (
    SaveEvery,
    TaskFailedError,
    TaskManager,
    TaskManagerError,
    TaskTimeoutError,
    WorkerDiedError,
)
from taskmanager._policy import RetryPolicy
from taskmanager.testing import RecordingTask
from tests.unit.rows import LinesSaver, ListSaver

EXECUTORS = ["serial", "threads", "processes"]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_retry_succeeds_and_counts_as_executed(executor: str, tmp_path: Path) -> None:
    task = RecordingTask(tmp_path / "calls", fails={3: 2})
    manager = TaskManager(task, executor=executor, max_workers=2, retries=2, backoff=0.01)
    saver = ListSaver()
    run = manager.submit_tasks(range(6), saver)
    assert (run.counts["executed"], run.counts["saved"], run.failures) == (8, 6, ())
    assert [row[0] for row in saver.rows] == [0, 1, 2, 3, 4, 5]


def test_attempts_end_and_are_told(tmp_path: Path) -> None:
    task = RecordingTask(tmp_path / "calls", fails={1: 9})
    manager = TaskManager(task, retries=2, backoff=0.001)
    with pytest.raises(TaskFailedError, match=r"item 1 \(1\) failed after 3 attempt"):
        manager.submit_tasks([0, 1, 2])
    assert task.calls()[1] == 3


@pytest.mark.parametrize(
    "retry_on", [OSError, (KeyError, OSError), lambda error: "disk" in str(error)]
)
def test_only_errors_that_are_worth_it_are_retried(retry_on: object) -> None:
    calls: list[int] = []

    def fails(item: int) -> None:
        calls.append(item)
        raise ValueError("no") if item else OSError("disk")

    manager = TaskManager(fails, retries=1, retry_on=retry_on, backoff=0, errors="collect")  # type: ignore[arg-type]
    manager.submit_tasks([0, 1])
    assert sorted(calls) == [0, 0, 1]


def test_waiting_for_a_retry_does_not_hold_up_the_others() -> None:
    ended: list[int] = []

    def work(item: int) -> int:
        if item == 0 and 0 not in ended:
            ended.append(0)
            raise OSError("not yet")
        ended.append(item)
        return item

    TaskManager(work, retries=1, backoff=0.2).submit_tasks(range(20))
    assert ended == [0, *range(1, 20), 0]


def test_the_delay_doubles_with_jitter() -> None:
    policy = RetryPolicy(retries=5, backoff=1.0)
    for attempts in (1, 2, 3):
        delays = {policy.delay(attempts) for _ in range(20)}
        assert len(delays) > 1
        assert all(0.5 <= delay / 2 ** (attempts - 1) <= 1.5 for delay in delays)


def test_the_death_of_a_worker_is_always_worth_a_retry() -> None:
    policy = RetryPolicy(retries=1, retry_on=KeyError)
    assert policy.again(WorkerDiedError("killed"), attempts=1)
    assert not policy.again(WorkerDiedError("killed"), attempts=2)


def test_a_deadline_saves_what_is_finished(tmp_path: Path) -> None:
    task = RecordingTask(tmp_path / "calls", seconds=0.02)
    saver = LinesSaver(tmp_path / "rows")
    with pytest.raises(TaskTimeoutError, match=r"deadline=0.3 s"):
        TaskManager(task, deadline=0.3).submit_tasks(range(1000), saver)
    done = len(saver.rows())
    assert 0 < done < 1000
    assert len(task.calls()) == done
    run = TaskManager(task).submit_tasks(range(done + 1), saver)
    assert (run.counts["resumed"], run.counts["executed"]) == (done, 1)


def test_a_timeout_is_a_failure_of_its_item() -> None:
    def slow(item: float) -> float:
        time.sleep(item)
        return item

    manager = TaskManager(slow, executor="threads", max_workers=2, timeout=0.2, errors="collect")
    run = manager.submit_tasks([0.0, 0.6, 0.0])
    assert list(run.results()) == [0.0, None, 0.0]
    error = run.failures[0].error
    assert isinstance(error, TaskTimeoutError)
    assert isinstance(error, TaskFailedError)
    assert isinstance(error, TimeoutError)
    time.sleep(0.5)  # the abandoned thread ends


def test_max_failures_ends_the_run(tmp_path: Path) -> None:
    task = RecordingTask(tmp_path / "calls", fails=dict.fromkeys(range(3, 100), 9))
    saver = LinesSaver(tmp_path / "rows")
    manager = TaskManager(task, errors="collect", max_failures=4)
    with pytest.raises(TaskFailedError) as raised:
        manager.submit_tasks(range(100), saver, chunk_size=1)
    assert "max_failures=4" in raised.value.__notes__[0]
    assert [row[0] for row in saver.rows()] == [0, 1, 2]
    assert sum(task.calls().values()) < 20


def test_raise_saves_what_is_finished_and_starts_nothing_new(tmp_path: Path) -> None:
    task = RecordingTask(tmp_path / "calls", fails={10: 1})
    saver = LinesSaver(tmp_path / "rows")
    with pytest.raises(TaskFailedError):
        TaskManager(task).submit_tasks(range(500), saver, save_interval=400)
    assert [row[0] for row in saver.rows()][:10] == list(range(10))
    assert len(task.calls()) < 300


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({}, ValueError, "got none of them"),
        ({"items": 0}, ValueError, r"SaveEvery\(items=\): expected more than 0, got 0"),
        ({"items": 1.5}, TypeError, r"expected a whole number, got 1.5"),
        ({"seconds": -1}, ValueError, "expected more than 0, got -1"),
        ({"nbytes": True}, TypeError, "expected a number, got True"),
    ],
)
def test_save_every_refuses(given: dict[str, object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        SaveEvery(**given)  # type: ignore[arg-type]


def test_an_item_that_kills_its_workers_is_given_up(tmp_path: Path) -> None:
    task = RecordingTask(tmp_path / "calls", kills={3: 9, 7: 1})
    saver = LinesSaver(tmp_path / "rows")
    manager = TaskManager(
        task, executor="processes", max_workers=2, retries=1, backoff=0, errors="collect"
    )
    run = manager.submit_tasks(range(12), saver)
    assert task.calls()[3] == 2  # retries + 1 deaths
    assert task.calls()[7] == 2
    assert [failure.index for failure in run.failures] == [3]
    assert isinstance(run.failures[0].error, WorkerDiedError)
    assert (run.counts["saved"], run.counts["failed"]) == (11, 1)
    assert [row[0] for row in saver.rows()] == [item for item in range(12) if item != 3]


def test_a_timeout_ends_a_worker_process(tmp_path: Path) -> None:
    task = RecordingTask(tmp_path / "calls", seconds={2: 60})
    manager = TaskManager(task, executor="processes", max_workers=2, timeout=0.5, errors="collect")
    run = manager.submit_tasks(range(6))
    assert [(f.index, type(f.error)) for f in run.failures] == [(2, TaskTimeoutError)]
    assert run.insights.seconds < 30


def test_the_error_of_a_dead_worker_is_raised_with_its_item(tmp_path: Path) -> None:
    task = RecordingTask(tmp_path / "calls", kills={1: 9})
    with pytest.raises(WorkerDiedError) as raised:
        TaskManager(task, executor="processes", max_workers=1).submit_tasks([0, 1])
    assert (raised.value.index, raised.value.item) == (1, 1)


@pytest.mark.parametrize("pool", [ThreadPoolExecutor, ProcessPoolExecutor])
def test_an_executor_of_the_users_own(pool: type[Executor], tmp_path: Path) -> None:
    task = RecordingTask(tmp_path / "calls", fails={5: 1, 9: 9})
    saver = LinesSaver(tmp_path / "rows")
    options = {"mp_context": get_context("forkserver")} if pool is ProcessPoolExecutor else {}
    with pool(2, **options) as executor:
        manager = TaskManager(task, executor=executor, retries=1, backoff=0, errors="collect")
        run = manager.submit_tasks(range(30), saver, save_interval=4)
        assert run.insights.workers == 2
        assert (run.counts["saved"], run.counts["failed"]) == (29, 1)
        assert manager.submit_tasks(range(30), saver).counts["executed"] == 2
        assert executor.submit(abs, -1).result() == 1  # it is not shut down
    assert [row[0] for row in saver.rows()] == [item for item in range(30) if item != 9]


def test_a_broken_executor_ends_the_run_and_keeps_what_is_saved(tmp_path: Path) -> None:
    task = RecordingTask(tmp_path / "calls", kills={15: 1})
    saver = LinesSaver(tmp_path / "rows")
    with ProcessPoolExecutor(1, mp_context=get_context("forkserver")) as executor:
        manager = TaskManager(task, executor=executor)
        with pytest.raises(TaskManagerError, match="ProcessPoolExecutor"):
            manager.submit_tasks(range(30), saver, save_interval=2, chunk_size=2)
    saved = len(saver.rows())
    assert 0 < saved <= 15
    run = TaskManager(task).submit_tasks(range(30), saver)
    assert (run.counts["resumed"], run.counts["saved"]) == (saved, 30 - saved)
