"""How long it takes to find that everything is done."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contender import Contender, Figure, Round, Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.contender import Figures, Size

CALLS: list[int] = []  # what was computed in this process


def square(item: int) -> int:
    CALLS.append(item)
    return item * item


def prepare(folder: Path, size: Size) -> None:
    """Finish the job once for each contender that is installed."""
    run_ours(folder, size["items"])
    if importlib.util.find_spec("joblib"):
        memory = cached(folder)
        for item in range(size["few"]):
            memory(item)
    if importlib.util.find_spec("pipefunc"):
        run_pipefunc(folder, size["few"])


def timed(count: int, again: Callable[[], object]) -> Figures:
    """Run a finished job again, in a process that has done nothing else yet."""
    before = peak_mib()
    start = time.perf_counter()
    again()
    seconds = time.perf_counter() - start
    us = seconds * 1e6 / count
    return {"us": us, "seconds": seconds, "items": count, "mib": peak_mib() - before}


def peak_mib() -> float:
    """Return the peak of this process; `getrusage` would begin with that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def equal(found: Any, count: int) -> None:
    """Raise unless `found` is every result, and none was computed to get it."""
    np.testing.assert_array_equal(np.asarray(found, np.int64), np.arange(count) ** 2)
    if CALLS:
        raise ValueError(f"{len(CALLS)} finished items were run again")


# -- ours --------------------------------------------------------------------------------------


def run_ours(folder: Path, count: int) -> Any:
    from savers import ZarrSaver
    from taskmanager import TaskManager

    with ZarrSaver(folder / "ours.zarr") as saver, TaskManager(square) as manager:
        return manager.submit_tasks(range(count), saver=saver, save_interval=10_000).counts


def ours(this: Round) -> Figures:
    count = this.size["items"]
    return timed(count, lambda: run_ours(this.inputs, count))


def check_ours(this: Round) -> None:
    import zarr

    found = zarr.open_array(this.inputs / "ours.zarr", path="dataset", mode="r")[:]
    equal(found, this.size["items"])


# -- peers -------------------------------------------------------------------------------------


def cached(folder: Path) -> Any:
    import joblib

    return joblib.Memory(folder / "joblib", verbose=0).cache(square)


def joblib_memory(this: Round) -> Figures:
    def again() -> None:
        memory = cached(this.inputs)
        if not all(memory.check_call_in_cache(item) for item in range(this.size["few"])):
            raise ValueError("a finished item is not in the cache")

    return timed(this.size["few"], again)


def check_joblib(this: Round) -> None:
    memory = cached(this.inputs)
    equal([memory(item) for item in range(this.size["few"])], this.size["few"])


def run_pipefunc(folder: Path, count: int) -> Any:
    from pipefunc import Pipeline, pipefunc

    step = pipefunc(output_name="y", mapspec="item[i] -> y[i]")(square)
    return Pipeline([step]).map(
        {"item": list(range(count))}, run_folder=folder / "pipefunc", parallel=False,
        storage="file_array", cleanup=False, show_progress=False,
    )["y"].output  # fmt: skip


def pipefunc_map(this: Round) -> Figures:
    return timed(this.size["few"], lambda: run_pipefunc(this.inputs, this.size["few"]))


def check_pipefunc(this: Round) -> None:
    equal(run_pipefunc(this.inputs, this.size["few"]), this.size["few"])


ROW = Row(
    title="Resume",
    story="A finished job is called again, in a new process: open the store, find every item "
    "done, run none. Peers do it with fewer items, as they keep a file or more for each; so what "
    "is compared is microseconds an item. Memory is what the peak of the process rose by.",
    figures=(
        Figure("us", "us an item"),
        Figure("seconds", "seconds"),
        Figure("items", "items"),
        Figure("mib", "memory, MiB"),
    ),
    contenders=(
        Contender("ours", ours, check_ours, "ours"),
        Contender("joblib.Memory", joblib_memory, check_joblib, needs=("joblib",)),
        Contender("pipefunc, files", pipefunc_map, check_pipefunc, needs=("pipefunc",)),
    ),
    sizes={
        "full": {"items": 1_000_000, "few": 5_000},
        "quick": {"items": 50_000, "few": 300},
        "tiny": {"items": 500, "few": 20},
    },
    prepare=prepare,
    fresh=True,
)
