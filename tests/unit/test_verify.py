"""`savers verify` finds every flipped byte, and says what it can't judge."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from savers import JobSpec, NotFoundError, ZarrSaver
from savers._maintenance._recover import recover
from savers._maintenance._verify import examine, verify
from savers.errors import FormatError

ROOT = Path(__file__).parents[2]


def fill(path: Path, **settings) -> None:
    """Several chunks a save, a coordinate, text, an overwritten array, rows only in the ledger."""
    coords = {"x": np.arange(6.0)}
    attrs = {"title": "a title", "energy": {"units": "J"}}
    with ZarrSaver(
        path, "energy", dims=("row", "x"), coords=coords, attrs=attrs, chunks=4, **settings
    ) as saver:
        for first in range(0, 30, 6):
            saver.save(np.arange(first * 6.0, first * 6.0 + 36).reshape(6, 6))
    with ZarrSaver(path, "names", **settings) as saver:
        saver.save(["a", "bb", "ccc"])
    with ZarrSaver(path, "field", approach="overwrite", chunks=(2, 3), **settings) as saver:
        saver.save(np.ones((4, 6), "f4"))
        saver.save(np.full((5, 6), 2.0, "f4"))


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("made") / "out.zarr"
    fill(path)
    return path


@pytest.fixture
def store(made, tmp_path) -> Path:
    for name in ("out.zarr", "out.zarr.ledger"):
        shutil.copytree(made.with_name(name), tmp_path / name)
    return tmp_path / "out.zarr"


def files(store: Path) -> list[Path]:
    folders = (store, store.with_name(store.name + ".ledger"))
    return sorted(p for folder in folders for p in folder.rglob("*") if p.is_file())


def flipped(path: Path, at: int, bit: int) -> bytes:
    """Flip one bit of a file; return what was there."""
    old = path.read_bytes()
    new = bytearray(old)
    new[at] ^= 1 << bit
    path.write_bytes(new)
    return old


def test_a_healthy_store_has_no_findings(store):
    report = examine(store)
    assert report.findings == []
    assert report.notes == []
    assert report.counts["chunks"] == 8 + 1 + 1 + 6
    assert report.counts["documents"] == 5
    assert report.counts["records"] > 10


@pytest.mark.parametrize("seed", range(3))
def test_100_of_100_flipped_bytes_are_found(store, seed):
    """In chunks, metadata documents and ledger streams alike: a file, then a byte of it."""
    rng = random.Random(seed)
    found, kinds = 0, set()
    for _ in range(100):
        path = rng.choice(files(store))
        at, bit = rng.randrange(path.stat().st_size), rng.randrange(8)
        old = flipped(path, at, bit)
        found += bool(verify(store))
        path.write_bytes(old)
        kinds.add(path.suffix if path.suffix in (".json", ".log") else "chunk")
    assert found == 100
    assert kinds == {"chunk", ".json", ".log"}
    assert verify(store) == []


def test_bytes_all_along_documents_and_streams_count(store):
    """From the first byte to the last; white space of a document alone may change."""
    rng = random.Random(7)
    missed = []
    for path in [p for p in files(store) if p.suffix in (".json", ".log")]:
        content = path.read_bytes()
        step = max(1, len(content) // 20)
        for at in range(rng.randrange(step), len(content), step):
            old = flipped(path, at, rng.randrange(8))
            new = path.read_bytes()
            if not verify(store) and not _same_document(old, new):
                missed.append((path.name, at, old[at : at + 1], new[at : at + 1]))
            path.write_bytes(old)
    assert missed == []


def _same_document(old: bytes, new: bytes) -> bool:
    try:
        return bool(json.loads(old) == json.loads(new))
    except ValueError:
        return False


def test_a_finding_names_key_and_array(store):
    flipped(store / "energy/c/2/0", 3, 0)
    (finding,) = verify(store)
    assert (finding.array, finding.where) == ("energy", "energy/c/2/0")
    assert "checksum" in finding.problem


def test_a_missing_and_a_short_chunk_are_found(store):
    (store / "energy/c/1/0").unlink()
    (store / "field/c.0.0").write_bytes(b"short")
    problems = {f.where: f.problem for f in verify(store)}
    assert problems.keys() == {"energy/c/1/0", "field/c.0.0"}
    assert problems["energy/c/1/0"].startswith("missing")
    assert problems["field/c.0.0"].endswith("found 5")


def test_a_chunk_that_no_record_knows_is_found(tmp_path):
    path = tmp_path / "out.zarr"
    with ZarrSaver(path, "a", dims=("t", "y"), coords={"t": [1, 2, 3]}, chunks=(1, 4)) as saver:
        jobs = saver.open_jobs()
        writer = jobs.begin(JobSpec("task", identity="labels"), 0)
        writer.stage(0, 1, np.ones(4), {"t": 1})
        writer.commit()
        jobs.close()
    assert verify(path) == []
    (path / "a/c/1").mkdir()
    shutil.copy(path / "a/c/0/0", path / "a/c/1/0")
    (finding,) = verify(path)
    assert (finding.where, finding.array) == ("a/c/1/0", "a")
    assert "not in the ledger" in finding.problem


def test_a_damaged_record_is_named_by_stream_and_position(store):
    (stream,) = store.with_name("out.zarr.ledger").glob("energy@*.log")
    flipped(stream, 60, 1)
    (finding,) = verify(store)
    assert "'energy'" in finding.where
    assert f"{stream.stem} is damaged at byte 0" in finding.problem


def test_a_record_torn_after_a_clean_close_is_found(store):
    (stream,) = store.with_name("out.zarr.ledger").glob("energy@*.log")
    os.truncate(stream, stream.stat().st_size - 3)
    (finding,) = [f for f in verify(store) if "ledger stream" in f.where]
    assert stream.stem in finding.where
    assert "no whole record" in finding.problem


def test_other_shapes_and_stale_consolidated_metadata_are_found(store):
    array = zarr.open_array(store / "energy", mode="r+")
    array.resize((20, 6))
    problems = {f.where: f.problem for f in verify(store)}
    assert problems["energy/zarr.json"] == "shape is [20, 6], not [30, 6]"
    assert problems["energy/c/7/0"].startswith("missing")

    root = json.loads((store / "zarr.json").read_text())
    root["consolidated_metadata"]["metadata"]["energy"]["shape"] = [29, 6]
    (store / "zarr.json").write_text(json.dumps(root))
    where = {f.where: f.problem for f in verify(store)}
    assert where["zarr.json"] == "node 'energy': shape is [29, 6], not [30, 6]"


def test_a_document_that_is_gone_or_no_json_is_found(store):
    (store / "names/zarr.json").unlink()
    (store / "field/zarr.json").write_text("{")
    problems = {f.where: f.problem for f in verify(store)}
    assert problems["names/zarr.json"] == "missing"
    assert problems["field/zarr.json"].startswith("unreadable")


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_what_another_program_adds_is_no_damage(store):
    group = zarr.open_group(store, mode="r+", use_consolidated=False)
    group.attrs["history"] = "seen"
    group.create_array("other", shape=3, dtype="i4")[:] = 1
    zarr.consolidate_metadata(str(store))
    assert verify(store) == []


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_chunks_of_an_adopted_array_are_named_as_unjudged(tmp_path):
    path = tmp_path / "other.zarr"
    zarr.open_group(path, mode="w").create_array("a", shape=4, chunks=2, dtype="f8")[:] = 1.5
    with ZarrSaver(path, "a") as saver:
        saver.save([2.0, 3.0])
    report = examine(path)
    assert report.findings == []
    (note,) = report.notes
    assert "2 of its chunks have no checksum" in note
    flipped(path / "a/c/2", 2, 3)  # this one is ours
    assert [f.where for f in verify(path)] == ["a/c/2"]


def test_zarr_format_2_is_compared_too(tmp_path):
    path = tmp_path / "two.zarr"
    with ZarrSaver(path, "a", zarr_format=2, chunks=2, attrs={"title": "t"}) as saver:
        saver.save(np.arange(8.0).reshape(4, 2))
    assert verify(path) == []
    rng = random.Random(1)
    for path_ in files(path):
        at = rng.randrange(path_.stat().st_size)
        old = flipped(path_, at, 0)
        assert verify(path) or _same_document(old, path_.read_bytes()), path_
        path_.write_bytes(old)


def test_a_store_in_use_is_judged_as_far_as_possible(store):
    with ZarrSaver(store, "energy", dims=("row", "x"), coords={"x": np.arange(6.0)}) as saver:
        saver.save(np.ones((1, 6)))
        report = examine(store)
        assert report.findings == []
        assert f"process {os.getpid()}" in report.notes[0]
        flipped(store / "energy/c/0/0", 5, 5)
        assert [f.where for f in verify(store)] == ["energy/c/0/0"]
        flipped(store / "energy/c/0/0", 5, 5)
    assert verify(store) == []


BUSY = """
import sys, time, numpy as np, savers
path, seconds = sys.argv[1], float(sys.argv[2])
rng, end = np.random.default_rng(0), time.monotonic() + float(seconds)
while time.monotonic() < end:
    with savers.ZarrSaver(path, "a", chunks=4) as saver:
        for _ in range(10):
            saver.save(rng.random((3, 3)))
    with savers.ZarrSaver(path, "a", approach="update") as saver:
        saver.save(rng.random((8, 3)), indices=slice(0, 8))
    with savers.ZarrSaver(path, "b", approach="overwrite", chunks=2) as saver:
        for _ in range(3):
            saver.save(rng.random(9))
