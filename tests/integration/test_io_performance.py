"""The example runs, and every way of writing stores the forecast that the model made."""

from __future__ import annotations

import uuid

import h5py
import numpy as np
import pytest
import zarr

from examples import io_performance as example

SIZE = {"members": 2, "steps": 3, "nlat": 7, "nlon": 12}
ZARR = [name for name in example.WAYS if name.startswith("Zarr") and "memory" not in name]
FILES = {"HDF5": "hdf5/out.h5", "NetCDF": "netcdf/out.nc"}


@pytest.fixture(scope="module")
def forecast():
    model = example.RossbyWaves(SIZE["members"], SIZE["nlat"], SIZE["nlon"])
    steps = [fields for fields, _ in model.forecast(SIZE["steps"])]
    return {name: np.concatenate(step, 2) for name, step in zip("uv", zip(*steps, strict=True),
                                                               strict=True)}  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run the example once; (its folder, the URL of its bucket, its figures)."""
    out = tmp_path_factory.mktemp("example") / "io-performance"
    bucket = f"memory://{uuid.uuid4().hex}"
    size = [text for name, value in SIZE.items() for text in (f"--{name}", str(value))]
    return out, bucket, example.main(["--out", str(out), "--s3", bucket, "--rounds", "1", *size])


@pytest.mark.parametrize("way", ZARR)
def test_a_zarr_way_stores_the_forecast(done, forecast, way):
    folder = way.replace(", ", "-").replace(" ", "-").lower()
    group = zarr.open_group(done[0] / "0" / folder / "out.zarr", mode="r")
    for name, values in forecast.items():
        np.testing.assert_array_equal(group[name][...], values)


@pytest.mark.parametrize("way", FILES)
def test_a_file_stores_the_forecast(done, forecast, way):
    with h5py.File(done[0] / "0" / FILES[way]) as file:
        for name, values in forecast.items():
            np.testing.assert_array_equal(file[name][...], values)


@pytest.mark.parametrize("way", ["s3", "s3-behind"])
def test_a_bucket_stores_the_forecast(done, forecast, way):
    group = zarr.open_group(f"{done[1]}/{way}.zarr", mode="r")
    for name, values in forecast.items():
        np.testing.assert_array_equal(group[name][...], values)


def test_figures_and_picture_are_there(done):
    out, _, timings = done
    assert set(timings) == {"no output", *example.WAYS, "S3", "S3, behind"}
    for timing in timings.values():
        assert 0 <= timing.writing + timing.closing <= timing.total
    assert timings["no output"].stored == 0
    assert timings["Zarr"].stored > 0
    assert (out / "io_performance.svg").read_text().startswith("<?xml")
    assert example.table(timings).count("\n") == len(timings) + 1
