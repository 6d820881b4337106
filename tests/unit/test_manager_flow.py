"""How work flows: lazily, within bounds of items and bytes, and never waiting for one slow item."""

from __future__ import annotations

import threading
import time
import weakref
from itertools import count
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from savers import InvalidInputError, StorageError
from taskmanager import LedgerMismatchError, SaveEvery, TaskFailedError, TaskManager
from tests.unit.rows import ListSaver, TableSaver

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EXECUTORS = ["serial", "threads", "processes"]


class Taken:
    """An endless input that knows how far it was read."""

    def __init__(self, most: int | None = None) -> None:
        self.taken = 0
        self.most = most

    def __iter__(self) -> Iterator[int]:
        for item in count() if self.most is None else range(self.most):
            self.taken += 1
            yield item


def identity(item: Any) -> Any:
    return item


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_endless_input_is_read_250_items_ahead_at_most(executor: str) -> None:
    items, ahead = Taken(), []
    manager = TaskManager(identity, executor=executor, max_workers=2)
    for seen, (place, _) in enumerate(manager.as_completed(items), 1):
        ahead.append(items.taken - seen)
        if place >= 3000:
            break
    assert 1 <= max(ahead) <= 250


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_slow_saver_slows_the_input(executor: str) -> None:
    items, saver = Taken(1000), TableSaver(seconds=0.01)
    ahead: list[int] = []

    def look() -> None:
        ahead.append(items.taken - len(saver.table))

    saver.fail = look  # called at every commit
    manager = TaskManager(identity, executor=executor, max_workers=2)
    manager.submit_tasks(items, saver, save_interval=50)
    assert len(saver.table) == 1000
    assert max(ahead) <= 250


def test_what_a_crash_repeats_is_bounded_by_the_interval() -> None:
    saver, called = TableSaver(), []
    lost: list[int] = []

    def look() -> None:
        lost.append(len(called) - len(saver.table))

    saver.fail = look
    manager = TaskManager(called.append, executor="threads", max_workers=3)
    manager.submit_tasks(range(2000), saver, save_interval=6)
    assert max(lost) <= 2 * 6 + 3 * 2  # automatic chunks are 6 // 3 at most
    lost.clear()
    called.clear()
    saver.table.clear()
    manager.submit_tasks(range(2000), saver, save_interval=4, chunk_size=5, resume="new")
    assert max(lost) <= 2 * 4 + 3 * 5


def test_a_larger_interval_reads_further_ahead() -> None:
    saver = TableSaver()
    TaskManager(identity).submit_tasks(range(1000), saver, save_interval=400)
    assert saver.commits == [400, 400, 200, -1000]


class Traced(np.ndarray):  # type: ignore[type-arg]
    """An array that can be followed to its end."""


def test_results_are_bounded_by_bytes() -> None:
    alive, most = set(), 0

    def work(item: int) -> Traced:
        nonlocal most
        array = np.zeros(1 << 20, np.uint8).view(Traced)
        alive.add(item)
        weakref.finalize(array, alive.discard, item)
        most = max(most, len(alive))
        return array

    class Counting(TableSaver):
        """Drops what it commits."""

        def drop(self) -> None:
            self.table.clear()

    saver = Counting(seconds=0.02)
    saver.fail = saver.drop
    manager = TaskManager(work, executor="threads", max_workers=2, max_inflight_bytes=16 << 20)
    manager.submit_tasks(range(300), saver, save_interval=100)
    # Half of the limit is committed at once; a commit, the queue and the workers hold the rest.
    assert most <= 16 + 8 + 4
    assert max(saver.commits) <= 8


def wait_for_file(item: int, path: Path) -> int:
    """Return the item; the first one waits, half a minute at most."""
    end = time.monotonic() + 30
    while item == 0 and not path.exists():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.01)
    return item


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_all_but_one_interval_is_saved_before_a_slow_first_item(
    executor: str, tmp_path: Path
) -> None:
    saver, path = TableSaver(), tmp_path / "go on"

    class Commits(list[int]):
        def append(self, items: int) -> None:
            if len(saver.table) == 990:  # what this commit brought included
                path.touch()
            super().append(items)

    saver.commits = Commits()
    manager = TaskManager(wait_for_file, executor=executor, max_workers=2)
    manager.submit_tasks(range(1000), saver, save_interval=10, kwargs_task={"path": path})
    assert sorted(saver.table) == list(range(1000))
    assert list(saver.table).index(0) >= 990


