"""What a hostile name, link, record or log reader gets: nothing."""

from __future__ import annotations

import ast
import io
import logging
import os
import pickle
import subprocess
import sys
import traceback
import warnings
import zlib
from pathlib import Path

import fsspec
import numpy as np
import obstore.store
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem

from savers import InvalidInputError, JobSpec, Saver, StorageError, StoreInUseError, ZarrSaver
from savers._ledger._frames import encode_frame, read_frames
from savers._ledger._home import Home
from savers._ledger._ledger import replay
from savers._maintenance._verify import verify
from savers._stores._location import locate
from savers.errors import InvalidTypeError, LedgerCorruptedError

ROOT = Path(__file__).parents[2]
CANARY = "CANARY-7f3a9b"


def save(path: Path, name: str = "a", **settings) -> None:
    with ZarrSaver(path, name, **settings) as saver:
        saver.save([1.0, 2.0])


def all_files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


# -- no pickle -----------------------------------------------------------------------------------

UNSAFE = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


MODULES = [p for p in sorted((ROOT / "savers").rglob("*.py")) if p.name != "testing.py"]


def test_no_module_of_savers_imports_a_pickle():
    assert len(MODULES) > 100
    for path in MODULES:
        assert imported(path) & UNSAFE == set(), path
        assert "allow_pickle=True" not in path.read_text(), path


def test_no_file_of_a_run_is_a_pickle(tmp_path):
    with ZarrSaver(tmp_path / "out.zarr", "a", chunks=2) as saver:
        saver.save([{"x": 1.0, "t": "text"}, {"x": 2.0, "t": "more"}])
        saver.save({"times": np.array(["2026-01-01"], "M8[D]"), "c": np.ones((1, 2), complex)})
        while_open = [p.read_bytes() for p in all_files(tmp_path)]
    contents = while_open + [p.read_bytes() for p in all_files(tmp_path)]
    assert len(contents) > 15
    for content in contents:
        assert content[:1] != b"\x80" or content[1:2] not in b"\x02\x03\x04\x05"
        assert b"cnumpy" not in content
        assert b"numpy.core" not in content


# -- names ---------------------------------------------------------------------------------------

BAD = ["", ".", "..", "a/../b", "../a", "/a", "a/", "a//b", "a\\b", "a\0b", "a\nb", "zarr.json",
       ".zarray", ".ledger", "__private", "a/.zattrs", "x" * 201, "\ud800"]  # fmt: skip
GOOD = ["t2m", "größe", "数据", "with blank", "a/b/c", "x" * 200, "a.b", "100%", "a@b", "c",
        "sequential", "staged", "c.lock", "c@00000001"]  # fmt: skip


def test_bad_names_of_arrays_and_coordinates_are_refused_before_anything_is_made(tmp_path):
    for name in BAD:
        with pytest.raises(InvalidInputError):
            ZarrSaver(tmp_path / "out.zarr", name)
        with pytest.raises(InvalidInputError):
            ZarrSaver(tmp_path / "out.zarr", "a", dims=(name,), coords={name: [1.0, 2.0]})
    assert os.listdir(tmp_path) == []


def test_bad_field_names_of_results_are_refused(tmp_path):
    with ZarrSaver(tmp_path / "out.zarr", "ok") as saver:
        for name in BAD:
            with pytest.raises(InvalidInputError):
                saver.save({name: [1.0]})
            with pytest.raises(InvalidInputError):
                saver.save([{name: 1.0}])
        jobs = saver.open_jobs()
        writer = jobs.begin(JobSpec("task"), 0)
        for name in BAD:
            with pytest.raises(InvalidInputError):
                writer.stage(0, 0, {name: 1.0})
        jobs.close()
    outside = {p.relative_to(tmp_path).parts[0] for p in tmp_path.rglob("*")}
    assert outside <= {"out.zarr", "out.zarr.ledger"}


@pytest.mark.parametrize("name", ["root"])
def test_no_name_of_a_dataset_meets_that_of_a_side_file(tmp_path, name):
    save(tmp_path / "out.zarr", name)
    assert verify(tmp_path / "out.zarr") == []


@pytest.mark.parametrize("inner", ["a/c", "a/c/0"])
def test_an_array_within_another_of_the_same_save_is_refused(tmp_path, inner):
    with ZarrSaver(tmp_path / "out.zarr", "a", chunks=1) as saver, pytest.raises(InvalidInputError):
        saver.save({"a": [1.0], inner: [2.0]})


def test_unicode_blanks_and_names_like_those_of_side_files_are_fine(tmp_path):
    for name in GOOD:
        save(tmp_path / "out.zarr", name)
        save(tmp_path / "out.zarr", name)
        found = zarr.open_array(tmp_path / "out.zarr" / name)[:]
        assert found.tolist() == [1.0, 2.0, 1.0, 2.0], name
    assert verify(tmp_path / "out.zarr") == []


