"""What users write, as type checkers see it. Never run: mypy reads it in `make lint`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, assert_type

import numpy as np
from numpy.typing import NDArray

from savers import Saver
from taskmanager import Run, SaveEvery, Task, TaskFailedError, TaskManager


class Typed(Task):
    """A task with types and names of its own."""

    version = "2"

    def process_item(self, number: int, *, scale: float = 1.0) -> NDArray[np.float64]:
        return self.context.rng.normal(size=3) * number * scale


class Rows(Saver):
    """The least saver."""

    def __init__(self) -> None:
        self.rows: list[object] = []

    def save(self, data: Any, indices: Any = None, **kwargs: Any) -> None:
        self.rows.extend(data)


def plain(item: int) -> dict[str, float]:
    """Stand for any function."""
    return {"half": item / 2}


def run_a_job(items: Iterator[int]) -> None:
    """Call it with all that may be given."""
    with Rows() as saver, TaskManager(Typed, executor="processes", retries=2) as manager:
        assert_type(saver, Rows)
        run = manager.submit_tasks(items, saver, SaveEvery(seconds=5.0), seed=1, resume="new")
        assert_type(run, Run)
        assert_type(run.counts, Mapping[str, int])
    for failure in run.failures:
        assert_type(failure.index, int)
        assert_type(failure.attempts, int)


def run_without_a_saver() -> None:
    """Use it in the manner of concurrent.futures."""
    with ProcessPoolExecutor() as pool:
        manager = TaskManager(plain, executor=pool, errors="collect", retry_on=(OSError,))
        assert_type(manager.submit(3), Future[Any])
        for index, _result in manager.as_completed(range(3)):
            assert_type(index, int)
        assert_type(manager.map([1, 2]), Iterator[Any])


def handle(error: TaskFailedError) -> int:
    """Know which item it was."""
    return error.index


def misuse() -> None:
    """Every line here is refused: an unused ignore is an error too."""
    TaskManager(plain, errors="ignore")  # type: ignore[arg-type]
    TaskManager(plain, "threads")  # type: ignore[call-arg]
    TaskManager(plain).submit_tasks(3)  # type: ignore[arg-type]
    TaskManager(plain).submit_tasks([3], resume="later")  # type: ignore[arg-type]
