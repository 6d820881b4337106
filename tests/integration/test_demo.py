from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from matplotlib.image import imread

from taskmanager.__main__ import main
from taskmanager.demo._checks import check_fields, check_runs
from taskmanager.demo._driver import Ended, Job, drive
from taskmanager.demo._ensemble import FIELDS, MEMBERS

ROOT = Path(__file__).parents[2]
ITEMS = 20


def demo(out, *options):
    command = [sys.executable, "-m", "taskmanager", "demo", "--out", out, "--items", str(ITEMS)]
    return subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def digests(store):
    """Return the hash of every file of an array: chunks and its metadata."""
    return {
        str(path.relative_to(store)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.relative_to(store).parts[0] in FIELDS
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    ended = demo(out, "--crash-at", "0", "--executor", "serial")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return out


@pytest.fixture(scope="module")
def told(undisturbed, tmp_path_factory):
    """The demo with its crash, in a folder where an earlier demo has been."""
    out = tmp_path_factory.mktemp("again")
    (out / "forecast.zarr").mkdir()
    ended = demo(out)
    return out, ended


def test_demo_kills_resumes_and_ends_well(told):
    out, ended = told
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert "FAILED" not in ended.stdout
    assert "killed with SIGKILL" in ended.stdout
    assert "removed what an earlier demo left" in ended.stdout
    found = int(re.search(r"ledger holds (\d+) of 20", ended.stdout)[1])
    assert ITEMS // 2 <= found < ITEMS
    assert f"{found} forecasts were committed and not run again" in ended.stdout
    assert f"the other {ITEMS - found} ran, once each" in ended.stdout
    assert f'xarray.open_zarr("{out / "forecast.zarr"}")' in ended.stdout


def test_output_of_a_killed_run_is_that_of_an_undisturbed_one(told, undisturbed):
    once, again = digests(undisturbed / "forecast.zarr"), digests(told[0] / "forecast.zarr")
    assert {name.split("/")[0] for name in once} == set(FIELDS)
    assert any("/c" in name for name in once)
    assert again == once


def test_plain_zarr_finds_fields_with_cf_names_and_units(told):
    group = zarr.open_group(told[0] / "forecast.zarr", mode="r")
    assert {"Conventions", "title", "source"} <= set(group.attrs)
    assert not {*FIELDS, "lat", "lon"} & set(group.attrs)  # theirs stand where they belong
    for name, standard, units in (
        ("vorticity", "atmosphere_relative_vorticity", "s-1"),
        ("u", "eastward_wind", "m s-1"),
        ("v", "northward_wind", "m s-1"),
    ):
        array = group[name]
        assert array.dtype == np.float32
        assert array.shape == (2, MEMBERS, 21, 32, 64)
        assert array.metadata.dimension_names == ("time", "member", "lead_time", "lat", "lon")
        assert (array.attrs["standard_name"], array.attrs["units"]) == (standard, units)
        assert np.isfinite(array[0]).all()
        assert np.isfinite(array[1, : ITEMS - MEMBERS]).all()
        assert np.isnan(array[1, ITEMS - MEMBERS :]).all()  # never asked for: missing, not zero
    for name, standard, units in (
        ("lat", "latitude", "degrees_north"),
        ("lon", "longitude", "degrees_east"),
    ):
        assert (group[name].attrs["standard_name"], group[name].attrs["units"]) == (standard, units)


def test_xarray_decodes_times_lead_times_and_weather(told):
    with xr.open_zarr(told[0] / "forecast.zarr") as dataset:
        assert list(dataset["time"].values.astype("datetime64[h]")) == [
            np.datetime64("2025-01-15T00"),
            np.datetime64("2025-04-16T00"),
        ]
        assert dataset["lead_time"].dtype.kind == "m"
        assert dataset["lead_time"].values[-1] == np.timedelta64(5, "D")
        wind = np.hypot(dataset["u"], dataset["v"]).max(("lead_time", "lat", "lon")).values
        assert np.nanmin(wind) > 30
        assert np.nanmax(wind) < 100
        first = dataset["vorticity"].isel(time=0, lead_time=0).values
        assert not np.array_equal(first[1], first[2])  # each member has noise of its own
        assert not np.array_equal(first[0], dataset["vorticity"].isel(time=1, lead_time=0)[0])
        spread = dataset["vorticity"].isel(time=0).std("member").mean(("lat", "lon")).values
        assert spread[-1] > 1.2 * spread[0]


def test_the_same_story_with_the_saver_of_labels(told, tmp_path):
    ended = demo(tmp_path, "--saver", "async-zarr", "--workers", "2")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert "killed with SIGKILL" in ended.stdout
    assert "every checksum is that of the ledger" in ended.stdout
    with (
        xr.open_zarr(told[0] / "forecast.zarr") as expected,
        xr.open_zarr(tmp_path / "forecast.zarr") as found,
    ):
        store = {"tasksavers_store": expected.attrs["tasksavers_store"]}  # each has its own
        xr.testing.assert_identical(found.assign_attrs(store).load(), expected.load())


def test_picture_is_a_map_in_colours(told):
    image = imread(told[0] / "forecast.png")
    assert image.shape[0] > 800
    assert image.shape[1] > 800
    assert len(np.unique(image[::4, ::4].reshape(-1, image.shape[2]), axis=0)) > 100


def test_checks_find_a_value_that_is_missing_or_wrong(told):
    with xr.open_zarr(told[0] / "forecast.zarr") as dataset:
        saved = dataset.load()
    assert all(check.passed for check in check_fields(saved, ITEMS))
    for value, failing in ((np.nan, 2), (1.0, 1), (200.0, 2)):
        damaged = saved.copy(deep=True)
        damaged["u"][0, 0, 3, 4, 5] = value
        failed = [check.text for check in check_fields(damaged, ITEMS) if not check.passed]
        assert len(failed) == failing, failed


@pytest.mark.parametrize("counts", [{"resumed": 11, "executed": 9}, {}])
def test_checks_find_a_run_that_did_too_much_or_nothing(counts):
    good = Ended(counts={"resumed": 12, "executed": 8})
    assert all(check.passed for check in check_runs(20, 12, good))
    assert not any(check.passed for check in check_runs(20, 12, Ended(counts=counts)))


def test_driver_that_fails_is_not_taken_for_a_killed_one(tmp_path, capfd):
    ended = drive(Job(str(tmp_path / "x.zarr"), 2, executor="nonsense"), kill_at=1)
    assert not ended.killed
    assert ended.status not in (0, -signal.SIGKILL)
    assert "nonsense" in capfd.readouterr().err


def test_ctrl_c_ends_demo_and_driver_in_good_order(tmp_path):
    command = [sys.executable, "-m", "taskmanager", "demo", "--out", tmp_path]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for((tmp_path / "forecast.zarr.ledger").exists)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "BrokenPipe" not in errors


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--crash-at", "4", "--items", "4"], "expected 0 to 3"),
        (["--crash-at", "-1"], "expected 0 to 63"),
    ],
)
def test_crash_that_can_not_happen_is_refused(tmp_path, capsys, options, text):
    assert main(["demo", "--out", str(tmp_path), *options]) == 2
    assert text in capsys.readouterr().err


def test_folder_with_other_content_is_refused_and_kept(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("precious")
    assert main(["demo", "--out", str(tmp_path)]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "precious"
    assert main(["demo", "--out", str(tmp_path / "thesis.txt")]) == 2


def test_help_names_the_demo_and_its_options(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--help"])
    assert ended.value.code == 0
    assert "--crash-at" in capsys.readouterr().out


@pytest.mark.parametrize("options", [["--items", "0"], ["--saver", "csv"], ["--executor", "gpu"]])
def test_unknown_settings_are_refused(capsys, options):
    with pytest.raises(SystemExit) as ended:
        main(["demo", *options])
    assert ended.value.code == 2
    assert "expected" in (err := capsys.readouterr().err) or "invalid choice" in err
