"""Labelled writes into a bucket of a real server."""

from __future__ import annotations

import numpy as np
import pytest
import s3fs
import xarray as xr
import zarr

from savers import AsyncZarrSaver

pytestmark = pytest.mark.may_leak("files", "threads", reason="obstore and s3fs keep connections open")

STEPS = np.arange(4, dtype="timedelta64[h]")
LAT, LON = np.array([10.0, 20.0]), np.array([1.0, 2.0, 3.0])


@pytest.fixture(params=["url", "fs_factory"])
def place(request, s3_server, bucket):
    """Return what a saver takes, to make several savers of one place."""
    options = s3_server.options()
    if request.param == "url":
        return {"file_name": f"s3://{bucket}/runs/x.zarr", "storage_options": options}
    return {
        "file_name": f"{bucket}/runs/x.zarr",
        "fs_factory": lambda: s3fs.S3FileSystem(**options),
    }


def raw(s3_server, bucket):
    """Return what zarr reads there by itself."""
    return zarr.storage.ObjectStore(s3_server.store(bucket, "runs/x.zarr"), read_only=True)


def field(step):
    return np.full((1, 2, 3), float(step / np.timedelta64(1, "h")) + 1)


def at(*steps):
    return {"lead_time": np.array(steps), "lat": LAT, "lon": LON}


@pytest.mark.parametrize("blocking", [True, False])
def test_written_reopened_and_read(place, blocking, s3_server, bucket):
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
    store = raw(s3_server, bucket)
    assert zarr.open_group(store, mode="r")["t2m"][:, 0, 0].tolist() == [10.0, 2.0, 3.0, 4.0]
    with xr.open_zarr(store) as dataset:
        assert dataset.z500.dims == ("lead_time", "lat", "lon")
        assert dataset.z500[:, 1, 2].values.tolist() == [-1.0, -2.0, -3.0, -4.0]
        assert dataset.lead_time.values.astype("m8[h]").tolist() == STEPS.tolist()
        assert dataset.lon.values.tolist() == LON.tolist()
