"""Processes that end at the worst moment: nothing is lost, nothing is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from tests.torture_workers import torture

DRIVER = """
    import ctypes, os, sys, time
    from taskmanager._executors import make_pool
    from taskmanager._pool import TaskPlan, Work
    from taskmanager._task import Task, as_factory

    class Stuck(Task):
        def setup(self):
            if sys.argv[1] == "setup":
                self.stay()

        def process_item(self, item):
            self.stay()

        def stay(self):
            os.write(1, b"worker %d\\n" % os.getpid())  # whole lines, also from two at once
            if sys.argv[1] == "python":
                while True:
                    pass
            if sys.argv[1] == "c":  # keeps the interpreter's lock: no thread of ours can run
                ctypes.PyDLL(None).usleep(60_000_000)
            time.sleep(60)

    if __name__ == "__main__":
        pool = make_pool("processes", TaskPlan(as_factory(Stuck), {}), 2)
        pool.submit([Work(0, 0)])
        pool.submit([Work(1, 1)])
        if sys.argv[2] == "fork" and os.fork() == 0:
            time.sleep(4)  # holds the driver's end of every pipe
            os._exit(0)
        pool.poll(None)
"""


def gone(pids, seconds):
    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    return not any(map(alive, pids))


def alive(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize(
    ("where", "how"),
    [("sleep", ""), ("python", ""), ("c", ""), ("setup", ""), ("c", "fork")],
    ids=["sleeping", "computing", "in C code", "in setup", "with a forked child of the driver"],
)
def test_workers_are_gone_seconds_after_their_driver_was_killed(tmp_path, where, how):
    path = tmp_path / "driver.py"
    path.write_text(textwrap.dedent(DRIVER))
    with subprocess.Popen(
        [sys.executable, path, where, how],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as driver:
        workers = [int(driver.stdout.readline().split()[1]) for _ in range(2)]
        descendants = [child.pid for child in psutil.Process(driver.pid).children(recursive=True)]
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        makers = [pid for pid in descendants if pid in workers or len(descendants) <= 3]
        assert set(workers) <= set(descendants)
        assert gone(workers, 5.0)
        if how != "fork":
            assert gone(makers, 5.0)


def test_random_kills_of_workers_cost_only_what_they_ran():
    report = torture(rounds=4, seed=1)
    assert report.kills > 0
    assert report.wrong == []
