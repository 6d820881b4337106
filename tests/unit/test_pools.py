"""What every pool promises, wherever its workers are."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from multiprocessing import get_context

import numpy as np
import pytest

from taskmanager._executors import make_pool
from taskmanager._pool import Outcome, TaskPlan, Work
from taskmanager._task import Task, as_factory
from taskmanager.errors import TaskManagerError, TaskTimeoutError

OWN = ["serial", "threads", "processes"]
ALL = [*OWN, "foreign"]
WITHOUT_LIMIT = 30.0


@pytest.fixture
def open_pool():
    """Make pools that are closed, and foreign executors that are shut down, after the test."""
    made = []

    def make(executor, task, *, workers=2, kwargs=None, **settings):
        plan = TaskPlan(as_factory(task), kwargs or {}, **settings)
        if executor == "foreign":
            context = get_context("forkserver")
            context.set_forkserver_preload(["taskmanager"])
            executor = ProcessPoolExecutor(workers, mp_context=context)
            made.append(executor.shutdown)
        pool = make_pool(executor, plan, workers)
        made.append(partial(pool.close, grace=5.0))
        return pool

    yield make
    for end in reversed(made):
        end()


def works(*items, start=0) -> list[Work]:
    return [Work(start + place, item) for place, item in enumerate(items)]


def gather(pool, count) -> dict[int, Outcome]:
    outcomes: list[Outcome] = []
    end = time.monotonic() + WITHOUT_LIMIT
    while len(outcomes) < count and time.monotonic() < end:
        outcomes += pool.poll(1.0)
    assert sorted(o.index for o in outcomes) == sorted({o.index for o in outcomes})
    assert len(outcomes) == count
    return {outcome.index: outcome for outcome in outcomes}


def square(x, plus=0):
    return x * x + plus


class Troubled(Task):
    def process_item(self, item):
        if item == "error":
            raise ValueError("no good")
        if item == "exit":
            sys.exit("gone")
        if item == "interrupt":
            raise KeyboardInterrupt
        return item


class Contextual(Task):
    def process_item(self, item):
        context = self.context
        return context.worker_id, context.device, context.index, context.rng.integers(1 << 40)


class Prepared(Task):
    def setup(self):
        self.setups = getattr(self, "setups", 0) + 1

    def process_item(self, item):
        time.sleep(0.005)
        return self.setups, os.getpid(), threading.get_ident(), id(self)


class Diary(Task):
    def __init__(self, path):
        self.path = path

    def note(self, what):
        with open(self.path, "a") as file:
            file.write(f"{what} {os.getpid()} {threading.get_ident()}\n")

    def setup(self):
        self.note("setup")

    def teardown(self):
        self.note("teardown")

    def process_item(self, item):
        time.sleep(0.01)
        return item


class Batched(Task):
    def process_item(self, item):
        raise AssertionError("at_once means process_items")

    def process_items(self, items, plus=0):
        if len(items) > 1 and "bad" in items:
            raise ValueError("somewhere in the batch")
        if items == ["bad"]:
            raise ValueError("this one")
        if "short" in items:
            return [1]
        return [(item, len(items)) for item in items]


class BadSetup(Task):
    def setup(self):
        raise OSError("no model here")

    def process_item(self, item):
        return item


class BadTeardown(Task):
    def teardown(self):
        raise OSError("no way back")

    def process_item(self, item):
        return item


class Slow(Task):
    def process_item(self, item):
        time.sleep(item)
        return item


@pytest.mark.parametrize("executor", ALL)
def test_every_item_has_one_outcome_under_its_index(open_pool, executor):
    pool = open_pool(executor, square, kwargs={"plus": 1})
    for start in range(0, 40, 8):
        pool.submit(works(*range(start, start + 8), start=100 + start))
    outcomes = gather(pool, 40)
    assert {i: o.value for i, o in outcomes.items()} == {100 + x: x * x + 1 for x in range(40)}
    assert all(o.error is None and o.counts and o.seconds >= 0 for o in outcomes.values())


@pytest.mark.parametrize("executor", ALL)
def test_what_an_item_raises_is_its_own_outcome(open_pool, executor):
    pool = open_pool(executor, Troubled)
    pool.submit(works("fine", "error", "fine"))
    outcomes = gather(pool, 3)
    assert [outcomes[i].value for i in (0, 2)] == ["fine", "fine"]
    assert isinstance(outcomes[1].error, ValueError)
    assert str(outcomes[1].error) == "no good"
    assert 'raise ValueError("no good")' in outcomes[1].traceback
    assert "_execute.py" not in outcomes[1].traceback


@pytest.mark.parametrize("executor", ALL)
def test_sys_exit_in_a_task_ends_the_item_not_the_worker(open_pool, executor):
    pool = open_pool(executor, Troubled, workers=1)
    pool.submit(works("exit", "fine"))
    outcomes = gather(pool, 2)
    assert isinstance(outcomes[0].error, SystemExit)
    assert outcomes[1].value == "fine"


@pytest.mark.parametrize("executor", ["threads", "processes", "foreign"])
def test_keyboard_interrupt_of_a_task_is_an_outcome_in_workers(open_pool, executor):
    pool = open_pool(executor, Troubled, workers=1)
    pool.submit(works("interrupt", "fine"))
    outcomes = gather(pool, 2)
    assert isinstance(outcomes[0].error, KeyboardInterrupt)
    assert outcomes[1].value == "fine"


def test_keyboard_interrupt_leaves_the_serial_pool_as_it_leaves_a_loop(open_pool):
    pool = open_pool("serial", Troubled)
    pool.submit(works("fine", "interrupt"))
    seen: list[Outcome] = []

    def poll() -> None:
        for _ in range(3):  # a slow machine hands "fine" out before it comes to the other
            seen.extend(pool.poll(0.0))

    with pytest.raises(KeyboardInterrupt):
        poll()
    seen += pool.poll(0.0)
    assert [o.value for o in seen] == ["fine"]  # what was finished is not lost


@pytest.mark.parametrize("executor", ALL)
def test_context_has_index_and_numbers_that_do_not_depend_on_the_worker(open_pool, executor):
    pool = open_pool(executor, Contextual, seed=7)
    for start in (0, 3):
        pool.submit(works("a", "b", "c", start=start))
    values = {i: o.value for i, o in gather(pool, 6).items()}
    for index, (worker_id, device, seen, number) in values.items():
        rng = np.random.default_rng(np.random.SeedSequence([7, index]))
        assert (seen, number) == (index, rng.integers(1 << 40))
        assert 0 <= worker_id < 2
        assert device == "cpu" or device.startswith("cuda:")


@pytest.mark.parametrize("given", ["class", "instance"])
@pytest.mark.parametrize("executor", ALL)
def test_setup_runs_once_per_worker_on_a_task_of_its_own(open_pool, executor, given):
    pool = open_pool(executor, Prepared if given == "class" else Prepared())
    for start in range(0, 24, 3):
        pool.submit(works(*range(3), start=start))
    values = [outcome.value for outcome in gather(pool, 24).values()]
    assert {setups for setups, *_ in values} == {1}
    workers, tasks = {value[1:3] for value in values}, {value[1:] for value in values}
    assert len(workers) == len(tasks) <= 2


@pytest.mark.parametrize("executor", OWN)
def test_teardown_runs_once_per_worker_where_setup_ran(open_pool, executor, tmp_path):
    pool = open_pool(executor, Diary(str(tmp_path / "diary")))
    for start in range(0, 8, 2):
        pool.submit(works(1, 2, start=start))
    gather(pool, 8)
    pool.close()
    lines = (tmp_path / "diary").read_text().split("\n")[:-1]
    begun = sorted(line.removeprefix("setup ") for line in lines if line.startswith("setup"))
    ended = sorted(line.removeprefix("teardown ") for line in lines if line.startswith("tear"))
    assert begun == ended
    assert len(begun) == len(set(begun)) >= 1


@pytest.mark.parametrize("executor", ALL)
def test_a_failing_setup_ends_the_pool_with_an_error_that_names_it(open_pool, executor):
    pool = open_pool(executor, BadSetup)
    pool.submit(works(1))
    with pytest.raises(TaskManagerError, match=r"setup\(\) failed.*OSError: no model here") as info:
        gather(pool, 1)
    assert 'raise OSError("no model here")' in "".join(traceback.format_exception(info.value))


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_a_failing_teardown_is_logged(open_pool, executor, caplog):
    pool = open_pool(executor, BadTeardown)
    pool.submit(works(1))
    assert gather(pool, 1)[0].value == 1
    pool.close()
    assert "teardown() of BadTeardown failed" in caplog.text


@pytest.mark.parametrize("executor", ALL)
def test_at_once_hands_over_whole_chunks(open_pool, executor):
    pool = open_pool(executor, Batched, at_once=True)
    pool.submit(works("a", "b", "c"))
    pool.submit(works("d", start=3))
    values = [o.value for _, o in sorted(gather(pool, 4).items())]
    assert values == [("a", 3), ("b", 3), ("c", 3), ("d", 1)]


@pytest.mark.parametrize("executor", ALL)
def test_a_failing_batch_runs_again_one_by_one(open_pool, executor):
    pool = open_pool(executor, Batched, at_once=True)
    pool.submit(works("a", "bad", "c"))
    outcomes = gather(pool, 3)
    assert [outcomes[i].value for i in (0, 2)] == [("a", 1), ("c", 1)]
    assert str(outcomes[1].error) == "this one"


@pytest.mark.parametrize("executor", ALL)
def test_a_batch_with_the_wrong_number_of_results_fails_and_says_so(open_pool, executor):
    pool = open_pool(executor, Batched, at_once=True)
    pool.submit(works("a", "short"))
    errors = [str(outcome.error) for outcome in gather(pool, 2).values()]
    assert (
        errors
        == ["process_items returned 1 results for 2 items: expected one an item, in order"] * 2
    )


@pytest.mark.parametrize("executor", ALL)
def test_at_once_without_process_items_gives_each_item_its_context(open_pool, executor):
    pool = open_pool(executor, Contextual, at_once=True)
    pool.submit(works("a", "b", "c"))
    assert [o.value[2] for _, o in sorted(gather(pool, 3).items())] == [0, 1, 2]


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_outcomes_come_as_items_finish_not_as_chunks_do(open_pool, executor):
    pool = open_pool(executor, Slow, workers=1)
    pool.submit(works(0, 0, 1.5))
    outcomes = gather(pool, 2)
    assert sorted(outcomes) == [0, 1]
    pool.close(grace=0.0)


@pytest.mark.parametrize("executor", ["threads", "processes", "foreign"])
def test_a_slow_item_does_not_hold_up_other_workers(open_pool, executor):
    pool = open_pool(executor, Slow, workers=2)
    pool.submit(works(0.7))
    for index in range(1, 9):
        pool.submit(works(0, start=index))
    assert sorted(gather(pool, 8)) == list(range(1, 9))


@pytest.mark.parametrize("executor", ["threads", "processes", "foreign"])
def test_wake_ends_a_poll_from_another_thread(open_pool, executor):
    pool = open_pool(executor, square)
    timer = threading.Timer(0.05, pool.wake)
    timer.start()
    assert pool.poll(None) == []
    timer.join()


@pytest.mark.parametrize("executor", ALL)
def test_wake_before_a_poll_is_not_lost(open_pool, executor):
    pool = open_pool(executor, square)
    pool.wake()
    assert pool.poll(None) == []


@pytest.mark.parametrize("executor", ALL)
def test_poll_returns_after_its_timeout(open_pool, executor):
    pool = open_pool(executor, square)
    assert pool.poll(0.01) == []


@pytest.mark.parametrize("executor", ALL)
def test_close_is_idempotent_and_submit_after_it_raises(open_pool, executor):
    pool = open_pool(executor, square)
    pool.submit(works(1, 2))
    gather(pool, 2)
    pool.close()
    pool.close()
    pool.wake()
    with pytest.raises(RuntimeError, match="submit after close"):
        pool.submit(works(1))
    assert pool.poll(0.0) == []


@pytest.mark.parametrize("executor", ["threads", "processes", "foreign"])
def test_close_finishes_what_runs_and_drops_what_is_queued(open_pool, executor):
    pool = open_pool(executor, Slow, workers=1)
    pool.submit(works(0))
    gather(pool, 1)
    for index in range(1, 30):
        pool.submit(works(0.2, start=index))
    pool.close()
    finished = [outcome.index for outcome in pool.poll(0.0)]
    assert len(finished) < 10
    assert all(index in range(1, 30) for index in finished)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_close_leaves_or_ends_what_needs_longer_than_its_grace(open_pool, executor):
    pool = open_pool(executor, Slow, workers=1)
    pool.submit(works(0, 1.5))
    gather(pool, 1)
    begin = time.monotonic()
    pool.close(grace=0.1)
    assert time.monotonic() - begin < 1.3
    assert pool.poll(0.0) == []


@pytest.mark.parametrize("executor", OWN)
def test_an_item_over_its_timeout_fails_and_the_others_do_not(open_pool, executor):
    pool = open_pool(executor, Slow, workers=1, timeout=0.3)
    pool.submit(works(0, 0.6, 0.01, 0))
    outcomes = gather(pool, 4)
    assert [outcomes[i].value for i in (0, 2, 3)] == [0, 0.01, 0]
    error = outcomes[1].error
    assert isinstance(error, TaskTimeoutError)
    assert isinstance(error, TimeoutError)
    assert (error.index, error.item) == (1, 0.6)
    assert "longer than timeout=0.3 s" in str(error)
    consequence = {"serial": "can't end it", "threads": "dropped", "processes": "was ended"}
    assert consequence[executor] in str(error)


@pytest.mark.parametrize("executor", ["threads", "processes"])
def test_a_batch_over_its_time_runs_again_one_by_one(open_pool, executor):
    pool = open_pool(executor, SlowBatch, workers=1, timeout=0.15, at_once=True)
    pool.submit(works(0.01, 0.5, 0.01))
    outcomes = gather(pool, 3)
    assert [outcomes[i].value for i in (0, 2)] == [0.01, 0.01]
    assert isinstance(outcomes[1].error, TaskTimeoutError)


class SlowBatch(Task):
    def process_items(self, items):
        time.sleep(sum(items))
        return list(items)


def test_what_a_foreign_executor_cannot_give_is_said_at_once():
    with (
        ThreadPoolExecutor(1) as executor,
        pytest.raises(ValueError, match=r"timeout=2 .*ThreadPoolExecutor can't end one"),
    ):
        make_pool(executor, TaskPlan(as_factory(square), {}, timeout=2.0))


def test_a_foreign_executor_is_never_shut_down():
    with ThreadPoolExecutor(1) as executor:
        pool = make_pool(executor, TaskPlan(as_factory(square), {}))
        assert pool.workers == 1
        pool.submit(works(3))
        assert gather(pool, 1)[0].value == 9
        pool.close()
        assert executor.submit(square, 4).result() == 16


def test_a_broken_foreign_executor_ends_the_run_with_a_word_on_what_is_kept(open_pool):
    pool = open_pool("foreign", Suicidal)
    pool.submit(works("die", "fine"))
    with pytest.raises(TaskManagerError, match=r"ProcessPoolExecutor takes no more work.*are kept"):
        gather(pool, 2)


class Suicidal(Task):
    def process_item(self, item):
        if item == "die":
            os.kill(os.getpid(), 9)
        return item


def test_a_foreign_executor_that_was_shut_down_is_an_error():
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    pool = make_pool(executor, TaskPlan(as_factory(square), {}))
    pool.submit(works(1))
    with pytest.raises(TaskManagerError, match="takes no more work"):
        pool.poll(1.0)
    pool.close()


def test_an_unknown_executor_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"expected executor.*'serial', 'threads', 'processes'.*'thread'"
    ):
        make_pool("thread", TaskPlan(as_factory(square), {}))


@pytest.mark.parametrize("executor", ["processes", "foreign"])
def test_an_item_or_result_that_cannot_travel_fails_alone(open_pool, executor):
    pool = open_pool(executor, Unportable)
    pool.submit([Work(0, 1), Work(1, threading.Lock()), Work(2, "lock"), Work(3, "error")])
    outcomes = gather(pool, 4)
    assert outcomes[0].value == 1
    assert "pickle" in str(outcomes[1].error)
    assert "pickle" in str(outcomes[2].error)
    assert "Odd: two" in str(outcomes[3].error)


class OddError(Exception):
    """Pickles, but can't be unpickled: as many in the wild."""

    def __init__(self, one, two):
        super().__init__(f"Odd: {two}")


class Unportable(Task):
    def process_item(self, item):
        if item == "lock":
            return {"deep": [threading.Lock()]}
        if item == "error":
            raise OddError("one", "two")
        return item


@pytest.mark.parametrize("executor", ["processes", "foreign"])
def test_a_task_that_cannot_travel_is_refused_before_anything_starts(open_pool, executor):
    task = Unportable()
    task.model = {"lock": threading.Lock()}
    with pytest.raises(TypeError, match=r"Unportable\.model \(dict\) can't be sent.*setup\(\)"):
        open_pool(executor, task)
    with pytest.raises(TypeError, match=r"keyword argument 'plus' \(lock\)"):
        open_pool(executor, square, kwargs={"plus": threading.Lock()})
