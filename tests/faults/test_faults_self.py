"""The fault layer itself: does it count, strike and forget what it says?"""

from __future__ import annotations

import errno
import random
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.faults import (
    Command,
    ForkServer,
    crash_points,
    double_crashes,
    fail,
    fail_points,
    kill,
    power_cuts,
    skip_without_faults,
)
from tests.faults._powercut import surviving_state
from tests.faults._writers import LETTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.faults import Program

NEW = LETTERS + LETTERS.lower()


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    skip_without_faults()
    with ForkServer(preload=["zarr", "h5py"]) as server:
        yield server


@pytest.fixture
def writer(server: ForkServer) -> Callable[..., Program]:
    return lambda name, **kwargs: server.function(f"tests.faults._writers:{name}", **kwargs)


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A folder with an old file in it."""
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "file").write_bytes(b"old")
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


# ---- counting ----


def test_every_kind_of_call_is_counted(writer, root):
    result = writer("every_call").run(root, record=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "outside\n"
    names = {}
    for call in result.calls:
        names.setdefault(call.path, []).append(call.name.removesuffix("at"))
    on_a = "open write open pwrite64 writev pwritev2 ftruncate fallocate fdatasync fchmod"
    assert {path: " ".join(calls) for path, calls in names.items()} == {
        "a": f"{on_a} truncate rename",
        "folder": "mkdir",
        "folder/b": "link",
        "d": "open sendfile sendfile chmod",
        "c": "unlink",
        "link": "symlink",
        "gone": "mkdir rmdir",
        "thread": "open write",
        "stdio": "open write",
    }
    assert [call.n for call in result.calls] == list(range(1, len(result.calls) + 1))
    assert (root / "stdio").read_bytes() == b"through stdio"
    assert (root / "folder" / "b").read_bytes() == (root / "d").read_bytes() == b"cdefghij\0"


def test_the_log_holds_the_bytes_that_were_written(writer, root):
    result = writer("every_call").run(root, record=True)
    written = {
        (call.name, call.path, call.offset): result.data[call.data : call.data + call.result]
        for call in result.calls
        if call.data >= 0
    }
    assert written == {
        ("write", "a", 0): b"12345678",
        ("pwrite64", "a", 1): b"ab",
        ("writev", "a", 0): b"cdefg",
        ("pwritev2", "a", 5): b"hij",
        ("sendfile", "d", 0): b"cdefghij\0",
        ("write", "thread", 0): b"t",
        ("write", "stdio", 0): b"through stdio",
    }


@pytest.mark.parametrize("name", ["write_hdf5", "write_zarr"])
def test_the_count_is_the_same_every_time(writer, tmp_path, name):
    counts = []
    for number in range(3):
        root = tmp_path / str(number)
        root.mkdir()
        calls = writer(name, rows=8).run(root).calls
        counts.append([call.name for call in calls])
    assert counts[0] == counts[1] == counts[2] != []


def test_a_path_through_a_link_counts(server, tmp_path, root):
    (tmp_path / "link").symlink_to(root)
    program = Command(["sh", "-c", f"cd {tmp_path}; echo hello > ./link/../root/file"])
    calls = program.run(root).calls
    assert [(call.name, call.path) for call in calls] == [("openat", "file"), ("write", "file")]


def test_what_children_do_does_not_count(writer, root):
    result = writer("start_child").run(root)
    assert result.returncode == 0, result.stderr
    assert [call.path for call in result.calls] == ["own", "own"]
    assert sorted(path.name for path in root.iterdir()) == ["forked", "own", "started"]


# ---- killing ----


def test_a_kill_comes_before_in_the_middle_or_after(writer, start, tmp_path):
    seen = {}
    for outcome in crash_points(writer("replace_file"), tmp_path, start):
        assert outcome.result.returncode == -signal.SIGKILL
        files = {path.name: path.read_bytes() for path in outcome.root.iterdir()}
        seen[outcome.fault.n, outcome.fault.when] = files
    old = {"file": b"old"}
    first = {**old, "file.tmp": LETTERS}
    both = {**old, "file.tmp": NEW}
    assert seen == {
        (1, "before"): old,
        (1, "after"): {**old, "file.tmp": b""},
        (2, "before"): {**old, "file.tmp": b""},
        (2, "half"): {**old, "file.tmp": LETTERS[:13]},
        (2, "after"): first,
        (3, "before"): first,
        (3, "half"): {**old, "file.tmp": LETTERS + LETTERS.lower()[:13]},
        (3, "after"): both,
        (4, "before"): both,
        (4, "after"): {"file": NEW},
    }


def test_half_of_a_vector_and_of_a_copy(writer, root):
    calls = writer("every_call").run(root).calls
    vector = next(call for call in calls if call.name == "writev")
    copy = next(call for call in calls if call.name == "sendfile")
    _empty(root)
    writer("every_call").run(root, kill(vector.n, "half"))
    assert (root / "a").read_bytes() == b"cdb45678"  # two of its five bytes
    _empty(root)
    writer("every_call").run(root, kill(copy.n, "half"))
    assert (root / "d").read_bytes() == b"cdef"  # four of nine


def _empty(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def test_acknowledgements_stop_at_the_kill(writer, tmp_path):
    for outcome in crash_points(writer("append_lines", lines=20), tmp_path):
        acknowledged = len(outcome.result.stdout.split())
        there = (outcome.root / "log").read_bytes() if (outcome.root / "log").exists() else b""
        complete, _, torn = there.rpartition(b"\n")
        assert acknowledged <= len(complete.splitlines()) <= acknowledged + 1
        assert bool(torn) == (outcome.fault.when == "half")


@pytest.mark.parametrize("name", ["write_hdf5", "write_zarr"])
def test_libraries_are_killed_where_they_write(writer, tmp_path, name):
    outcomes = 0
    for outcome in crash_points(writer(name, rows=8), tmp_path, spread=15):
        outcomes += 1
        assert outcome.result.returncode == -signal.SIGKILL, outcome
        assert outcome.result.struck
        assert "written" not in outcome.result.stdout
    assert outcomes == 15


def test_a_killed_program_takes_its_children_with_it(writer, root):
    result = writer("leave_orphan").run(root, kill(2))
    assert result.returncode == -signal.SIGKILL
    assert not Path(f"/proc/{int(result.stdout)}").exists()


def test_the_run_after_a_kill_is_killed_too(writer, tmp_path):
    seen = set()
    for outcome in double_crashes(writer("append_lines", lines=3), tmp_path, count=12):
        first, killed, second = outcome.result.stdout.partition("killed\n")
        assert killed
        assert outcome.result.returncode == -signal.SIGKILL
        there = (outcome.root / "log").read_bytes() if (outcome.root / "log").exists() else b""
        assert there.count(b"line") >= len(first.split()) + len(second.split())
        seen.add((len(first.split()), len(second.split())))
    assert len(seen) > 4


# ---- failing ----


def test_a_call_fails_once_for_good_or_after_a_short_write(writer, root):
    def outcome(fault: object) -> list[str]:
        _empty(root)
        return writer("persist", attempts=3).run(root, fault).stdout.split()

    full = str(errno.ENOSPC)
    assert outcome(fail(4, errno.ENOSPC)) == ["ok", full, "ok"]
    assert outcome(fail(3, errno.ENOSPC, lasting=True)) == ["ok", full, full]
    assert outcome(fail(4, errno.EIO, short=True)) == ["ok", "ok", str(errno.EIO)]
    assert (root / "file-1").read_bytes() == LETTERS[:13]


def test_a_lasting_failure_ends_when_room_is_made(writer, root, tmp_path):
    fault = fail(1, errno.EROFS, lasting=True, until=tmp_path / "room")
    assert writer("persist", attempts=2).run(root, fault).stdout.split() == [str(errno.EROFS)] * 2
    (tmp_path / "room").touch()
    assert writer("persist", attempts=2).run(root, fault).stdout.split() == ["ok", "ok"]


def test_a_full_disk_still_lets_files_be_removed(server, root):
    (root / "file").write_text("x")
    program = Command(["sh", "-c", "rm {root}/file; echo x > {root}/other"])
    result = program.run(root, fail(1, errno.ENOSPC, lasting=True))
    assert result.returncode != 0
    assert list(root.iterdir()) == []
    assert "No space left on device" in result.stderr


@pytest.mark.parametrize("name", ["replace_file", "write_hdf5", "write_zarr"])
def test_errors_reach_python(writer, tmp_path, name):
    kwargs = {} if name == "replace_file" else {"rows": 8}
    failed = 0
    for outcome in fail_points(
        writer(name, **kwargs), tmp_path, errors=[errno.ENOSPC], lasting=[True], spread=12
    ):
        assert outcome.result.struck, outcome
        if outcome.result.returncode:
            failed += 1
            text = outcome.result.stdout + outcome.result.stderr
            assert "No space left on device" in text or outcome.result.returncode < 0, text
    assert failed > 5


def test_hdf5_names_a_full_disk(writer, root):
    result = writer("write_hdf5", rows=8).run(root, fail(1, errno.ENOSPC))
    assert result.stdout.split() == [str(errno.ENOSPC)]


# ---- power cuts ----


def test_what_was_synced_survives_a_power_cut(writer, tmp_path, start):
    for outcome in power_cuts(writer("replace_file", sync=True), tmp_path, start, count=40):
        content = (outcome.root / "file").read_bytes()
        assert content in (b"old", NEW)
        assert content == NEW or "replaced" not in outcome.result.stdout, outcome


def survivors(result, start: Path, tmp_path: Path, count: int, **kwargs) -> Iterator[Path]:
    """What may be left when the power is cut at the end of a recorded run."""
    for seed in range(count):
        surviving_state(start, result, tmp_path / f"left-{seed}", random.Random(seed), **kwargs)
        yield tmp_path / f"left-{seed}"


def test_what_was_not_synced_is_lost_torn_or_kept(writer, tmp_path, start, root):
    (root / "file").write_bytes(b"old")
    result = writer("replace_file").run(root, record=True)
    seen = {(left / "file").read_bytes() for left in survivors(result, start, tmp_path, 100)}
    assert {b"old", b"", NEW} <= seen
    assert any(0 < len(content) < len(NEW) for content in seen - {b"old"})
    assert bytes(len(NEW)) in seen  # the length without the data


def test_synced_lines_of_a_log_survive(writer, tmp_path):
    for outcome in power_cuts(writer("append_lines", lines=9, sync=True), tmp_path, count=30):
        acknowledged = outcome.result.stdout.split()
        if acknowledged:
            lines = (outcome.root / "log").read_bytes().split(b"\n")
            assert lines[: len(acknowledged)] == [
                b"line %04d" % i for i in range(len(acknowledged))
            ]


def test_directory_changes_keep_their_order_where_it_is_promised(writer, tmp_path, root):
    """Two renames, no fsync: the second alone survives only where order is not kept."""
    (tmp_path / "start").mkdir()
    result = writer("rename_each", count=2).run(root, record=True)

    def second_alone(*, ordered: bool) -> bool:
        folder = tmp_path / f"ordered-{ordered}"
        folder.mkdir()
        left = survivors(result, tmp_path / "start", folder, 40, ordered=ordered)
        return any((path / "1").exists() and not (path / "0").exists() for path in left)

    assert second_alone(ordered=False)
    assert not second_alone(ordered=True)


def test_a_replay_that_loses_nothing_equals_what_ran(writer, tmp_path, start):
    """With everything kept, the model must agree with the kernel: an HDF5 file, byte by byte."""
    for name, kwargs in [("write_hdf5", {"rows": 8}), ("write_zarr", {"rows": 8})]:
        root = tmp_path / name
        root.mkdir()
        result = writer(name, **kwargs).run(root, record=True)
        surviving_state(start, result, tmp_path / f"{name}-copy", _KeepAll(), ordered=True)
        for path in root.rglob("*"):
            copy = tmp_path / f"{name}-copy" / path.relative_to(root)
            assert copy.is_dir() if path.is_dir() else copy.read_bytes() == path.read_bytes()


class _KeepAll(random.Random):
    """Draws nothing that is lost: all changes, and the last kind of data, which is 'all kept'."""

    def randint(self, a: int, b: int) -> int:
        return b

    def choice(self, seq):  # type: ignore[no-untyped-def]
        return seq[-1]


# ---- running ----


def test_a_command_line_is_struck_like_a_function(server, start, tmp_path):
    code = "import sys, pathlib; from tests.faults._writers import replace_file as f; f({})"
    program = Command(
        [sys.executable, "-c", code.format("pathlib.Path(sys.argv[1])"), "{root}"],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    outcomes = list(crash_points(program, tmp_path, start, when=["half"]))
    assert [outcome.fault.n for outcome in outcomes] == [2, 3]
    assert all(outcome.result.returncode == -signal.SIGKILL for outcome in outcomes)


def test_a_program_that_hangs_is_ended(server, writer, root):
    with pytest.raises(TimeoutError, match="did not end within"):
        writer("hang", timeout=0.3).run(root)
    with pytest.raises(TimeoutError, match="sleep"):
        Command(["sleep", "60"], timeout=0.3).run(root)


def test_a_function_that_is_not_there_is_named(server, root):
    with pytest.raises(RuntimeError, match="no_such"):
        server.function("tests.faults._writers:no_such").run(root)


def test_a_module_that_starts_threads_is_refused(root, tmp_path, monkeypatch):
    skip_without_faults()
    source = (
        "import threading\nthreading.Thread(target=threading.Event().wait, daemon=True).start()"
    )
    (tmp_path / "busy_module.py").write_text(source + "\ndef run(root): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with ForkServer() as server, pytest.raises(RuntimeError, match="started a thread"):
        server.function("busy_module:run").run(root)


def test_an_undisturbed_run_that_fails_is_no_start(writer, tmp_path):
    with pytest.raises(RuntimeError, match="the undisturbed run failed"):
        next(crash_points(writer("write_zarr", rows="nine"), tmp_path))
