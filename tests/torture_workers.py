"""Kill workers at random, round after round: ``python tests/torture_workers.py [rounds] [seed]``.

Each round runs 60 items through two worker processes while a thread kills workers (and now and
then the process that makes them) at random moments. Afterwards every item has exactly one
outcome: its own result, or the death of the worker that ran it; and no process, descriptor,
shared memory segment, semaphore or temporary file is left.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import psutil

from taskmanager._executors import make_pool
from taskmanager._pool import TaskPlan, Work
from taskmanager._task import as_factory
from taskmanager.errors import WorkerDiedError

ITEMS = 60
CHUNK = 6
PATIENCE = 60.0


@dataclass
class Report:
    rounds: int = 0
    items: int = 0
    deaths: int = 0
    kills: int = 0
    wrong: list[str] = field(default_factory=list)

    def check(self, good: bool, text: str) -> None:
        if not good:
            self.wrong.append(f"round {self.rounds}: {text}")


def work(item: int) -> object:
    """A mixture of tiny, slow, small and large results."""
    if item % 7 == 0:
        time.sleep(0.02)
    return np.full(20_000, item) if item % 3 == 0 else item


def matches(index: int, value: object) -> bool:
    if index % 3 == 0:
        return isinstance(value, np.ndarray) and value.shape == (20_000,) and (value == index).all()
    return value == index


class Killer(threading.Thread):
    """Kill a random worker at random times until told to stop."""

    def __init__(self, pool, rng: random.Random) -> None:
        super().__init__(name="killer")
        self.pool, self.rng = pool, rng
        self.kills = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(self.rng.uniform(0.0, 0.06)):
            with suppress(RuntimeError, ProcessLookupError, AttributeError):
                os.kill(self.victim(), signal.SIGKILL)
                self.kills += 1

    def victim(self) -> int:
        crew = [member for member in self.pool._crew.values() if member.pid]
        if self.rng.random() < 0.9:  # three in a row that were never ready are an error
            crew = [member for member in crew if member.ready]
        pids = [member.pid for member in crew]
        if not pids:
            raise ProcessLookupError
        maker = self.pool._launcher._process.pid
        return maker if self.rng.random() < 0.03 else self.rng.choice(pids)


def one_round(report: Report, rng: random.Random) -> None:
    pool = make_pool("processes", TaskPlan(as_factory(work), {}), 2)
    for start in range(0, ITEMS, CHUNK):
        pool.submit([Work(index, index) for index in range(start, start + CHUNK)])
    killer = Killer(pool, rng)
    killer.start()
    outcomes, end = [], time.monotonic() + PATIENCE
    try:
        while len(outcomes) < ITEMS and time.monotonic() < end:
            outcomes += pool.poll(1.0)
    finally:
        killer.over.set()
        killer.join()
        pool.close(grace=5.0)
    report.kills += killer.kills
    report.items += len(outcomes)
    judge(report, outcomes)


def judge(report: Report, outcomes) -> None:
    indices = sorted(outcome.index for outcome in outcomes)
    report.check(indices == list(range(ITEMS)), f"{len(indices)} outcomes for {ITEMS} items")
    for outcome in outcomes:
        if outcome.error is None:
            report.check(matches(outcome.index, outcome.value), f"item {outcome.index} is wrong")
        else:
            report.deaths += 1
            died = isinstance(outcome.error, WorkerDiedError)
            report.check(died, f"item {outcome.index}: {outcome.error!r}")


def belongings() -> dict[str, set[str]]:
    """What a leak would add to."""
    gc.collect()
    me = psutil.Process()
    return {
        "processes": {str(child.pid) for child in me.children(recursive=True)},
        "descriptors": {str(number) for number in range(me.num_fds())},
        "threads": {thread.name for thread in threading.enumerate()},
        "shared memory": set(os.listdir("/dev/shm")),
        "temporary files": set(os.listdir(tempfile.gettempdir())),
    }


def torture(rounds: int, seed: int) -> Report:
    """Run the rounds and report what went wrong (nothing, one hopes)."""
    report, rng = Report(), random.Random(seed)
    before = belongings()
    for number in range(rounds):
        report.rounds = number + 1
        one_round(report, rng)
    for kind, things in belongings().items():
        left = things - before[kind]
        if kind in {"shared memory", "temporary files"}:  # other programs use these places too
            left = {thing for thing in left if "taskmanager" in thing}
        report.check(not left, f"left behind: {kind} {sorted(left)}")
    return report


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    rounds, seed = (arguments + [200, 1][len(arguments) :])[:2]
    begin = time.monotonic()
    report = torture(rounds, seed)
    print("\n".join(report.wrong))
    print(
        f"{report.rounds} rounds, {report.items} items, {report.kills} kills, "
        f"{report.deaths} items whose worker died, {len(report.wrong)} wrong, "
        f"{time.monotonic() - begin:.0f} s"
    )
    sys.exit(bool(report.wrong))
