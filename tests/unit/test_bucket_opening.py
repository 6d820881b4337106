"""The first save to a place in a bucket: its requests, and what is left where it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest
import zarr

from savers import StorageError, ZarrSaver, verify
from savers._ledger._object_stream import MOST_OBJECTS, RecordInDoubtError
from savers._stores._bucket._look import Look
from savers._stores._bucket._uploads import Uploads, side_by_side
from taskmanager import TaskManager
from tests.faultproxy import FaultProxy

pytestmark = pytest.mark.may_leak("files", reason="obstore and s3fs keep connections open")


@pytest.fixture
def url(server, container):
    return server.url(container, "out.zarr")


@pytest.fixture
def proxy(server):
    made = FaultProxy(server.port)
    yield made
    made.close()


def group(container, server):
    store = zarr.storage.ObjectStore(server.store(container, "out.zarr"), read_only=True)
    return zarr.open_group(store, mode="r")


def killed(url, options, code):
    """Save in another process, which ends itself on the way."""
    script = "import json, os, signal, sys\nfrom savers import ZarrSaver\n"
    script += "options = json.loads(sys.argv[2])\n" + textwrap.dedent(code)
    command = [sys.executable, "-c", script, url, json.dumps(options)]
    done = subprocess.run(command, timeout=60, check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL


def test_the_first_save_asks_twice_what_is_there_and_never_more(url, server, proxy):
    with ZarrSaver(url, storage_options=server.options(proxy.endpoint), chunks=1) as saver:
        saver.save(np.zeros((4, 10)))
    counts = dict(proxy.counts)
    assert counts["PUT"] == 4 + 7  # lock, its proof, root, two records, array, root again
    assert counts["LIST"] == 2  # the ledger: before the lock is taken, and after
    assert counts["GET"] == 15  # documents that are not there: the format's, and those of a look
    assert counts.get("HEAD", 0) == 0


def test_reading_is_side_by_side_while_a_place_is_opened(url, server, proxy):
    """Each waits for all the others: one after the other they would never be answered."""
    together = threading.Barrier(3, timeout=20)
    saver = ZarrSaver(url, storage_options=server.options(proxy.endpoint))
    store = saver._location.store
    read = store._read

    def waiting(path):
        if path.endswith(("zarr.json", ".zgroup", ".zarray")):
            together.wait()
        return read(path)

    store._read = waiting
    with saver:
        side_by_side(saver._location.look(("zarr.json", ".zgroup", ".zarray"), "dataset"))
    assert not together.broken


def test_what_a_killed_first_save_left_is_never_read(url, container, server):
    """Its chunks went to their keys, its record did not: a hole there is a hole."""
    killed(url, server.options(), """
        from savers._ledger._ledger import Ledger
        def fatal(self, record, *rest):
            os.kill(os.getpid(), signal.SIGKILL)
        Ledger.append = fatal
        saver = ZarrSaver(sys.argv[1], storage_options=options, chunks=1, codecs=None)
        saver.save([[1.0], [2.0], [3.0]])
    """)  # fmt: skip
    saver = ZarrSaver(url, storage_options=server.options(), chunks=1, codecs=None)

    def task(item):
        if item == 1:
            raise ValueError(item)
        return np.array([10.0 + item])

    with saver:
        run = TaskManager(task, errors="skip").submit_tasks([0, 1, 2], saver=saver)
    assert run.counts["skipped"] == 1
    found = group(container, server)["dataset"][:]
    np.testing.assert_array_equal(found, [[10.0], [np.nan], [12.0]])
    assert verify(url, storage_options=server.options()) == []


def test_a_failed_save_leaves_no_chunk_behind(url, container, server, monkeypatch):
    """The same, where the process lives on: nothing says that its chunks are not the next one's."""
    saver = ZarrSaver(url, storage_options=server.options(), chunks=1, codecs=None)
    saver.save([[0.0]])
    saver.flush()
    store = saver.session().store
    barrier, calls = store.barrier, []

    def failing():
        barrier()
        calls.append(1)
        if len(calls) == 2:  # the one between chunks and record
            raise StorageError(5, "on purpose")

    monkeypatch.setattr(store, "barrier", failing)
    with pytest.raises(StorageError, match="on purpose"):
        saver.save([[1.0], [2.0]])
    saver.close()
    found = [key for key in server_keys(container, server) if "/dataset/c/" in key]
    assert found == ["out.zarr/dataset/c/0/0"]


def server_keys(container, server):
    import obstore

    return sorted(entry["path"] for page in obstore.list(server.store(container)) for entry in page)


def lose_the_answer(proxy, stream):
    """Let one request for a stream arrive, and no answer to it nor any other for a while."""
    proxy.plan.extend([(stream, "reset after"), *[(stream, "reset before")] * 20])


def test_a_record_without_an_answer_is_never_saved_twice(url, container, server, proxy):
    options = {**server.options(proxy.endpoint), "retry_timeout": 0.1}
    saver = ZarrSaver(url, storage_options=options, chunks=1, codecs=None)
    saver.save([[0.0]])
    saver.flush()
    lose_the_answer(proxy, "@00000001/")
    with pytest.raises(StorageError):
        saver.save([[1.0]])
    proxy.plan.clear()
    with pytest.raises(RecordInDoubtError, match="it is saved; make the saver anew"):
        saver.save([[2.0]])
    saver.close()
    with ZarrSaver(url, storage_options=server.options(), chunks=1, codecs=None) as again:
        again.save([[2.0]])
    np.testing.assert_array_equal(group(container, server)["dataset"][:], [[0.0], [1.0], [2.0]])
    assert verify(url, storage_options=server.options()) == []


