"""Dimensions, coordinates and times as xarray and zarr find them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
import zarr

from savers import InvalidInputError, ZarrSaver
from tests.stores import consolidated_is_current, unchanged

TIMES = np.datetime64("2024-01-01", "h") + 6 * np.arange(5)


def opened(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(path).load()


@pytest.mark.parametrize("version", [3, 2])
def test_xarray_finds_dimensions_labels_units_and_attributes(tmp_path, version):
    saver = ZarrSaver(
        tmp_path / "a", "t2m", zarr_format=version,
        dims=("time", "lat", "lon"),
        coords={"time": TIMES, "lat": [50.0, 40.0], "lon": np.arange(3)},
        attrs={"t2m": {"units": "K"}, "lat": {"units": "degrees_north"}, "title": "analysis"},
    )  # fmt: skip
    values = np.arange(30.0).reshape(5, 2, 3)
    with saver:
        saver.save(values[:2])
        saver.save(values[2:])
    found = opened(tmp_path / "a")
    assert found.t2m.dims == ("time", "lat", "lon")
    np.testing.assert_array_equal(found.t2m, values)
    np.testing.assert_array_equal(found.time, TIMES)
    assert found.lat.values.tolist() == [50.0, 40.0]
    assert found.lon.dtype == np.dtype("i8")
    assert found.t2m.attrs == {"units": "K"}
    assert found.lat.attrs == {"units": "degrees_north"}
    assert found.attrs["title"] == "analysis"
    assert consolidated_is_current(tmp_path / "a")


def test_labels_of_the_append_dimension_are_shown_as_far_as_there_is_data(tmp_path):
    path = tmp_path / "a"
    with ZarrSaver(path, dims=("time",), coords={"time": TIMES}) as saver:
        for count in range(1, 6):
            saver.save([float(count)])
            saver.flush()
            found = opened(path)
            np.testing.assert_array_equal(found.time, TIMES[:count])
            assert consolidated_is_current(path)


def test_more_results_than_labels_are_refused(tmp_path):
    with ZarrSaver(tmp_path / "a", dims=("time",), coords={"time": TIMES}) as saver:
        saver.save(np.zeros(4))
        saver.flush()
        with (
            unchanged(tmp_path),
            pytest.raises(InvalidInputError, match="6 results, but 'time' has only 5 labels"),
        ):
            saver.save(np.zeros(2))
        saver.save(np.zeros(1))
    assert opened(tmp_path / "a").sizes == {"time": 5}


def test_a_saver_opened_again_with_more_labels_extends_them(tmp_path):
    path = tmp_path / "a"
    for stop in (2, 5):
        with ZarrSaver(path, dims=("time", "x"), coords={"time": TIMES[:stop]}) as saver:
            saver.save(np.zeros((2 if stop == 2 else 3, 3)))
    np.testing.assert_array_equal(opened(path).time, TIMES)


def test_a_saver_opened_again_with_fewer_labels_leaves_the_others(tmp_path):
    path = tmp_path / "a"
    with ZarrSaver(path, dims=("time",), coords={"time": TIMES}) as saver:
        saver.save(np.zeros(1))
    with ZarrSaver(path, dims=("time",), coords={"time": TIMES[:2]}) as saver:
        saver.save(np.zeros(1))
    with ZarrSaver(path, dims=("time",)) as saver:
        saver.save(np.zeros(1))
    np.testing.assert_array_equal(opened(path).time, TIMES[:3])


@pytest.mark.parametrize("dimension", ["time", "x"])
def test_a_saver_opened_again_with_other_labels_is_refused(tmp_path, dimension):
    path = tmp_path / "a"
    labels = {"time": TIMES, "x": np.arange(3)}
    with ZarrSaver(path, dims=("time", "x"), coords=labels) as saver:
        saver.save(np.zeros((2, 3)))
    other = {**labels, dimension: labels[dimension][::-1]}
    with (
        unchanged(tmp_path),
        ZarrSaver(path, dims=("time", "x"), coords=other) as saver,
        pytest.raises(InvalidInputError, match=f"coordinate '{dimension}'.*has the labels"),
    ):
        saver.save(np.zeros((1, 3)))


def test_version_2_refuses_more_labels_as_it_can_not_show_them_in_one_step(tmp_path):
    path = tmp_path / "a"
    with ZarrSaver(path, dims=("time",), coords={"time": TIMES[:2]}, zarr_format=2) as saver:
        saver.save(np.zeros(2))
    with (
        unchanged(tmp_path),
        ZarrSaver(path, dims=("time",), coords={"time": TIMES}, zarr_format=2) as saver,
        pytest.raises(InvalidInputError, match="can't be replaced in one step"),
    ):
        saver.save(np.zeros(2))
    np.testing.assert_array_equal(opened(path).time, TIMES[:2])


def test_overwrite_takes_other_labels(tmp_path):
    path = tmp_path / "a"
    for labels in (TIMES, TIMES[::-1], TIMES[1:3]):
        given = {"dims": ("time",), "coords": {"time": labels}, "approach": "overwrite"}
        with ZarrSaver(path, **given) as saver:
            saver.save(np.arange(float(len(labels))))
        np.testing.assert_array_equal(opened(path).time, labels)
        assert consolidated_is_current(path)


def test_several_arrays_share_their_dimensions(tmp_path):
    dims = {"u": ("time", "x"), "v": ("time", "x"), "total": ("time",)}
    with ZarrSaver(tmp_path / "a", dims=dims, coords={"time": TIMES, "x": [1, 2]}) as saver:
        for step in range(3):
            saver.save({"u": [[step, 1.0]], "v": [[step, 2.0]], "total": [step]})
    found = opened(tmp_path / "a")
    assert dict(found.sizes) == {"time": 3, "x": 2}
    assert set(found.data_vars) == {"u", "v", "total"}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"dims": ("time",)}, r"expected dimensions \(time\) for 'dataset'.*got data with 2"),
        ({"dims": ("time", "x"), "coords": {"x": [1, 2]}}, "expected 2 entries along 'x'.*got 3"),
        ({"dims": ("dataset", "x"), "coords": {"dataset": [1, 2]}}, "name of a coordinate"),
    ],
    ids=["ndim", "size", "name"],
)
def test_data_that_does_not_fit_its_dimensions(tmp_path, given, says):
    with (
        unchanged(tmp_path),
        ZarrSaver(tmp_path / "a", **given) as saver,
        pytest.raises(InvalidInputError, match=says),
    ):
        saver.save(np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("labels", "stored"),
    [
        (np.array([0, 1]), "<i8"), (np.array([0, 1], ">i2"), "<i2"), (np.array([0.5, 1.5]), "<f8"),
        (["a", "bc"], "T"), ([True, False], "|b1"), (np.array([1, 2], "M8[D]"), "days"),
        (np.array([24, 48], "M8[h]"), "days"), (np.array([1, 25], "M8[h]"), "hours"),
        (np.array([10**9, 10**9 + 1], "M8[ns]"), "nanoseconds"), (np.array([6, 12], "m8[h]"), "h"),
    ],
    ids=str,
)  # fmt: skip
def test_labels_of_every_kind_come_back_exactly(tmp_path, labels, stored):
    with ZarrSaver(tmp_path / "a", dims=("run",), coords={"run": labels}) as saver:
        saver.save([1.0, 2.0])
    found = opened(tmp_path / "a").run
    assert found.values.tolist() == np.asarray(labels).astype(found.dtype).tolist()
    raw = zarr.open_group(tmp_path / "a", mode="r")["run"]
    assert stored in (raw.dtype.str, raw.dtype.kind) or raw.attrs["units"].startswith(stored)


@pytest.mark.parametrize("unit", ["D", "h", "m", "s", "ms", "us", "ns"])
@pytest.mark.parametrize("kind", ["M8", "m8"])
def test_times_as_values_with_missing_ones(tmp_path, kind, unit):
    values = np.array([0, 1, "NaT", 20_000, -7], f"{kind}[{unit}]")
    with ZarrSaver(tmp_path / "a") as saver:
        saver.save(values)
    found = opened(tmp_path / "a").dataset
    assert found.dtype.kind == kind[0]
    np.testing.assert_array_equal(found.values, values)
    with ZarrSaver(tmp_path / "a") as saver:
        saver.save(values[::-1])
    np.testing.assert_array_equal(opened(tmp_path / "a").dataset[5:].values, values[::-1])


def test_text_as_values(tmp_path):
    for rows in (["a", "Grüße"], ["", "longer than the ones before"]):
        with ZarrSaver(tmp_path / "a", dims=("run",)) as saver:
            saver.save(rows)
    found = opened(tmp_path / "a").dataset.values.tolist()
    assert found == ["a", "Grüße", "", "longer than the ones before"]


def test_integers_stay_integers_unless_a_fill_value_is_asked_for(tmp_path):
    with ZarrSaver(tmp_path / "a") as saver:
        saver.save([1, 2])
    assert opened(tmp_path / "a").dataset.dtype == np.dtype("i8")
    with ZarrSaver(tmp_path / "b", fill_value=-9) as saver:
        saver.save([1, -9])
    np.testing.assert_array_equal(opened(tmp_path / "b").dataset, [1.0, np.nan])


def test_every_name_lies_below_the_root_and_in_groups(tmp_path):
    with ZarrSaver(tmp_path / "a", "wind/u component/ünïcode") as saver:
        saver.save([1.0])
    group = zarr.open_group(tmp_path / "a", mode="r")
    assert group["wind/u component/ünïcode"][:].tolist() == [1.0]
    assert consolidated_is_current(tmp_path / "a")
    for name, says in (("wind/u component/ünïcode/x", "is an array"), ("wind", "found a group")):
        with (
            unchanged(tmp_path),
            ZarrSaver(tmp_path / "a", name) as saver,
            pytest.raises(ValueError, match=says),
        ):
            saver.save([1.0])
