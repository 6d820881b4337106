"""Random SIGKILLs of programs that save to an Icechunk repository, and somebody else who commits.

``python tests/torture_icechunk.py [KILLS]``. Runs a job (rows, and labels in the background) on a
local repository, kills it at random moments, looks at the branch with plain zarr and xarray after
each, and calls it again until it is done. Then saves to a bucket through a proxy that misbehaves.
Exit status 1 when anything was lost, twice or phantom.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.faultproxy import FaultProxy
from tests.s3server import KEY, REGION, SECRET, Server, weed

#: What may happen to a request.
STRIKES = ("500", "503", "reset before", "reset after", "cut answer", "cut request", "duplicate",
           "late")  # fmt: skip
ITEMS, INTERVAL, LABELS = 120, 4, 60

HEAD = """
import os, sys, time
import icechunk, numpy as np
from savers import AsyncZarrSaver, ZarrSaver
from taskmanager import TaskManager

sys.path.insert(0, os.environ["PYTHONPATH"])
from tests.torture_icechunk import storage_of
repository = icechunk.Repository.open(storage_of(sys.argv[1]))
given = repository if len(sys.argv[1]) % 2 else repository.writable_session("main").store
"""

PROGRAMS = {
    "append": f"""
def task(item):
    os.write(os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT), b".")
    time.sleep(0.01)
    return {{"field": np.full((5, 3), float(item)), "count": item}}

with ZarrSaver(given, chunks=7) as saver:
    TaskManager(task, progress=False).submit_tasks(range({ITEMS}), saver, save_interval={INTERVAL})
""",
    "overwrite": f"""
def task(item):
    os.write(os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT), b".")
    time.sleep(0.01)
    return {{"field": np.full((5, 3), float(item)), "count": item}}

with ZarrSaver(given, approach="overwrite", chunks=7) as saver:
    TaskManager(task, progress=False).submit_tasks(range({ITEMS}), saver, save_interval={INTERVAL})
""",
    "labels": f"""
steps = np.arange({LABELS}, dtype="timedelta64[h]")
saver = AsyncZarrSaver("", {{"lead_time": steps}}, store=given, blocking=False,
                       chunked_coords={{"lead_time": 2}})
with saver:
    for at in saver.missing("t2m"):
        os.write(os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND | os.O_CREAT), b".")
        time.sleep(0.01)
        step = at["lead_time"]
        value = np.full((1, 3), step.astype(int), "f4")
        saver.write(value, {{"lead_time": [step], "lat": np.arange(3.0)}}, "t2m")
        if step.astype(int) % 4 == 3:
            saver.flush()