"""


def test_a_busy_writer_is_never_taken_for_damage(tmp_path):
    """Another process opens, appends, updates, overwrites and closes all the time."""
    path, looks, held = tmp_path / "out.zarr", 0, 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", BUSY, str(path), "2.5"], env=environment
    ) as writer:
        while writer.poll() is None:
            if (path / "a/zarr.json").exists():
                report = examine(path)
                assert report.findings == []
                looks, held = looks + 1, held + bool(report.notes)
    assert writer.returncode == 0
    assert looks >= held > 0
    assert examine(path).findings == examine(path).notes == []


CRASH = """
import os, sys, numpy as np, savers
saver = savers.ZarrSaver(sys.argv[1], "energy", chunks=4)
saver.save(np.arange(10.0))
saver.flush()
saver.save(np.arange(3.0))
os._exit(9)
"""


def crashed(path: Path) -> Path:
    """A store whose writer ended without closing it, three rows being only in the ledger."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", CRASH, str(path)], env=environment, check=False)
    assert done.returncode == 9
    return path


def test_what_a_crash_left_is_no_damage(tmp_path):
    path = crashed(tmp_path / "out.zarr")
    (stream,) = path.with_name("out.zarr.ledger").glob("energy@*.log")
    with stream.open("ab") as file:
        file.write(b"R 0000")  # an append that the crash cut off
    report = examine(path)
    assert report.findings == []
    assert "without closing it" in report.notes[0]
    flipped(path / "energy/c/0", 1, 1)
    assert [f.where for f in verify(path)] == ["energy/c/0"]


