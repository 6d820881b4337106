"""One holder at a time; a dead one is known as dead, whatever its process id became since."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from savers import StoreInUseError
from savers._ledger import _file_lock, _lock
from savers._ledger._file_lock import FileLock, moment, read_holder
from savers._ledger._lock import Holder, current_holder, is_dead


@pytest.fixture
def lock(tmp_path):
    made = FileLock(tmp_path / "ledger" / "x.lock", "'x' in out.zarr")
    yield made
    made.release()


def other_process():
    """The holder that another living process is; it ends with its standard input."""
    code = ("import json, sys, dataclasses, savers._ledger._lock as l;"
            "print(json.dumps(dataclasses.asdict(l.current_holder())), flush=True);"
            "sys.stdin.read()")  # fmt: skip
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True)  # fmt: skip


def end(process):
    process.communicate()


def test_a_lock_is_held_once_and_names_its_holder(lock):
    lock.acquire()
    assert lock.path.stat().st_mode & 0o777 == 0o600
    second = FileLock(lock.path, "'x' in out.zarr")
    with pytest.raises(StoreInUseError) as caught:
        second.acquire(wait=0.1)
    assert str(caught.value).startswith(f"'x' in out.zarr is in use by process {os.getpid()} on ")
    assert lock.wanted()
    lock.release()
    lock.release()
    second.acquire()
    assert not second.took_over
    second.release()
    assert not lock.path.exists()


def test_waiting_ends_as_soon_as_the_holder_lets_go(lock):
    lock.acquire()
    second = FileLock(lock.path, "x")
    timer = threading.Timer(0.2, lock.release)
    timer.start()
    second.acquire(wait=30)
    timer.join()
    second.release()


@pytest.mark.parametrize(
    ("change", "dead"),
    [
        ({}, False),
        ({"pid": 2**22 + 1}, True),
        ({"started": "1"}, True),  # the id belongs to another process now
        ({"boot": "another boot"}, True),
        ({"host": "elsewhere", "renewed": -5}, False),
        ({"host": "elsewhere", "renewed": -3600}, True),
    ],
    ids=["alive", "gone", "used again", "rebooted", "other host", "lease over"],
)
def test_who_is_dead(change, dead):
    now = time.time()
    if "renewed" in change:
        change = {**change, "renewed": now + change["renewed"]}
    assert is_dead(replace(current_holder(), **change), now) is dead


def test_a_dead_holder_is_taken_over_at_once(lock):
    process = other_process()
    holder = Holder(**__import__("json").loads(process.stdout.readline()))
    lock.path.parent.mkdir(mode=0o700)
    _file_lock._write(lock.path, holder)
    with pytest.raises(StoreInUseError, match=f"process {process.pid} "):
        lock.acquire()
    end(process)
    lock.acquire()
    assert lock.took_over
    assert read_holder(lock.path).pid == os.getpid()


def test_a_process_that_ended_and_was_not_waited_for_is_dead(lock):
    process = other_process()
    holder = Holder(**__import__("json").loads(process.stdout.readline()))
    process.stdin.close()
    deadline = time.monotonic() + 20
    while not is_dead(holder, time.time()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_dead(holder, time.time())
    process.stdout.close()
    process.wait()


def test_only_one_of_many_takes_a_dead_holder_over(lock):
    lock.path.parent.mkdir(mode=0o700)
    _file_lock._write(lock.path, replace(current_holder(), pid=2**22 + 1))
    won = []

    def attempt():
        mine = FileLock(lock.path, "x")
        try:
            mine.acquire()
        except StoreInUseError:
            return
        won.append(mine)

    threads = [threading.Thread(target=attempt) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].release()
    assert [entry.name for entry in lock.path.parent.iterdir() if "wanted" not in entry.name] == []


def test_a_lease_is_renewed_and_a_lost_one_is_an_error(lock, monkeypatch):
    monkeypatch.setattr(_lock, "LEASE", 0.0)
    lock.acquire()
    first = read_holder(lock.path).renewed
    time.sleep(0.01)
    lock.check()
    assert read_holder(lock.path).renewed > first
    with moment(lock.path.with_name(lock.path.name + ".takeover")):  # as a takeover does
        _file_lock._write(lock.path, replace(current_holder(), token="another"))
    with pytest.raises(StoreInUseError):
        lock.check()
    with pytest.raises(StoreInUseError):
        lock.check()
    lock.release()
    assert read_holder(lock.path).token == "another"


def test_a_damaged_lock_file_is_nobodys(lock):
    lock.path.parent.mkdir(mode=0o700)
    for content in (b"", b"{", b"[]", b'{"pid": 1}'):
        lock.path.write_bytes(content)
        assert read_holder(lock.path) is None
        lock.acquire()
        lock.release()


def test_moments_do_not_overlap(tmp_path):
    inside, overlaps = [], []

    def work():
        for _ in range(10):
            with moment(tmp_path / "a" / "root.lock"):
                inside.append(1)
                overlaps.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert overlaps == [1] * 40
    assert list((tmp_path / "a").iterdir()) == []
