"""What a ledger's records add up to. Pure: records in, state out, and a state back into records.

`State.apply` folds one record; `State.snapshot` returns the few records that lead to the same
state, which is how a ledger is compacted.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from savers._jobs import Failure, ItemStatus, JobSpec, JobState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

__all__ = ["ArrayLayout", "ArrayState", "Job", "PieceRef", "State", "Stored"]

#: More cells of an array, or items of a job, than any run has.
MOST_CELLS = 1 << 31

Index = tuple[int, ...]
Record = tuple[dict[str, Any], list[bytes]]


class Stored(NamedTuple):
    """A chunk as it was put into the store: bytes and CRC-32C of the encoded object."""

    size: int
    crc: int


class PieceRef(NamedTuple):
    """Committed values of a chunk that is not yet in the store; their bytes lie in the ledger.

    `at` and `size` are the place of the bytes in the ledger's stream, `start` and `shape` the
    cells within the chunk.
    """

    at: int
    size: int
    start: Index
    shape: Index


@dataclass(frozen=True, slots=True)
class ArrayLayout:
    """An array as it was created.

    Parameters
    ----------
    name : str
        Path within the store.
    dtype : str
        NumPy dtype of the values ("T" for text).
    shape : tuple of int
        Extents; that of a growing axis is 0.
    chunks : tuple of int
        Cells of one stored object (a shard where there are shards).
    growing : bool
        True when axis 0 grows.
    cells : tuple of int
        Axes along which results are told apart (axis 0 of a growing array, or the labelled
        dimensions).
    rounding : bool
        True when ``dtype=`` was asked for, so that floats may lose digits.
    generation : int
        Raised by every overwrite; its parity tells where chunks lie.
    meta : dict
        What the format needs to know (JSON).
    """

    name: str
    dtype: str
    shape: Index
    chunks: Index
    growing: bool = True
    cells: Index = (0,)
    rounding: bool = False
    generation: int = 0
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def values_dtype(self) -> np.dtype[Any]:
        """The dtype in which callers see the values."""
        return np.dtype(np.dtypes.StringDType()) if self.dtype == "T" else np.dtype(self.dtype)

    def renumbered(self, generation: int) -> ArrayLayout:
        """Return the layout of another generation."""
        return replace(self, generation=generation)

    def to_json(self) -> dict[str, Any]:
        """Return the layout as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> ArrayLayout:
        """Return the layout of a JSON object."""
        tuples = {name: tuple(given[name]) for name in ("shape", "chunks", "cells")}
        return cls(**{**given, **tuples})


@dataclass(slots=True)
class ArrayState:
    """An array as its records left it.

    Attributes
    ----------
    layout : ArrayLayout
    status : ndarray of uint8
        An `ItemStatus` for each cell along `layout.cells` (each row of a growing array).
    chunks : dict
        Chunks that are in the store.
    loose : dict
        Pieces of chunks that are only in the ledger, oldest first.
    published : tuple of int or None
        Shape that readers see; None before the first time.
    before : tuple of int or None
        The one they saw before it (a crash may have left that).
    adopted : bool
        True when another program created the array.
    """

    layout: ArrayLayout
    status: NDArray[np.uint8]
    chunks: dict[Index, Stored] = field(default_factory=dict)
    loose: dict[Index, list[PieceRef]] = field(default_factory=dict)
    published: Index | None = None
    before: Index | None = None
    adopted: bool = False
    _room: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8), repr=False)

    @property
    def rows(self) -> int:
        """Number of rows that are taken: one more than the last settled one."""
        return len(self.status) if self.layout.growing else 0

    def extent(self) -> Index:
        """Return the shape to publish: it ends before the first row that is not settled."""
        if not self.layout.growing:
            return self.layout.shape
        gaps = np.flatnonzero(self.status == ItemStatus.OPEN)
        first = int(gaps[0]) if len(gaps) else len(self.status)
        return (first, *self.layout.shape[1:])

    def _grow(self, rows: int) -> None:
        """Lengthen the status table; its room to spare keeps many small appends cheap."""
        if self.status.base is not self._room or rows > len(self._room):
            self._room = np.zeros(max(rows, 2 * len(self.status)), np.uint8)
            self._room[: len(self.status)] = self.status
        self.status = self._room[:rows]

    def settle(self, start: Index, stop: Index, status: int) -> None:
        """Set the status of a box of cells; a failure never hides what is done."""
        require_sane(max(stop, default=0), min(start, default=0))
        if self.layout.growing and stop[0] > len(self.status):
            self._grow(stop[0])
        cells = self.status[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))]
        if status in (ItemStatus.DONE, ItemStatus.OPEN):
            cells[...] = status
        else:
            cells[cells != ItemStatus.DONE] = status


