"""Writers in a bucket that were taken over while they slept: what is another's by now stays."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import asdict, replace

import obstore
import pytest
import zarr

from savers import StorageError, StoreInUseError, ZarrSaver, verify
from savers._ledger._lock import LEASE, current_holder
from savers._session import _sessions
from taskmanager import TaskManager

pytestmark = pytest.mark.may_leak("files", reason="obstore and s3fs keep connections open")


@pytest.fixture
def url(server, container):
    return server.url(container, "out.zarr")


@pytest.fixture
def saver(server, url):
    def make(**settings):
        return ZarrSaver(url, storage_options=server.options(), chunks=1, codecs=None, **settings)

    return make


@pytest.fixture
def values(server, container):
    def read():
        store = zarr.storage.ObjectStore(server.store(container, "out.zarr"), read_only=True)
        return zarr.open_group(store, mode="r")["dataset"][:].tolist()

    return read


@pytest.fixture
def fall_asleep(server, container):
    """Have the holder of the lock look as if its lease had run out on another host."""

    def make():
        stale = replace(current_holder(), host="elsewhere", renewed=time.time() - 2 * LEASE)
        lock = json.dumps(asdict(stale)).encode()
        obstore.put(server.store(container), "out.zarr.ledger/dataset.lock", lock)
        mine = dict(_sessions._sessions)
        _sessions._sessions.clear()  # as in another process
        return mine

    return make


def before_the_record(sleeper, call):
    """Have something happen once, when the chunks are put and their record is not."""
    store, me = sleeper.session().store, threading.current_thread()
    barrier, calls = store.barrier, []

    def slow():
        barrier()
        if threading.current_thread() is me:  # another thread publishes
            calls.append(1)
            if len(calls) == 2:
                call()

    store.barrier = slow


def test_what_a_successor_saved_is_not_removed_by_a_writer_that_wakes_up(
    saver, values, url, server, fall_asleep
):
    sleeper, successor = saver(), saver()
    sleeper.save([[1.0]])
    sleeper.flush()

    def taken_over():
        mine = fall_asleep()
        successor.save([[3.0]])
        _sessions._sessions.update(mine)

    before_the_record(sleeper, taken_over)
    with pytest.raises(StoreInUseError):
        sleeper.save([[2.0]])
    sleeper.close()
    successor.close()
    assert values() == [[1.0], [3.0]]
    assert verify(url, server.options()) == []


def test_a_first_record_that_comes_late_is_refused(saver, values, url, server, fall_asleep):
    """The successor took over before there was a ledger, and has put its chunks."""
    sleeper, successor = saver(), saver()

    def taken_over():
        mine = fall_asleep()
        before_the_record(successor, lambda: _sessions._sessions.update(mine))
        successor.session().open()
        _sessions._sessions.clear()
        _sessions._sessions.update(mine)

    before_the_record(sleeper, taken_over)
    with pytest.raises(StoreInUseError):
        sleeper.save([[1.0]])
    successor.save([[2.0]])
    sleeper.close()
    successor.close()
    assert values() == [[2.0]]
    assert verify(url, server.options()) == []


def failing(store, key, calls=1):
    """Have a few attempts to create an object fail, as if nobody answered; return what was sent."""
    create, sent = store.create, []

    def unanswered(at, data):
        if key in at and len(sent) < calls:
            sent.append(bytes(data))
            raise StorageError(5, "no answer")
        create(at, data)

    store.create = unanswered
    return sent


def test_a_first_record_in_doubt_is_settled_before_others_come(
    saver, values, url, server, container
):
    one = saver()
    sent = failing(one._location.beside, "@00000001/")
    with pytest.raises(StorageError, match="no answer"):
        one.save([[1.0]])
    one.close()
    late = "out.zarr.ledger/dataset@00000001/000000000000"
    with pytest.raises(obstore.exceptions.AlreadyExistsError):
        obstore.put(server.store(container), late, sent[0], mode="create")
    with saver() as other:
        other.save([[2.0]])
    assert values() == [[1.0], [2.0]]
    assert verify(url, server.options()) == []


def task(item):
    if item == 1:
        raise ValueError(item)
    return [10.0 + item]


def test_what_a_failed_save_left_is_not_shown_in_a_hole(saver, values, url, server):
    one = saver()
    one.save([[0.0]])

    def refuse():
        raise StorageError(5, "on purpose")

    before_the_record(one, refuse)
    with pytest.raises(StorageError, match="on purpose"):
        one.save([[1.0], [2.0], [3.0], [4.0]])
    TaskManager(task, errors="skip").submit_tasks([0, 1, 2], saver=one)
    assert str(values()) == "[[0.0], [10.0], [nan], [12.0]]"
    one.close()
    assert verify(url, server.options()) == []


def test_what_was_looked_at_is_forgotten_where_looking_failed(saver, server):
    one, other = saver(), saver()
    store = one._location.store
    read = store._read

    def failing_once(path):
        if not path.endswith("dataset/zarr.json"):
            return read(path)
        store._read = read
        raise StorageError(5, "on purpose")

    store._read = failing_once
    with pytest.raises(StorageError, match="on purpose"):
        one.save([[1.0]])
    mine = dict(_sessions._sessions)
    _sessions._sessions.clear()  # as in another process
    with other:
        other.save([[2.0]])
    _sessions._sessions.update(mine)
    assert list(one.session().peek().arrays) == ["dataset"]
    one.close()
