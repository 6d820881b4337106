"""The records of a ledger and the state they add up to. Pure, both ways.

`fold` adds one record to a state; `snapshot` returns the few records that lead to the same state,
which is how a ledger is compacted. The records are described in docs/ledger-format.md.
"""

from __future__ import annotations

import math
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._jobs import Failure, ItemStatus, JobSpec, JobState
from savers._ledger._state import ArrayLayout, Job, PieceRef, Stored, fresh_array, require_sane

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from savers._ledger._state import ArrayState, State

__all__ = ["failure_json", "fold", "job_record", "snapshot"]

Index = tuple[int, ...]
Record = tuple[dict[str, Any], list[bytes]]


def fold(state: State, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    """Add one record to a state. `raw_at` is where its raw bytes lie in the stream.

    Raises
    ------
    KeyError, TypeError, ValueError, ...
        The record makes no sense; the state is not to be used any more.
    """
    state.staged = {}
    _FOLDS[record["kind"]](state, record, raw, raw_at)


def snapshot(state: State, read: Callable[[PieceRef], bytes]) -> Iterator[Record]:
    """Yield the records that lead to a state. `read` fetches the bytes of a piece."""
    yield {"kind": "settings", "settings": state.settings}, []
    for pending, table in ((False, state.arrays), (True, state.pending)):
        for array in table.values():
            yield _array_record(array, read, pending=pending)
    for job in state.jobs.values():
        yield _job_record(job)
    for name, generation in state.stale.items():
        yield {"kind": "replace", "array": name, "stale": generation}, []
    for layout in state.gone.values():
        yield {"kind": "gone", "layout": layout.to_json()}, []
    if state.staged:
        yield {"kind": "staged", "chunks": list(state.staged.items())}, []


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
    _note_rewriting(array, record.get("rewriting", ()))
    for cell, offset, size in record.get("partial", ()):
        array.partial[tuple(cell)] = _unpack_mask(raw[offset : offset + size], layout)
    if record.get("put"):
        offset, size = record["put"]
        packed = _inflate(raw[offset : offset + size], 8 * len(array.chunks))
        moments = np.frombuffer(packed, "<u8").tolist()
        array.put_at = {i: at for i, at in zip(array.chunks, moments, strict=True) if at}
    table = state.pending if record.get("pending") else state.arrays
    table[layout.name] = array


def _unpack_mask(raw: memoryview, layout: ArrayLayout) -> NDArray[np.bool_]:
    """Return which values of a cell are written."""
    shape = [n for axis, n in enumerate(layout.shape) if axis not in layout.cells]
    count = math.prod(shape)
    packed = np.frombuffer(_inflate(raw, -(-count // 8)), np.uint8)
    return np.unpackbits(packed, count=count).astype(bool).reshape(shape)


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
    for name, shape in record.get("extents", {}).items():
        state.arrays[name].extend(tuple(shape))
    for entry in record.get("arrays", ()):
        _fold_entry(state, entry, raw, raw_at)
    _fold_labelled(state, record)
    if "job" in record:
        _fold_items(state.jobs[record["job"]], record, raw)
    for name, stale in record.get("replace", {}).items():
        _fold_replace(state, {"array": name, "stale": stale, "job": record.get("job")}, raw, raw_at)
    for name in record.get("dropped", ()):
        _drop(state, name)
    for name, rows in record.get("rows", {}).items():
        _cut_rows(state.arrays[name], rows)
    if "discarded" in record:
        state.jobs.pop(record["discarded"])


def _fold_entry(state: State, entry: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    array = state.array(entry["array"], entry.get("generation"))
    if array is None:
        return
    _note_chunks(state, array, entry.get("chunks", ()), entry.get("at"))
    _note_rewriting(array, entry.get("rewriting", ()))
    _note_pieces(array, entry.get("pieces", ()), raw_at, len(raw))
    for start, stop, status in entry.get("cells", ()):
        array.settle(tuple(start), tuple(stop), status)


def _fold_labelled(state: State, record: dict[str, Any]) -> None:
    """Values that are written of cells that are not whole by them alone; streams of writers."""
    for name, boxes in record.get("parts", {}).items():
        if (array := state.array(name)) is not None:
            for start, stop in boxes:
                array.cover(tuple(start), tuple(stop))
    if "taken_over" in record:
        state.settings["taken_over"] = record["taken_over"]


def _drop(state: State, name: str) -> None:
    """Forget an array; one that is built aside goes alone, and what it was to replace stays."""
    if state.pending.pop(name, None) is None and name in state.arrays:
        state.gone[name] = state.arrays.pop(name).layout


def _note_chunks(
    state: State, array: ArrayState, chunks: Sequence[list[Any]], at: Sequence[int] | None = None
) -> None:
    for (chunk, size, crc, token), moment in zip(chunks, at or [0] * len(chunks), strict=True):
        index = tuple(chunk)
        if 0 < moment < array.put_at.get(index, 0):
            continue  # another writer, whose records were read before, put a newer one
        array.put_at.pop(index, None)
        if moment:
            array.put_at[index] = moment
        _note_rewritten(array, index, Stored(size, crc))
        array.chunks[index] = Stored(size, crc)
        array.loose.pop(index, None)
        if token:
            state.staged[token] = (array.layout.name, array.layout.generation, index)


def _note_rewritten(array: ArrayState, index: Index, stored: Stored) -> None:
    """Forget what was announced before; a newer one may be announced ahead of this record."""
    meant = array.rewriting.pop(index, [])
    if stored in meant:
        meant = meant[meant.index(stored) + 1 :]
    elif index in array.chunks:
        meant = []
    if meant:
        array.rewriting[index] = meant


def _note_rewriting(array: ArrayState, chunks: Sequence[list[Any]]) -> None:
    for chunk, size, crc in chunks:
        array.rewriting.setdefault(tuple(chunk), []).append(Stored(size, crc))


def _fold_items(job: Job, record: dict[str, Any], raw: memoryview) -> None:
    job.state.finished = record.get("finished", False)  # a finished one whose list grew goes on
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
    state.stale.pop(record.get("array", ""), None)
    state.gone.pop(record.get("gone", ""), None)


def _fold_gone(state: State, record: dict[str, Any], raw: memoryview, raw_at: int) -> None:
    layout = ArrayLayout.from_json(record["layout"])
    state.gone[layout.name] = layout


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


_FOLDS: dict[str, Callable[[State, dict[str, Any], memoryview, int], None]] = {
    "header": _fold_header,
    "array": _fold_array,
    "job": _fold_job,
    "commit": _fold_commit,
    "publish": _fold_publish,
    "replace": _fold_replace,
    "finish": _fold_finish,
    "settings": _fold_settings,
    "clean": _fold_clean,
    "gone": _fold_gone,
    "staged": _fold_staged,
}


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
    partial = []
    for cell, mask in array.partial.items():
        raw.append(zlib.compress(np.packbits(mask).tobytes(), 1))
        partial.append([cell, offset, len(raw[-1])])
        offset += len(raw[-1])
    put = []
    if array.put_at:
        moments = np.array([array.put_at.get(index, 0) for index in array.chunks], "<u8")
        raw.append(zlib.compress(moments.tobytes(), 1))
        put = [offset, len(raw[-1])]
    record = {
        "kind": "array",
        "layout": array.layout.to_json(),
        "status": array.status.shape,
        "sizes": [len(status), len(chunks)],
        "published": array.published,
        "before": array.before,
        "adopted": array.adopted,
        "pieces": pieces,
        "partial": partial,
        "put": put,
        "rewriting": [[i, *one] for i, several in array.rewriting.items() for one in several],
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
