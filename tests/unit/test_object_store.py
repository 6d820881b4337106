"""Buckets of a real server: nothing lost, nothing twice, and nobody writes over his successor."""

from __future__ import annotations

import errno
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
from savers._ledger._locks import LEASE, current_holder
from savers._maintenance._recover import recover
from savers._stores._bucket._requests import Gate
from savers._stores._bucket._store import ObjectStore
from savers._stores._location import locate
from savers._stores._store import ChangedError
from tests.faultproxy import FAULTS, FaultProxy
from tests.s3server import KEY, REGION, SECRET

pytestmark = pytest.mark.may_leak("files", reason="obstore and s3fs keep connections open")


@pytest.fixture
def options(s3_server):
    return s3_server.options()


@pytest.fixture
def proxy(s3_server):
    made = FaultProxy(s3_server.port)
    yield made
    made.close()


def place(bucket, options):
    """Two stores of one place, as two processes would have them."""
    made = [locate(f"s3://{bucket}/out.zarr", options).store for _ in range(2)]
    assert all(isinstance(store, ObjectStore) for store in made)
    return made


def group(bucket, server):
    store = zarr.storage.ObjectStore(server.store(bucket, "out.zarr"), read_only=True)
    return zarr.open_group(store, mode="r")


def keys(bucket, server):
    return sorted(entry["path"] for entry in obstore.list(server.store(bucket)).collect())


# -- conditions ----------------------------------------------------------------------------------


def test_a_document_that_another_writer_changed_is_not_replaced_unseen(bucket, options):
    one, two = place(bucket, options)
    assert one.get("a") is None
    one.put("a", b"first")
    assert two.get("a") == b"first"
    two.put("a", b"second")
    with pytest.raises(ChangedError, match=r"out.zarr/a in s3://.* was changed by another process"):
        one.put("a", b"third")
    one.put("a", b"third")
    assert two.get("a") == b"third"


def test_an_object_is_created_once(bucket, options):
    one, two = place(bucket, options)
    one.create("a", b"mine")
    one.create("a", b"mine")  # the answer to the first was lost
    with pytest.raises(StoreInUseError, match="written by another process"):
        two.create("a", b"theirs")
    assert one.get("a") == b"mine"


def test_a_chunk_of_a_dead_writer_is_replaced_unless_the_fence_says_no(bucket, options):
    dead, living = place(bucket, options)
    dead.write("c/0", b"left behind")
    dead.barrier()
    living.write("c/0", b"true")
    living.barrier()
    assert dead.get("c/0") == b"true"

    def fenced():
        raise StoreInUseError("somebody else is the writer now")

    late = locate(f"s3://{bucket}/out.zarr", options).store
    late.keep_aside("x/", fenced)
    late.write("c/0", b"late")
    with pytest.raises(StoreInUseError, match="somebody else"):
        late.barrier()
    assert living.get("c/0") == b"true"
    for store in (dead, living, late):
        store.close()


def test_documents_that_did_not_change_are_not_sent_again(bucket, s3_server, proxy):
    store, _ = place(bucket, s3_server.options(proxy.endpoint))
    store.put("a", b"same")
    before = proxy.counts["PUT"]
    store.put("a", b"same")
    assert proxy.counts["PUT"] == before


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_changes_nothing(bucket, s3_server, proxy, fault):
    options = {**s3_server.options(proxy.endpoint), "client_options": {"timeout": "1s"}}
    proxy.stall = 1.5
    store, _ = place(bucket, options)
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
        time.sleep(2.5)  # the requests of the past arrive
        assert store.get("a") == b"second"


def test_a_store_that_stays_away_is_an_error_that_names_object_and_attempts(bucket, s3_server):
    proxy = FaultProxy(s3_server.port, rate=1.0, faults=("500",))
    try:
        options = {**s3_server.options(proxy.endpoint), "retry_timeout": 0.8}
        store, _ = place(bucket, options)
        with pytest.raises(StorageError, match=r"can't write out.zarr/a .*tried \d+ times in 0.8"):
            store.put("a", b"x")
        assert 2 <= proxy.counts["PUT"] <= 12
    finally:
        proxy.close()


def test_slow_down_halves_the_requests_under_way():
    gate = Gate(32)
    gate.slower()
    gate.slower()
    assert gate.width == 8
    for _ in range(8):
        gate.faster()
    assert 8.5 < gate.width <= 9
    for _ in range(10):
        gate.slower()
    assert gate.width == 1


# -- who writes ----------------------------------------------------------------------------------


def test_a_second_process_is_refused_and_told_who_writes(bucket, s3_server, options):
    program = (
        "import sys, json, savers; s = savers.ZarrSaver(sys.argv[1], storage_options=json.loads("
        "sys.argv[2])); s.save([1.0]); print('open', flush=True); sys.stdin.read(); s.close()"
    )
    url = f"s3://{bucket}/out.zarr"
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
    assert group(bucket, s3_server)["dataset"][:].tolist() == [1.0, 2.0]


