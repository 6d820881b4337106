"""What a call promises, on every kind of worker: counts, order, resume, failures, results."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from savers import InvalidInputError
from taskmanager import LedgerMismatchError, SaveEvery, Task, TaskFailedError, TaskManager
from taskmanager.testing import RecordingTask
from tests.unit.rows import LinesSaver, ListSaver

if TYPE_CHECKING:
    from collections.abc import Mapping

EXECUTORS = ["serial", "threads", "processes"]


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "calls"


def expected(items: range) -> list[list[float]]:
    return [[float(item), float(item * item)] for item in items]


def test_rows_are_in_item_order_and_counted(executor: str, log: Path, tmp_path: Path) -> None:
    task = RecordingTask(log)
    saver = LinesSaver(tmp_path / "rows")
    run = TaskManager(task, executor=executor, max_workers=2).submit_tasks(
        range(57), saver, save_interval=10
    )
    assert saver.rows() == expected(range(57))
    assert task.calls() == Counter(range(57))
    assert run.counts == {
        "items": 57,
        "executed": 57,
        "resumed": 0,
        "saved": 57,
        "failed": 0,
        "skipped": 0,
    }
    assert run.failures == ()
    assert run.insights.workers == (1 if executor == "serial" else 2)
    assert run.insights.saved_bytes == 57 * 16


def test_the_same_call_again_runs_only_the_rest(executor: str, log: Path, tmp_path: Path) -> None:
    saver = LinesSaver(tmp_path / "rows")
    task = RecordingTask(log, fails={20: 1})
    manager = TaskManager(task, executor=executor, max_workers=2)
    with pytest.raises(TaskFailedError) as raised:
        manager.submit_tasks(range(40), saver, save_interval=5)
    assert (raised.value.index, raised.value.item) == (20, 20)
    assert isinstance(raised.value.__cause__, ValueError)
    done = len(saver.rows())
    run = manager.submit_tasks(range(40), saver, save_interval=5)
    assert run.counts["resumed"] == done
    assert run.counts["saved"] == 40 - done
    assert sorted(saver.rows()) == expected(range(40))
    assert task.calls()[20] == 2
    again = manager.submit_tasks(range(40), saver, save_interval=5)
    assert (again.counts["executed"], again.counts["resumed"]) == (0, 40)
    assert len(saver.rows()) == 40


def test_a_grown_list_goes_on_and_other_items_are_a_new_job(log: Path, tmp_path: Path) -> None:
    saver, manager = LinesSaver(tmp_path / "rows"), TaskManager(RecordingTask(log))
    manager.submit_tasks(range(5), saver)
    grown = manager.submit_tasks(range(8), saver)
    assert (grown.counts["executed"], grown.counts["resumed"]) == (3, 5)
    other = manager.submit_tasks(range(100, 103), saver)
    assert (other.counts["executed"], other.counts["resumed"]) == (3, 0)
    assert manager.submit_tasks(range(8), saver).counts["executed"] == 0
    assert manager.submit_tasks(range(100, 103), saver).counts["executed"] == 0
    assert saver.rows() == expected(range(8)) + expected(range(100, 103))


def test_another_job_on_an_unfinished_one_runs_nothing(log: Path, tmp_path: Path) -> None:
    saver = LinesSaver(tmp_path / "rows")
    task = RecordingTask(log, fails={3: 1})
    manager = TaskManager(task, errors="collect")
    manager.submit_tasks(range(5), saver)
    calls = task.calls()
    with pytest.raises(LedgerMismatchError, match="item 0 differs: got 7"):
        manager.submit_tasks([7, 8], saver)
    with pytest.raises(LedgerMismatchError, match="arguments"):
        manager.submit_tasks(range(5), saver, kwargs_task={"dt": 60})
    assert task.calls() == calls
    assert manager.submit_tasks([7, 8], saver, resume="new").counts["saved"] == 2
    assert [row[0] for row in saver.rows()] == [0, 1, 2, 4, 7, 8]


def test_collected_failures_are_tried_again_by_the_next_call(
    executor: str, log: Path, tmp_path: Path
) -> None:
    saver = LinesSaver(tmp_path / "rows")
    task = RecordingTask(log, fails={2: 1, 9: 2})
    manager = TaskManager(task, executor=executor, max_workers=2, errors="collect")
    run = manager.submit_tasks(range(12), saver, save_interval=4)
    assert (run.counts["saved"], run.counts["failed"], run.counts["skipped"]) == (10, 2, 0)
    assert [(f.index, f.item, f.attempts) for f in run.failures] == [(2, 2, 1), (9, 9, 1)]
    assert all("as it was told to" in failure.traceback for failure in run.failures)
    again = manager.submit_tasks(range(12), saver)
    assert (again.counts["executed"], again.counts["saved"], again.counts["failed"]) == (2, 1, 1)
    last = manager.submit_tasks(range(12), saver)
    assert (last.counts["executed"], last.counts["failed"]) == (1, 0)
    assert sorted(saver.rows()) == expected(range(12))


def test_skipped_failures_end_the_job(log: Path, tmp_path: Path) -> None:
    saver = LinesSaver(tmp_path / "rows")
    manager = TaskManager(RecordingTask(log, fails={2: 9}), errors="skip")
    run = manager.submit_tasks(range(5), saver)
    assert (run.counts["saved"], run.counts["failed"], run.counts["skipped"]) == (4, 0, 1)
    again = manager.submit_tasks(range(5), saver)
    assert (again.counts["executed"], again.counts["resumed"], again.counts["skipped"]) == (0, 4, 1)
    assert manager.submit_tasks([50], saver).counts["saved"] == 1  # the job was finished


def test_results_come_in_the_order_of_the_items(executor: str) -> None:
    run = TaskManager(square, executor=executor, max_workers=2, errors="collect").submit_tasks(
        [3, -1, 2]
    )
    assert list(run.results()) == [9, None, 4]
    assert run.counts == {
        "items": 3,
        "executed": 3,
        "resumed": 0,
        "saved": 0,
        "failed": 1,
        "skipped": 0,
    }


def square(item: int) -> int:
    if item < 0:
        raise ValueError(f"expected a positive item, got {item}")
    return item * item


def test_results_of_a_saver_that_cannot_read_are_kept_on_request(tmp_path: Path) -> None:
    saver = LinesSaver(tmp_path / "rows")
    run = TaskManager(square).submit_tasks([1, 2], saver)
    with pytest.raises(NotImplementedError, match="keep_results=True"):
        list(run.results())
    kept = TaskManager(square).submit_tasks([5, 6], saver, keep_results=True)
    assert list(kept.results()) == [25, 36]


def test_results_that_were_not_kept_are_no_results() -> None:
    run = TaskManager(square).submit_tasks([1], keep_results=False)
    with pytest.raises(ValueError, match="keep_results=True"):
        list(run.results())


def test_a_manager_is_reused_and_leftovers_are_saved_once() -> None:
    manager = TaskManager(square)
    first, second = ListSaver(), ListSaver()
    manager.submit_tasks(range(7), first, save_interval=5)
    manager.submit_tasks(range(3), second, save_interval=5)
    manager.submit_tasks(range(7), first, save_interval=5)
    assert first.rows == [0, 1, 4, 9, 16, 25, 36]
    assert second.rows == [0, 1, 4]
    assert first.batches == [5, 2]


def test_the_saver_is_flushed_and_left_open() -> None:
    saver = ListSaver()
    TaskManager(square).submit_tasks([1], saver)
    assert (saver.flushed, saver.closed) == (1, False)
    with pytest.raises(TaskFailedError):
        TaskManager(square).submit_tasks([2, -1], saver)
    assert (saver.flushed, saver.closed) == (2, False)


def test_save_kwargs_reach_every_save() -> None:
    saver = ListSaver()
    TaskManager(square).submit_tasks(range(4), saver, save_interval=2, save_kwargs={"level": 3})
    assert saver.kwargs == [{"level": 3}, {"level": 3}]


def test_keyword_arguments_reach_the_task(executor: str) -> None:
    manager = TaskManager(power, executor=executor, max_workers=2)
    assert list(manager.submit_tasks([2, 3], kwargs_task={"exponent": 3}).results()) == [8, 27]


def power(item: int, exponent: int) -> int:
    return item**exponent


class Model(Task):
    """Draws numbers, and knows where it runs."""

    def setup(self) -> None:
        self.ready = True

    def process_item(self, item: int, **kwargs: Any) -> Any:
        del kwargs
        return np.array([item, self.context.index, self.ready, self.context.rng.random()])


def test_random_numbers_follow_the_item_not_the_run(executor: str, tmp_path: Path) -> None:
    whole = ListSaver()
    TaskManager(Model).submit_tasks(range(20), whole, seed=5)
    saver = LinesSaver(tmp_path / "rows")
    manager = TaskManager(Model, executor=executor, max_workers=2)
    manager.submit_tasks(range(7), saver, seed=5)
    manager.submit_tasks(range(20), saver)  # the seed is the ledger's
    assert saver.rows() == [row.tolist() for row in whole.rows]
    with pytest.raises(LedgerMismatchError, match="has seed 5, got seed=6"):
        manager.submit_tasks(range(20), saver, seed=6)


def test_keys_know_items_wherever_they_stand(log: Path, tmp_path: Path) -> None:
    saver, task = LinesSaver(tmp_path / "rows"), RecordingTask(log, fails={4: 1})
    manager = TaskManager(task, errors="collect")
    manager.submit_tasks([3, 1, 4], saver, key=str)
    run = manager.submit_tasks([1, 5, 4, 3], saver, key=str)
    assert (run.counts["items"], run.counts["resumed"], run.counts["saved"]) == (4, 2, 2)
    assert task.calls() == {3: 1, 1: 1, 4: 2, 5: 1}
    assert sorted(row[0] for row in saver.rows()) == [1, 3, 4, 5]


def test_a_key_that_comes_twice_names_both_places() -> None:
    manager, saver = TaskManager(square), ListSaver()
    with pytest.raises(InvalidInputError, match="items 1 and 3 have the same key"):
        manager.submit_tasks([5, 6, 7, 6], saver, key=lambda item: item)
    assert saver.rows[:2] == [25, 36]
    assert saver.rows.count(36) == 1
    with pytest.raises(InvalidInputError, match="items 1 and 2 have the same key"):
        manager.submit_tasks([5, 6, 6], saver, key=lambda item: item)


def test_labels_need_a_saver_that_places(log: Path) -> None:
    def labels(item: int) -> Mapping[str, object]:
        return {"x": item}

    task = RecordingTask(log)
    with pytest.raises(InvalidInputError, match="ListSaver does not place results by label"):
        TaskManager(task).submit_tasks([1], ListSaver(), labels=labels)
    assert task.calls() == {}


def test_processes_get_batches_at_once() -> None:
    manager = TaskManager(Batched, executor="processes", max_workers=2)
    run = manager.submit_tasks(range(8), at_once=True, chunk_size=4)
    assert list(run.results()) == [(item, 4) for item in range(8)]


class Batched(Task):
    def process_items(self, items: Any, **kwargs: Any) -> Any:
        del kwargs
        return [(item, len(items)) for item in items]


def test_map_as_completed_and_submit(executor: str) -> None:
    with TaskManager(square, executor=executor, max_workers=2) as manager:
        assert list(manager.map(range(40))) == [i * i for i in range(40)]
        assert sorted(manager.as_completed(range(40))) == [(i, i * i) for i in range(40)]
        assert [future.result() for future in map(manager.submit, range(5))] == [0, 1, 4, 9, 16]
        with pytest.raises(TaskFailedError, match="expected a positive item"):
            manager.submit(-1).result()
        with pytest.raises(TaskFailedError, match="expected a positive item"):
            list(manager.map([1, -1]))
    with pytest.raises(ValueError, match="closed"):
        manager.map([1])


def test_a_stream_that_is_left_ends_its_workers(executor: str) -> None:
    stream = TaskManager(square, executor=executor, max_workers=2).as_completed(iter(int, 1))
    assert next(stream)[1] == 0
    stream.close()  # type: ignore[attr-defined]
    assert not [t for t in threading.enumerate() if t.name.startswith("taskmanager-saving")]


def test_intervals_by_seconds_and_bytes() -> None:
    saver = ListSaver()
    TaskManager(np.full(100, 1.0).__mul__).submit_tasks(range(10), saver, SaveEvery(nbytes=1600))
    assert saver.batches == [2, 2, 2, 2, 2]
    saver = ListSaver()
    TaskManager(square).submit_tasks(range(10), saver, SaveEvery(seconds=3600))
    assert saver.batches == [10]


def test_a_run_outside_the_main_thread_leaves_signals_alone() -> None:
    saver = ListSaver()
    thread = threading.Thread(target=TaskManager(square).submit_tasks, args=(range(5), saver))
    thread.start()
    thread.join()
    assert saver.rows == [0, 1, 4, 9, 16]


def test_the_warning_about_items_points_at_the_call() -> None:
    with pytest.warns(UserWarning, match="known by their position alone") as caught:
        TaskManager(id).submit_tasks([object()], ListSaver())
    assert [warning.filename for warning in caught] == [__file__]


def test_empty_input_begins_no_job() -> None:
    saver = ListSaver()
    assert TaskManager(square).submit_tasks([], saver).counts["items"] == 0
    assert (saver.rows, list(saver.open_jobs().states)) == ([], [])
