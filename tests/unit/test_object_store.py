"""Buckets of a real server: nothing lost, nothing twice, and nobody writes over his successor."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
import warnings
from dataclasses import asdict, replace

import numpy as np
import obstore
import pytest
import zarr

from savers import StorageError, StoreInUseError, ZarrSaver, open_dataset, verify
from savers._ledger._lock import LEASE, current_holder
from savers._maintenance._recover import recover
from savers._stores._bucket._requests import Gate
from savers._stores._bucket._store import ObjectStore
from savers._stores._location import locate
from savers._stores._store import ChangedError
from tests.faultproxy import FAULTS, FaultProxy

pytestmark = pytest.mark.may_leak("files", reason="obstore and s3fs keep connections open")


@pytest.fixture
def url(server, container):
    return server.url(container, "out.zarr")


@pytest.fixture
def options(server):
    return server.options()


@pytest.fixture
def proxy(server):
    made = FaultProxy(server.port)
    yield made
    made.close()


def place(url, options):
    """Two stores of one place, as two processes would have them."""
    made = [locate(url, options).store for _ in range(2)]
    assert all(isinstance(store, ObjectStore) for store in made)
    return made


def group(container, server):
    store = zarr.storage.ObjectStore(server.store(container, "out.zarr"), read_only=True)
    return zarr.open_group(store, mode="r")


def keys(container, server):
    return sorted(entry["path"] for entry in obstore.list(server.store(container)).collect())


# -- conditions ----------------------------------------------------------------------------------


def test_a_document_that_another_writer_changed_is_not_replaced_unseen(url, options):
    one, two = place(url, options)
    assert one.get("a") is None
    one.put("a", b"first")
    assert two.get("a") == b"first"
    two.put("a", b"second")
    with pytest.raises(ChangedError, match=r"out.zarr/a in \w+://.* was changed by another"):
        one.put("a", b"third")
    one.put("a", b"third")
    assert two.get("a") == b"third"


def test_an_object_is_created_once(url, options):
    one, two = place(url, options)
    one.create("a", b"mine")
    one.create("a", b"mine")  # the answer to the first was lost
    with pytest.raises(StoreInUseError, match="written by another process"):
        two.create("a", b"theirs")
    assert one.get("a") == b"mine"


def test_a_chunk_of_a_dead_writer_is_replaced_unless_the_fence_says_no(url, options):
    dead, living = place(url, options)
    dead.write("c/0", b"left behind")
    dead.barrier()
    living.write("c/0", b"true")
    living.barrier()
    assert dead.get("c/0") == b"true"

    def fenced():
        raise StoreInUseError("somebody else is the writer now")

    late = locate(url, options).store
    late.keep_aside("x/", fenced)
    late.write("c/0", b"late")
    with pytest.raises(StoreInUseError, match="somebody else"):
        late.barrier()
    assert living.get("c/0") == b"true"
    for store in (dead, living, late):
        store.close()


def test_what_is_gone_already_keeps_nothing_else_from_being_removed(
    url, options, server, container
):
    """As where a first attempt removed a part, and its answer got lost."""
    store, _ = place(url, options)
    names = [f"c/{number}" for number in range(12)]
    for name in names[1:]:
        store.put(name, b"x")
    store._delete([f"out.zarr/{name}" for name in names])
    assert keys(container, server) == []


def test_documents_that_did_not_change_are_not_sent_again(url, server, proxy):
    store, _ = place(url, server.options(proxy.endpoint))
    store.put("a", b"same")
    before = proxy.counts["PUT"]
    store.put("a", b"same")
    assert proxy.counts["PUT"] == before


#: Where it matters how a server answers to what it has already; tests/torture_s3.py has all.
ANSWERED = ("503", "reset after", "stall after", "duplicate", "late")


@pytest.mark.parametrize(
    ("server", "fault"),
    [("s3_server", fault) for fault in FAULTS]
    + [(kind, fault) for kind in ("azurite", "gcs_model") for fault in ANSWERED],
    indirect=["server"],
)
def test_one_fault_changes_nothing(url, server, proxy, fault):
    options = {**server.options(proxy.endpoint), "client_options": {"timeout": "400ms"}}
    proxy.stall, proxy.latest = 0.6, 0.8
    store, _ = place(url, options)
    proxy.plan.extend([("out.zarr/a", fault), ("out.zarr/b", fault)])
    store.put("a", b"first")
    store.put("b", bytes(100_000))
    assert sum(proxy.struck.values()) == 2
    proxy.plan.append(("out.zarr/a", fault))
    store.put("a", b"second")
    proxy.plan.append(("out.zarr/b", fault))
    assert store.get("a") == b"second"
    assert store.get("b") == bytes(100_000)
    if fault == "late":
        time.sleep(1.2)  # the requests of the past arrive
        assert store.get("a") == b"second"


def test_a_store_that_stays_away_is_an_error_that_names_object_and_attempts(url, server):
    proxy = FaultProxy(server.port, rate=1.0, faults=("500",))
    try:
        options = {**server.options(proxy.endpoint), "retry_timeout": 0.8}
        store, _ = place(url, options)
        with pytest.raises(StorageError, match=r"can't write out.zarr/a .*tried \d+ times in 0.8"):
            store.put("a", b"x")
        assert 2 <= proxy.counts["PUT"] <= 12
    finally:
        proxy.close()


def test_slow_down_halves_the_requests_under_way(url, server, proxy):
    """Three rounds are refused; whatever is refused of one round halves once."""
    proxy.delay = 0.02
    store, other = place(url, server.options(proxy.endpoint))
    assert store.requests.gate is other.requests.gate  # one for all that speak to a bucket
    gate = store.requests.gate
    gate.width = 32.0
    for _ in range(3):
        proxy.plan.append(("out.zarr/a", "503"))
        assert store.get("a") is None
    assert proxy.struck["503"] == 3
    assert 4 <= gate.width < 5
    proxy.most = 0
    for number in range(40):
        store.write(f"c/{number}", b"x")
    store.barrier()
    assert 2 <= proxy.most <= 10  # 16 + 2 x 40 = 9.8 squared
    assert 9 < gate.width < 10.5
    store.close()


def test_what_is_refused_of_one_round_halves_once_and_growth_returns():
    gate = Gate(32)
    rounds = [gate.__enter__() for _ in range(32)]
    for begun in rounds:
        gate.slower(begun)
        gate.__exit__()
    assert gate.width == 16
    for _ in range(3):
        gate.slower(gate.__enter__())
        gate.__exit__()
    assert gate.width == 2
    for _ in range(600):
        gate.faster()
    assert gate.width == 32


# -- who writes ----------------------------------------------------------------------------------


def test_a_second_process_is_refused_and_told_who_writes(url, container, server, options):
    program = (
        "import sys, json, savers; s = savers.ZarrSaver(sys.argv[1], storage_options=json.loads("
        "sys.argv[2])); s.save([1.0]); print('open', flush=True); sys.stdin.read(); s.close()"
    )
    other = subprocess.Popen([sys.executable, "-c", program, url, json.dumps(options)],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert other.stdout.readline() == "open\n"
        saver = ZarrSaver(url, storage_options=options)
        with pytest.raises(StoreInUseError, match=f"process {other.pid} on "):
            saver.save([2.0])
        saver.close()
        other.kill()
        other.communicate()
        with ZarrSaver(url, storage_options=options) as saver:  # the dead one is taken over
            saver.save([2.0])
    finally:
        other.kill()
        other.communicate()
    assert group(container, server)["dataset"][:].tolist() == [1.0, 2.0]


def test_a_writer_that_was_taken_over_while_it_slept_can_not_commit(
    url, container, server, options
):
    """Its lock is replaced as if its lease had run out on another host, then it wakes up."""
    sleeper = ZarrSaver(url, storage_options=options, chunks=1)
    sleeper.save([1.0])
    sleeper.flush()
    lock = "out.zarr.ledger/dataset.lock"
    raw = server.store(container)
    now = time.time()
    stale = replace(current_holder(), host="elsewhere", renewed=now - 2 * LEASE)
    obstore.put(raw, lock, json.dumps(asdict(stale)).encode())
    from savers._session import _sessions

    mine = dict(_sessions._sessions)
    _sessions._sessions.clear()  # as in another process
    with ZarrSaver(url, storage_options=options, chunks=1) as successor:
        successor.save([2.0])
    _sessions._sessions.update(mine)
    with pytest.raises(StoreInUseError):
        sleeper.save([3.0])
    sleeper.close()
    assert group(container, server)["dataset"][:].tolist() == [1.0, 2.0]
    assert verify(url, options) == []


def test_what_only_the_ledger_holds_is_recovered(url, container, server, options):
    program = (
        "import os, sys, json, savers; s = savers.ZarrSaver(sys.argv[1], storage_options="
        "json.loads(sys.argv[2])); s.save([1.0]); s.flush(); s.save([2.0]); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, url, json.dumps(options)], check=False)
    recover(url, options)
    assert group(container, server)["dataset"][:].tolist() == [1.0, 2.0]


def test_a_ledger_is_compacted_and_leaves_nothing_behind(url, container, server, options):
    with ZarrSaver(url, storage_options=options, chunks=10) as saver:
        for row in range(230):
            saver.save([float(row)])
    records = [key for key in keys(container, server) if ".ledger/dataset@" in key]
    assert 1 <= len(records) <= 110
    assert not [key for key in keys(container, server) if "staged" in key or ".lock" in key]
    assert group(container, server)["dataset"][:].tolist() == list(range(230))


def test_a_warm_commit_is_puts_alone(url, server, proxy):
    options = server.options(proxy.endpoint)
    with ZarrSaver(url, storage_options=options, chunks=2) as saver:
        saver.save(np.zeros((2, 100)))
        saver.flush()
        proxy.counts.clear()
        for _ in range(10):
            saver.save(np.zeros((2, 100)))
        counts = dict(proxy.counts)
    assert counts["PUT"] >= 20  # a chunk and a record each
    assert counts.keys() == {"PUT"}  # publications, too


def test_a_first_save_puts_each_chunk_once(url, server, proxy):
    options = server.options(proxy.endpoint)
    with ZarrSaver(url, storage_options=options, chunks=1) as saver:
        saver.save(np.zeros((8, 10)))
    chunks = [path for kind, path in proxy.log if kind == "PUT" and "/c/" in path]
    assert len(chunks) == len(set(chunks)) == 8
    assert not [path for kind, path in proxy.log if kind == "PUT" and "staged" in path]


# -- the rest -----------------------------------------------------------------------------------


def test_no_secret_enters_the_store_or_a_pickle(url, container, server, options):
    with ZarrSaver(url, storage_options=options) as saver:
        saver.save([1.0])
        assert server.secret.encode() not in pickle.dumps(saver)
    raw = server.store(container)
    for key in keys(container, server):
        assert server.secret.encode() not in bytes(obstore.get(raw, key).bytes())


def test_a_dataset_in_a_bucket_is_opened_by_name(url, options):
    with ZarrSaver(url, storage_options=options, dims=("time", "x")) as saver:
        saver.save(np.arange(6.0).reshape(2, 3))
    found = open_dataset(url, storage_options=options)
    assert found["dataset"].values.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_a_store_that_ignores_conditions_is_used_with_a_warning(url, container, server, options):
    store, _ = place(url, options)
    with pytest.warns(UserWarning, match="no conditional writes"):
        store.ignores_conditions()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.ignores_conditions()  # told once
    store.put("a", b"1")
    obstore.put(server.store(container, "out.zarr"), "a", b"2")
    store.put("a", b"3")
    assert store.get("a") == b"3"


def test_many_faults_lose_and_repeat_nothing(url, container, server):
    """A small torture; tests/torture_s3.py is the large one."""
    proxy = FaultProxy(server.port, seed=3, rate=0.15, stall=0.6)
    options = {**server.options(proxy.endpoint), "client_options": {"timeout": "400ms"}}
    try:
        with ZarrSaver(url, storage_options=options, chunks=4) as saver:
            for row in range(30):
                saver.save([float(row)] * 2)
        assert sum(proxy.struck.values()) >= 5
    finally:
        proxy.close()
    expected = np.repeat(np.arange(30.0), 2)
    assert np.array_equal(group(container, server)["dataset"][:], expected)
    assert verify(url, server.options()) == []
    assert os.environ.get("AWS_ACCESS_KEY_ID") is None