def test_a_first_record_without_an_answer_is_never_saved_twice(url, container, server, proxy):
    options = {**server.options(proxy.endpoint), "retry_timeout": 0.1}
    saver = ZarrSaver(url, storage_options=options, chunks=1, codecs=None)
    lose_the_answer(proxy, "@00000001/")
    with pytest.raises(StorageError):
        saver.save([[1.0]])
    proxy.plan.clear()
    with pytest.raises(RecordInDoubtError, match="it is saved; make the saver anew"):
        saver.save([[2.0]])
    saver.close()
    with ZarrSaver(url, storage_options=server.options(), chunks=1, codecs=None) as again:
        again.save([[2.0]])
    np.testing.assert_array_equal(group(container, server)["dataset"][:], [[1.0], [2.0]])
    assert verify(url, storage_options=server.options()) == []


def test_a_compaction_without_an_answer_loses_no_later_record(url, container, server, proxy):
    """The newer stream may have come to be: what is saved from then on must go there."""
    options = {**server.options(proxy.endpoint), "retry_timeout": 0.1}
    saver = ZarrSaver(url, storage_options=options, chunks=2, codecs=None)
    saver.save([[0.0]])
    lose_the_answer(proxy, "@00000002/")
    for number in range(1, MOST_OBJECTS + 2):
        saver.save([[float(number)]])
        if proxy.struck["reset after"]:
            proxy.plan.clear()
    assert proxy.struck["reset after"] == 1
    saver.close()
    with ZarrSaver(url, storage_options=server.options(), chunks=2, codecs=None) as again:
        again.save([[MOST_OBJECTS + 2.0]])
    found = group(container, server)["dataset"][:, 0]
    np.testing.assert_array_equal(found, np.arange(MOST_OBJECTS + 3.0))
    assert verify(url, storage_options=server.options()) == []


def test_a_record_that_was_refused_is_not_in_doubt_for_long(url, container, server, proxy):
    options = {**server.options(proxy.endpoint), "retry_timeout": 0.1}
    with ZarrSaver(url, storage_options=options, chunks=1, codecs=None) as saver:
        saver.save([[0.0]])
        saver.flush()
        proxy.plan.extend([("@00000001/", "500")] * 20)
        with pytest.raises(StorageError):
            saver.save([[1.0]])
        proxy.plan.clear()
        saver.save([[2.0]])
    np.testing.assert_array_equal(group(container, server)["dataset"][:], [[0.0], [2.0]])


def test_no_save_waits_for_a_publication(url, container, server):
    """It takes three requests, one after the other; what is saved is in the ledger before."""
    may_publish = threading.Event()
    with ZarrSaver(url, storage_options=server.options(), chunks=1) as saver:
        store = saver.session().store
        put_all = store.put_all

        def waiting(documents):
            assert may_publish.wait(30)
            put_all(documents)

        store.put_all = waiting
        saver.save([[1.0]])  # returns
        assert "dataset" not in group(container, server)
        may_publish.set()
        saver.flush()
        np.testing.assert_array_equal(group(container, server)["dataset"][:], [[1.0]])


def test_what_was_looked_at_is_forgotten_where_it_changes():
    look = Look()
    look.objects = {"a/x": b"1", "a/y": None}
    look.listings = {"a/": ["a/x"], "b/": ["b/1", "b/c/2"]}
    assert look.listed("b/c/") == ["b/c/2"]
    assert look.listed("c/") is None
    look.changed(["a/x", "a/z"])
    assert look.objects == {"a/y": None}
    assert look.listed("a/") is None
    assert look.listed("b/") == ["b/1", "b/c/2"]


def test_two_threads_may_find_at_once_that_what_was_looked_at_changed():
    look = Look()
    look.listings = {"a/": ["a/x"], "a/b/": []}

    class Path(str):
        __slots__ = ()

        def startswith(self, *args):
            look.listings.pop("a/", None)  # as the other thread does at this moment
            return super().startswith(*args)

    look.changed([Path("a/b/x")])
    assert look.listings == {}


def test_uploads_end_all_before_the_first_failure_is_raised():
    done = []

    def call(number):
        if number == 3:
            raise ValueError(number)
        done.append(number)

    with pytest.raises(ValueError, match="3"):
        side_by_side([lambda n=n: call(n) for n in range(20)], 4)
    assert sorted(done) == [n for n in range(20) if n != 3]


def test_uploads_wait_for_room():
    uploads, gate, under_way = Uploads(8), threading.Event(), []

    def call():
        under_way.append(1)
        gate.wait(20)

    size = 100 << 20  # more than half of what may be on its way
    uploads.submit(call, size)
    second = threading.Thread(target=uploads.submit, args=(call, size))
    second.start()
    second.join(0.2)
    assert second.is_alive()
    assert len(under_way) <= 1
    gate.set()
    second.join(20)
    uploads.wait()
    uploads.close()
    assert len(under_way) == 2


def test_uploads_that_no_thread_could_be_started_for_keep_nobody_waiting(monkeypatch):
    def no_more(thread):
        message = "can't start new thread"
        raise RuntimeError(message)

    uploads, done = Uploads(8), []
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        with pytest.raises(RuntimeError, match="can't start"):
            uploads.submit(lambda: done.append(1), 1)
    assert uploads._open == 0
    uploads.submit(lambda: done.append(2), 1)
    uploads.wait()
    uploads.close()
    assert done == [2]
