"""Ctrl-C and SIGTERM: what is finished is saved, the run ends in time, the same call goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from taskmanager import TaskManager
from taskmanager.testing import RecordingTask
from tests.unit.rows import LinesSaver, ListSaver

pytestmark = pytest.mark.crash

EXECUTORS = ["serial", "threads", "processes"]
ROOT = Path(__file__).parents[2]

DRIVER = """
import sys
from pathlib import Path
from typing import Any
from taskmanager import TaskManager
from taskmanager.testing import RecordingTask
from tests.unit.rows import LinesSaver, ListSaver

if __name__ == "__main__":
    folder, executor, seconds, grace = Path(sys.argv[1]), sys.argv[2], *map(float, sys.argv[3:])
    task = RecordingTask(folder / "calls", seconds=seconds)
    manager = TaskManager(task, executor=executor, max_workers=2, grace=grace, progress=False)
    manager.submit_tasks(range(10_000), LinesSaver(folder / "rows"), save_interval=5000)
"""


class Driver:
    """A driver in a process of its own."""

    def __init__(self, folder: Path, executor: str, *, seconds: float, grace: float) -> None:
        (folder / "driver.py").write_text(DRIVER)
        self.calls = folder / "calls"
        self.process = subprocess.Popen(
            [sys.executable, folder / "driver.py", folder, executor, str(seconds), str(grace)],
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            cwd=folder,
        )

    def wait_for_calls(self, number: int) -> None:
        deadline = time.monotonic() + 30
        while self.number_of_calls() < number:
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def number_of_calls(self) -> int:
        return len(self.calls.read_text().split()) if self.calls.exists() else 0

    def end(self, *signals: int, pause: float = 0.0) -> tuple[int, str, float]:
        """Send signals; return the exit status, standard error and the seconds it took."""
        begin = time.monotonic()
        for signum in signals:
            self.process.send_signal(signum)
            time.sleep(pause)
        _, text = self.process.communicate(timeout=30)
        return self.process.returncode, text, time.monotonic() - begin


def processes_of(driver: Driver) -> list[int]:
    return [child.pid for child in psutil.Process(driver.process.pid).children(recursive=True)]


def assert_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 5
    while any(psutil.pid_exists(pid) for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its driver by 5 s"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("executor", "signum", "status"),
    [
        ("serial", signal.SIGINT, -2),
        ("serial", signal.SIGTERM, 143),
        ("threads", signal.SIGINT, -2),
        ("processes", signal.SIGINT, -2),
        ("processes", signal.SIGTERM, 143),
    ],
)
def test_the_first_signal_saves_what_is_finished(
    executor: str, signum: int, status: int, tmp_path: Path
) -> None:
    driver = Driver(tmp_path, executor, seconds=0.02, grace=10)
    driver.wait_for_calls(20)
    workers = processes_of(driver)
    code, text, _ = driver.end(signum)
    assert code == status  # -2: ended by SIGINT, which a shell shows as 130
    rows = LinesSaver(tmp_path / "rows").rows()
    assert len(rows) >= 18  # all but what ran in the two workers
    assert [row[0] for row in rows] == list(range(len(rows)))
    assert f"Stopped. {len(rows)} items are saved" in text
    assert "Run the same call again to go on." in text
    assert_gone(workers)
    run = TaskManager(RecordingTask(tmp_path / "again")).submit_tasks(
        range(len(rows) + 3), LinesSaver(tmp_path / "rows"), resume="new"
    )
    assert run.counts["saved"] == len(rows) + 3


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_runs_longer_than_the_grace_is_abandoned(executor: str, tmp_path: Path) -> None:
    driver = Driver(tmp_path, executor, seconds=60, grace=0.5)
    driver.wait_for_calls(1)
    workers = processes_of(driver)
    code, text, seconds = driver.end(signal.SIGINT)
    assert code == -2
    assert seconds < 5
    assert "Stopped. 0 items are saved" in text
    assert_gone(workers)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_second_signal_ends_at_once(executor: str, tmp_path: Path) -> None:
    driver = Driver(tmp_path, executor, seconds=60, grace=60)
    driver.wait_for_calls(1)
    workers = processes_of(driver)
    code, _, seconds = driver.end(signal.SIGINT, signal.SIGINT, pause=0.3)
    assert code == -2
    assert seconds < 5
    assert_gone(workers)


def test_earlier_handlers_are_back_and_keyboard_interrupt_is_raised(tmp_path: Path) -> None:
    """What a notebook needs: it keeps running, with its own handlers."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    saver = LinesSaver(tmp_path / "rows")

    def work(item: int) -> int:
        time.sleep(0.001)
        if item == 30 and not saver.rows():
            os.kill(os.getpid(), signal.SIGINT)
        return item

    with pytest.raises(KeyboardInterrupt):
        TaskManager(work).submit_tasks(range(100), saver, save_interval=1000)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    done = len(saver.rows())
    assert 30 <= done <= 32
    run = TaskManager(work).submit_tasks(range(100), saver)
    assert (run.counts["resumed"], run.counts["saved"]) == (done, 100 - done)
    assert saver.rows() == list(range(100))


def test_a_sigkill_leaves_what_was_committed(tmp_path: Path) -> None:
    script = DRIVER.replace("save_interval=5000", "save_interval=10")
    (tmp_path / "driver.py").write_text(script)
    driver = Driver.__new__(Driver)
    driver.calls = tmp_path / "calls"
    driver.process = subprocess.Popen(
        [sys.executable, tmp_path / "driver.py", tmp_path, "processes", "0.002", "1"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    driver.wait_for_calls(200)
    workers = processes_of(driver)
    driver.process.kill()
    driver.process.wait()
    assert_gone(workers)
    saver, task = LinesSaver(tmp_path / "rows"), RecordingTask(tmp_path / "calls")
    executed = sum(task.calls().values())
    assert executed - len(saver.rows()) <= 2 * 10 + 2 * 5
    items = executed + 20
    run = TaskManager(task).submit_tasks(range(items), saver, save_interval=10)
    rows = [row[0] for row in saver.rows()]
    # A saver that only appends may hold one batch twice: the one between its save and its record.
    assert sorted(set(rows)) == list(range(items))
    assert len(rows) - items <= 10
    assert sum(task.calls().values()) <= items + 2 * 10 + 2 * 5
    assert run.counts["failed"] == 0


def test_a_signal_while_the_last_results_are_saved_still_ends_the_program() -> None:
    class Saver(ListSaver):
        def save(self, data: Any, indices: Any = None, **kwargs: Any) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            super().save(data, indices, **kwargs)

    saver = Saver()
    with pytest.raises(KeyboardInterrupt):
        TaskManager(abs).submit_tasks(range(5), saver)
    assert saver.rows == [0, 1, 2, 3, 4]
