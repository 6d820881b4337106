"""How fast large results come from worker processes."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contender import Contender, Figure, Round, Row
from benchmarks.rows.tasks import WORKERS, checked

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from benchmarks.contender import Figures

    Runner = Callable[[Sequence[int]], Iterable[NDArray[np.float64]]]

VALUES = 2**20 // 8  # 1 MiB of float64


def result(item: int) -> NDArray[np.float64]:
    return np.full(VALUES, float(item))


def timed(this: Round, runner: Runner) -> Figures:
    """Take all results, one after the other, and look at every page of each."""
    count = this.size["results"]
    start = time.perf_counter()
    for item, found in enumerate(runner(range(count))):
        if found.shape != (VALUES,) or not (found[::512] == item).all() or found[-1] != item:
            raise ValueError(f"result {item} came back as {found!r:.100}")
    seconds = time.perf_counter() - start
    if item != count - 1:
        raise ValueError(f"expected {count} results, got {item + 1}")
    return {"mb_per_s": count * VALUES * 8 / 1e6 / seconds}


# -- contenders --------------------------------------------------------------------------------


def ours(items: Sequence[int]) -> Iterator[Any]:
    from taskmanager import TaskManager

    with TaskManager(result, executor="processes", max_workers=WORKERS) as manager:
        yield from manager.map(items)


def futures(items: Sequence[int]) -> Iterator[Any]:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as executor:
        yield from executor.map(result, items)


def multiprocessing_pool(items: Sequence[int]) -> Iterator[Any]:
    import multiprocessing

    with multiprocessing.Pool(WORKERS) as pool:
        yield from pool.imap(result, items)


def joblib_parallel(items: Sequence[int]) -> Iterator[Any]:
    import joblib

    call = joblib.delayed(result)
    yield from joblib.Parallel(n_jobs=WORKERS, return_as="generator")(call(i) for i in items)


def mpire_pool(items: Sequence[int]) -> Iterator[Any]:
    import mpire

    with mpire.WorkerPool(WORKERS, start_method="fork") as pool:
        yield from pool.imap(result, items, chunk_size=1)


def loop(items: Sequence[int]) -> Iterator[Any]:
    """Make each result and copy it once, in one process: what shared memory can't undercut."""
    for item in items:
        yield result(item).copy()


def entry(name: str, runner: Runner, role: Any = "peer", needs: str = "") -> Contender:
    modules = (needs,) if needs else ()
    return Contender(name, partial(timed, runner=runner), checked, role, needs=modules)


ROW = Row(
    title="Large results from processes",
    story=f"Results of 1 MiB (float64) made by {WORKERS} worker processes and read by the caller "
    "in order, none kept; the start of the workers is included.",
    figures=(Figure("mb_per_s", "MB/s", higher_is_better=True),),
    contenders=(
        entry("ours, processes, map", ours, "ours"),
        entry("ProcessPoolExecutor", futures),
        entry("multiprocessing.Pool.imap", multiprocessing_pool),
        entry("joblib loky", joblib_parallel, needs="joblib"),
        entry("mpire fork", mpire_pool, needs="mpire"),
        entry("made and copied in one process", loop, "floor"),
    ),
    sizes={"full": {"results": 2_000}, "quick": {"results": 300}, "tiny": {"results": 8}},
)
