"""What a store holds: layout, rows, jobs, who writes to it. Reads only."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._existing import find
from savers._jobs import ItemStatus
from savers._ledger._frames import read_frames
from savers._ledger._state import fresh_array
from savers._maintenance._cf import CFArray, cf_findings
from savers._sequential import _replay as replay_sequential
from savers.errors import SaverError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from savers._existing import Dataset, Existing
    from savers._jobs import JobState
    from savers._ledger._state import ArrayState

__all__ = ["ArrayView", "DatasetView", "JobView", "View", "inspect"]

Index = tuple[int, ...]

#: Stands for the dataset of a saver that knows only `save`.
SEQUENTIAL = "(results in order)"


@dataclass(frozen=True, slots=True)
class ArrayView:
    """An array.

    Parameters
    ----------
    name, dtype : str
    dims : tuple of str
    published : tuple of int or None
        Shape that readers see.
    chunks : tuple of int
        Cells that are compressed together.
    shards : tuple of int or None
        Cells of a file that holds several chunks.
    codecs : tuple of str
    committed, failed, open : int or None
        Cells along the results' axes (rows of a growing array): saved; given up; neither. None
        where no ledger knows the array.
    objects, nbytes : int
        Chunk objects, and their bytes as stored.
    """

    name: str
    dtype: str
    dims: tuple[str, ...]
    published: Index | None
    chunks: Index
    shards: Index | None
    codecs: tuple[str, ...]
    committed: int | None
    failed: int | None
    open: int | None
    objects: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class JobView:
    """A job: items by their status. `open` counts those before the last settled one."""

    number: int
    task: str
    version: str
    done: int
    failed: int
    skipped: int
    open: int
    finished: bool


@dataclass(frozen=True, slots=True)
class DatasetView:
    """A dataset: who holds it, its ledger, its jobs. `problem` tells why a ledger is unreadable."""

    name: str
    holder: str
    crashed: bool
    stream: str = ""
    records: int = 0
    nbytes: int = 0
    jobs: tuple[JobView, ...] = ()
    problem: str = ""


@dataclass
class View:
    """A store."""

    path: str
    format: str
    files: int
    nbytes: int
    datasets: list[DatasetView] = field(default_factory=list)
    arrays: list[ArrayView] = field(default_factory=list)
    cf: list[str] = field(default_factory=list)


def inspect(path: object, storage_options: Mapping[str, Any] | None = None) -> View:
    """Return what lies at a path.

    Raises
    ------
    NotFoundError
        Nothing that a saver wrote or could write to.
    """
    existing = find(path, storage_options)
    number = getattr(existing.format, "zarr_format", None)
    kind = f"zarr v{number}" if number else existing.format.name
    name = kind if existing.exists else "none"
    view = View(existing.location.name, name, *_size(existing))
    states: dict[str, ArrayState] = {}
    for dataset in existing.datasets:
        view.datasets.append(_dataset(dataset, states))
    if existing.sequential is not None:
        view.datasets.append(_sequential(existing.sequential))
    judged: dict[str, CFArray] = {}
    for array in _arrays(existing, states):
        view.arrays.append(_array(existing, array, ledger=array.layout.name in states))
        layout = array.layout
        attributes = existing.format.facts(layout).attributes
        dims = tuple(name or "" for name in layout.meta["dims"])
        judged[layout.name] = CFArray(dims, attributes, layout.dtype == "T")
    if existing.location.path is None:
        view.nbytes = sum(array.nbytes for array in view.arrays)
    if existing.exists:
        view.cf = cf_findings(judged, existing.format.root_attributes(existing.store()))
    return view


def _size(existing: Existing) -> tuple[int, int]:
    """Return files and bytes of a local store; of others the bytes are those of known chunks."""
    if existing.location.path is None:
        return sum(1 for _ in existing.location.store.list("")), 0
    if existing.location.path.is_file():
        return 1, existing.location.path.stat().st_size
    sizes = [
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(existing.location.path)
        for name in names
    ]
    return len(sizes), sum(sizes)


# -- ledgers -------------------------------------------------------------------------------------


def _dataset(dataset: Dataset, states: dict[str, ArrayState]) -> DatasetView:
    holder = dataset.holder()
    who, crashed = "" if holder is None else holder.describe(), dataset.crashed()
    try:
        replayed = dataset.replay()
    except SaverError as error:
        return DatasetView(dataset.name, who, crashed, problem=str(error))
    states |= replayed.state.arrays
    jobs = tuple(_job(job.state) for job in replayed.state.jobs.values())
    return DatasetView(
        dataset.name, who, crashed, replayed.stream, replayed.records, replayed.size, jobs
    )


def _job(state: JobState) -> JobView:
    counts = np.bincount(state.status[: state.known()], minlength=4).tolist()
    open_, done, failed, skipped = counts[:4]
    spec = state.spec
    return JobView(
        state.job_id, spec.task, spec.version, done, failed, skipped, open_, state.finished
    )


def _sequential(path: Path) -> DatasetView:
    data = path.read_bytes()
    try:
        frames = list(read_frames(memoryview(data), path.name))
    except SaverError as error:
        return DatasetView(SEQUENTIAL, "", crashed=False, problem=str(error))
    states = replay_sequential([(frame.record, bytes(frame.raw)) for frame in frames])
    jobs = tuple(_job(state) for state in states)
    return DatasetView(SEQUENTIAL, "", crashed=False, stream=path.name, records=len(frames),
                       nbytes=len(data), jobs=jobs)  # fmt: skip


# -- arrays --------------------------------------------------------------------------------------


def _arrays(existing: Existing, states: Mapping[str, ArrayState]) -> list[ArrayState]:
    """Arrays of the ledgers, and those that other programs put there."""
    found = dict(states)
    if not existing.exists:
        return [found[name] for name in sorted(found)]
    fmt, store = existing.format, existing.store()
    for name in fmt.array_names(store):
        if name in states:
            continue
        try:
            adopted = fmt.adopt(store, name)
        except SaverError:  # a group, or a dtype that no saver extends
            continue
        if adopted is not None:
            found[name] = fresh_array(adopted[0])
    return [found[name] for name in sorted(found)]


def _array(existing: Existing, array: ArrayState, *, ledger: bool) -> ArrayView:
    layout = array.layout
    facts = existing.format.facts(layout)
    published = existing.format.published(existing.store(), layout)
    done = int((array.status == ItemStatus.DONE).sum())
    open_ = int((array.status == ItemStatus.OPEN).sum())
    stored = array.chunks.values()
    objects, nbytes = len(stored), sum(chunk.size for chunk in stored)
    if not ledger or array.adopted:
        objects = sum(1 for _ in existing.format.chunks_in(existing.store(), layout))
    return ArrayView(
        layout.name,
        "text" if layout.dtype == "T" else str(layout.values_dtype),
        tuple(name or "" for name in layout.meta["dims"]),
        published,
        facts.chunks,
        facts.shards,
        facts.codec_names,
        done if ledger else None,
        array.status.size - done - open_ if ledger else None,
        open_ if ledger else None,
        objects,
        nbytes,
    )
