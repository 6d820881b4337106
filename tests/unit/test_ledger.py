"""The ledger survives any torn tail, finds every flipped bit, and compacts to itself."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

import savers._ledger._file_stream
import savers._ledger._ledger
from savers import Failure, JobSpec, LedgerCorruptedError, ZarrSaver
from savers._ledger._frames import HEADER, encode_frame, read_frames
from savers._ledger._home import Home
from savers._ledger._ledger import Ledger, replay
from savers._ledger._records import fold, snapshot
from savers._ledger._state import PieceRef, State
from savers._stores._store import MappingStore
from tests.properties import EXAMPLES
from tests.stores import tree, unchanged

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
RECORDS = st.dictionaries(st.text(max_size=4), JSON, max_size=3)
FRAMES = st.lists(st.tuples(RECORDS, st.lists(st.binary(max_size=9), max_size=2)), max_size=4)


def frames_of(stream):
    return [(frame.record, bytes(frame.raw)) for frame in read_frames(memoryview(stream), "x")]


# -- frames ----------------------------------------------------------------------------------------


@given(FRAMES)
def test_records_come_back(records):
    stream = b"".join(encode_frame(record, raw) for record, raw in records)
    assert frames_of(stream) == [(record, b"".join(raw)) for record, raw in records]
    for frame in read_frames(memoryview(stream), "x"):
        assert stream[frame.raw_at : frame.raw_at + len(frame.raw)] == frame.raw


@settings(max_examples=EXAMPLES // 2)
@given(FRAMES)
def test_a_torn_tail_of_any_length_loses_the_torn_record_alone(records):
    frames = [encode_frame(record, raw) for record, raw in records]
    stream, ends = b"".join(frames), [sum(map(len, frames[: n + 1])) for n in range(len(frames))]
    for cut in range(len(stream) + 1):
        assert len(frames_of(stream[:cut])) == sum(end <= cut for end in ends)


def torn_by_a_power_cut(cut):
    """Two records, of which the second has its full length but `cut` bytes that were written."""
    first, second = encode_frame({"n": 1}, [b"raw"]), encode_frame({"n": 2}, [b"raw"])
    return first + second[:cut] + bytes(len(second) - cut)


def test_a_tail_whose_blocks_were_never_written_is_torn():
    whole = len(encode_frame({"n": 2}, [b"raw"]))
    for cut in (0, *range(HEADER, whole)):
        assert frames_of(torn_by_a_power_cut(cut)) == [({"n": 1}, b"raw")]


def test_a_header_that_ends_in_a_block_never_written_is_torn():
    for cut in range(1, HEADER):
        assert frames_of(torn_by_a_power_cut(cut)) == [({"n": 1}, b"raw")]


def test_every_flipped_bit_is_found():
    stream = b"".join(encode_frame({"kind": "x", "n": n}, [b"raw", bytes(n)]) for n in range(3))
    missed = []
    for bit in range(8 * len(stream)):
        broken = bytearray(stream)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            frames_of(bytes(broken))
        except LedgerCorruptedError:
            continue
        missed.append(bit)
    assert missed == []


@pytest.mark.parametrize(
    "junk", [b"x", b"R x", b"\n", b"R 00000001 00000000 00000000 00000000\n{}"]
)
def test_junk_behind_the_last_record_is_no_torn_tail(junk):
    stream = encode_frame({"kind": "x"}) + junk
    if b"R ".startswith(junk[:2]) and len(junk) < 38:
        assert len(frames_of(stream)) == 1
    else:
        with pytest.raises(LedgerCorruptedError, match="damaged at byte"):
            frames_of(stream)


def test_what_is_not_a_number_enters_no_record():
    with pytest.raises(ValueError, match="JSON"):
        encode_frame({"x": float("nan")})


# -- replay ----------------------------------------------------------------------------------------


def described(state, stream):
    """A state in plain words, wherever the bytes of its pieces lie."""
    return json.dumps(_plain(dataclasses.asdict(state), stream), sort_keys=True, default=str)


def _plain(value, stream):
    if isinstance(value, PieceRef):
        return [bytes(stream[value.at : value.at + value.size]).hex(), value.start, value.shape]
    if isinstance(value, np.ndarray):
        trimmed = np.trim_zeros(value, "b") if value.ndim == 1 else value
        return [value.dtype.str, trimmed.tolist()]
    if isinstance(value, dict):
        public = {str(key): one for key, one in value.items() if str(key)[:1] != "_"}
        return {key: _plain(one, stream) for key, one in public.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one, stream) for one in value]
    return value


def refolded(stream):
    """The state of a stream, and that of its snapshot."""
    state = State()
    for frame in read_frames(memoryview(stream), "x"):
        fold(state, frame.record, frame.raw, frame.raw_at)

    def read(piece):
        return bytes(stream[piece.at : piece.at + piece.size])

    header = {"kind": "header", "format": 1, "store": state.store_id}
    frames = [encode_frame(header), *(encode_frame(*pair) for pair in snapshot(state, read))]
    compacted, again = b"".join(frames), State()
    for frame in read_frames(memoryview(compacted), "x"):
        fold(again, frame.record, frame.raw, frame.raw_at)
    return state, again, compacted


def stream_of(path, dataset="dataset"):
    home = Home(path.with_name(path.name + ".ledger"), None)
    return bytes(home.load(home.streams(dataset)[-1]))


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "overwrite", "update", "flush", "job"]),
        st.integers(1, 5),
        st.integers(0, 99),
    ),
    min_size=1,
    max_size=6,
)


def apply(path, operations):
    """Save what the operations say; yields the ledger's stream after each."""
    savers = {name: ZarrSaver(path, approach=name, chunks=3)
              for name in ("append", "overwrite", "update")}  # fmt: skip
    rows = 0
    for name, count, seed in operations:
        block = np.random.default_rng(seed).integers(0, 9, (count, 2))
        if name == "flush":
            savers["append"].flush()
        elif name == "job":
            rows += job(savers["append"], block, seed)
        elif name == "overwrite":
            savers[name].save(block)
            rows = count
        elif name == "append":
            savers[name].save(block)
            rows += count
        elif rows:
            savers[name].save(block[:1], [seed % rows])
        if rows:
            yield stream_of(path)
    for saver in savers.values():
        saver.close()
    if rows:
        yield stream_of(path)