def test_a_saver_in_item_order_holds_back_no_more_than_the_bound() -> None:
    saver, end = ListSaver(), threading.Event()
    started: list[int] = []

    def work(item: int) -> int:
        started.append(item)
        if item == 0:
            end.wait(0.3)
        return item

    manager = TaskManager(work, executor="threads", max_workers=2)
    timer = threading.Timer(0.2, lambda: (started.append(-1), end.set()))
    timer.start()
    manager.submit_tasks(range(300), saver, save_interval=10)
    timer.join()
    assert saver.rows == list(range(300))
    assert started.index(-1) <= 2 * 10 + 2 * 5 + 1


def test_saving_has_a_thread_of_its_own() -> None:
    saver = ListSaver()
    TaskManager(identity).submit_tasks(range(10), saver)
    assert saver.threads == {"taskmanager-saving"}


def test_computing_goes_on_while_a_save_runs() -> None:
    saver, computed, during = TableSaver(), threading.Event(), []

    def work(item: int) -> int:
        if item == 25:
            computed.set()
        return item

    def commit() -> None:
        during.append(computed.wait(20))

    saver.fail = commit  # the first commit waits for an item that comes after its interval
    TaskManager(work).submit_tasks(range(100), saver, save_interval=20)
    assert all(during)


@pytest.mark.parametrize("chunk_size", [1, 7, 64])
def test_the_interval_does_not_depend_on_the_chunk_size(chunk_size: int) -> None:
    saver = TableSaver()
    TaskManager(identity).submit_tasks(range(60), saver, 25, chunk_size=chunk_size)
    assert saver.commits == [25, 25, 10, -60]


def test_seconds_save_what_waits() -> None:
    saver, release = TableSaver(), threading.Event()
    saver.fail = release.set  # type: ignore[assignment]

    def work(item: int) -> int:
        if item == 3:
            assert release.wait(20)  # a commit comes while this item still runs
        return item

    TaskManager(work).submit_tasks(range(4), saver, SaveEvery(seconds=0.05))
    assert sum(saver.commits[:-1]) == 4
    assert len(saver.commits) >= 3


def test_a_result_that_is_refused_is_a_failure_of_its_item() -> None:
    saver = TableSaver()
    saver.refuse = {3, 99}
    run = TaskManager(identity, errors="collect").submit_tasks(range(100), saver)
    assert (run.counts["saved"], run.counts["failed"]) == (98, 2)
    assert [failure.index for failure in run.failures] == [3, 99]
    assert "field 'x'" in str(run.failures[0].error)
    assert not saver.states[0].finished
    saver.refuse = set()
    again = TaskManager(identity).submit_tasks(range(100), saver)
    assert (again.counts["executed"], again.counts["saved"]) == (2, 2)
    assert list(again.results()) == list(range(100))
    saver.refuse = {0}
    with pytest.raises(TaskFailedError, match="field 'x'"):
        TaskManager(identity).submit_tasks(range(7, 9), saver)


def test_results_are_read_back_where_they_were_saved() -> None:
    saver = TableSaver()
    manager = TaskManager(identity)
    manager.submit_tasks([5, 6], saver)
    assert list(manager.submit_tasks([5, 6, 7], saver).results()) == [5, 6, 7]


def test_a_finished_job_is_not_finished_again() -> None:
    saver, manager = TableSaver(), TaskManager(identity)
    manager.submit_tasks(range(5), saver)
    commits = list(saver.commits)
    assert manager.submit_tasks(range(5), saver).counts["resumed"] == 5
    assert manager.submit_tasks(range(3), saver).counts["resumed"] == 3
    assert saver.commits == commits


def test_results_of_keyed_items_come_in_the_order_of_this_call() -> None:
    saver, manager = TableSaver(), TaskManager(identity)
    manager.submit_tasks(["a", "b"], saver, key=str)
    run = manager.submit_tasks(["c", "b", "a"], saver, key=str)
    assert list(run.results()) == ["c", "b", "a"]
    assert saver.table == {0: "a", 1: "b", 2: "c"}


