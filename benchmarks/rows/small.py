"""Results of 16 KiB, a chunk each: one file each, or many in a shard."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import arrays, labelled
from benchmarks.contender import Contender, Figure, Round, Row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.contender import Figures, Size

VALUES = 4096  # float32: 16 KiB
BATCH = 256  # results a save, and in a shard
SHARDS = {"one file a result": 0, f"shards of {BATCH} results": BATCH}


def prepare(folder: Path, size: Size) -> None:
    """Make random walks: smooth enough to be compressed a little."""
    steps = np.random.default_rng(1).normal(size=(size["results"], VALUES))
    np.save(folder / "walks.npy", np.cumsum(steps, axis=1).astype(np.float32))


def stack(this: Round, group: str) -> arrays.Stack:
    return arrays.Stack(arrays.load(str(this.inputs / "walks.npy")), BATCH, SHARDS[group])


def timed(this: Round, group: str, way: Callable[..., tuple[float, float]]) -> Figures:
    what = stack(this, group)
    blocked, total = way(what, this.folder / "out")
    count = len(what.values)
    megabytes = what.values.nbytes / 1e6
    return {
        "us": total * 1e6 / count,
        "blocked_us": blocked * 1e6 / count,
        "mb_per_s": megabytes / total,
    }


def checked(this: Round, group: str, check: Callable[..., None]) -> None:
    check(stack(this, group), this.folder / "out")


def entry(
    name: str, group: str, way: Any, check: Any, role: Any = "peer", *needs: str
) -> Contender:
    run = partial(timed, group=group, way=way)
    suffix = " (sharded)" if SHARDS[group] else ""
    check = partial(checked, group=group, check=check)
    return Contender(name + suffix, run, check, role, (group,), needs)


def entries(group: str) -> tuple[Contender, ...]:
    return (
        entry("ours", group, arrays.ours, arrays.check_zarr, "ours"),
        entry("ours with zarrs", group, arrays.ours_with_zarrs, arrays.check_zarr, "ours", "zarrs"),
        entry("ours, behind", group, labelled.ours, arrays.check_zarr, "ours"),
        entry("tensorstore", group, arrays.tensors, arrays.check_zarr, "peer", "tensorstore"),
        entry("earth2studio", group, labelled.earth2studio, arrays.check_zarr, "peer",
              *labelled.NEEDS),
        entry("zarr", group, arrays.zarr_python, arrays.check_zarr),
        entry("zarr with zarrs", group, arrays.zarrs, arrays.check_zarr, "peer", "zarrs"),
        entry("numcodecs and write", group, arrays.by_hand, arrays.check_zarr, "floor"),
    )  # fmt: skip


def hdf5() -> Contender:
    """Return h5py, which competes with both: its chunks lie in one file."""
    plain = next(iter(SHARDS))
    run = partial(timed, group=plain, way=arrays.hdf5_blosc)
    check = partial(checked, group=plain, check=arrays.check_hdf5)
    return Contender("h5py, blosc", run, check, "peer", tuple(SHARDS), ("hdf5plugin",))


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
