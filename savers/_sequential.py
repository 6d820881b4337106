"""Jobs for savers that know only `save`: results in item order, and a ledger that counts them.

The ledger lies in ``<file_path>.ledger/sequential.log`` beside a saver's local `file_path` (the
frames of `savers._ledger._frames`), or in memory, with the saver, where there is no such path. Data
first, then its record: a crash between a `save` and its record saves that one batch again.
"""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np

from savers._jobs import Failure, ItemStatus, JobLedger, JobSpec, JobState, JobWriter
from savers._ledger._file_lock import FileLock
from savers._ledger._frames import encode_frame, read_frames
from savers._stores._files import storage_errors, write_all
from savers.errors import ClosedError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from savers._saver import Saver

__all__ = ["SequentialLedger"]

#: Jobs by the id of a living saver (which need not be hashable).
_in_memory: dict[int, list[JobState]] = {}


class SequentialLedger(JobLedger):
    """The jobs of a saver that only appends.

    Parameters
    ----------
    saver : Saver
    save_kwargs : mapping
        Passed to every ``saver.save``.

    Raises
    ------
    StoreInUseError
        Another process runs a job here.
    LedgerCorruptedError
        The ledger is damaged; nothing was changed.
    """

    def __init__(self, saver: Saver, save_kwargs: Mapping[str, Any]) -> None:
        self._saver = saver
        self._save_kwargs = save_kwargs
        self._closed = False
        self._log = _open_log(saver)
        self.states: list[JobState] = self._remembered()

    def _remembered(self) -> list[JobState]:
        if self._log is None:
            return _remembered_in_memory(self._saver)
        try:
            records = self._log.records()
            if self._log.lost(records):
                self._log.set_aside()
                records = []
            return _replay(records)
        except BaseException:
            self._log.close()
            raise

    def begin(self, spec: JobSpec, seed: int) -> JobWriter:
        """Start a new job behind everything that is there."""
        if spec.identity == "labels":
            raise InvalidInputError(_no_labels(self._saver))
        job_id = 1 + max((state.job_id for state in self.states), default=-1)
        self.append({"kind": "job", "job": job_id, "seed": seed, "spec": asdict(spec)})
        self.states.append(JobState(job_id, spec, seed))
        return self.resume(job_id)

    def resume(self, job_id: int) -> JobWriter:
        """Go on with a known job."""
        return _SequentialWriter(self, self._state(job_id), self._saver, self._save_kwargs)

    def abandon(self, job_id: int) -> None:
        """Count the job as finished."""
        self.append({"kind": "finish", "job": job_id})
        self._state(job_id).finished = True

    def discard(self, job_id: int) -> None:
        """Forget the job. What it saved stays where the saver put it: it can't take back."""
        self.append({"kind": "discard", "job": job_id})
        self.states.remove(self._state(job_id))

    def append(self, record: dict[str, Any], digests: bytes = b"") -> None:
        """Add a record."""
        if self._closed:
            raise ClosedError("this ledger was closed: open the saver's jobs again")
        if self._log is not None:
            self._log.append(encode_frame(record, [digests]))

    def note_store(self) -> None:
        """Record, once, that the saver's file exists: should it be deleted, that is noticed."""
        if self._log is not None and not self._log.store_noted and self._log.store.exists():
            self.append({"kind": "store"})
            self._log.store_noted = True

    def close(self) -> None:
        """Let other drivers in. Idempotent."""
        self._closed = True
        if self._log is not None:
            self._log.close()

    def _state(self, job_id: int) -> JobState:
        return next(state for state in self.states if state.job_id == job_id)


class _SequentialWriter(JobWriter):
    def __init__(
        self,
        ledger: SequentialLedger,
        state: JobState,
        saver: Saver,
        save_kwargs: Mapping[str, Any],
    ) -> None:
        self.state = state
        self.pending = 0
        self._ledger = ledger
        self._saver = saver
        self._save_kwargs = save_kwargs
        self._staged: dict[int, tuple[int, Any]] = {}
        self._failures: list[Failure] = []
        self._given_up: set[int] = set()
        # By key, an item that never came back may stay away: nobody waits for it.
        self._next = state.known() if state.spec.identity != "position" else 0

    def stage(
        self,
        position: int,
        digest: int,
        result: object,
        labels: Mapping[str, object] | None = None,
        *,
        copy: bool = True,
    ) -> int:
        if labels is not None:
            raise InvalidInputError(_no_labels(self._saver))
        own, size = _owned(result, copy=copy)
        self._staged[position] = (digest, own)
        return size

    def fail(self, failure: Failure) -> None:
        self._failures.append(failure)
        self._given_up.add(failure.position)

    def commit(self) -> None:
        self._advance()
        self._save(sorted(position for position in self._staged if position < self._next))
        self._record_failures()
        self.pending = len(self._staged)

    def finish(self, items: int) -> None:
        self._next = max([items, *(position + 1 for position in self._staged)])
        self.commit()
        self._ledger.append({"kind": "finish", "job": self.state.job_id, "items": items})
        self.state.finished = True

    def read(self, position: int) -> object:
        kind = type(self._saver).__name__
        raise NotImplementedError(
            f"{kind} can't read back item {position}: ask for keep_results=True"
        )

    def _advance(self) -> None:
        """Move on to the first item that nobody knows the end of."""
        status = self.state.status
        while (
            self._next in self._staged
            or self._next in self._given_up
            or (self._next < len(status) and status[self._next] != ItemStatus.OPEN)
        ):
            self._given_up.discard(self._next)
            self._next += 1

    def _save(self, positions: list[int]) -> None:
        if not positions:
            return
        self._saver.save([self._staged[position][1] for position in positions], **self._save_kwargs)
        digests = np.array([self._staged[position][0] for position in positions], np.uint64)
        record = {"kind": "done", "job": self.state.job_id, "at": _runs(positions)}
        self._ledger.append(record, digests.astype("<u8").tobytes())
        self._ledger.note_store()
        for position in positions:
            self.state.settle(position, self._staged.pop(position)[0], ItemStatus.DONE)

    def _record_failures(self) -> None:
        while self._failures:
            failure = self._failures[0]
            self._ledger.append({"kind": "fail", "job": self.state.job_id, **asdict(failure)})
            _settle_failure(self.state, failure)
            del self._failures[0]


