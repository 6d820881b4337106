"""AsyncZarrSaver, many times over: kills, races, processes, failures.

python -m tests.torture_async [kills|overwrites|processes|failures ...] [--rounds N]
"""

from __future__ import annotations

import argparse
import errno
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
import zarr

from savers import AsyncZarrSaver, StorageError, verify
from savers._labelled._store import LabelledStore
from tests.crash.async_programs import TIMES
from tests.crash.test_async_processes import check_written, complete, ended, killed_run, start


def kills(folder: Path, rounds: int) -> str:
    """SIGKILL at random times: `written` is whole on disk, `missing` and a rerun complete."""
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    seen, done, n = [], 0, 0
    for _ in range(rounds):
        path = folder / f"kills{n}"
        killed_run(path, dice)
        count = check_written(path)
        seen.append(count)
        if count == len(TIMES):
            complete(path)
            n, done = n + 1, done + 1
    complete(folder / f"kills{n}") if seen[-1] < len(TIMES) else None
    partial = sum(0 < count < len(TIMES) for count in seen)
    return f"{rounds} kills (seed {seed}), {partial} with a part written; 0 untrue, all completed"


def overwrites(folder: Path, rounds: int) -> str:
    """Racing overwrites of one region: the last one submitted wins, in every chunk."""
    for number in range(rounds):
        path = folder / f"overwrites{number % 8}"
        chunk = (1, 4)[number % 2]
        settings = {"chunked_coords": {"time": chunk}, "zarr_kwargs": {"mode": "w"}}
        with AsyncZarrSaver(path, {"time": TIMES[:4]}, blocking=False, **settings) as saver:
            for n in range(4):
                block = np.full((4, 256), float(n))
                saver.write(block, {"time": TIMES[:4], "x": np.arange(256)}, "t")
            saver.write(block[:1] + 1, {"time": TIMES[:1], "x": np.arange(256)}, "t")
        found = zarr.open_array(path / "t", mode="r")[:]
        assert (found[0] == 4).all(), found[:, 0]
        assert (found[1:] == 3).all(), found[:, 0]
    return f"{rounds} rounds of 5 racing writes: the last submitted won each time"


def processes(folder: Path, rounds: int) -> str:
    """Four processes call `add_array` at once and fill what they added."""
    for number in range(rounds):
        path = folder / f"processes{number}"
        for code, _, err in ended([start("add", path, rank, 4) for rank in range(4)]):
            assert (code, err) == (0, ""), err
        group = zarr.open_group(path, mode="r")
        assert sorted(n for n, _ in group.arrays()) == [
            *(f"own{rank}" for rank in range(4)), "time", "u", "v", "x",
        ]  # fmt: skip
        for name in ("u", "v"):
            np.testing.assert_array_equal(group[name][:, 0], np.arange(64) % 4)
        assert verify(path) == []
        shutil.rmtree(path)
    return f"{rounds} of {rounds} rounds of four processes right"


def failures(folder: Path, rounds: int) -> str:
    """Background writes that fail: each is reported, and saved once the cause is gone."""
    times, put = np.arange(2 * rounds), LabelledStore.put

    def refuse(self: object, layout: object, index: tuple[int, ...], block: object) -> object:
        if index[0] % 2:
            raise StorageError(errno.EACCES, "permission denied")
        return put(self, layout, index, block)

    saver = AsyncZarrSaver(folder / "failures", {"time": times}, blocking=False)
    saver.add_array({"time": times}, "t", dtype="f8")
    with mock.patch.object(LabelledStore, "put", refuse):
        handles = [saver.write(np.full(1, float(t)), {"time": [t]}, "t") for t in times]
        try:
            saver.flush()
        except ExceptionGroup as group:
            texts = [str(error) for error in group.exceptions]
    named = [any(f"'t' at time={t} " in text for text in texts) for t in times]
    unreported = sum(not one for one in named[1::2])
    assert not any(named[::2])
    assert all((handle.exception() is not None) == t % 2 for t, handle in enumerate(handles))
    saver.close()
    np.testing.assert_array_equal(zarr.open_array(folder / "failures/t", mode="r")[:], times)
    assert unreported == 0
    return f"{unreported} of {rounds} failed background writes unreported, all saved later"


ROUNDS = {kills: 100, overwrites: 1000, processes: 50, failures: 100}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=[one.__name__ for one in ROUNDS])
    parser.add_argument("--rounds", type=int, help="instead of the usual number of each")
    given = parser.parse_args()
    for one, rounds in ROUNDS.items():
        if one.__name__ in given.names:
            with tempfile.TemporaryDirectory(prefix="torture-") as folder:
                begin = time.monotonic()
                text = one(Path(folder), given.rounds or rounds)
                print(f"{one.__name__}: {text} ({time.monotonic() - begin:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
