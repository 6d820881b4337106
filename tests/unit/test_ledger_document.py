"""docs/ledger-format.md is true: its example runs, and it is enough to read a ledger.

The reader below was written from that page and uses nothing of savers.
"""

from __future__ import annotations

import doctest
import json
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c

from savers import Failure, JobSpec, ZarrSaver
from savers._ledger._state import ArrayLayout

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/ledger-format.md").read_text()


# ---- a reader from the page alone ----


def newest(folder: Path, dataset: str) -> Path:
    return max(folder.glob(f"{dataset}@{'[0-9]' * 8}.log"))


def frames(data: bytes):
    at = 0
    while len(data) - at >= 38:
        header = data[at : at + 38]
        text, raw, crc, own = (int(header[i : i + 8], 16) for i in (2, 11, 20, 29))
        if crc32c(header[:29]) != own:
            raise ValueError(f"damaged at {at}")
        body = data[at + 38 : at + 38 + text + raw]
        if at + 38 + text + raw + 1 > len(data):
            return  # torn
        if crc32c(body) != crc:
            raise ValueError(f"damaged at {at}")
        yield json.loads(body[:text]), body[text:]
        at += 38 + text + raw + 1


class Array:
    def __init__(self, given: dict, raw: bytes) -> None:
        self.layout = given["layout"]
        first, second = given.get("sizes", [0, 0])
        self.status = bytearray(zlib.decompress(raw[:first])) if first else bytearray()
        self.chunks, self.pieces = {}, {}
        form = f"<{len(self.layout['chunks'])}iQI"
        for entry in struct.iter_unpack(form, raw[first : first + second]):
            self.chunks[entry[:-2]] = entry[-2:]
        self.take(given, raw)

    def take(self, entry: dict, raw: bytes) -> None:
        for index, size, crc, _ in entry.get("chunks", ()):
            self.chunks[tuple(index)] = (size, crc)
            self.pieces.pop(tuple(index), None)
        for index, start, shape, offset, size in entry.get("pieces", ()):
            piece = start, shape, raw[offset : offset + size]
            self.pieces.setdefault(tuple(index), []).append(piece)
        for (start,), (stop,), status in entry.get("cells", ()):
            self.status += bytes(max(0, stop - len(self.status)))
            for cell in range(start, stop):
                if status < 2 or self.status[cell] != 1:
                    self.status[cell] = status

    def rows(self, store: Path) -> list[tuple[float, ...] | None]:
        """The committed rows of a growing array of <f8, stored raw; None for those that are not."""
        length, width = self.layout["chunks"]
        table: list = [None] * (len(self.status) + length)
        separator = "/."[self.layout["generation"] % 2]
        for index, (size, crc) in self.chunks.items():
            key = separator.join(["c", *map(str, index)])
            data = (store / self.layout["name"] / key).read_bytes()
            if (len(data), crc32c(data)) != (size, crc):
                raise ValueError(f"{key} is damaged")
            table[index[0] * length : (index[0] + 1) * length] = struct.iter_unpack(
                f"<{width}d", data
            )
        for index, pieces in self.pieces.items():
            for start, _, data in pieces:
                for row, values in enumerate(struct.iter_unpack(f"<{width}d", data)):
                    table[index[0] * length + start[0] + row] = values
        return [row if done == 1 else None for row, done in zip(table, self.status)]  # noqa: B905


def read(store: Path, dataset: str) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    pending: dict[str, Array] = {}
    for record, raw in frames(
        newest(store.with_name(f"{store.name}.ledger"), dataset).read_bytes()
    ):
        if record["kind"] == "header" and record["format"] > 1:
            raise ValueError("too new")
        created = [(new, b"") for new in record.get("new", ())]
        for new, its in [(record, raw)] if record["kind"] == "array" else created:
            (pending if new.get("pending") else arrays)[new["layout"]["name"]] = Array(new, its)
        if record["kind"] in ("commit", "publish"):
            for entry in record["arrays"]:
                found = [table.get(entry["array"]) for table in (arrays, pending)]
                generation = entry.get("generation")
                for array in [a for a in found if a]:
                    if generation in (None, array.layout["generation"]):
                        array.take(entry, raw)
                        break
        for name in record.get("replace", ()):
            if name in pending:
                arrays[name] = pending.pop(name)
    return arrays


# ---- and what it finds ----


def rows(first: int, count: int) -> np.ndarray:
    return np.arange(first * 3.0, (first + count) * 3.0).reshape(count, 3)


def found(store: Path, dataset: str = "a") -> list:
    return read(store, dataset)["a"].rows(store)


def test_the_reader_finds_every_committed_row_at_every_moment(tmp_path):
    store = tmp_path / "out.zarr"
    expected: list = []
    for session in range(3):
        with ZarrSaver(store, "a", chunks=4, codecs=None) as saver:
            for count in (1, 2, 5, 1, 9):
                new = rows(100 * session + len(expected), count)
                saver.save(new)
                expected += [tuple(row) for row in new.tolist()]
                assert found(store) == expected  # committed, some of it in the ledger alone
            saver.flush()
            assert found(store) == expected
        assert found(store) == expected


