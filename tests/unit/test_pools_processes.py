"""What worker processes promise beyond the other pools: they may die, and nothing else does."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from taskmanager._executors import make_pool
from taskmanager._limits import numeric_threads, usable_cores
from taskmanager._pool import TaskPlan, Work
from taskmanager._task import Task, as_factory
from taskmanager.errors import TaskTimeoutError, WorkerDiedError

LIMIT = 30.0


@pytest.fixture
def open_pool():
    made = []

    def make(task, workers=1, **settings):
        kwargs = settings.pop("kwargs", {})
        made.append(make_pool("processes", TaskPlan(as_factory(task), kwargs, **settings), workers))
        return made[-1]

    yield make
    for pool in made:
        pool.close(grace=5.0)


def works(*items, start=0):
    return [Work(start + place, item) for place, item in enumerate(items)]


def gather(pool, count):
    outcomes = []
    end = time.monotonic() + LIMIT
    while len(outcomes) < count and time.monotonic() < end:
        outcomes += pool.poll(1.0)
    assert len(outcomes) == count
    return {outcome.index: outcome for outcome in outcomes}


class Deadly(Task):
    def process_item(self, item):
        match item:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exit":
                os._exit(3)
            case "crash":
                ctypes.string_at(0)
            case "close":
                os.closerange(3, 256)
            case "block":
                ctypes.CDLL(None).usleep(60_000_000)
            case "hold":  # C code that keeps the interpreter's lock
                ctypes.PyDLL(None).usleep(60_000_000)
        return os.getpid()


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("kill", r"killed by SIGKILL \(out of memory\?\)"),
        ("exit", "ended by itself with exit status 3"),
        ("crash", "killed by SIGSEGV"),
    ],
)
def test_a_dead_worker_fails_the_item_it_ran_and_nothing_else(open_pool, how, says, capfd):
    pool = open_pool(Deadly)
    pool.submit(works("a", "b", how, "c", "d"))
    outcomes = gather(pool, 5)
    assert isinstance(outcomes[2].error, WorkerDiedError)
    assert (outcomes[2].error.index, outcomes[2].error.item) == (2, how)
    with pytest.raises(WorkerDiedError, match=says):
        raise outcomes[2].error
    assert all(outcomes[i].error is None for i in (0, 1, 3, 4))


def test_a_worker_that_cuts_its_own_pipe_is_replaced(open_pool):
    pool = open_pool(Deadly)
    pool.submit(works("close"))
    pool.submit(works("a", start=1))
    outcomes = gather(pool, 2)
    assert isinstance(outcomes[0].error, WorkerDiedError)
    assert outcomes[1].error is None


def test_a_worker_that_dies_takes_no_finished_outcome_with_it(open_pool, tmp_path):
    pool = open_pool(Counting(str(tmp_path)))
    pool.submit(works(*range(20), "kill"))
    outcomes = gather(pool, 21)
    assert sum(o.error is not None for o in outcomes.values()) == 1
    runs = [(tmp_path / str(item)).stat().st_size for item in range(20)]
    assert set(runs) == {1}


class Counting(Task):
    def __init__(self, folder):
        self.folder = folder

    def process_item(self, item):
        with open(os.path.join(self.folder, str(item)), "a") as file:
            file.write("x")
        time.sleep(0.002)
        if item == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return item


def test_a_batch_that_kills_its_worker_runs_again_one_by_one(open_pool):
    pool = open_pool(DeadlyBatch, at_once=True)
    pool.submit(works("a", "kill", "b"))
    outcomes = gather(pool, 3)
    assert [outcomes[i].value for i in (0, 2)] == ["a", "b"]
    assert isinstance(outcomes[1].error, WorkerDiedError)


class DeadlyBatch(Task):
    def process_items(self, items):
        if "kill" in items:
            os.kill(os.getpid(), signal.SIGKILL)
        return items


@pytest.mark.parametrize("how", ["block", "hold"])
def test_an_item_that_blocks_in_c_code_is_ended_in_time_and_others_are_unharmed(open_pool, how):
    pool = open_pool(Deadly, workers=2, timeout=0.5)
    pool.submit(works("warm"))
    gather(pool, 1)
    pool.submit(works("a", how, "b", start=1))
    for index in range(4, 20):
        pool.submit(works("c", start=index))
    begin = time.monotonic()
    outcomes = gather(pool, 19)
    assert time.monotonic() - begin < 5.0
    assert isinstance(outcomes[2].error, TaskTimeoutError)
    assert 0.5 <= outcomes[2].seconds < 1.5
    assert all(o.error is None for i, o in outcomes.items() if i != 2)


def test_the_timeout_counts_from_the_start_of_each_item(open_pool):
    pool = open_pool(Napping, timeout=0.5)
    pool.submit(works(*[0.1] * 8))
    assert all(o.error is None for o in gather(pool, 8).values())


class Napping(Task):
    def process_item(self, item):
        time.sleep(item)
        return item


def test_what_a_task_started_ends_with_its_worker(open_pool, tmp_path):
    pool = open_pool(Starting(str(tmp_path / "pid")), timeout=0.5)
    pool.submit(works(1))
    assert isinstance(gather(pool, 1)[0].error, TaskTimeoutError)
    assert_gone(int((tmp_path / "pid").read_text()))


def assert_gone(pid):
    end = time.monotonic() + 5.0
    while os.path.exists(f"/proc/{pid}") and time.monotonic() < end:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{pid}")


class Starting(Task):
    def __init__(self, path):
        self.path = path

    def process_item(self, item):
        program = subprocess.Popen(["sleep", "30"])
        with open(self.path, "w") as file:
            file.write(str(program.pid))
        program.wait()


def test_workers_that_die_in_setup_become_an_error_not_a_loop(open_pool):
    pool = open_pool(DeadlySetup)
    pool.submit(works(1))
    with pytest.raises(
        WorkerDiedError, match=r"killed by SIGKILL .* in setup\(\), 3 times in a row"
    ):
        gather(pool, 1)


class DeadlySetup(Task):
    def setup(self):
        os.kill(os.getpid(), signal.SIGKILL)

    def process_item(self, item):
        return item


def test_the_process_that_makes_workers_may_die_too(open_pool):
    pool = open_pool(Deadly, workers=2)
    pool.submit(works("a"))
    gather(pool, 1)
    pool._launcher._process.kill()
    for index in range(1, 9):
        pool.submit(works("b", start=index))
    outcomes = gather(pool, 8)
    assert all(outcome.error is None for outcome in outcomes.values())


def test_workers_leave_interrupts_to_the_driver(open_pool):
    pool = open_pool(Signalled)
    pool.submit(works(signal.SIGINT, signal.SIGTERM))
    outcomes = gather(pool, 2)
    assert [outcomes[i].error for i in (0, 1)] == [None, None]
    # ... but a program that a task starts can be interrupted
    assert outcomes[0].value == -signal.SIGTERM


class Signalled(Task):
    def process_item(self, item):
        os.kill(os.getpid(), item)
        program = subprocess.Popen(["sleep", "30"])
        program.terminate()
        return program.wait()


def test_workers_share_the_cores(open_pool, monkeypatch):
    for name in numeric_threads(1):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    pool = open_pool(Environment, workers=2)
    pool.submit(works("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"))
    share = str(max(1, usable_cores() // 2))
    assert [o.value for _, o in sorted(gather(pool, 3).items())] == [share, share, "7"]


class Environment(Task):
    def process_item(self, item):
        return os.environ[item]


def test_forked_workers_draw_different_global_numbers(open_pool):
    pool = open_pool(Drawing, workers=2)
    for index in range(8):
        pool.submit(works(1, start=index))
    values = {o.worker_id: o.value for o in gather(pool, 8).values()}
    assert len(set(values.values())) == len(values)


class Drawing(Task):
    def setup(self):
        self.number = np.random.randint(1 << 30)  # noqa: NPY002 - what users' code does

    def process_item(self, item):
        time.sleep(0.02)
        return self.number


def test_idle_workers_that_die_are_replaced_without_a_word(open_pool):
    pool = open_pool(Deadly)
    pool.submit(works("a"))
    pid = gather(pool, 1)[0].value
    os.kill(pid, signal.SIGKILL)
    pool.submit(works("b", start=1))
    outcome = gather(pool, 1)[1]
    assert outcome.error is None
    assert outcome.value != pid


def test_workers_start_when_there_is_work_and_no_more_than_needed(open_pool):
    pool = open_pool(Deadly, workers=4)
    assert pool._launcher is None
    pool.submit(works("a"))
    gather(pool, 1)
    assert len(pool._crew) == 1


def test_a_task_may_have_workers_of_its_own_which_end_with_it(open_pool, tmp_path):
    pool = open_pool(Nesting(str(tmp_path / "pid")), timeout=10.0)
    pool.submit(works("square", "kill"))
    outcomes = gather(pool, 2)
    assert outcomes[0].value == [0, 1, 4]
    assert isinstance(outcomes[1].error, WorkerDiedError)
    assert_gone(int((tmp_path / "pid").read_text()))


class Nesting(Task):
    def __init__(self, path):
        self.path = path

    def process_item(self, item):
        inner = make_pool("processes", TaskPlan(as_factory(Inner), {}), 1)
        inner.submit(works(0, 1, 2, self.path))
        values = [outcome.value for outcome in gather(inner, 4).values()]
        if item == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        inner.close()
        return values[:3]


class Inner(Task):
    def process_item(self, item):
        if isinstance(item, str):
            with open(item, "w") as file:
                file.write(str(os.getpid()))
            return None
        return item * item


# --- where the task comes from ----------------------------------------------------------------

GUARDED = """
    import dataclasses
    from taskmanager._executors import make_pool
    from taskmanager._pool import TaskPlan, Work
    from taskmanager._task import as_factory

    print("imported", __name__)

    @dataclasses.dataclass
    class Pair:
        a: object

    def task(item):
        return Pair(item.a + 1)

    def main():
        pool = make_pool("processes", TaskPlan(as_factory(task), {}), 1)
        pool.submit([Work(0, Pair(1)), Work(1, Pair("x"))])
        got = []
        while len(got) < 2:
            got += pool.poll(10)
        got.sort(key=lambda outcome: outcome.index)
        print(got[0].value, type(got[0].value) is Pair, type(got[1].error).__name__)
        pool.close()