def job(saver, block, seed):
    """A job whose last item fails; out of order, with the last row first."""
    jobs = saver.open_jobs()
    writer = jobs.begin(JobSpec("task"), seed)
    for position in reversed(range(len(block))):
        writer.stage(position, position + 1, block[position])
        writer.commit()
    writer.fail(Failure(len(block), 7, "ValueError", "no", final=bool(seed % 2)))
    if seed % 2:
        writer.finish(len(block) + 1)
    else:
        writer.commit()
    jobs.close()
    return len(block) + 1


@settings(max_examples=EXAMPLES // 2)
@given(OPERATIONS)
def test_a_compacted_ledger_says_the_same(tmp_path_factory, operations):
    path = tmp_path_factory.mktemp("ledger") / "out.zarr"
    for stream in apply(path, operations):
        state, again, compacted = refolded(stream)
        assert described(again, compacted) == described(state, stream)


def test_every_beginning_of_a_ledger_is_a_state_of_its_past(tmp_path):
    with ZarrSaver(tmp_path / "a", chunks=3) as saver:
        for number in range(8):
            saver.save([number])
        stream = stream_of(tmp_path / "a")
    rows = []
    for cut in range(len(stream) + 1):
        state = State()
        for frame in read_frames(memoryview(stream[:cut]), "x"):
            fold(state, frame.record, frame.raw, frame.raw_at)
        rows.append(state.arrays["dataset"].rows if "dataset" in state.arrays else 0)
    assert rows == sorted(rows)
    assert set(rows) == set(range(9))


# -- a saver and its ledger ------------------------------------------------------------------------


def saved(tmp_path):
    """A store whose last record is a row that readers have not yet seen."""
    path = tmp_path / "out.zarr"
    with ZarrSaver(path) as saver:
        saver.save([1, 2])
        saver.flush()
        saver.save([3])
        before = tree(tmp_path)
    return path, before


def restore(tmp_path, files):
    for name, data in files.items():
        if data is not None and not name.endswith(".lock"):
            (tmp_path / name).write_bytes(data)


def test_a_saver_goes_on_behind_a_torn_tail(tmp_path):
    path, files = saved(tmp_path)
    name = next(name for name in files if name.endswith(".log"))
    for cut in (1, 7, 40):
        for log in path.with_name("out.zarr.ledger").glob("*.log"):
            log.unlink()
        restore(tmp_path, {**files, name: files[name][:-cut]})
        with ZarrSaver(path) as saver:
            saver.save([9])
        import zarr

        assert zarr.open_group(path, mode="r")["dataset"][:].tolist() == [1, 2, 9]


def test_a_damaged_ledger_is_refused_and_nothing_is_changed(tmp_path):
    path, _ = saved(tmp_path)
    log = next(path.with_name("out.zarr.ledger").glob("*.log"))
    whole = log.read_bytes()
    for at in range(0, len(whole) - 1, 37):
        broken = bytearray(whole)
        broken[at] ^= 0x10
        log.write_bytes(broken)
        with (
            unchanged(tmp_path),
            ZarrSaver(path) as saver,
            pytest.raises(LedgerCorruptedError, match=r"dataset@\d+.* is damaged at byte \d+"),
        ):
            saver.save([4])


def test_a_ledger_of_a_newer_format_is_refused(tmp_path):
    path, _ = saved(tmp_path)
    log = next(path.with_name("out.zarr.ledger").glob("*.log"))
    log.write_bytes(encode_frame({"kind": "header", "format": 2, "store": "x"}))
    with (
        unchanged(tmp_path),
        ZarrSaver(path) as saver,
        pytest.raises(LedgerCorruptedError, match="format 2, this program reads up to 1"),
    ):
        saver.save([4])


def test_a_long_ledger_stays_as_small_as_its_state(tmp_path, monkeypatch):
    monkeypatch.setattr(savers._ledger._ledger, "COMPACT_BYTES", 2000)
    with ZarrSaver(tmp_path / "a", chunks=4) as saver:
        for number in range(100):
            saver.save(np.full((1, 8), number))
        size = len(stream_of(tmp_path / "a"))
    names = [name for name in tree(tmp_path / "a.ledger") if name.endswith(".log")]
    assert len(names) == 1
    assert size < 40_000
    state, _ = replay(Home(tmp_path / "a.ledger", None), "dataset")
    assert state.arrays["dataset"].rows == 100


def test_a_closed_ledger_keeps_no_values_that_are_in_the_store(tmp_path):
    rows = np.random.default_rng(0).normal(size=(100, 1024))
    with ZarrSaver(tmp_path / "a", codecs=None, chunks=1000) as saver:
        for _ in range(5):
            saver.save(rows)
        assert len(stream_of(tmp_path / "a")) > 3 << 20
    assert len(stream_of(tmp_path / "a")) < 10_000
    with ZarrSaver(tmp_path / "a") as saver:
        saver.save(rows)
    found = zarr.open_array(tmp_path / "a", path="dataset")
    np.testing.assert_array_equal(found, np.tile(rows, (6, 1)))


def test_a_ledger_in_a_mapping_reads_back(tmp_path):
    store = MappingStore({}, "a dict")
    ledger = Ledger(Home(None, store, "x/.ledger/"), "x", synced=False)
    assert not ledger.existed
    ledger.begin("id")
    ledger.append({"kind": "settings", "settings": {"a": 1}})
    ledger.close()
    again = Ledger(Home(None, store, "x/.ledger/"), "x", synced=False)
    assert again.existed
    assert (again.state.store_id, again.state.settings) == ("id", {"a": 1})


def test_a_failed_append_is_cut_off_before_the_next(tmp_path, monkeypatch):
    home = Home(tmp_path / "a.ledger", None)
    ledger = Ledger(home, "x", synced=False)
    ledger.begin("id")
    ledger.append({"kind": "settings", "settings": {"a": 0}})
    real = savers._ledger._file_stream.os.write

    def half(descriptor, data):
        real(descriptor, bytes(data)[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(savers._ledger._file_stream.os, "write", half)
        with pytest.raises(OSError, match=r"can't append to .*x@00000001.log.*free"):
            ledger.append({"kind": "settings", "settings": {"a": 1}})
    assert ledger.state.settings == {"a": 0}
    ledger.append({"kind": "settings", "settings": {"b": 2}})
    ledger.close()
    assert replay(home, "x")[0].settings == {"a": 0, "b": 2}