def test_labels_travel_with_their_results() -> None:
    saver = TableSaver()
    TaskManager(identity).submit_tasks([4, 5], saver, labels=lambda item: {"x": 10 * item})
    assert saver.labels == {0: {"x": 40}, 1: {"x": 50}}


def test_a_position_that_a_crash_left_open_is_taken_again() -> None:
    saver, manager = TableSaver(), TaskManager(identity, errors="collect")
    saver.refuse = {1}
    manager.submit_tasks(["a", "b", "c"], saver, key=str)
    state = saver.states[0]
    state.status[1], state.digests[1] = 0, 0  # as a crash would have left it
    saver.refuse = set()
    manager.submit_tasks(["a", "b", "c", "d"], saver, key=str)
    assert saver.table == {0: "a", 1: "b", 2: "c", 3: "d"}


def test_a_refusing_store_ends_the_run_and_keeps_what_is_committed() -> None:
    saver = TableSaver()
    error = StorageError(28, "no space left on device", "out.zarr")
    saver.fail = lambda: error if len(saver.table) >= 40 else None
    called: list[int] = []
    with pytest.raises(StorageError, match="no space") as raised:
        TaskManager(called.append).submit_tasks(range(5000), saver, save_interval=20)
    assert len(saver.table) == 40
    assert "40 results were committed by this run" in raised.value.__notes__[0]
    assert len(called) < 500
    saver.fail = lambda: None
    run = TaskManager(called.append).submit_tasks(range(5000), saver, save_interval=20)
    assert (run.counts["resumed"], run.counts["saved"]) == (40, 4960)


def test_an_input_that_raises_saves_what_came_before() -> None:
    saver = TableSaver()

    def items() -> Iterator[int]:
        yield from range(10)
        raise RuntimeError("the input broke")

    with pytest.raises(RuntimeError, match="the input broke"):
        TaskManager(identity).submit_tasks(items(), saver, chunk_size=5)
    assert list(saver.table) == list(range(5)) or list(saver.table) == list(range(10))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_slow_input_does_not_hold_back_the_work(executor: str) -> None:
    saver, done = TableSaver(), []

    def items() -> Iterator[int]:
        for item in range(6):
            threading.Event().wait(0.05)
            done.append(len(saver.table))
            yield item

    manager = TaskManager(identity, executor=executor, max_workers=1)
    assert manager.submit_tasks(items(), saver, save_interval=1).counts["saved"] == 6
    assert done[-1] >= 3  # most results were saved before the last item was there


def test_done_items_of_a_generator_are_skipped_without_a_call() -> None:
    saver, manager = TableSaver(), TaskManager(identity)
    manager.submit_tasks(range(1000), saver)
    saver.states[0].finished = False
    run = manager.submit_tasks((i for i in range(1003)), saver)
    assert (run.counts["resumed"], run.counts["executed"]) == (1000, 3)
    saver.states[0].finished = False
    with pytest.raises(LedgerMismatchError, match="item 999 differs"):
        manager.submit_tasks([*range(999), "x"], saver)


def test_known_keys_that_come_twice_are_refused_within_and_across_blocks() -> None:
    saver, manager = TableSaver(), TaskManager(identity)
    manager.submit_tasks(range(400), saver, key=str)
    with pytest.raises(InvalidInputError, match="items 3 and 399 have the same key"):
        manager.submit_tasks([*range(399), 3], saver, key=str)
    with pytest.raises(InvalidInputError, match="have the same key"):
        manager.submit_tasks([0, 1, 2, 2, 3], saver, key=str)
    run = manager.submit_tasks([*range(300, 402)], saver, key=str)
    assert (run.counts["resumed"], run.counts["executed"]) == (100, 2)
    assert [saver.table[400], saver.table[401]] == [400, 401]


def test_results_that_waited_for_one_item_never_stop_the_run() -> None:
    """They fill the bound; when the last of them comes, less than an interval is new."""
    for slow in range(1, 14):
        saver, gate = ListSaver(), threading.Event()

        def work(item: int, slow: int = slow, gate: threading.Event = gate) -> int:
            if item == 0:
                gate.wait(0.2)
            elif item == slow:
                gate.set()
            return item

        manager = TaskManager(work, executor="threads", max_workers=2, deadline=20)
        manager.submit_tasks(range(60), saver, save_interval=5, chunk_size=1)
        assert saver.rows == list(range(60))