def _remembered_in_memory(saver: Saver) -> list[JobState]:
    if id(saver) not in _in_memory:
        _in_memory[id(saver)] = []
        finalize(saver, _in_memory.pop, id(saver), None)
    return _in_memory[id(saver)]


def _no_labels(saver: Saver) -> str:
    return (
        f"{type(saver).__name__} does not place results by label: leave labels out (key= says what "
        "an item is known by), or use a saver with coords"
    )


def _owned(value: Any, *, copy: bool) -> tuple[Any, int]:
    """Return a result whose arrays are its own, and their size in bytes."""
    if isinstance(value, np.ndarray):
        return (value.copy() if copy else value), value.nbytes
    if type(value) is dict:
        parts = {name: _owned(part, copy=copy) for name, part in value.items()}
        return {name: part[0] for name, part in parts.items()}, sum(p[1] for p in parts.values())
    if type(value) in (list, tuple):
        owned = [_owned(part, copy=copy) for part in value]
        return type(value)(part[0] for part in owned), sum(part[1] for part in owned)
    return value, 32


def _runs(positions: list[int]) -> list[list[int]]:
    """Return ascending positions as [first, count] runs."""
    runs: list[list[int]] = []
    for position in positions:
        if runs and position == sum(runs[-1]):
            runs[-1][1] += 1
        else:
            runs.append([position, 1])
    return runs


def _settle_failure(state: JobState, failure: Failure) -> None:
    status = ItemStatus.SKIPPED if failure.final else ItemStatus.FAILED
    state.settle(failure.position, failure.digest, status)
    state.failures[failure.position] = failure


def _replay(records: list[tuple[dict[str, Any], bytes]]) -> list[JobState]:
    jobs: dict[int, JobState] = {}
    for record, raw in records:
        kind, job_id = record["kind"], record.get("job", -1)
        if kind == "job":
            jobs[job_id] = JobState(job_id, JobSpec(**record["spec"]), record["seed"])
        elif kind == "discard":
            del jobs[job_id]
        elif kind == "finish":
            jobs[job_id].finished = True
        elif kind == "done":
            _replay_done(jobs[job_id], record["at"], np.frombuffer(raw, "<u8"))
        elif kind == "fail":
            names = Failure.__dataclass_fields__
            _settle_failure(jobs[job_id], Failure(**{name: record[name] for name in names}))
    return list(jobs.values())


def _replay_done(state: JobState, runs: list[list[int]], digests: np.ndarray[Any, Any]) -> None:
    positions = np.concatenate([np.arange(first, first + count) for first, count in runs])
    state.settle(int(positions[-1]), 1, ItemStatus.DONE)  # makes the tables long enough
    state.digests[positions] = digests
    state.status[positions] = ItemStatus.DONE
    for position in positions[np.isin(positions, list(state.failures))].tolist():
        del state.failures[position]


def _open_log(saver: Saver) -> _Log | None:
    """Return the log beside the saver's `file_path`, None where that is no local path."""
    path = getattr(saver, "file_path", None)
    if not isinstance(path, (str, os.PathLike)) or "://" in os.fspath(path):
        return None
    return _Log(Path(os.fspath(path)))


class _Log:
    """A file of frames that grows at its end."""

    def __init__(self, store: Path) -> None:
        self.store = store
        self.store_noted = False
        folder = store.with_name(store.name + ".ledger")
        self._path = folder / "sequential.log"
        self._lock = FileLock(folder / "sequential.lock", str(store))
        self._lock.acquire()
        self._size = 0
        self._descriptor = -1
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        with storage_errors("open", self._path):
            self._descriptor = os.open(self._path, flags, 0o600)

    def records(self) -> list[tuple[dict[str, Any], bytes]]:
        """Return every record; a torn last one is cut off."""
        with storage_errors("read", self._path):
            data = self._path.read_bytes()
        frames = list(read_frames(memoryview(data), str(self._path)))
        self._size = frames[-1].end if frames else 0
        with storage_errors("truncate", self._path):
            os.ftruncate(self._descriptor, self._size)
        return [(frame.record, bytes(frame.raw)) for frame in frames]

    def lost(self, records: list[tuple[dict[str, Any], bytes]]) -> bool:
        """Return whether the saver's file was there once and is gone."""
        self.store_noted = any(record["kind"] == "store" for record, _ in records)
        return self.store_noted and not self.store.exists()

    def set_aside(self) -> None:
        """Keep the records under another name and begin anew."""
        aside = self._path.with_name(f"sequential.{time.time_ns()}.old")
        warnings.warn(
            f"{self.store} is gone: its ledger was set aside as {aside.name}, and jobs start anew",
            UserWarning,
            stacklevel=2,
        )
        with storage_errors("rename", self._path):
            self._path.rename(aside)
        os.close(self._descriptor)
        self._open()
        self._size = 0
        self.store_noted = False

    def append(self, frame: bytes) -> None:
        """Append a record, after cutting off what an earlier failed append may have left."""
        self._lock.check()
        with storage_errors("append to", self._path):
            os.ftruncate(self._descriptor, self._size)
            write_all(self._descriptor, frame)
        self._size += len(frame)

    def close(self) -> None:
        """Let go of the file and its lock. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        self._lock.release()
