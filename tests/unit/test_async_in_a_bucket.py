"""Labelled writes into a bucket of a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace

import numpy as np
import obstore
import pytest
import s3fs
import xarray as xr
import zarr

from savers import AsyncZarrSaver, StorageError, StoreInUseError, verify
from savers._ledger._lock import current_holder
from tests.faultproxy import FaultProxy

pytestmark = pytest.mark.may_leak(
    "files", "threads", reason="obstore and s3fs keep connections open"
)

STEPS = np.arange(4, dtype="timedelta64[h]")
LAT, LON = np.array([10.0, 20.0]), np.array([1.0, 2.0, 3.0])


@pytest.fixture
def url(server, container):
    return server.url(container, "runs/x.zarr")


@pytest.fixture
def place(server, url):
    """Return what a saver takes, to make several savers of one place."""
    return {"file_name": url, "storage_options": server.options()}


@pytest.fixture
def raw(server, container):
    """Return what zarr reads there by itself."""
    return zarr.storage.ObjectStore(server.store(container, "runs/x.zarr"), read_only=True)


def field(step):
    return np.full((1, 2, 3), float(step / np.timedelta64(1, "h")) + 1)


def at(*steps):
    return {"lead_time": np.array(steps), "lat": LAT, "lon": LON}


@pytest.mark.parametrize("blocking", [True, False])
def test_written_reopened_and_read(place, blocking, raw):
    write_reopen_read(place, blocking, raw)


def test_a_file_system_of_s3fs_is_the_same_place(s3_server, bucket):
    place = {
        "file_name": f"{bucket}/runs/x.zarr",
        "fs_factory": lambda: s3fs.S3FileSystem(**s3_server.options()),
    }
    store = s3_server.store(bucket, "runs/x.zarr")
    write_reopen_read(place, False, zarr.storage.ObjectStore(store, read_only=True))


def write_reopen_read(place, blocking, store):
    labels = {"lead_time": STEPS}
    with AsyncZarrSaver(parallel_coords=labels, blocking=blocking, **place) as saver:
        for step in STEPS[2::-1]:
            saver.write([field(step), -field(step)], at(step), ["t2m", "z500"])
        saver.flush()
        assert [label["lead_time"] for label in saver.written("t2m")] == list(STEPS[:3])
        assert [label["lead_time"] for label in saver.missing("z500")] == [STEPS[3]]
    with AsyncZarrSaver(parallel_coords=labels, blocking=blocking, **place) as saver:
        assert [label["lead_time"] for label in saver.missing("t2m")] == [STEPS[3]]
        saver.write([field(STEPS[3]), -field(STEPS[3])], at(STEPS[3]), ["t2m", "z500"])
        saver.write(10 * field(STEPS[0]), at(STEPS[0]), "t2m")  # over what is there
    with AsyncZarrSaver(parallel_coords=labels, **place) as saver:
        assert saver.missing("t2m") == saver.missing("z500") == []
    assert zarr.open_group(store, mode="r")["t2m"][:, 0, 0].tolist() == [10.0, 2.0, 3.0, 4.0]
    with xr.open_zarr(store) as dataset:
        assert dataset.z500.dims == ("lead_time", "lat", "lon")
        assert dataset.z500[:, 1, 2].values.tolist() == [-1.0, -2.0, -3.0, -4.0]
        assert dataset.lead_time.values.astype("m8[h]").tolist() == STEPS.tolist()
        assert dataset.lon.values.tolist() == LON.tolist()


@pytest.fixture
def halves(server, url):
    """Return how to make savers of whose chunks each holds two results."""
    options = server.options()

    def make(**settings):
        return AsyncZarrSaver(
            url, {"lead_time": STEPS}, chunked_coords={"lead_time": 2}, storage_options=options,
            **settings,
        )  # fmt: skip

    return make


def values(raw):
    return zarr.open_group(raw, mode="r")["t2m"][:, 0, 0].tolist()


def test_two_writers_at_once_are_both_seen(place, raw):
    labels = {"lead_time": STEPS}
    with (
        AsyncZarrSaver(parallel_coords=labels, blocking=False, **place) as one,
        AsyncZarrSaver(parallel_coords=labels, blocking=False, **place) as other,
    ):
        for number, step in enumerate(STEPS):
            (one, other)[number % 2].write(field(step), at(step), "t2m")
        one.flush()
        other.flush()
        assert one.missing("t2m") == other.missing("t2m") == []
    assert values(raw) == [1.0, 2.0, 3.0, 4.0]


def test_a_chunk_that_another_writer_fills_is_refused_and_free_later(
    halves, url, server, container, raw
):
    with halves(blocking=False) as one, halves(blocking=False) as other:
        one.write(field(STEPS[0]), at(STEPS[0]), "t2m")
        with pytest.raises(StoreInUseError, match=r"being filled by process .*'lead_time': 1"):
            other.write(field(STEPS[1]), at(STEPS[1]), "t2m")
        other.write(field(STEPS[2]), at(STEPS[2]), "t2m")  # lies in another chunk
        one.close()
        other.write(field(STEPS[1]), at(STEPS[1]), "t2m")
    assert values(raw)[:3] == [1.0, 2.0, 3.0]
    left = obstore.list(server.store(container, "runs/x.zarr.ledger")).collect()
    assert not [entry["path"] for entry in left if "writers" in entry["path"]]


KILLED = """
import os, sys
import json
import os
import subprocess
import sys

