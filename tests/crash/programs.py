"""What the crash tests run: small writers, each of which goes on where the last run stopped.

A line on stdout is an acknowledgement: what it names must be there from then on. A run that meets a
`StorageError` tries the failed call once more, as a caller would who has made room.
"""

from __future__ import annotations

import contextlib
import functools
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from savers import ItemStatus, JobSpec, NotFoundError, StorageError
from tests.crash.kinds import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from savers import ChunkedSaver, JobWriter

CHUNK = 4  # rows of a chunk


def value(row: int, generation: int = 0) -> np.ndarray[Any, Any]:
    """Return what belongs into a row: never zero, so that nothing passes for a fill value."""
    return np.arange(1.0, 4.0) + 10 * row + 10_000 * generation


def values(rows: range, generation: int = 0) -> np.ndarray[Any, Any]:
    return np.stack([value(row, generation) for row in rows])


def acknowledge(*words: object) -> None:
    print(*words, flush=True)


def insist(call: Callable[[], Any]) -> Any:
    """Call; where the store refuses, say so and call once more."""
    try:
        return call()
    except StorageError as error:
        acknowledge("refused", error.errno)
        return call()


def open_saver(
    root: Path, approach: str = "append", kind: str = "zarr", **settings: Any
) -> ChunkedSaver:
    settings.setdefault("chunks", CHUNK)
    return KINDS[kind].open(root, approach, **settings)


def finish_last_run(saver: ChunkedSaver) -> None:
    """Publish what the last run has committed, so that a plain reader tells how far it came."""
    session = saver.session()
    with session.mutex:
        insist(session.open)


# ---- rows one after the other ----


def append(
    root: Path, batches: int, rows: int, every: int = 2, kind: str = "zarr", **settings: Any
) -> None:
    """Append batches of rows, publishing after every few of them."""
    saver = insist(functools.partial(open_saver, root, kind=kind, **settings))
    finish_last_run(saver)
    for batch in range(KINDS[kind].rows(root) // rows, batches):
        data = values(range(batch * rows, (batch + 1) * rows))
        insist(functools.partial(saver.save, data))
        acknowledge("saved", batch)
        if batch % every == every - 1:
            insist(saver.flush)
    insist(saver.close)
    acknowledge("closed")


def append_two(root: Path, batches: int, rows: int, kind: str = "zarr", **settings: Any) -> None:
    """Append to two arrays at once: a batch is in both or in neither."""
    saver = insist(functools.partial(open_saver, root, kind=kind, **settings))
    finish_last_run(saver)
    for batch in range(KINDS[kind].rows(root, "a") // rows, batches):
        data = values(range(batch * rows, (batch + 1) * rows))
        insist(functools.partial(saver.save, {"a": data, "b": -data}))
        acknowledge("saved", batch)
    insist(saver.close)
    acknowledge("closed")


# ---- items of a job, in any order ----


def job(root: Path, items: int, interval: int, seed: int = 0, **settings: Any) -> None:
    """Commit items out of order through the saver's own book of jobs."""
    saver = insist(functools.partial(open_saver, root, **settings))
    ledger = insist(saver.open_jobs)
    if ledger.states:
        writer = insist(functools.partial(ledger.resume, ledger.states[-1].job_id))
    else:
        writer = insist(functools.partial(ledger.begin, JobSpec("crash.job"), 1))
    done = {i for i, s in enumerate(writer.state.status) if s == ItemStatus.DONE}
    todo = [i for i in range(items) if i not in done]
    random.Random(seed).shuffle(todo)
    for start in range(0, len(todo), interval):
        _commit(writer, todo[start : start + interval])
    insist(functools.partial(writer.finish, items))
    insist(ledger.close)
    insist(saver.close)
    acknowledge("closed")


def _commit(writer: JobWriter, items: list[int]) -> None:
    for item in items:
        acknowledge("run", item)
        writer.stage(item, 1000 + item, value(item))
    insist(writer.commit)
    for item in items:
        acknowledge("saved", item)


def manage(root: Path, items: int, interval: int, **settings: Any) -> None:
    """The same through the task manager, in this process."""
    from taskmanager import TaskManager

    def task(item: int) -> np.ndarray[Any, Any]:
        acknowledge("run", item)
        return value(item)

    saver = insist(functools.partial(open_saver, root, **settings))
    with TaskManager(task) as manager:
        call = functools.partial(manager.submit_tasks, range(items), saver, interval)
        run = insist(call)
        for item in range(items):
            acknowledge("saved", item)
        acknowledge("counts", run.counts["executed"], run.counts["resumed"])
    insist(saver.close)
    acknowledge("closed")


# ---- old or new ----


def overwrite(root: Path, rows: int, generation: int, **settings: Any) -> None:
    """Replace the whole array."""
    saver = insist(functools.partial(open_saver, root, "overwrite", **settings))
    insist(functools.partial(saver.save, values(range(rows), generation)))
    acknowledge("saved", generation)
    insist(saver.close)
    acknowledge("closed")


def update(root: Path, indices: list[list[int]], generation: int, **settings: Any) -> None:
    """Change rows here and there, some of them in several chunks at once."""
    saver = insist(functools.partial(open_saver, root, "update", **settings))
    for number, rows in enumerate(indices):
        data = np.stack([value(row, generation) for row in rows])
        insist(functools.partial(saver.save, data, indices=rows))
        acknowledge("saved", number)
    insist(saver.close)
    acknowledge("closed")


# ---- after a crash, without running anything ----


def publish_rest(root: Path, kind: str = "zarr") -> None:
    """What `python -m savers recover` does."""
    from savers._maintenance._recover import recover as finish

    with contextlib.suppress(NotFoundError):  # killed before there was anything
        finish(root / KINDS[kind].store)
