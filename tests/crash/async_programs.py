"""What the processes of tests/crash/test_async_processes.py and tests/torture_async.py run.

python -m tests.crash.async_programs NAME PATH [ARGUMENTS]
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np

from savers import AsyncZarrSaver
from savers._labelled._store import LabelledStore

TIMES = np.arange(64)
X = np.arange(4096)


def value(t: int) -> np.ndarray:
    return np.full((1, len(X)), float(t)) + X / len(X)


def saver(path: str, **settings: object) -> AsyncZarrSaver:
    return AsyncZarrSaver(path, {"time": TIMES}, blocking=False, **settings)


def coords(t: int) -> dict[str, object]:
    return {"time": TIMES[t : t + 1], "x": X}


def meet(path: str, rank: int, ranks: int) -> None:
    """Return once every rank is here."""
    Path(f"{path}.here{rank}").touch()
    while not all(Path(f"{path}.here{other}").exists() for other in range(ranks)):
        time.sleep(0.001)


def add(path: str, rank: str, ranks: str) -> None:
    """Add the same arrays from several processes at once, then fill a part of each."""
    meet(path, int(rank), int(ranks))
    mine = TIMES[int(rank) :: int(ranks)]
    with saver(path) as out:
        out.add_array({"time": TIMES, "x": X[:8]}, ["u", "v"], dtype="f8")
        for name in ("u", "v", f"own{rank}"):
            out.write(np.full((len(mine), 8), float(rank)), {"time": mine, "x": X[:8]}, name)


def share(path: str, rank: str, ranks: str) -> None:
    """Write labels that share a shard with those of another process."""
    with saver(path, shard_coords={"time": 64}) as out:
        out.add_array({"time": TIMES, "x": X}, "t", dtype="f8")
        meet(path, int(rank), int(ranks))
        try:
            out.write(value(int(rank)), coords(int(rank)), "t")
        finally:  # nobody closes before all have tried
            meet(path + ".second", int(rank), int(ranks))


def run(path: str) -> None:
    """Write what is missing; says what it has submitted, and is killed at some time."""
    out = saver(path)
    missing = out.missing("t")
    print("ready", flush=True)
    for labels in missing:
        t = int(labels["time"])
        out.write(value(t), coords(t), "t")
    out.close()
    print("done", flush=True)


def leave(path: str, how: str) -> None:
    """End the process without `close`."""
    out = saver(path)
    for t in range(16):
        out.write(value(t), coords(t), "t")
    if how == "error":
        message = "as it happens"
        raise ValueError(message)
    if how == "exit":
        sys.exit(3)


def stuck(path: str) -> None:
    """End the process with writes that no store takes."""
    out = saver(path, async_timeout=60)
    out.write(value(0), coords(0), "t").wait()
    for entry in (Path(path) / "t" / "c").iterdir():
        entry.rmdir() if entry.is_dir() and not any(entry.iterdir()) else None
    (Path(path) / "t" / "c" / "5").write_text("in the way of the folder of chunk (5, 0)")
    out.write(value(5), coords(5), "t")
    out.write(value(6), coords(6), "t")


def torn(path: str) -> None:
    """Die between putting a chunk that was there before and its record."""
    out = saver(path, chunked_coords={"time": 64})
    out.write(value(0), coords(0), "t")
    out.flush()
    out.write(value(1), coords(1), "t")
    LabelledStore.record = lambda *_: os._exit(9)  # type: ignore[method-assign,assignment]
    out.flush()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