def require_sane(largest: int, smallest: int = 0) -> None:
    """Refuse counts that no run reaches, before memory is taken for them.

    Raises
    ------
    ValueError
        Over `MOST_CELLS`, or negative.
    """
    if largest > MOST_CELLS or smallest < 0:
        message = f"a count of {largest if largest > MOST_CELLS else smallest} is out of bounds"
        raise ValueError(message)


def fresh_array(layout: ArrayLayout) -> ArrayState:
    """Return the state of an array that was just created."""
    require_sane(math.prod(layout.shape[axis] for axis in layout.cells))
    return ArrayState(layout, np.zeros([layout.shape[axis] for axis in layout.cells], np.uint8))


@dataclass(slots=True)
class Job:
    """A job and where its items lie.

    Attributes
    ----------
    state : JobState
    bases : dict of str to int
        Row of the job's item 0 in each growing array.
    fields : tuple of str or None
        Arrays that an item fills; None before the first result.
    places : ndarray of int32, shape (n, k) or None
        Index of each item along the labelled dimensions.
    generation : dict of str to int
        Generations of the arrays that the job writes, where it replaces them.
    """

    state: JobState
    bases: dict[str, int] = field(default_factory=dict)
    fields: tuple[str, ...] | None = None
    places: NDArray[np.int32] | None = None
    label_dims: tuple[str, ...] = ()

    def place(self, positions: Sequence[int], places: NDArray[np.int32]) -> None:
        """Note where items lie along the labelled dimensions."""
        size = max(positions, default=-1) + 1
        if self.places is None:
            self.places = np.full((0, places.shape[1]), -1, np.int32)
        if size > len(self.places):
            grown = np.full((max(size, 2 * len(self.places)), places.shape[1]), -1, np.int32)
            grown[: len(self.places)] = self.places
            self.places = grown
        self.places[list(positions)] = places


