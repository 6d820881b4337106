"""Every stored byte against what the ledger knows of it.

Chunk objects are compared with their size and CRC-32C, records with theirs, and the metadata
documents with those that the ledger would publish. Nothing is locked or changed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crc32c import crc32c

from savers._documents import compare_documents
from savers._existing import find
from savers._frames import read_frames
from savers._publishing import shapes
from savers._store import LocalStore, storage_errors
from savers.errors import FormatError, SaverError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from savers._existing import Dataset, Existing, Replayed
    from savers._state import ArrayState, State, Stored

__all__ = ["Finding", "Report", "examine", "verify"]

Index = tuple[int, ...]
ChunkId = tuple[str, int, Index]

#: Seconds after which a chunk that did not match is looked at again while somebody writes.
SECOND_LOOK = 0.3


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong.

    Parameters
    ----------
    array : str
        The array or dataset it belongs to; "" for the store as a whole.
    where : str
        Key in the store, or the stream of the ledger.
    problem : str
    """

    array: str
    where: str
    problem: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f" (array {self.array!r})" if self.array else "")


@dataclass
class Report:
    """What was looked at, and what came of it.

    Parameters
    ----------
    findings : list of Finding
    notes : list of str
        What could not be judged, and what a crash left to be finished.
    counts : dict of str to int
        What was compared: records, chunks, bytes, documents.
    """

    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("records", "chunks", "bytes", "documents"), 0)
    )

    def add(self, array: str, where: str, problem: str) -> None:
        """Note something that is wrong."""
        self.findings.append(Finding(array, where, problem))


def verify(path: object, storage_options: Mapping[str, Any] | None = None) -> list[Finding]:
    """Compare everything that was saved at `path` with its checksums.

    Parameters
    ----------
    path : str, Path, URL, mapping or store
        What a saver was given as `file_path`.
    storage_options : mapping, optional
        Settings of a remote store.

    Returns
    -------
    list of Finding
        What is wrong; empty when every byte is what the ledger says.

    Raises
    ------
    NotFoundError
        There is no store, or it has no ledger to compare it with.

    Notes
    -----
    Reads only, and takes no lock: while somebody writes, what changes meanwhile is left out.
    Not found are: changes of white space in metadata documents; chunks of arrays that another
    program made, until a saver rewrote them; attributes that another program added to the root.

    Examples
    --------
    >>> import savers, tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp(), "results.zarr")
    >>> with savers.ZarrSaver(path, "energy") as saver:
    ...     saver.save([1.0, 2.0, 3.0])
    >>> verify(path)
    []
    >>> size = (path / "energy/c/0").write_bytes(b"something else")
    >>> print(*verify(path))
    energy/c/0: expected ... bytes, found 14 (array 'energy')
    """
    return examine(path, storage_options).findings


def examine(path: object, storage_options: Mapping[str, Any] | None = None) -> Report:
    """Return findings, notes and counts (see `verify`)."""
    existing = find(path, storage_options)
    if not (existing.datasets or existing.sequential):
        message = (
            f"{existing.location.name} has no ledger: it was not written by a saver, or its ledger "
            "was left behind when it was copied; there is nothing to compare it with"
        )
        raise FormatError(message)
    report = Report()
    _check_sequential(existing, report)
    known = [(d, r) for d in existing.datasets if (r := _check_ledger(d, report)) is not None]
    for dataset, replayed in known:
        Chunks(existing, dataset, report).check(replayed.state)
    if known:
        _check_documents(existing, known, report)
    return report


# -- ledgers -------------------------------------------------------------------------------------


def _check_ledger(dataset: Dataset, report: Report) -> Replayed | None:
    holder, crashed = dataset.holder(), dataset.crashed()
    try:
        replayed = dataset.replay()
    except SaverError as error:
        report.add("", f"ledger of {dataset.name!r}", str(error))
        return None
    report.counts["records"] += replayed.records
    name = dataset.name
    if holder is not None:
        report.notes.append(
            f"{name!r} is in use by {holder.describe()}: what it writes while this runs is not "
            "judged, nor what it has yet to publish"
        )
    elif crashed:
        report.notes.append(
            f"the last writer of {name!r} ended without closing it: what it did not publish is "
            "not judged; recover publishes it"
        )
    elif replayed.torn:
        at = replayed.size - replayed.torn
        problem = f"damaged at byte {at}: {replayed.torn} bytes there are no whole record"
        report.add("", f"ledger stream {replayed.stream}", problem)
    return replayed


