"""The demo on a real S3 server: killed, resumed, verified, opened through s3fs and obstore."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
import zarr

from taskmanager.demo._checks import check_fields

ROOT = Path(__file__).parents[2]
ITEMS = 8


@pytest.mark.may_leak("files", reason="obstore and s3fs keep connections open")
@pytest.mark.parametrize("saver", ["zarr", "async-zarr"])
def test_the_demo_in_a_bucket(s3_server, bucket, tmp_path, saver):
    url = f"s3://{bucket}/demo"
    command = [sys.executable, "-m", "taskmanager", "demo", "--out", url, "--items", str(ITEMS),
               "--executor", "serial", "--saver", saver]  # fmt: skip
    environment = {**os.environ, **s3_server.environment(), "PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True,
                          timeout=110, check=False)  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    assert "killed with SIGKILL" in told.stdout
    again = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True,
                           timeout=110, check=False)  # fmt: skip
    assert again.returncode == 2  # it removes nothing from a bucket
    assert "choose another prefix" in again.stderr

    options = s3_server.options()
    through_obstore = zarr.storage.ObjectStore(
        s3_server.store(bucket, "demo/forecast.zarr"), read_only=True
    )
    with (
        xr.open_zarr(f"{url}/forecast.zarr", storage_options=options) as by_s3fs,
        xr.open_zarr(through_obstore) as by_obstore,
    ):
        assert all(check.passed for check in check_fields(by_obstore, ITEMS))
        xr.testing.assert_identical(by_s3fs.load(), by_obstore.load())
