"""Every stored byte against what the ledger knows of it.

Chunk objects are compared with their size and CRC-32C, records with theirs, and the metadata
documents with those that the ledger would publish. Nothing is locked or changed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crc32c import crc32c

from savers._existing import find
from savers._hdf5._saver import HDF5Format
from savers._ledger._frames import read_frames
from savers._maintenance._documents import compare_documents
from savers._maintenance._hdf5_compare import compare_file
from savers._session._publishing import shapes
from savers._stores._files import storage_errors
from savers._stores._store import StagingStore
from savers.errors import FormatError, SaverError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from savers._existing import Dataset, Existing, Replayed
    from savers._ledger._state import ArrayLayout, ArrayState, Stored

__all__ = ["Finding", "Report", "examine", "verify"]

Index = tuple[int, ...]

#: Seconds after which what seems wrong is looked at again while somebody writes.
NEXT_LOOK = 0.3
#: What seems wrong in each of so many looks is wrong.
LOOKS = 4


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
    Reads only, and takes no lock: while somebody writes, what changes meanwhile is left out, and so
    are, there and after a crash, shapes and fill values that are yet to be published. Not found are
    changes of white space in metadata documents, chunks of arrays that another program made (until
    a saver rewrites them) and attributes that another program added to a group.

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
    report, quiet = _look(path, storage_options)
    looks = 1
    while report.findings and not quiet and looks < LOOKS:
        time.sleep(NEXT_LOOK)
        earlier = set(report.findings)
        report, quiet = _look(path, storage_options)
        if not quiet:  # else this one tells all
            report.findings = [finding for finding in report.findings if finding in earlier]
        looks += 1
    return report


def _look(path: object, storage_options: Mapping[str, Any] | None) -> tuple[Report, bool]:
    """Compare once; also return whether nobody wrote meanwhile."""
    existing = find(path, storage_options)
    if not (existing.datasets or existing.sequential):
        message = (
            f"{existing.location.name} has no ledger: it was not written by a saver, or its ledger "
            "was left behind when it was copied; there is nothing to compare it with"
        )
        raise FormatError(message)
    report, before = Report(), _stamps(existing)
    _check_sequential(existing, report)
    known = [one for one in (_check_ledger(d, report) for d in existing.datasets) if one]
    for one in known:
        Chunks(existing, one, report).check()
    if known:
        _check_documents(existing, known, report)
    return report, not any(one.held for one in known) and _stamps(existing) == before


def _stamps(existing: Existing) -> list[object]:
    """Return what changes whenever somebody opens, commits or closes."""
    return [(d.name, d.holder(), d.stream_stamp()) for d in existing.datasets]


# -- ledgers -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """A ledger that could be read, and whether readers may not yet see everything of it."""

    dataset: str
    replayed: Replayed
    held: bool
    crashed: bool


def _check_ledger(dataset: Dataset, report: Report) -> Read | None:
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
    return Read(name, replayed, holder is not None, crashed)


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


def _check_documents(existing: Existing, known: list[Read], report: Report) -> None:
    if not existing.exists:
        report.add("", existing.location.name, "the store is gone, only its ledger is there")
        return
    states = [one.replayed.state for one in known]
    unpublished = [one.replayed.state for one in known if one.held or one.crashed]
    compare = compare_file if isinstance(existing.format, HDF5Format) else compare_documents
    for key, array, problem in compare(existing, states, unpublished, report.counts):
        report.add(array, key, problem)


# -- chunks --------------------------------------------------------------------------------------


class Chunks:
    """The chunk objects of one dataset."""

    def __init__(self, existing: Existing, read: Read, report: Report) -> None:
        self.state = read.replayed.state
        self.unclosed = read.held or read.crashed
        self.store = existing.store(read.dataset)
        self.format = existing.format
        self.report = report

    def check(self) -> None:
        """Compare all chunks, and look for objects that no record knows."""
        staged = {chunk: token for token, chunk in self.state.staged.items()}
        for array in (*self.state.arrays.values(), *self.state.pending.values()):
            layout = array.layout
            for index, stored in array.chunks.items():
                key = self.format.chunk_key(layout, index)
                token = staged.get((layout.name, layout.generation, index), "")
                meant = [self._problem(layout, index, token, stored)]
                meant += [
                    self._problem(layout, index, token, one)
                    for one in (array.rewriting.get(index, ()) if meant[0] else ())
                ]
                if (problem := meant[0]) and all(meant):
                    self.report.add(layout.name, key, problem)
        self._unknown()
        self.store.close()

    def _problem(self, layout: ArrayLayout, index: Index, token: str, stored: Stored) -> str:
        try:
            data = self._staged(token)
            if data is None:
                data = self.format.read_chunk(self.store, layout, index)
        except SaverError as error:
            return str(error)
        self.report.counts["chunks"] += 1
        if data is None and not stored.size:
            return ""  # nothing but the fill value, without an object
        if data is None:
            return f"missing: expected {stored.size} bytes of checksum {stored.crc:08x}"
        self.report.counts["bytes"] += len(data)
        if len(data) != stored.size:
            return f"expected {stored.size} bytes, found {len(data)}"
        found = crc32c(data)
        if found != stored.crc:
            return f"damaged: expected checksum {stored.crc:08x}, found {found:08x}"
        return ""

    def _staged(self, token: str) -> bytes | None:
        """Return an object of the last record that a crash kept from its key."""
        if not token or not isinstance(self.store, StagingStore):
            return None
        return self.store.get_staged(token)

    def _unknown(self) -> None:
        """Objects within what readers see, of which no record speaks."""
        for name, shape in shapes(self.state).items():
            array = self.state.arrays[name]
            if array.adopted:
                self._note_adopted(array)
            elif not self.unclosed:  # else it may be of a commit without its record
                for index, key in self.format.chunks_in(self.store, array.layout):
                    if index not in array.chunks and _inside(array, index, shape):
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