def test_a_writer_that_was_taken_over_while_it_slept_can_not_commit(bucket, s3_server, options):
    """Its lock is replaced as if its lease had run out on another host, then it wakes up."""
    url = f"s3://{bucket}/out.zarr"
    sleeper = ZarrSaver(url, storage_options=options)
    sleeper.save([1.0])
    lock = f"{url.removeprefix(f's3://{bucket}/')}.ledger/dataset.lock"
    raw = s3_server.store(bucket)
    now = time.time()
    stale = replace(current_holder(), host="elsewhere", renewed=now - 2 * LEASE)
    obstore.put(raw, lock, json.dumps(asdict(stale)).encode())
    from savers._session import _session

    mine = dict(_session._sessions)
    _session._sessions.clear()  # as in another process
    with ZarrSaver(url, storage_options=options) as successor:
        successor.save([2.0])
    _session._sessions.update(mine)
    with pytest.raises(StoreInUseError):
        sleeper.save([3.0])
    sleeper.close()
    assert group(bucket, s3_server)["dataset"][:].tolist() == [1.0, 2.0]
    assert verify(url, options) == []


def test_what_only_the_ledger_holds_is_recovered(bucket, s3_server, options):
    program = (
        "import os, sys, json, savers; s = savers.ZarrSaver(sys.argv[1], storage_options="
        "json.loads(sys.argv[2])); s.save([1.0]); s.flush(); s.save([2.0]); os._exit(9)"
    )
    url = f"s3://{bucket}/out.zarr"
    subprocess.run([sys.executable, "-c", program, url, json.dumps(options)], check=False)
    recover(url, options)
    assert group(bucket, s3_server)["dataset"][:].tolist() == [1.0, 2.0]


def test_a_ledger_is_compacted_and_leaves_nothing_behind(bucket, s3_server, options):
    url = f"s3://{bucket}/out.zarr"
    with ZarrSaver(url, storage_options=options, chunks=10) as saver:
        for row in range(230):
            saver.save([float(row)])
    records = [key for key in keys(bucket, s3_server) if ".ledger/dataset@" in key]
    assert 1 <= len(records) <= 110
    assert not [key for key in keys(bucket, s3_server) if "staged" in key or ".lock" in key]
    assert group(bucket, s3_server)["dataset"][:].tolist() == list(range(230))


def test_a_warm_commit_is_puts_alone(bucket, s3_server, proxy):
    url, options = f"s3://{bucket}/out.zarr", s3_server.options(proxy.endpoint)
    with ZarrSaver(url, storage_options=options, chunks=2) as saver:
        saver.save(np.zeros((2, 100)))
        saver.flush()
        proxy.counts.clear()
        for _ in range(10):
            saver.save(np.zeros((2, 100)))
        published = sum(kind == "GET" for kind, _ in proxy.log[-proxy.counts.total() :])
        counts = dict(proxy.counts)
    assert counts["PUT"] >= 20  # a chunk and a record each
    assert counts.get("LIST", 0) == counts.get("HEAD", 0) == 0
    assert published <= counts["PUT"] // 10  # the root, once a publication


def test_a_first_save_puts_each_chunk_once(bucket, s3_server, proxy):
    url, options = f"s3://{bucket}/out.zarr", s3_server.options(proxy.endpoint)
    with ZarrSaver(url, storage_options=options, chunks=1) as saver:
        saver.save(np.zeros((8, 10)))
    chunks = [path for kind, path in proxy.log if kind == "PUT" and "/c/" in path]
    assert len(chunks) == len(set(chunks)) == 8
    assert not [path for kind, path in proxy.log if kind == "PUT" and "staged" in path]


# -- spellings -----------------------------------------------------------------------------------


def test_a_map_of_s3fs_exactly_as_in_the_usage_form(bucket, s3_server, options):
    import s3fs

    s3 = s3fs.S3FileSystem(**options)
    store = s3fs.S3Map(root=f"{bucket}/zarr-data", s3=s3, check=False)
    with ZarrSaver(store) as saver:
        saver.save([1.0, 2.0])
    with ZarrSaver(f"s3://{bucket}/zarr-data", storage_options=options) as saver:
        saver.save([3.0])  # one place, one ledger
    found = zarr.open_group(
        zarr.storage.ObjectStore(s3_server.store(bucket, "zarr-data"), read_only=True), mode="r"
    )
    assert found["dataset"][:].tolist() == [1.0, 2.0, 3.0]


def spellings(server, bucket):
    import fsspec

    url, options = f"s3://{bucket}/out.zarr", server.options()
    yield "s3fs names", url, options
    yield "client_kwargs", url, {"key": KEY, "secret": SECRET, "client_kwargs": {
        "endpoint_url": server.endpoint, "region_name": REGION}}  # fmt: skip
    yield "obstore names", url, {
        "access_key_id": KEY, "secret_access_key": SECRET, "endpoint": server.endpoint,
        "region": REGION}  # fmt: skip
    yield "path style", url, {**options, "config_kwargs": {"s3": {"addressing_style": "path"}}}
    yield "mapper", fsspec.get_mapper(url, **options), None
    yield "zarr FsspecStore", zarr.storage.FsspecStore.from_url(url, storage_options=options), None
    yield "obstore store", server.store(bucket, "out.zarr"), None
    yield "zarr ObjectStore", zarr.storage.ObjectStore(server.store(bucket, "out.zarr")), None