import numpy as np
import obstore
from savers import AsyncZarrSaver, StorageError, StoreInUseError
from savers._ledger._lock import current_holder
from tests.faultproxy import FaultProxy
steps = np.arange(4, dtype="timedelta64[h]")
saver = AsyncZarrSaver(sys.argv[1], {"lead_time": steps}, chunked_coords={"lead_time": 2})
at = {"lead_time": steps[:1], "lat": [10.0, 20.0], "lon": [1.0, 2.0, 3.0]}
saver.write(np.full((1, 2, 3), 1.0), at, "t2m")
os._exit(9)
"""


def test_what_a_killed_writer_wrote_counts_and_its_chunk_is_taken_over(
    halves, url, server, container, raw
):
    command = [sys.executable, "-c", KILLED, url]
    environment = {**os.environ, **server.environment()}
    assert subprocess.run(command, check=False, env=environment).returncode == 9
    with halves() as saver:
        assert [label["lead_time"] for label in saver.written("t2m")] == [STEPS[0]]
        saver.write(field(STEPS[1]), at(STEPS[1]), "t2m")
    with halves() as saver:
        assert [label["lead_time"] for label in saver.written("t2m")] == list(STEPS[:2])
    assert values(raw)[:2] == [1.0, 2.0]


@pytest.mark.parametrize("too_late", [True, False], ids=["after the other", "before the other"])
def test_a_writer_that_was_taken_for_dead_records_nothing_more(
    halves, server, container, raw, too_late
):
    """The mark of its life is replaced as if it had slept on another host, then it wakes up."""
    asleep, other = halves(blocking=False), halves(blocking=False)
    asleep.write(field(STEPS[0]), at(STEPS[0]), "t2m")
    ledger = server.store(container, "runs/x.zarr.ledger")
    paths = [entry["path"] for entry in obstore.list(ledger).collect()]
    (mark,) = [path for path in paths if "/marks/" in path]
    slept = replace(current_holder(), host="elsewhere", renewed=0.0)
    obstore.put(ledger, mark, json.dumps(asdict(slept)).encode())
    asleep._engine.store._claims.mark.holder = slept
    other.write(field(STEPS[1]), at(STEPS[1]), "t2m")
    if too_late:
        other.flush()
    with pytest.raises(ExceptionGroup) as caught:
        asleep.flush()
    assert "is in use by" in str(caught.value.exceptions[0])
    with other:
        other.flush()
        assert [label["lead_time"] for label in other.written("t2m")] == [STEPS[1]]
    assert values(raw)[1] == 2.0
    with pytest.raises(ExceptionGroup):
        asleep.close()
    asleep._end.detach()  # or the end of the process would try once more, with no server there
    asleep._engine.close()


@pytest.fixture
def proxy(server):
    made = FaultProxy(server.port)
    yield made
    made.close()


def test_a_record_without_an_answer_holds_up_no_later_write(server, url, place, raw, proxy):
    """It stands; the same writes are recorded once more, and then the next."""
    through = {**place, "storage_options": server.options(proxy.endpoint) | {"retry_timeout": 0.1}}
    with AsyncZarrSaver(parallel_coords={"lead_time": STEPS}, blocking=False, **through) as saver:
        saver.write(field(STEPS[0]), at(STEPS[0]), "t2m").wait()
        lost = [("/writers/", "reset after"), *[("/writers/", "reset before")] * 1000]
        proxy.plan.extend(lost)
        handle = saver.write(field(STEPS[1]), at(STEPS[1]), "t2m")
        with pytest.raises(StorageError):
            handle.wait()
        proxy.plan.clear()
        saver.write(field(STEPS[2]), at(STEPS[2]), "t2m").wait()
        with pytest.raises(ExceptionGroup):
            saver.flush()  # which tells it once, and saves what was kept
        saver.flush()
        assert [label["lead_time"] for label in saver.written("t2m")] == list(STEPS[:3])
    with AsyncZarrSaver(parallel_coords={"lead_time": STEPS}, **place) as again:
        assert [label["lead_time"] for label in again.missing("t2m")] == [STEPS[3]]
    found = zarr.open_group(raw, mode="r")["t2m"][:3, 0, 0]
    np.testing.assert_array_equal(found, [1.0, 2.0, 3.0])


def test_a_warm_write_is_its_chunks_and_a_record(server, place, proxy):
    through = {**place, "storage_options": server.options(proxy.endpoint)}
    names = [f"v{number}" for number in range(5)]
    with AsyncZarrSaver(parallel_coords={"lead_time": STEPS}, **through) as saver:
        saver.write([field(STEPS[0])] * 5, at(STEPS[0]), names)
        proxy.counts.clear()
        saver.write([field(STEPS[1])] * 5, at(STEPS[1]), names)
        assert dict(proxy.counts) == {"PUT": 6}


def test_writes_that_end_while_a_record_is_on_its_way_share_the_next(server, place, proxy):
    """Small records are batched by time, and no chunk waits for a record."""
    through = {**place, "storage_options": server.options(proxy.endpoint)}
    labels = {"lead_time": np.arange(41, dtype="timedelta64[h]")}
    held, chunks = threading.Event(), threading.Semaphore(0)
    with AsyncZarrSaver(parallel_coords=labels, blocking=False, **through) as saver:
        saver.write(field(STEPS[0]), at(STEPS[0]), "t2m").wait()
        sink = saver._engine.queue.sink
        record, put = sink.record, sink.put

        def slow(*given):
            assert held.wait(30)
            record(*given)

        def counted(*given):
            entry = put(*given)
            chunks.release()
            return entry

        sink.record, sink.put = slow, counted
        for step in labels["lead_time"][1:]:
            saver.write(field(step), at(step), "t2m")
        for _ in range(40):
            assert chunks.acquire(timeout=30)  # none of them waits for the record
        proxy.log.clear()
        held.set()
        saver.flush()
    records = [path for kind, path in proxy.log if kind == "PUT" and "/writers/" in path]
    assert 1 <= len(records) <= 3


def test_values_that_another_writer_replaced_are_sent_again(place, raw):
    """The last one submitted wins, though it brings what its writer put there before."""
    labels = {"lead_time": STEPS}
    with (
        AsyncZarrSaver(parallel_coords=labels, **place) as one,
        AsyncZarrSaver(parallel_coords=labels, **place) as other,
    ):
        for saver, step in ((one, 0), (other, 1), (one, 0)):
            saver.write(field(STEPS[step]), at(STEPS[0]), "t2m")
    assert values(raw)[0] == 1.0
    assert verify(place["file_name"], storage_options=place["storage_options"]) == []
