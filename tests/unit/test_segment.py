"""The segment of a single file: what a crash or another process leaves of it."""

from __future__ import annotations

import os

import pytest

from savers import StorageError
from savers._stores._segment import Segment


@pytest.fixture
def segment(tmp_path):
    segment = Segment(tmp_path / "x.ledger" / "x.segment", synced=False)
    yield segment
    segment.close()


def content(segment):
    return {name: segment.get(name) for name in segment.names()}


def test_objects_are_put_replaced_moved_and_dropped(segment):
    segment.put("a", [b"1", b"23"])
    segment.put("b", [b""])
    segment.stage("token", [b"new"])
    assert (content(segment), segment.staged()) == ({"a": b"123", "b": b""}, ["token"])
    assert segment.get_staged("token") == b"new"
    segment.move("token", "a")
    segment.drop("b")
    segment.drop("never there")
    assert (content(segment), segment.staged()) == ({"a": b"new"}, [])


def test_another_process_sees_what_was_appended(segment):
    other = Segment(segment.path, synced=False)
    for number in range(5):
        segment.put(f"{number}", [bytes([number]) * 100])
        assert len(other.names()) == number + 1
    segment.keep(["3"])
    assert content(other) == {"3": bytes([3]) * 100}
    segment.keep([])
    assert content(other) == {}
    assert not segment.path.exists()
    other.close()


def test_what_is_kept_is_all_that_is_left_with_what_waits(segment):
    for name in "abc":
        segment.put(name, [name.encode() * 1000])
    segment.stage("token", [b"waits"])
    segment.keep(["b"])
    assert segment.path.stat().st_size < 1200
    segment.put("d", [b"later"])
    segment.close()
    assert content(segment) == {"b": b"b" * 1000, "d": b"later"}
    assert segment.get_staged("token") == b"waits"


def test_cut_at_any_byte_all_whole_objects_are_there(segment):
    sizes = []
    for number in range(4):
        segment.put(f"{number}", [bytes([65 + number]) * 20])
        sizes.append(segment.path.stat().st_size)
    whole = segment.path.read_bytes()
    for cut in range(len(whole) + 1):
        segment.close()
        segment.path.write_bytes(whole[:cut])
        assert list(content(segment)) == [str(n) for n in range(4) if sizes[n] <= cut]
        if cut in (sizes[1] + 3, sizes[3] - 1):  # and goes on behind what is torn
            segment.put("next", [b"next"])
            segment.close()
            assert segment.get("next") == b"next"


def test_damage_in_one_frame_hides_no_other(segment):
    for number in range(4):
        segment.put(f"{number}", [bytes([65 + number]) * 20])
    whole = segment.path.read_bytes()
    begin = whole.index(b"SEGF", 1)
    for place in range(begin, begin + 28):  # of the header
        damaged = bytearray(whole)
        damaged[place] ^= 0xFF
        segment.close()
        segment.path.write_bytes(damaged)
        assert {"0", "2", "3"} <= set(segment.names())


def test_a_refused_append_leaves_what_was_there(segment, monkeypatch):
    segment.put("a", [b"first"])
    with monkeypatch.context() as patched:
        written = os.writev

        def half(descriptor, parts):
            written(descriptor, [b"".join(parts)[:10]])
            raise OSError(28, "No space left on device")

        patched.setattr("savers._stores._files.os.writev", half)
        with pytest.raises(StorageError, match="append to"):
            segment.put("b", [b"second"])
    segment.put("c", [b"third"])
    segment.close()
    assert content(segment) == {"a": b"first", "c": b"third"}


def test_after_a_failed_fsync_everything_is_written_again(tmp_path, monkeypatch):
    segment = Segment(tmp_path / "x.ledger" / "x.segment", synced=True)
    segment.put("a", [b"first"])
    with monkeypatch.context() as patched:

        def fails(descriptor):
            raise OSError(5, "Input/output error")

        patched.setattr("savers._stores._segment.os.fsync", fails)
        with pytest.raises(StorageError, match="sync"):
            segment.sync()
    before = segment.path.stat().st_ino
    segment.stage("token", [b"waits"])
    segment.sync()
    assert segment.path.stat().st_ino != before
    assert (content(segment), segment.get_staged("token")) == ({"a": b"first"}, b"waits")
    segment.close()


def test_a_link_in_its_place_is_refused(tmp_path):
    (tmp_path / "x.ledger").mkdir()
    (tmp_path / "secret").write_bytes(b"theirs")
    (tmp_path / "x.ledger" / "x.segment").symlink_to(tmp_path / "secret")
    segment = Segment(tmp_path / "x.ledger" / "x.segment", synced=False)
    with pytest.raises(StorageError):
        segment.put("a", [b"ours"])
    assert (tmp_path / "secret").read_bytes() == b"theirs"
