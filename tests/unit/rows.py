"""Savers as a user would write them: two that know only `save`, one that places its results."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from savers import (
    Failure,
    InvalidInputError,
    ItemStatus,
    JobLedger,
    JobSpec,
    JobState,
    JobWriter,
    Saver,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class ListSaver(Saver):
    """Keep rows in memory; slow, or failing, where asked to."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.rows: list[Any] = []
        self.batches: list[int] = []
        self.kwargs: list[dict[str, Any]] = []
        self.flushed = 0
        self.closed = False
        self.seconds = seconds
        self.fail: BaseException | None = None
        self.threads: set[str] = set()

    def save(self, data: Any, indices: Any = None, **kwargs: Any) -> None:
        del indices
        self.threads.add(threading.current_thread().name)
        if self.fail is not None:
            raise self.fail
        time.sleep(self.seconds)
        self.rows.extend(data)
        self.batches.append(len(data))
        self.kwargs.append(kwargs)

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed = True


class LinesSaver(Saver):
    """Append one JSON line a result to a file."""

    def __init__(self, file_path: Path) -> None:
        self.file_path = file_path

    def save(self, data: Any, indices: Any = None, **kwargs: Any) -> None:
        del indices, kwargs
        with self.file_path.open("a") as file:
            file.writelines(f"{json.dumps(np.asarray(row).tolist())}\n" for row in data)

    def rows(self) -> list[Any]:
        if not self.file_path.exists():
            return []
        return [json.loads(line) for line in self.file_path.read_text().splitlines()]


class TableSaver(Saver):
    """Place each result at its position, as a chunked saver does; commits in any order."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.table: dict[int, Any] = {}
        self.labels: dict[int, Any] = {}
        self.commits: list[int] = []
        self.states: list[JobState] = []
        self.seconds = seconds
        self.refuse: set[int] = set()
        self.fail: Callable[[], BaseException | None] = lambda: None

    def save(self, data: Any, indices: Any = None, **kwargs: Any) -> None:
        raise NotImplementedError

    def open_jobs(self, **save_kwargs: Any) -> JobLedger:
        del save_kwargs
        return _TableLedger(self)


class _TableLedger(JobLedger):
    def __init__(self, saver: TableSaver) -> None:
        self.saver = saver
        self.states = saver.states

    def begin(self, spec: JobSpec, seed: int) -> JobWriter:
        self.saver.states.append(JobState(len(self.states), spec, seed))
        return self.resume(len(self.states) - 1)

    def resume(self, job_id: int) -> JobWriter:
        return _TableWriter(self.saver, self.states[job_id])

    def abandon(self, job_id: int) -> None:
        self.states[job_id].finished = True

    def discard(self, job_id: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class _TableWriter(JobWriter):
    def __init__(self, saver: TableSaver, state: JobState) -> None:
        self.saver = saver
        self.state = state
        self.staged: dict[int, tuple[int, Any]] = {}
        self.failures: list[Failure] = []

    def stage(
        self, position: int, digest: int, result: Any, labels: Any = None, *, copy: bool = True
    ) -> int:
        del copy
        if position in self.saver.refuse:
            raise InvalidInputError(f"expected shape (2,), got another for field 'x' at {position}")
        self.staged[position] = digest, result
        self.saver.labels[position] = labels
        return int(getattr(result, "nbytes", 8))

    def fail(self, failure: Failure) -> None:
        self.failures.append(failure)

    def commit(self) -> None:
        time.sleep(self.saver.seconds)
        if (error := self.saver.fail()) is not None:
            raise error
        for position, (digest, result) in self.staged.items():
            self.saver.table[position] = result
            self.state.settle(position, digest, ItemStatus.DONE)
        for failure in self.failures:
            status = ItemStatus.SKIPPED if failure.final else ItemStatus.FAILED
            self.state.settle(failure.position, failure.digest, status)
        self.saver.commits.append(len(self.staged))
        self.staged.clear()
        self.failures.clear()

    def finish(self, items: int) -> None:
        self.commit()
        self.state.finished = True
        self.saver.commits.append(-items)

    def read(self, position: int) -> object:
        return self.saver.table[position]
