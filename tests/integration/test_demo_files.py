"""The demo in one file: killed, resumed, the same as undisturbed, and read by every tool.

netCDF4-python has an HDF5 library of its own and is used in processes of its own only.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray

from taskmanager.demo._driver import Job, drive, run
from taskmanager.demo._ensemble import FIELDS

ROOT = Path(__file__).parents[2]
ITEMS = 6
SAVERS = {".h5": "hdf5", ".nc": "netcdf"}


def told(*command):
    """Run a tool and return what it told, once it ended well."""
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def stored(path):
    """Return the bytes of every chunk of the fields, as they lie in the file."""
    with h5py.File(path, "r") as file:
        found = {}
        for name in FIELDS:
            node = file[name].id
            chunks = [node.get_chunk_info(n).chunk_offset for n in range(node.get_num_chunks())]
            found |= {(name, at): node.read_direct_chunk(at) for at in chunks}
        return found


@pytest.fixture(scope="module", params=list(SAVERS))
def killed(request, tmp_path_factory):
    """The file of a driver that was killed half way and started again."""
    path = tmp_path_factory.mktemp("killed") / f"forecast{request.param}"
    job = Job(str(path), ITEMS, "serial", saver=SAVERS[request.param])
    assert drive(job, kill_at=ITEMS // 2).killed
    ended = drive(job)
    assert ended.status == 0
    assert ended.counts["resumed"] + ended.counts["executed"] == ITEMS
    return Path(job.path)


def test_the_story_is_told_of_a_netcdf_file(tmp_path):
    options = ["--saver", "netcdf", "--items", 2, "--executor", "serial"]
    text = told(sys.executable, "-m", "taskmanager", "demo", "--out", tmp_path, *options)
    assert "killed with SIGKILL" in text
    assert "every check passed" in text
    assert f'xarray.open_dataset("{tmp_path / "forecast.nc"}", engine="h5netcdf")' in text


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The NetCDF file of an undisturbed demo."""
    path = tmp_path_factory.mktemp("undisturbed") / "forecast.nc"
    run(Job(str(path), ITEMS, "serial", saver="netcdf"))
    return path


def test_a_killed_run_ends_with_the_bytes_of_an_undisturbed_one(killed, file, tmp_path):
    once = file
    if killed.suffix == ".h5":
        once = tmp_path / "forecast.h5"
        run(Job(str(once), ITEMS, "serial", saver="hdf5"))
    assert len(stored(killed)) >= len(FIELDS)
    assert stored(killed) == stored(once)


def test_xarray_reads_both_formats_alike(killed, file):
    with (
        xarray.open_dataset(killed, engine="h5netcdf") as found,
        xarray.open_dataset(file, engine="h5netcdf") as expected,
    ):
        for name in (*FIELDS, "time", "lead_time", "lat", "lon", "member"):
            np.testing.assert_array_equal(found[name], expected[name])
            assert found[name].dims == expected[name].dims


# -- tools ---------------------------------------------------------------------------------------

NETCDF4 = """
import json, sys
import netCDF4, xarray
with netCDF4.Dataset(sys.argv[1], "a") as file:
    kinds = {name: one.dtype.name for name, one in file.variables.items()}
    text = type(file.getncattr("title")).__name__
    file.comment = "written by another library"
with xarray.open_dataset(sys.argv[1], engine="netcdf4") as dataset:
    mean = float(dataset["u"].mean())
    times = [str(value) for value in dataset["time"].values]
print(json.dumps({"kinds": kinds, "text": text, "mean": mean, "times": times}))
"""


def test_netcdf4_python_reads_and_extends_the_file(file, tmp_path):
    copy = shutil.copy(file, tmp_path / "copy.nc")
    found = json.loads(told(sys.executable, "-c", NETCDF4, copy))
    with xarray.open_dataset(file, engine="h5netcdf") as dataset:
        assert found["mean"] == float(dataset["u"].mean())
        assert found["times"] == [str(value) for value in dataset["time"].values]
    assert found["kinds"]["time"] == found["kinds"]["lead_time"] == "int32"
    assert found["text"] == "str"
    with h5py.File(copy) as changed:
        assert changed.attrs["comment"] == b"written by another library"


def test_the_cf_checker_finds_no_error(file, tmp_path):
    report = tmp_path / "report.json"
    checker = Path(sys.executable).with_name("compliance-checker")
    options = ["--test", "cf:1.11", "--criteria", "strict", "--format", "json", "-o", report]
    subprocess.run([checker, *options, file], capture_output=True, timeout=100, check=False)
    found = json.loads(report.read_text())["cf:1.11"]
    assert found["possible_points"] > 100
    assert found["high_count"] == 0
    complaints = {text for one in found["medium_priorities"] for text in one["msgs"]}
    assert all("not in the recommended order" in text for text in complaints), complaints


def tool(name):
    if shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    return name


def test_ncdump_shows_times_and_characters(file):
    header = told(tool("ncdump"), "-h", file)
    assert 'time:calendar = "proleptic_gregorian" ;' in header
    assert "string " not in header  # text attributes are NC_CHAR
    assert "int time(time) ;" in header
    assert 'time = "2025-01-15" ;' in told("ncdump", "-v", "time", "-t", file)


def test_cdo_knows_grid_and_times(file):
    text = told(tool("cdo"), "sinfo", file)
    assert "gaussian" in text
    assert "2025-01-15 00:00:00" in text
    assert "Calendar = proleptic_gregorian" in text


def test_nco_cuts_a_part_out(file, tmp_path):
    told(tool("ncks"), "-d", "lead_time,0,1", file, tmp_path / "part.nc")
    with h5py.File(tmp_path / "part.nc") as part, h5py.File(file) as whole:
        np.testing.assert_array_equal(part["u"][...], whole["u"][:, :, :2])


def test_h5dump_reads_the_header(file):
    assert "H5T_STD_I32LE" in told(tool("h5dump"), "-H", file)
