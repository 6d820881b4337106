"""What it costs to run a task that does nothing."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.contender import Contender, Figure, Round, Row

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.contender import Figures

    Runner = Callable[[Sequence[int]], Sequence[int]]

WORKERS = 2
CHUNK = 50  # items that go to a worker at once, where a contender takes that


def trivial(item: int) -> int:
    return item + 1


def timed(this: Round, runner: Runner) -> Figures:
    """Run jobs of two tasks, then one of many; the difference is the cost of a task."""
    start = min(_seconds(runner, WORKERS) for _ in range(3))
    count = this.size["tasks"]
    whole = _seconds(runner, count)
    return {
        "us": (whole - start) * 1e6 / (count - WORKERS),
        "start_ms": start * 1e3,
        "total_us": whole * 1e6 / count,
    }


def _seconds(runner: Runner, count: int) -> float:
    start = time.perf_counter()
    found = runner(range(count))
    taken = time.perf_counter() - start
    if list(found) != [trivial(item) for item in range(count)]:
        raise ValueError(f"expected item + 1 for {count} items, got {found!r:.200}")
    return taken


def checked(this: Round) -> None:
    """Results were compared as they came; nothing lies in the folder."""


# -- contenders --------------------------------------------------------------------------------


def ours(executor: str, chunk_size: Any, items: Sequence[int]) -> Sequence[int]:
    from taskmanager import TaskManager

    with TaskManager(trivial, executor=executor, max_workers=WORKERS) as manager:
        return list(manager.submit_tasks(items, chunk_size=chunk_size).results())


def ours_map(executor: str, items: Sequence[int]) -> Sequence[int]:
    from taskmanager import TaskManager

    with TaskManager(trivial, executor=executor, max_workers=WORKERS) as manager:
        return list(manager.map(items, chunk_size=CHUNK))


def futures(kind: str, items: Sequence[int]) -> Sequence[int]:
    import concurrent.futures

    with getattr(concurrent.futures, kind)(WORKERS) as executor:
        return list(executor.map(trivial, items, chunksize=CHUNK))


def joblib_parallel(settings: dict[str, Any], items: Sequence[int]) -> Sequence[int]:
    import joblib

    call = joblib.delayed(trivial)
    return list(joblib.Parallel(**settings)(call(item) for item in items))


def mpire_pool(method: str, items: Sequence[int]) -> Sequence[int]:
    import mpire

    with mpire.WorkerPool(WORKERS, start_method=method) as pool:
        return list(pool.map(trivial, items, chunk_size=CHUNK))


def loop(items: Sequence[int]) -> Sequence[int]:
    return [trivial(item) for item in items]


def entry(name: str, group: str, runner: Runner, role: Any = "peer", needs: str = "") -> Contender:
    modules = (needs,) if needs else ()
    return Contender(name, partial(timed, runner=runner), checked, role, (group,), modules)


LOKY = {"n_jobs": WORKERS, "batch_size": CHUNK}
THREADING = {"n_jobs": WORKERS, "backend": "threading", "batch_size": CHUNK}

ROW = Row(
    title="Trivial tasks",
    story=f"Tasks that add one, {WORKERS} workers, {CHUNK} items a chunk. Microseconds a task with "
    "the start of the workers; beside it the least time of three jobs of two tasks, and what a "
    "task costs beyond that.",
    figures=(
        Figure("total_us", "us a task"),
        Figure("start_ms", "job of two tasks, ms"),
        Figure("us", "us a task beyond the start"),
    ),
    contenders=(
        entry("ours, serial", "serial", partial(ours, "serial", CHUNK), "ours"),
        entry("joblib, 1 job", "serial", partial(joblib_parallel, {"n_jobs": 1}), needs="joblib"),
        entry("a loop", "serial", loop, "floor"),
        entry("ours, threads", "threads", partial(ours, "threads", CHUNK), "ours"),
        entry("ours, threads, auto", "threads", partial(ours, "threads", "auto"), "ours"),
        entry("ours, threads, map", "threads", partial(ours_map, "threads"), "ours"),
        entry("ThreadPoolExecutor", "threads", partial(futures, "ThreadPoolExecutor")),
        entry("joblib threads", "threads", partial(joblib_parallel, THREADING), needs="joblib"),
        entry("mpire threads", "threads", partial(mpire_pool, "threading"), needs="mpire"),
        entry("ours, processes", "processes", partial(ours, "processes", CHUNK), "ours"),
        entry("ours, processes, auto", "processes", partial(ours, "processes", "auto"), "ours"),
        entry("ours, processes, map", "processes", partial(ours_map, "processes"), "ours"),
        entry("ProcessPoolExecutor", "processes", partial(futures, "ProcessPoolExecutor")),
        entry("joblib loky", "processes", partial(joblib_parallel, LOKY), needs="joblib"),
        entry("mpire fork", "processes", partial(mpire_pool, "fork"), needs="mpire"),
    ),
    sizes={"full": {"tasks": 100_000}, "quick": {"tasks": 20_000}, "tiny": {"tasks": 300}},
    note="ThreadPoolExecutor.map takes no chunks; joblib keeps its loky workers between jobs, the "
    "others start theirs with each.",
)