@dataclass(slots=True)
class State:
    """Everything that a ledger says.

    Attributes
    ----------
    store_id : str
        Also stands in the root attributes of the store.
    arrays : dict of str to ArrayState
        The arrays that readers see or will see next.
    pending : dict of str to ArrayState
        New generations that a job builds beside the arrays they will replace.
    jobs : dict of int to Job
    staged : dict of str to (array, generation, chunk)
        Staged objects of the last record, which a crash may have kept from their keys.
    settings : dict
        Dimensions, coordinates and attributes of the store, as the format keeps them.
    stale : dict of str to int
        Arrays whose old generation's chunks are still to be removed.
    """

    store_id: str = ""
    arrays: dict[str, ArrayState] = field(default_factory=dict)
    pending: dict[str, ArrayState] = field(default_factory=dict)
    jobs: dict[int, Job] = field(default_factory=dict)
    staged: dict[str, tuple[str, int, Index]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    stale: dict[str, int] = field(default_factory=dict)

    def array(self, name: str, generation: int | None = None) -> ArrayState | None:
        """Return an array, of a given generation where there are two."""
        for table in (self.arrays, self.pending):
            found = table.get(name)
            if found and generation in (None, found.layout.generation):
                return found
        return None

    def apply(self, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
        """Fold one record into the state. `raw_at` is where its raw bytes lie in the stream."""
        fold: dict[str, Callable[[State, dict[str, Any], memoryview, int], None]] = {
            "header": _fold_header,
            "array": _fold_array,
            "job": _fold_job,
            "commit": _fold_commit,
            "publish": _fold_publish,
            "replace": _fold_replace,
            "finish": _fold_finish,
            "settings": _fold_settings,
            "clean": _fold_clean,
            "staged": _fold_staged,
        }
        self.staged = {}
        fold[record["kind"]](self, record, raw, raw_at)

    def snapshot(self, read: Callable[[PieceRef], bytes]) -> Iterator[Record]:
        """Yield the records that lead to this state. `read` fetches the bytes of a piece."""
        yield {"kind": "settings", "settings": self.settings}, []
        for pending, table in ((False, self.arrays), (True, self.pending)):
            for array in table.values():
                yield _array_record(array, read, pending=pending)
        for job in self.jobs.values():
            yield _job_record(job)
        for name, generation in self.stale.items():
            yield {"kind": "replace", "array": name, "stale": generation}, []
        if self.staged:
            yield {"kind": "staged", "chunks": list(self.staged.items())}, []


# -- folding -------------------------------------------------------------------------------------


def _fold_header(state: State, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    state.store_id = record["store"]


def _fold_settings(state: State, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    state.settings.update(record["settings"])


def _fold_array(state: State, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    layout = ArrayLayout.from_json(record["layout"])
    array = fresh_array(layout)
    sizes = record.get("sizes", [0, 0])
    if sizes[0]:
        shape = record["status"]
        flat = np.frombuffer(_inflate(raw[: sizes[0]], math.prod(shape)), np.uint8)
        array.status = flat.reshape(shape).copy()
    if sizes[1]:
        array.chunks = _unpack_chunks(raw[sizes[0] : sizes[0] + sizes[1]], len(layout.chunks))
    array.published = _shape(record.get("published"))
    array.before = _shape(record.get("before"))
    array.adopted = record.get("adopted", False)
    if record.get("rows"):
        array.settle((0,), (record["rows"],), ItemStatus.DONE)
    _note_pieces(array, record.get("pieces", []), raw_at, len(raw))
    table = state.pending if record.get("pending") else state.arrays
    table[layout.name] = array


def _inflate(raw: memoryview, expected: int) -> bytes:
    """Decompress bytes of a known length; a longer answer is refused, not taken."""
    require_sane(expected)
    stream = zlib.decompressobj()
    data = stream.decompress(raw, expected) if expected else b""
    if len(data) != expected or stream.decompress(stream.unconsumed_tail, 1):
        message = f"expected {expected} bytes of status"
        raise ValueError(message)
    return data


def _shape(given: list[int] | None) -> Index | None:
    return None if given is None else tuple(given)


def _note_pieces(array: ArrayState, pieces: list[list[Any]], raw_at: int, room: int) -> None:
    """Note pieces whose bytes lie among the `room` raw bytes of a record."""
    for chunk, start, shape, offset, size in pieces:
        require_sane(max(math.prod(shape), size), min(offset, room - offset - size))
        piece = PieceRef(raw_at + offset, size, tuple(start), tuple(shape))
        array.loose.setdefault(tuple(chunk), []).append(piece)


def _fold_commit(state: State, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    for new in record.get("new", ()):
        _fold_array(state, new, memoryview(b""), 0)
    for entry in record.get("arrays", ()):
        array = state.array(entry["array"], entry.get("generation"))
        if array is None:
            continue
        _note_chunks(state, array, entry.get("chunks", ()))
        _note_pieces(array, entry.get("pieces", ()), raw_at, len(raw))
        for start, stop, status in entry.get("cells", ()):
            array.settle(tuple(start), tuple(stop), status)
    if "job" in record:
        _fold_items(state.jobs[record["job"]], record, raw)
        state.jobs[record["job"]].state.finished |= record.get("finished", False)
    for name, stale in record.get("replace", {}).items():
        _fold_replace(state, {"array": name, "stale": stale, "job": record.get("job")}, raw, raw_at)
    for name in record.get("dropped", ()):
        state.arrays.pop(name, None)
        state.pending.pop(name, None)
    for name, rows in record.get("rows", {}).items():
        _cut_rows(state.arrays[name], rows)
    if "discarded" in record:
        state.jobs.pop(record["discarded"])


def _note_chunks(state: State, array: ArrayState, chunks: Sequence[list[Any]]) -> None:
    for chunk, size, crc, token in chunks:
        index = tuple(chunk)
        array.chunks[index] = Stored(size, crc)
        array.loose.pop(index, None)
        if token:
            state.staged[token] = (array.layout.name, array.layout.generation, index)


def _fold_items(job: Job, record: dict[str, Any], raw: memoryview) -> None:
    if "fields" in record:
        job.fields = tuple(record["fields"])
        job.bases.update(record["bases"])
        job.label_dims = tuple(record.get("label_dims", ()))
    count = sum(stop - first for first, stop in record["done"])
    if not 0 <= 8 * count <= len(raw):
        message = f"{count} items without their digests"
        raise ValueError(message)
    positions = [p for first, stop in record["done"] for p in range(first, stop)]
    require_sane(max(positions, default=0), min(positions, default=0))
    digests = np.frombuffer(raw[: 8 * len(positions)], "<u8")
    for position, digest in zip(positions, digests.tolist(), strict=True):
        job.state.settle(position, digest, ItemStatus.DONE)
    if record.get("places"):
        width = record["places"]
        at = 8 * len(positions)
        table = np.frombuffer(raw[at : at + 4 * width * len(positions)], "<i4")
        job.place(positions, table.reshape(-1, width))
    for given in record.get("failed", ()):
        note_failure(job.state, Failure(**given))


def note_failure(state: JobState, failure: Failure) -> None:
    """Note that an item was given up."""
    status = ItemStatus.SKIPPED if failure.final else ItemStatus.FAILED
    require_sane(failure.position, failure.position)
    state.settle(failure.position, failure.digest, status)
    state.failures[failure.position] = failure


def _fold_publish(state: State, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    for entry in record["arrays"]:
        array = state.array(entry["array"], entry.get("generation"))
        if array is None:
            continue
        _note_chunks(state, array, entry.get("chunks", ()))
        array.before, array.published = array.published, _shape(entry["shape"])


def _fold_replace(state: State, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    """A new generation takes the place of an array; the old one's chunks are to be removed."""
    name = record["array"]
    if name in state.pending:
        new = state.pending.pop(name)
        new.published = new.extent()
        state.arrays[name] = new
        _forget_jobs(state, name, record.get("job"))
    state.stale[name] = record["stale"]


def _forget_jobs(state: State, name: str, job_id: int | None) -> None:
    """What other jobs saved in an array that was replaced is no more."""
    for number, job in list(state.jobs.items()):
        if number != job_id and name in (job.fields or ()):
            del state.jobs[number]


def _fold_clean(state: State, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    state.stale.pop(record["array"], None)


def _fold_staged(state: State, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    """What a snapshot still has to say of renames that may not have taken place."""
    for token, (name, generation, index) in record["chunks"]:
        state.staged[token] = (name, generation, tuple(index))


def _fold_job(state: State, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    job_state = JobState(record["job"], JobSpec(**record["spec"]), record["seed"])
    job = Job(job_state, record.get("bases", {}))
    job.fields = _names(record.get("fields"))
    job.label_dims = tuple(record.get("label_dims", ()))
    job_state.finished = record.get("finished", False)
    count, status, width = record.get("sizes", [0, 0, 0])
    if count:
        job_state.digests = np.frombuffer(raw[: 8 * count], "<u8").astype(np.uint64)
        packed = raw[8 * count : 8 * count + status]
        job_state.status = np.frombuffer(_inflate(packed, count), np.uint8).copy()
    if width:
        known = _inflate(raw[8 * count + status :], 4 * width * min(count, record["placed"]))
        table = np.frombuffer(known, "<i4")
        job.places = table.reshape(-1, width).copy()
    for given in record.get("failed", ()):
        failure = Failure(**given)
        job_state.failures[failure.position] = failure
    state.jobs[job_state.job_id] = job


def _names(given: list[str] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(given)


def _fold_finish(state: State, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    state.jobs[record["job"]].state.finished = True
    for name, start, stop in record.get("holes", ()):
        array = state.array(name)
        if array is not None:
            holes = array.status[start:stop]
            holes[holes == ItemStatus.OPEN] = ItemStatus.SKIPPED


def _cut_rows(array: ArrayState, rows: int) -> None:
    """Forget the rows from `rows` on."""
    array.status = array.status[:rows].copy()
    size = array.layout.chunks[0]
    for table in (array.chunks, array.loose):
        for index in [i for i in table if i[0] * size >= rows]:
            del table[index]


# -- snapshots -----------------------------------------------------------------------------------


def _array_record(array: ArrayState, read: Callable[[PieceRef], bytes], *, pending: bool) -> Record:
    status = zlib.compress(array.status.tobytes(), 1) if array.status.size else b""
    chunks = _pack_chunks(array.chunks, len(array.layout.chunks))
    raw, pieces, offset = [status, chunks], [], len(status) + len(chunks)
    for index, refs in array.loose.items():
        for ref in refs:
            raw.append(read(ref))
            pieces.append([index, ref.start, ref.shape, offset, ref.size])
            offset += ref.size
    record = {
        "kind": "array",
        "layout": array.layout.to_json(),
        "status": array.status.shape,
        "sizes": [len(status), len(chunks)],
        "published": array.published,
        "before": array.before,
        "adopted": array.adopted,
        "pieces": pieces,
        "pending": pending,
    }
    return record, raw


def _chunk_dtype(ndim: int) -> np.dtype[Any]:
    return np.dtype([("index", "<i4", (ndim,)), ("size", "<u8"), ("crc", "<u4")])


def _pack_chunks(chunks: dict[Index, Stored], ndim: int) -> bytes:
    table = np.zeros(len(chunks), _chunk_dtype(ndim))
    for row, (index, stored) in enumerate(chunks.items()):
        table[row] = (index, stored.size, stored.crc)
    return table.tobytes()


def _unpack_chunks(raw: memoryview, ndim: int) -> dict[Index, Stored]:
    table = np.frombuffer(raw, _chunk_dtype(ndim))
    indices = map(tuple, table["index"].tolist())
    stored = map(Stored, table["size"].tolist(), table["crc"].tolist())
    return dict(zip(indices, stored, strict=True))


def job_record(state: JobState) -> dict[str, Any]:
    """Return the record that begins a job."""
    return _job_record(Job(state))[0]


def _job_record(job: Job) -> Record:
    known = job.state.known()
    status = zlib.compress(job.state.status[:known].tobytes(), 1) if known else b""
    places = b"" if job.places is None else zlib.compress(job.places[:known].tobytes(), 1)
    spec = job.state.spec
    record = {
        "kind": "job",
        "job": job.state.job_id,
        "spec": {name: getattr(spec, name) for name in spec.__slots__},
        "seed": job.state.seed,
        "finished": job.state.finished,
        "bases": job.bases,
        "fields": job.fields,
        "label_dims": job.label_dims,
        "sizes": [known, len(status), 0 if job.places is None else job.places.shape[1]],
        "placed": 0 if job.places is None else len(job.places[:known]),
        "failed": [failure_json(failure) for failure in job.state.failures.values()],
    }
    return record, [job.state.digests[:known].astype("<u8").tobytes(), status, places]


def failure_json(failure: Failure) -> dict[str, Any]:
    """Return a failure as a JSON object."""
    return {name: getattr(failure, name) for name in failure.__slots__}