# -- links and modes -----------------------------------------------------------------------------


@pytest.fixture
def victim(tmp_path) -> Path:
    path = tmp_path / "victim"
    path.write_text("untouched")
    return path


def refused(path: Path) -> None:
    """A save is refused, and says that it is for a link (ELOOP in the words of the system)."""
    with pytest.raises((StorageError, StoreInUseError)) as caught:
        save(path)
    assert "link" in str(caught.value)


def test_a_link_in_place_of_the_ledger_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.zarr.ledger").symlink_to(tmp_path / "elsewhere")
    refused(tmp_path / "out.zarr")
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_link_in_place_of_the_staged_folder_is_refused(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out.zarr.ledger").mkdir()
    (tmp_path / "out.zarr.ledger/staged").symlink_to(tmp_path / "elsewhere")
    refused(tmp_path / "out.zarr")
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_link_in_place_of_a_stream_is_refused(tmp_path):
    save(tmp_path / "out.zarr")
    (stream,) = (tmp_path / "out.zarr.ledger").glob("*.log")
    stream.rename(tmp_path / "moved")
    content = (tmp_path / "moved").read_bytes()
    stream.symlink_to(tmp_path / "moved")
    refused(tmp_path / "out.zarr")
    assert (tmp_path / "moved").read_bytes() == content


def test_a_link_in_place_of_a_stream_to_come_is_refused(tmp_path, victim):
    save(tmp_path / "out.zarr")
    (tmp_path / "out.zarr.ledger/a@00000002.log.new").symlink_to(victim)
    refused(tmp_path / "out.zarr")
    assert victim.read_text() == "untouched"


def test_a_link_in_place_of_a_sequential_ledger_is_refused(tmp_path, victim):
    class Lines(Saver):
        file_path = tmp_path / "out.csv"

        def save(self, data, indices=None, **kwargs) -> None:
            raise AssertionError

    (tmp_path / "out.csv.ledger").mkdir()
    (tmp_path / "out.csv.ledger/sequential.log").symlink_to(victim)
    with pytest.raises(StorageError, match="link"):
        Lines().open_jobs()
    assert victim.read_text() == "untouched"


@pytest.mark.parametrize("name", ["a.lock", "@root.lock"])
def test_a_link_in_place_of_a_lock_is_refused(tmp_path, victim, name):
    (tmp_path / "out.zarr.ledger").mkdir()
    (tmp_path / "out.zarr.ledger" / name).symlink_to(victim)
    refused(tmp_path / "out.zarr")
    assert victim.read_text() == "untouched"


def test_a_link_in_place_of_a_chunk_is_refused_or_replaced(tmp_path, victim):
    save(tmp_path / "out.zarr", chunks=2)
    (tmp_path / "out.zarr/a/c/1").symlink_to(victim)
    with pytest.raises(StorageError), ZarrSaver(tmp_path / "out.zarr", "a") as saver:
        saver.save([3.0, 4.0])
    assert victim.read_text() == "untouched"


def test_side_files_are_for_their_owner_alone(tmp_path):
    old = os.umask(0)
    try:
        with ZarrSaver(tmp_path / "out.zarr", "a", chunks=2) as saver:
            saver.save(np.arange(5.0))
            folder = tmp_path / "out.zarr.ledger"
            modes = {p.name: p.stat().st_mode & 0o777 for p in [folder, *folder.iterdir()]}
    finally:
        os.umask(old)
    assert modes.pop("staged") == 0o700
    assert modes.pop("out.zarr.ledger") == 0o700
    assert sorted(modes) == ["a.lock", "a@00000001.log"]
    assert set(modes.values()) == {0o600}
    assert (tmp_path / "out.zarr/zarr.json").stat().st_mode & 0o777 == 0o666  # as umask says


# -- credentials ---------------------------------------------------------------------------------


def texts(saver: ZarrSaver) -> str:
    return f"{saver!r} {saver} {saver.settings!r} {saver.where} {saver._location!r}"


class Remote(MemoryFileSystem):
    """Memory behind storage options; refuses in words that show all it was given."""

    protocol = "canary"
    store: dict[str, object] = {}  # noqa: RUF012 -- fsspec's own
    failing = False

    def cat_file(self, path, **kwargs):
        if Remote.failing:
            message = f"denied for {self.storage_options}"
            raise PermissionError(message)
        return super().cat_file(path, **kwargs)


@pytest.fixture
def remote():
    fsspec.register_implementation("canary", Remote, clobber=True)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        yield Remote
    assert CANARY not in "".join(str(one.message) for one in told)
    Remote.failing = False
    Remote.store.clear()
    Remote.clear_instance_cache()


OPTIONS = {
    "key": f"{CANARY}-key",
    "secret": f"{CANARY}-secret",
    "client_kwargs": {"token": f"{CANARY}-token", "endpoint_url": "http://localhost:1"},
}


def test_storage_options_enter_no_file_repr_log_or_pickle(remote, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with ZarrSaver("canary://bucket/out.zarr", "a", storage_options=OPTIONS, chunks=2) as saver:
        saver.save(np.arange(5.0))
        assert CANARY not in texts(saver)
        assert CANARY.encode() not in pickle.dumps(saver)
    files = {key: bytes(item.getvalue()) for key, item in remote.store.items()}
    assert any("/.ledger/" in key for key in files)
    assert [key for key, data in files.items() if CANARY.encode() in data] == []
    assert CANARY not in caplog.text


def test_a_remote_store_without_conditions_is_used_with_a_warning(remote):
    saver = ZarrSaver("canary://bucket/out.zarr", "a", storage_options=OPTIONS)
    with pytest.warns(UserWarning, match="canary://bucket/out.zarr is written to without"):
        saver.save([1.0])
    saver.close()


def test_storage_options_enter_no_error(remote):
    saver = ZarrSaver("canary://bucket/out.zarr", "a", storage_options=OPTIONS)
    Remote.failing = True
    with pytest.raises(StorageError, match="denied") as caught:
        saver.save([1.0])
    Remote.failing = False
    saver.close()
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None
    with pytest.raises(InvalidInputError) as wrong:
        ZarrSaver("canary://bucket/x", storage_options=CANARY)
    assert CANARY not in "".join(traceback.format_exception(wrong.value))
    assert wrong.value.__context__ is None


URLS = [
    f"http://user:{CANARY}@127.0.0.1:9/x?sig={CANARY}#{CANARY}",
    f"http://user:{CANARY}@{CANARY}@127.0.0.1:9/x",  # a password with a bare @
    f"http://127.0.0.1:9/x?X-Amz-Signature={CANARY}&a=b",
]


@pytest.mark.may_leak("files", reason="obstore's event loop lives as long as the process")
@pytest.mark.parametrize("url", URLS, ids=["user", "at", "query"])
def test_secrets_of_a_url_enter_no_error(url):
    with pytest.raises(InvalidInputError, match="can be read, not written to") as refused:
        ZarrSaver(url, "a")
    with pytest.raises(StorageError) as caught:  # nobody listens there
        locate(url, {"retry_timeout": 0.3}).store.get("a")
    for error in (refused.value, caught.value):
        assert CANARY not in "".join(traceback.format_exception(error))
        assert error.__context__ is None or CANARY not in repr(error.__context__)


@pytest.mark.parametrize("url", URLS, ids=["user", "at", "query"])
def test_secrets_of_a_url_enter_no_repr_or_pickle(url, remote):
    saver = ZarrSaver(url.replace("http:", "canary:"), "a")
    assert CANARY not in texts(saver)
    assert CANARY.encode() not in pickle.dumps(saver)
    saver.close()


def test_secrets_of_a_url_that_is_refused_are_not_shown():
    for url in (f"nope://u:{CANARY}@h/x?{CANARY}", Path(f"s3://u:{CANARY}@h/x")):
        with pytest.raises(InvalidInputError) as caught:
            ZarrSaver(url)
        assert CANARY not in str(caught.value)


def test_a_copy_without_its_credentials_says_so_before_it_writes(remote):
    with ZarrSaver("canary://bucket/out.zarr", "a", storage_options=OPTIONS) as saver:
        copy = pickle.loads(pickle.dumps(saver))
    assert copy.settings.storage_options == {
        "client_kwargs": {"endpoint_url": "http://localhost:1"}
    }
    with pytest.raises(InvalidInputError, match="credentials"):
        copy.save([1.0])
    with pytest.raises(InvalidInputError, match="environment"):
        pickle.loads(pickle.dumps(copy)).save([1.0])


def test_a_saver_without_credentials_travels(tmp_path):
    with ZarrSaver(tmp_path / "out.zarr", "a", chunks=3) as saver:
        copy = pickle.loads(pickle.dumps(saver))
        saver.save([1.0])
        copy.save([2.0])
        copy.close()
    assert repr(copy) == repr(saver)


def test_a_store_object_with_credentials_does_not_travel():
    given = obstore.store.S3Store(
        "bucket", region="x", access_key_id=f"{CANARY}-id", secret_access_key=CANARY
    )
    saver = ZarrSaver(given, "a")
    assert CANARY not in texts(saver)
    with pytest.raises(InvalidTypeError, match="make it in the worker"):
        pickle.dumps(saver)
    saver.close()


def test_the_command_line_shows_no_secret():
    done = subprocess.run(
        [sys.executable, "-m", "savers", "verify", URLS[0]], cwd=ROOT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert CANARY not in done.stdout + done.stderr
    assert "check the endpoint" in done.stdout + done.stderr  # nobody listens there


# -- crafted ledgers -----------------------------------------------------------------------------

HUGE = 1 << 40
LAYOUT = {
    "name": "a", "dtype": "<f8", "shape": [0, 2], "chunks": [8, 2], "growing": True, "cells": [0],
    "rounding": False, "generation": 0, "meta": {},
}  # fmt: skip
HEADER = {"kind": "header", "format": 1, "store": "id", "dataset": "a"}
ARRAY = {"kind": "array", "layout": LAYOUT}
JOB = {"kind": "job", "job": 1, "spec": {"task": "t"}, "seed": 1}


def commit(**fields):
    return {"kind": "commit", "arrays": [], **fields}


def entry(**fields):
    return commit(arrays=[{"array": "a", **fields}])


def failure(position):
    return {"position": position, "digest": 1, "error": "E", "message": "m"}


BOMB = zlib.compress(bytes(1 << 28), 9)
CRAFTED = {
    "rows": [ARRAY | {"rows": HUGE}],
    "cells": [ARRAY, entry(cells=[[[0], [HUGE], 1]])],
    "negative cells": [ARRAY, entry(cells=[[[-5], [3], 1]])],
    "labels": [{"kind": "array", "layout": LAYOUT | {"shape": [HUGE, 2], "growing": False}}],
    "labels in two axes": [
        {"kind": "array",
         "layout": LAYOUT | {"shape": [1 << 20, 1 << 20], "growing": False, "cells": [0, 1]}}
    ],
    "items": [ARRAY, JOB, commit(job=1, done=[[0, HUGE]])],
    "a far item": [ARRAY, JOB, (commit(job=1, done=[[HUGE, HUGE + 1]]), bytes(8))],
    "a far failure": [ARRAY, JOB, commit(job=1, done=[], failed=[failure(HUGE)])],
    "piece": [ARRAY, entry(pieces=[[[0, 0], [0, 0], [HUGE, 2], 0, 16 * HUGE]])],
    "bomb": [(ARRAY | {"status": [1000], "sizes": [len(BOMB), 0]}, BOMB)],
    "job table": [JOB | {"sizes": [HUGE, 0, 0]}],
    "hole": [ARRAY, JOB, {"kind": "finish", "job": 1, "holes": [["a", 0, "x"]]}],
    "no layout": [{"kind": "array"}],
    "no kind": [{}],
    "unknown kind": [{"kind": "surprise"}],
    "no object": [[]],
    "format": [{"kind": "header", "format": 2, "store": "id", "dataset": "a"}],
}  # fmt: skip


def crafted(folder: Path, name: str) -> Home:
    """A ledger whose frames are in order, and whose records say nonsense."""
    folder.mkdir(exist_ok=True)
    frames = io.BytesIO()
    for given in (HEADER, *CRAFTED[name]):
        record, raw = given if isinstance(given, tuple) else (given, b"")
        frames.write(encode_frame(record, [raw]))
    (folder / "a@00000001.log").write_bytes(frames.getvalue())
    return Home(folder, None)


def test_a_crafted_record_is_refused(tmp_path):
    for name in CRAFTED:
        home = crafted(tmp_path / name, name)
        with pytest.raises(LedgerCorruptedError, match="a@00000001"):
            replay(home, "a")


LIMITED = """
import resource, sys
from pathlib import Path
from savers._ledger._home import Home
from savers._ledger._ledger import replay
from savers.errors import LedgerCorruptedError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
for folder in sorted(Path(sys.argv[1]).iterdir()):
    try:
        replay(Home(folder, None), "a")
    except LedgerCorruptedError:
        print(folder.name)
used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert used < 64 << 10, f"{used} kB"
"""


def test_crafted_records_take_no_memory(tmp_path):
    """With 1 GiB of address space; all of them together take less than 64 MiB."""
    for name in CRAFTED:
        crafted(tmp_path / name, name)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.split("\n")[:-1] == sorted(CRAFTED)


def test_a_frame_that_claims_more_than_its_stream_is_torn():
    frame = encode_frame(HEADER)
    huge = b"R %08x %08x %08x " % (0xFFFFFFF0, 0xFFFFFFF0, 0)
    from crc32c import crc32c

    claimed = huge + b"%08x\n" % crc32c(huge)
    frames = list(read_frames(memoryview(frame + claimed + b"{}"), "stream"))
    assert [f.record for f in frames] == [HEADER]