def test_a_mapping_is_verified_like_a_folder():
    mapping: dict[str, bytes] = {}
    with ZarrSaver(mapping, "a", chunks=2) as saver:
        saver.save(np.arange(5.0))
    assert verify(mapping) == []
    mapping["a/c/0"] = mapping["a/c/0"][:-1] + bytes([mapping["a/c/0"][-1] ^ 1])
    assert [f.where for f in verify(mapping)] == ["a/c/0"]


def test_without_a_store_or_a_ledger_there_is_nothing_to_verify(tmp_path):
    with pytest.raises(NotFoundError, match="found nothing"):
        verify(tmp_path / "nowhere.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotFoundError, match="neither a store nor a ledger"):
        verify(tmp_path / "folder")
    zarr.open_group(tmp_path / "foreign.zarr", mode="w")
    with pytest.raises(FormatError, match="has no ledger"):
        verify(tmp_path / "foreign.zarr")


def test_a_ledger_whose_store_is_gone_says_so(store):
    shutil.rmtree(store)
    findings = verify(store)
    assert any("the store is gone" in f.problem for f in findings)


DISCARD = """
import os, sys, numpy as np, savers
from savers import JobSpec
from savers._zarr._format import ZarrFormat

saver = savers.ZarrSaver(sys.argv[1], "a")
jobs = saver.open_jobs()
writer = jobs.begin(JobSpec("task"), 0)
writer.stage(0, 0, 1.0)
writer.finish(1)
saver.flush()
ZarrFormat.publish = lambda self, store, *given: (store.delete("a/zarr.json"), os._exit(9))
jobs.discard(writer.state.job_id)
"""


def test_an_array_that_a_crash_left_half_removed_is_no_damage(tmp_path):
    path = tmp_path / "out.zarr"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", DISCARD, str(path)], env=environment, check=False)
    assert done.returncode == 9
    assert verify(path) == []
    recover(path)
    assert examine(path).findings == examine(path).notes == []
    assert not (path / "a/zarr.json").exists()