def _check_sequential(existing: Existing, report: Report) -> None:
    path = existing.sequential
    if path is None:
        return
    try:
        with storage_errors("read", path):
            data = path.read_bytes()
        report.counts["records"] += sum(1 for _ in read_frames(memoryview(data), path.name))
    except SaverError as error:
        report.add("", f"ledger {path.name}", str(error))


def _check_documents(
    existing: Existing, known: list[tuple[Dataset, Replayed]], report: Report
) -> None:
    if not existing.exists:
        report.add("", existing.location.name, "the store is gone, only its ledger is there")
        return
    states = [replayed.state for _, replayed in known]
    open_ = [r.state for d, r in known if d.holder() is not None or d.crashed()]
    for key, array, problem in compare_documents(existing, states, open_, report.counts):
        report.add(array, key, problem)


# -- chunks --------------------------------------------------------------------------------------


class Chunks:
    """The chunk objects of one dataset."""

    def __init__(self, existing: Existing, dataset: Dataset, report: Report) -> None:
        self.existing = existing
        self.dataset = dataset
        self.store = existing.location.store
        self.format = existing.format
        self.report = report

    def check(self, state: State) -> None:
        """Compare all chunks; those of a store in use that don't match are looked at twice."""
        wrong = dict(self._compare(state))
        if wrong and self.dataset.holder() is not None:
            time.sleep(SECOND_LOOK)
            later = self.dataset.replay().state
            moved = {c for c in wrong if _stored(state, c) != _stored(later, c)}
            wrong = dict(self._compare(later, wrong.keys() - moved))
        for chunk, (where, problem) in wrong.items():
            self.report.add(chunk[0], where, problem)
        if self.dataset.holder() is None:
            self._unknown(state)

    def _compare(
        self, state: State, only: Collection[ChunkId] | None = None
    ) -> Iterator[tuple[ChunkId, tuple[str, str]]]:
        staged = {chunk: token for token, chunk in state.staged.items()}
        for array in (*state.arrays.values(), *state.pending.values()):
            for index, stored in array.chunks.items():
                chunk = (array.layout.name, array.layout.generation, index)
                if only is not None and chunk not in only:
                    continue
                where = self.format.chunk_key(array.layout, index)
                problem = self._problem(where, staged.get(chunk, ""), stored)
                if problem:
                    yield chunk, (where, problem)

    def _problem(self, key: str, token: str, stored: Stored) -> str:
        try:
            data = self._staged(token)
            if data is None:
                data = self.store.get(key)
        except SaverError as error:
            return str(error)
        self.report.counts["chunks"] += 1
        if data is None:
            return f"missing; the ledger knows {stored.size} bytes"
        self.report.counts["bytes"] += len(data)
        if len(data) != stored.size:
            return f"expected {stored.size} bytes, found {len(data)}"
        found = crc32c(data)
        if found != stored.crc:
            return f"damaged: expected checksum {stored.crc:08x}, found {found:08x}"
        return ""

    def _staged(self, token: str) -> bytes | None:
        """Return an object of the last record that a crash kept from its key."""
        if not token or not isinstance(self.store, LocalStore):
            return None
        path = self.store.scratch / token
        return path.read_bytes() if path.is_file() else None

    def _unknown(self, state: State) -> None:
        """Objects within what readers see, of which no record speaks."""
        for name, shape in shapes(state).items():
            array = state.arrays[name]
            if array.adopted:
                self._note_adopted(array)
                continue
            for index, key in self.format.chunks_in(self.store, array.layout):
                inside = _inside(array, index, shape)
                if index not in array.chunks and inside and not self.dataset.crashed():
                    self.report.add(name, key, "not in the ledger: another program wrote it")

    def _note_adopted(self, array: ArrayState) -> None:
        keys = [k for i, k in self.format.chunks_in(self.store, array.layout)
                if i not in array.chunks]  # fmt: skip
        if keys:
            self.report.notes.append(
                f"{array.layout.name!r} was made by another program: {len(keys)} of its chunks "
                "have no checksum and can't be judged"
            )


def _inside(array: ArrayState, index: Index, shape: Index) -> bool:
    return all(i * n < size for i, n, size in zip(index, array.layout.chunks, shape, strict=True))


def _stored(state: State, chunk: ChunkId) -> Stored | None:
    array = state.array(chunk[0], chunk[1])
    return None if array is None else array.chunks.get(chunk[2])
