"""What it costs to run a task that does nothing and keep its result on disk."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contender import Contender, Figure, Round, Row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.contender import Figures

    Keep = Callable[[Path, int], object]

INTERVAL = 100  # items that ours commits at once


def square(item: int) -> int:
    return item * item


def timed(this: Round, keep: Keep) -> Figures:
    """Run all items, until every result is kept."""
    count = this.size["items"]
    start = time.perf_counter()
    keep(this.folder, count)
    return {"us": (time.perf_counter() - start) * 1e6 / count}


def equal(found: Any, this: Round) -> None:
    expected = np.arange(this.size["items"]) ** 2
    np.testing.assert_array_equal(np.asarray(found, np.int64), expected)


# -- ours --------------------------------------------------------------------------------------


def ours(folder: Path, count: int, interval: int) -> None:
    from savers import ZarrSaver
    from taskmanager import TaskManager

    with ZarrSaver(folder / "out.zarr") as saver, TaskManager(square) as manager:
        manager.submit_tasks(range(count), saver=saver, save_interval=interval)


def read_zarr(this: Round) -> None:
    import zarr

    equal(zarr.open_array(this.folder / "out.zarr", path="dataset", mode="r")[:], this)


# -- peers -------------------------------------------------------------------------------------


def joblib_memory(folder: Path, count: int) -> None:
    import joblib

    cached = joblib.Memory(folder, verbose=0).cache(square)
    for item in range(count):
        cached(item)


def read_joblib(this: Round) -> None:
    """Its files are pickles, one folder an item: their order is not that of the items."""
    import joblib

    found = sorted(joblib.load(path) for path in this.folder.rglob("output.pkl"))
    equal(found, this)


def pipefunc_map(folder: Path, count: int) -> None:
    from pipefunc import Pipeline, pipefunc

    step = pipefunc(output_name="y", mapspec="item[i] -> y[i]")(square)
    Pipeline([step]).map(
        {"item": list(range(count))}, run_folder=folder / "run", parallel=False,
        storage="file_array", show_progress=False,
    )  # fmt: skip


def read_pipefunc(this: Round) -> None:
    from pipefunc.map import load_outputs

    equal(load_outputs("y", run_folder=this.folder / "run"), this)


def entry(name: str, keep: Keep, check: Any, role: Any = "peer", *needs: str) -> Contender:
    return Contender(name, partial(timed, keep=keep), check, role, needs=needs)


ROW = Row(
    title="Results kept",
    story="A task that squares a number, one item after the other in one process, every result "
    "kept on disk. Microseconds an item, with opening and closing.",
    figures=(Figure("us", "us an item"), Figure("stored_mib", "stored, MiB")),
    contenders=(
        entry("ours, 100 a commit", partial(ours, interval=INTERVAL), read_zarr, "ours"),
        entry("ours, each committed", partial(ours, interval=1), read_zarr, "ours"),
        entry("joblib.Memory", joblib_memory, read_joblib, "peer", "joblib"),
        entry("pipefunc, files", pipefunc_map, read_pipefunc, "peer", "pipefunc"),
    ),
    sizes={"full": {"items": 3_000}, "quick": {"items": 500}, "tiny": {"items": 20}},
)
