"""Random SIGKILLs of a driver with workers: ``python tests/torture_driver.py [KILLS] [SEED ...]``.

Runs one job on worker processes, kills its driver at a random moment, looks with plain zarr, and
calls it again until the job is done; then the next job, until so many kills have hit. Each finished
store must equal that of an undisturbed run in every chunk and document. Exit status 1 when anything
was wrong.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import zarr

ITEMS, INTERVAL, WORKERS, CHUNK = 300, 10, 2, 7

DRIVER = f"""
import os, sys, time
import numpy as np
from savers import ZarrSaver
from taskmanager import Task, TaskManager

class Work(Task):
    def process_item(self, item):
        os.write(os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT), b".")
        time.sleep(0.002)
        return {{"field": np.full((5, 3), float(item)), "draw": self.context.rng.random()}}

if __name__ == "__main__":
    with ZarrSaver(sys.argv[1], chunks={CHUNK}) as saver:
        manager = TaskManager(
            Work, executor="processes", max_workers={WORKERS}, progress=False)
        run = manager.submit_tasks(
            range({ITEMS}), saver=saver, save_interval={INTERVAL}, seed=1, chunk_size=4)
    print(dict(run.counts))
"""


class Torture:
    """One seed: kills, and what was seen after each."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.program = folder / "driver.py"
        self.program.write_text(DRIVER)
        self.wrong: list[str] = []
        self.kills = self.runs = self.done = 0
        self.reference = folder / "reference.zarr"
        began = time.monotonic()
        self.start(self.reference, folder / "reference.count").communicate()
        self.seconds = time.monotonic() - began
        self.expected = digest(self.reference)

    def start(self, store: Path, count: Path) -> subprocess.Popen[bytes]:
        root = Path(__file__).resolve().parents[1]
        return subprocess.Popen(
            [sys.executable, str(self.program), str(store), str(count)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip

    def job(self, most: int) -> None:
        """Run one job to its end, with up to `most` kills on the way."""
        store, count = self.folder / "x.zarr", self.folder / "x.count"
        kills = 0
        while True:
            driver = self.start(store, count)
            if kills < most:
                time.sleep(self.random.uniform(0.0, 1.1 * self.seconds))
                driver.send_signal(signal.SIGKILL)
            error = driver.communicate()[1].decode()
            if driver.returncode == 0:
                break
            if driver.returncode != -signal.SIGKILL:
                self.wrong.append(f"ended by {driver.returncode}: {error[-600:]}")
                break
            kills += 1
            self.look(store)
        self.judge(store, count, kills)
        self.kills += kills
        shutil.rmtree(store, ignore_errors=True)
        shutil.rmtree(f"{store}.ledger", ignore_errors=True)
        count.unlink(missing_ok=True)

    def look(self, store: Path) -> None:
        """What plain readers see after a kill is a part of the truth."""
        if not (store / "zarr.json").exists():
            return
        for consolidated in (True, False):
            group = zarr.open_group(store, mode="r", use_consolidated=consolidated)
            for name in ("field", "draw"):
                if name not in group:
                    continue
                seen = np.asarray(group[name][:])
                truth = zarr.open_group(self.reference, mode="r")[name][: len(seen)]
                if not np.array_equal(seen, truth):
                    self.wrong.append(f"{name}: readers see what is not true after a kill")

    def judge(self, store: Path, count: Path, kills: int) -> None:
        """The finished store is that of an undisturbed run, and little was run twice."""
        self.done += 1
        if digest(store) != self.expected:
            self.wrong.append(f"job {self.done} differs from an undisturbed run")
        extra = count.stat().st_size - ITEMS
        if extra > kills * bound() or extra < 0:
            self.wrong.append(f"job {self.done}: {extra} executions more than items, {kills} kills")
        self.runs += extra


def bound() -> int:
    """Executions that one crash may cost."""
    return 2 * INTERVAL + WORKERS * 4


def digest(store: Path) -> dict[str, str]:
    """Return the checksum of every object of a store but its root, which holds its id."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path != store / "zarr.json"
    }


def main() -> int:
    """Torture each seed; return the exit status."""
    warnings.simplefilter("error")
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seeds = [int(text) for text in sys.argv[2:]] or [1, 2, 3]
    wrong = 0
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="torture-driver-") as folder:
            began, torture = time.monotonic(), Torture(Path(folder), seed)
            while torture.kills < kills and not torture.wrong:
                torture.job(most=torture.random.randint(1, 8))
        print(
            f"seed {seed}: {torture.kills} kills, {torture.done} jobs finished, "
            f"{torture.runs} executions more than items, {len(torture.wrong)} wrong, "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
        for text in torture.wrong:
            print("  ", text, flush=True)
        wrong += len(torture.wrong)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
