"""Results of 16 KiB, a chunk each: one file each, or many in a shard."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from benchmarks import arrays
from benchmarks.contender import Figure, Row
from benchmarks.stacks import Stacks

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.contender import Contender, Figures, Round, Size

VALUES = 4096  # float32: 16 KiB
BATCH = 256  # results a save, and in a shard
SHARDS = {"one file a result": 0, f"shards of {BATCH} results": BATCH}


def prepare(folder: Path, size: Size) -> None:
    """Make random walks: smooth enough to be compressed a little."""
    steps = np.random.default_rng(1).normal(size=(size["results"], VALUES))
    np.save(folder / "walks.npy", np.cumsum(steps, axis=1).astype(np.float32))


def stack(this: Round, group: str) -> arrays.Stack:
    return arrays.Stack(arrays.load(str(this.inputs / "walks.npy")), BATCH, SHARDS[group])


def figures(what: arrays.Stack, blocked: float, total: float) -> Figures:
    count = len(what.values)
    return {
        "us": total * 1e6 / count,
        "blocked_us": blocked * 1e6 / count,
        "mb_per_s": what.values.nbytes / 1e6 / total,
    }


STACKS = Stacks(stack, figures, {group: " (sharded)" if n else "" for group, n in SHARDS.items()})


def entries(group: str) -> tuple[Contender, ...]:
    return (*STACKS.zarr(group), STACKS.floor(group))


def hdf5() -> Contender:
    """Return h5py, which competes with both: its chunks lie in one file."""
    plain = next(iter(SHARDS))
    way, check = arrays.hdf5_blosc, arrays.check_hdf5
    alone = STACKS.entry("h5py, blosc", plain, way, check, "peer", "hdf5plugin")
    return replace(alone, groups=tuple(SHARDS))


ROW = Row(
    title="Small results",
    story=f"float32 results of 16 KiB, {BATCH} a save, a chunk each, lossless, blosc zstd-1 with "
    "shuffle. Microseconds a result until closed.",
    figures=(
        Figure("us", "us a result"),
        Figure("blocked_us", "caller blocked, us a result"),
        Figure("mb_per_s", "MB/s"),
        Figure("stored_mib", "stored, MiB"),
    ),
    contenders=(*(one for group in SHARDS for one in entries(group)), hdf5()),
    sizes={"full": {"results": 16_384}, "quick": {"results": 2_048}, "tiny": {"results": 256}},
    prepare=prepare,
)