""",
}


def storage_of(place: str) -> Any:
    """Return the storage of a local path, or of ``<endpoint> <prefix>`` in a bucket."""
    import icechunk

    endpoint, _, prefix = place.partition(" ")
    if not prefix:
        return icechunk.local_filesystem_storage(place)
    return icechunk.s3_storage(
        bucket="torture", prefix=prefix, endpoint_url=endpoint, region=REGION,
        access_key_id=KEY, secret_access_key=SECRET, allow_http=True, force_path_style=True,
    )  # fmt: skip


class Torture:
    """One program: kills, and what was seen after each."""

    def __init__(self, kind: str, folder: Path, seed: int, endpoint: str = "") -> None:
        self.kind, self.folder, self.endpoint = kind, folder, endpoint
        self.random = random.Random(seed)
        self.program = folder / "program.py"
        self.program.write_text(HEAD + PROGRAMS[kind])
        self.wrong: list[str] = []
        self.kills = self.jobs = self.extra = self.snapshots = self.aborts = 0
        self.seconds = 10.0
        self.job(0)

    def job(self, most: int) -> None:
        """Run the program to its end on a new repository, with up to `most` kills on the way."""
        import icechunk

        self.jobs += 1
        name = f"{self.kind}{self.jobs}"
        self.place = f"{self.endpoint} {name}" if self.endpoint else str(self.folder / name)
        self.repository = icechunk.Repository.create(storage_of(self.place))
        self.count = self.folder / f"count{self.jobs}"
        self.rounds = self.others = 0
        self.shown: dict[str, int] = {}
        if self.kind == "overwrite":
            self.begin()
        kills = self.run(most)
        self.judge(kills)
        self.kills += kills

    def begin(self) -> None:
        """What is to be replaced is seen until all of the new is there."""
        from savers import ZarrSaver

        with ZarrSaver(self.repository) as saver:
            saver.save({"field": np.full((9, 5, 3), -1.0), "count": np.full(9, -1)})

    def start(self) -> subprocess.Popen[bytes]:
        root = Path(__file__).resolve().parents[1]
        return subprocess.Popen(
            [sys.executable, str(self.program), self.place, str(self.count)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(root), "ICECHUNK_LOG": "error"},
        )  # fmt: skip

    def run(self, most: int) -> int:
        kills = 0
        while not self.wrong:
            before = time.monotonic()
            process = self.start()
            if kills < most:
                time.sleep(self.random.uniform(0.3, 1.0) * self.seconds)
                process.send_signal(signal.SIGKILL)
            error = process.communicate()[1].decode()
            self.rounds += 1
            self.look()
            self.disturb()
            if process.returncode == 0:
                self.seconds = min(self.seconds, time.monotonic() - before)
                break
            if process.returncode == -signal.SIGABRT and not error:
                self.aborts += 1  # of Icechunk, as the interpreter ends; with zarr alone, too
            elif process.returncode != -signal.SIGKILL:
                self.wrong.append(f"ended by {process.returncode}: {error[-900:]}")
            kills += 1
        return kills

    def group(self) -> Any:
        return zarr.open_group(self.repository.readonly_session("main").store, mode="r")

    def disturb(self) -> None:
        """Another program commits between two runs; its array is to stay."""
        session = self.repository.writable_session("main")
        group = zarr.open_group(session.store)
        group.require_array("foreign", shape=(1,), dtype="i4", dimension_names=["one"])[0] = (
            self.rounds
        )
        session.commit("another program")
        self.others = self.rounds

    def look(self) -> None:
        """What plain readers see after a kill is a part of the truth."""
        try:
            group = self.group()
        except FileNotFoundError:
            return
        for name in ("field", "count", "t2m"):
            if name in group:
                self.compare(name, group[name][:])
        if "foreign" in group and int(group["foreign"][0]) != self.others:
            self.wrong.append("another program's commit is gone")
        store = self.repository.readonly_session("main").store
        xr.open_zarr(store, consolidated=False).load()

    def compare(self, name: str, seen: Any) -> None:
        flat = seen.reshape(len(seen), -1)[:, 0]
        if name == "t2m":
            done = ~np.isnan(flat)
            expected = np.arange(len(flat))[done]
            good = np.array_equal(flat[done], expected)
            shown = int(done.sum())
        else:
            old = self.kind == "overwrite" and len(flat) == 9
            good = np.array_equal(flat, np.full(9, -1) if old else np.arange(len(flat)))
            shown = 0 if old else len(flat)
        if not good:
            self.wrong.append(f"{name}: readers see what is not true: {flat.tolist()}")
        if shown < self.shown.get(name, 0):
            self.wrong.append(f"{name}: {self.shown[name]} results were seen, now {shown}")
        self.shown[name] = shown

    def judge(self, kills: int) -> None:
        """Everything is there, and little was run twice."""
        group, total = self.group(), LABELS if self.kind == "labels" else ITEMS
        for name in ("t2m",) if self.kind == "labels" else ("field", "count"):
            if self.shown.get(name) != total or group[name].shape[0] != total:
                self.wrong.append(f"{name}: {self.shown.get(name)} of {total} results are there")
        extra = self.count.stat().st_size - total
        if not 0 <= extra <= kills * (2 * INTERVAL + 1):
            self.wrong.append(f"{extra} executions more than items with {kills} kills")
        self.extra += extra
        self.snapshots += len(list(self.repository.ancestry(branch="main")))


def through_faults(server: Server, seed: int) -> list[str]:
    """Save to a repository in a bucket while one request of seven goes wrong."""
    import icechunk

    from savers import ZarrSaver

    wanted = [float(number) for number in range(40)]
    proxy = FaultProxy(server.port, seed=seed, latest=1.0, faults=STRIKES)
    try:
        plain = icechunk.Repository.create(storage_of(f"{server.endpoint} faults{seed}"))
        repository = icechunk.Repository.open(storage_of(f"{proxy.endpoint} faults{seed}"))
        proxy.rate = 0.15
        with ZarrSaver(repository, chunks=4) as saver:
            for value in wanted:
                saver.save([value])
    finally:
        proxy.close()
    seen = zarr.open_group(plain.readonly_session("main").store, mode="r")["dataset"][:].tolist()
    print(f"bucket, seed {seed}: {sum(proxy.struck.values())} faults, {len(seen)} rows", flush=True)
    return [] if seen == wanted else [f"seed {seed}: {seen}"]


def killed(kills: int, endpoint: str = "") -> list[str]:
    """Kill each program so often; return what was wrong."""
    wrong: list[str] = []
    for seed, kind in enumerate(PROGRAMS):
        with tempfile.TemporaryDirectory(prefix="torture-icechunk-") as folder:
            torture = Torture(kind, Path(folder), seed, endpoint)
            while torture.kills < kills and not torture.wrong:
                torture.job(most=torture.random.randint(1, 8))
            wrong += torture.wrong
            print(
                f"{kind}{' in a bucket' * bool(endpoint)}: {torture.kills} kills, {torture.jobs} "
                f"jobs finished, {torture.extra} executions more than items, {torture.snapshots} "
                f"snapshots, {torture.aborts} aborted by Icechunk at exit, "
                f"{len(torture.wrong)} wrong",
                flush=True,
            )
            for text in torture.wrong:
                print("  ", text, flush=True)
    return wrong


def main() -> int:
    """Torture each program; return the exit status."""
    if importlib.util.find_spec("icechunk") is None:
        print("nothing was tried: icechunk is not installed")
        return 0
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    wrong = killed(kills)
    if weed() is not None:
        with contextlib.closing(Server(Path(tempfile.mkdtemp(prefix="torture-s3-")))) as server:
            server.start()
            server.make_bucket("torture")
            wrong += killed(kills, server.endpoint)
            for seed in range(10):
                wrong += through_faults(server, seed)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