def test_the_reader_follows_an_overwrite_and_an_update(tmp_path):
    store = tmp_path / "out.zarr"
    for start in (0, 50):
        with ZarrSaver(store, "a", approach="overwrite", chunks=4, codecs=None) as saver:
            saver.save(rows(start, 6))
            assert found(store) == [tuple(row) for row in rows(start, 6).tolist()]
    with ZarrSaver(store, "a", approach="update") as saver:
        saver.save(rows(90, 2), indices=[1, 5])
    changed = rows(50, 6)
    changed[[1, 5]] = rows(90, 2)
    assert found(store) == [tuple(row) for row in changed.tolist()]


def test_the_reader_knows_holes_and_rows_out_of_order(tmp_path):
    store = tmp_path / "out.zarr"
    with ZarrSaver(store, "a", chunks=2, codecs=None) as saver:
        jobs = saver.open_jobs()
        writer = jobs.begin(JobSpec("task"), 0)
        for position in (0, 1, 5, 6, 7):
            writer.stage(position, position, np.full(3, float(position)))
        writer.fail(Failure(2, 2, "ValueError", "no"))
        writer.commit()
        expected = [(float(n),) * 3 if n in (0, 1, 5, 6, 7) else None for n in range(8)]
        assert found(store) == expected
        jobs.close()
    assert found(store) == expected
    assert list(read(store, "a")["a"].status) == [1, 1, 2, 0, 0, 1, 1, 1]


def test_the_reader_stops_before_a_torn_tail_and_refuses_damage(tmp_path):
    store = tmp_path / "out.zarr"
    with ZarrSaver(store, "a", chunks=4, codecs=None) as saver:
        saver.save(rows(0, 2))
        saver.flush()
        before = found(store)
        saver.save(rows(2, 1))
        stream = newest(tmp_path / "out.zarr.ledger", "a")
        whole = stream.read_bytes()
        stream.write_bytes(whole[:-5])
        assert found(store) == before
        middle = whole.index(b'"publish"')
        stream.write_bytes(whole[:middle] + b"?" + whole[middle + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            found(store)
        stream.write_bytes(whole)


# ---- the page itself ----


def test_the_example_of_the_page_runs():
    outcome = doctest.DocTestRunner().run(
        doctest.DocTestParser().get_doctest(PAGE.replace("```", ""), {}, "page", None, 0)
    )
    assert outcome.attempted >= 4
    assert outcome.failed == 0


def documented() -> set[str]:
    return set(re.findall(r"`(\w+)`", PAGE))


def test_every_kind_of_record_has_a_section():
    code = "".join(path.read_text() for path in (ROOT / "savers").rglob("_*.py"))
    kinds = set(re.findall(r'"(\w+)": _fold', code))
    assert "commit" in kinds
    headings = " ".join(re.findall(r"^### .*$", PAGE, re.MULTILINE))
    assert kinds <= set(re.findall(r"`(\w+)`", headings))


def test_every_field_that_is_written_is_on_the_page(tmp_path):
    store = tmp_path / "out.zarr"
    settings = {"dims": ("t", "y"), "coords": {"t": [1.0, 2.0, 3.0]}, "attrs": {"title": "x"}}
    with ZarrSaver(store, "a", chunks=(1, 2), **settings) as saver:
        jobs = saver.open_jobs()
        writer = jobs.begin(JobSpec("task", identity="labels"), 0)
        writer.stage(0, 1, np.ones(4), {"t": 2.0})
        writer.fail(Failure(1, 2, "ValueError", "no"))
        writer.commit()
        jobs.close()
    streams = []
    for approach in ("overwrite", "append", "overwrite", "update"):
        with ZarrSaver(store, "b", approach=approach, chunks=2) as saver:
            if approach == "append":
                jobs = saver.open_jobs()
                writer = jobs.begin(JobSpec("other"), 0)
                writer.stage(0, 0, 1.0)
                writer.finish(1)
                jobs.discard(writer.state.job_id)
                jobs.abandon(jobs.begin(JobSpec("third"), 0).state.job_id)
                jobs.close()
            else:
                saver.save([1.0, 2.0], indices=[0, 1] if approach == "update" else None)
            streams.append(newest(tmp_path / "out.zarr.ledger", "b").read_bytes())
    streams.append(newest(tmp_path / "out.zarr.ledger", "a").read_bytes())
    with ZarrSaver(store, "a", **settings) as saver:
        saver.open_jobs().close()
        streams.append(newest(tmp_path / "out.zarr.ledger", "a").read_bytes())
    names: set[str] = set(ArrayLayout.__slots__)
    kinds = set()
    for stream in streams:
        for record, _ in frames(stream):
            kinds.add(record["kind"])
            names |= record.keys()
            for part in (
                *record.get("arrays", ()),
                *record.get("new", ()),
                *record.get("failed", ()),
            ):
                names |= part.keys()
            names |= record.get("spec", {}).keys()
    assert {"header", "settings", "array", "commit", "publish", "job", "finish"} <= kinds
    assert sorted(names - documented()) == []


def test_names_of_streams_are_as_the_page_says(tmp_path):
    with ZarrSaver(tmp_path / "out.zarr", "größe/a b") as saver:
        saver.save([1.0])
    names = [name for name in os.listdir(tmp_path / "out.zarr.ledger") if name.endswith(".log")]
    assert names == ["gr%C3%B6%C3%9Fe%2Fa%20b@00000001.log"]