"""
RUN_GUARDED = GUARDED + '\n    if __name__ == "__main__":\n        main()\n'
RUN_UNGUARDED = GUARDED + "\n    main()\n"
THREADED = """
    import threading
    threading.Thread(target=threading.Event().wait, daemon=True).start()
"""
WITHOUT_CLOUDPICKLE = "\n    import sys; sys.modules['cloudpickle'] = None\n"


def python(*arguments, stdin=None):
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )


def script(tmp_path, text):
    path = tmp_path / "job.py"
    path.write_text(textwrap.dedent(text))
    return str(path)


def test_a_guarded_script_is_imported_once_for_all_workers(tmp_path):
    done = python(script(tmp_path, RUN_GUARDED))
    assert done.stdout.count("imported __mp_main__") == 1, done.stderr
    assert "Pair(a=2) True TypeError" in done.stdout


def test_an_unguarded_script_works_and_is_not_run_again(tmp_path):
    done = python(script(tmp_path, RUN_UNGUARDED))
    assert done.stdout == "imported __main__\nPair(a=2) True TypeError\n", done.stderr


def test_python_c_and_standard_input_work():
    text = textwrap.dedent(RUN_UNGUARDED)
    assert "Pair(a=2) True TypeError" in python("-c", text).stdout
    assert "Pair(a=2) True TypeError" in python("-", stdin=text).stdout


def test_without_cloudpickle_an_unguarded_script_gets_a_clear_error(tmp_path):
    done = python(script(tmp_path, WITHOUT_CLOUDPICKLE + RUN_UNGUARDED))
    assert done.returncode == 1
    assert "TypeError: the task can't be sent to worker processes" in done.stderr
    assert "install cloudpickle" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr


def test_without_cloudpickle_a_guarded_script_works(tmp_path):
    done = python(script(tmp_path, WITHOUT_CLOUDPICKLE + RUN_GUARDED))
    assert "Pair(a=2) True TypeError" in done.stdout, done.stderr


def test_without_cloudpickle_a_text_that_names_main_is_only_a_text(tmp_path):
    text = WITHOUT_CLOUDPICKLE + RUN_UNGUARDED.replace("as_factory(task)", "as_factory(str.upper)")
    done = python(script(tmp_path, text.replace("Pair(1)", "'__main__'")))
    assert "__MAIN__ False TypeError" in done.stdout, done.stderr


def test_a_script_that_fails_when_imported_is_named(tmp_path):
    broken = RUN_GUARDED + '\n    if __name__ != "__main__":\n        raise OSError("not here")\n'
    done = python(script(tmp_path, broken))
    assert "TaskManagerError: worker processes can't import the main script" in done.stderr
    assert "not here" in done.stderr


def test_lambdas_and_closures_travel_by_value(open_pool):
    plus = 3
    pool = open_pool(lambda x: x + plus)
    pool.submit(works(1, 2))
    assert [o.value for o in gather(pool, 2).values()] == [4, 5]


def test_where_forking_is_not_safe_workers_start_as_new_interpreters(tmp_path):
    done = python(script(tmp_path, THREADED + RUN_GUARDED))
    assert done.stdout.count("imported __mp_main__") == 2, done.stderr  # the forker, the worker
    assert "Pair(a=2) True TypeError" in done.stdout