NAMES = ("s3fs names", "client_kwargs", "obstore names", "path style", "mapper",
         "zarr FsspecStore", "obstore store", "zarr ObjectStore")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_spelling_saves_updates_and_replaces(bucket, s3_server, name):
    target, options = next((t, o) for n, t, o in spellings(s3_server, bucket) if n == name)
    with ZarrSaver(target, storage_options=options, chunks=2) as saver:
        saver.save([1.0, 2.0, 3.0])
        saver.save([4.0])
    with ZarrSaver(target, approach="update", storage_options=options) as saver:
        saver.save([20.0, 30.0], indices=[1, 2])
    assert group(bucket, s3_server)["dataset"][:].tolist() == [1.0, 20.0, 30.0, 4.0]
    with ZarrSaver(target, "other", approach="overwrite", storage_options=options) as saver:
        saver.save([5.0])
        saver.save([6.0, 7.0])
    assert group(bucket, s3_server)["other"][:].tolist() == [6.0, 7.0]
    assert not [key for key in keys(bucket, s3_server) if "staged" in key]


def test_the_environment_and_profiles_are_looked_at(bucket, s3_server, tmp_path, monkeypatch):
    url = f"s3://{bucket}/out.zarr"
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    with ZarrSaver(url) as saver:
        saver.save([1.0])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    file.write_text(f"[work]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with ZarrSaver(url, storage_options={"profile": "work"}) as saver:
        saver.save([2.0])
    monkeypatch.setenv("AWS_PROFILE", "work")
    with ZarrSaver(url) as saver:
        saver.save([3.0])
    assert group(bucket, s3_server)["dataset"][:].tolist() == [1.0, 2.0, 3.0]


def test_refusals_name_their_remedy_and_no_secret(bucket, s3_server, options):
    def refused(url, given):
        saver = ZarrSaver(url, storage_options=given)
        with pytest.raises(StorageError) as caught:
            saver.save([1.0])
        saver.close()
        assert SECRET not in str(caught.value)
        return caught.value

    error = refused("s3://no-such-bucket-here/out.zarr", options)
    assert (error.errno, "make the bucket first" in str(error)) == (errno.ENOENT, True)
    error = refused(f"s3://{bucket}/out.zarr", {**options, "secret": "wrong-secret-canary"})
    assert (error.errno, "check key and secret" in str(error)) == (errno.EACCES, True)
    assert "wrong-secret-canary" not in str(error)
    with pytest.raises(ValueError, match="nonsense"):
        ZarrSaver(f"s3://{bucket}/x", storage_options={**options, "nonsense": 1})
    with pytest.raises(ValueError, match="expected s3://bucket/path"):
        ZarrSaver("s3:///x")


def test_no_secret_enters_the_store_or_a_pickle(bucket, s3_server, options):
    with ZarrSaver(f"s3://{bucket}/out.zarr", storage_options=options) as saver:
        saver.save([1.0])
        assert SECRET.encode() not in pickle.dumps(saver)
    raw = s3_server.store(bucket)
    for key in keys(bucket, s3_server):
        assert SECRET.encode() not in bytes(obstore.get(raw, key).bytes())


def test_a_dataset_in_a_bucket_is_opened_by_name(bucket, options):
    url = f"s3://{bucket}/out.zarr"
    with ZarrSaver(url, storage_options=options, dims=("time", "x")) as saver:
        saver.save(np.arange(6.0).reshape(2, 3))
    found = open_dataset(url, storage_options=options)
    assert found["dataset"].values.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_a_store_that_ignores_conditions_is_used_with_a_warning(bucket, s3_server, options):
    store, _ = place(bucket, options)
    with pytest.warns(UserWarning, match="no conditional writes"):
        store.ignores_conditions()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.ignores_conditions()  # told once
    store.put("a", b"1")
    obstore.put(s3_server.store(bucket, "out.zarr"), "a", b"2")
    store.put("a", b"3")
    assert store.get("a") == b"3"


def test_many_faults_lose_and_repeat_nothing(bucket, s3_server):
    """A small torture; tests/torture_s3.py is the large one."""
    proxy = FaultProxy(s3_server.port, seed=3, rate=0.15, stall=1.2)
    options = {**s3_server.options(proxy.endpoint), "client_options": {"timeout": "1s"}}
    try:
        with ZarrSaver(f"s3://{bucket}/out.zarr", storage_options=options, chunks=4) as saver:
            for row in range(30):
                saver.save([float(row)] * 2)
        assert sum(proxy.struck.values()) >= 5
    finally:
        proxy.close()
    expected = np.repeat(np.arange(30.0), 2)
    assert np.array_equal(group(bucket, s3_server)["dataset"][:], expected)
    assert verify(f"s3://{bucket}/out.zarr", s3_server.options()) == []
    assert os.environ.get("AWS_ACCESS_KEY_ID") is None
