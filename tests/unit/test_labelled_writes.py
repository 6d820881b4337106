"""`write` and `add_array` of the savers that keep arrays in chunks, read back with zarr, xarray."""

from __future__ import annotations

import warnings

import h5py
import numpy as np
import pytest
import xarray as xr
import zarr

from savers import (
    CoordinateNotFoundError,
    HDF5Saver,
    InvalidInputError,
    NetCDFSaver,
    ZarrSaver,
    verify,
)
from tests.stores import consolidated_is_current, unchanged

TIMES = np.datetime64("2024-01-01", "h") + 6 * np.arange(4)
LAT, LON = np.array([90.0, 0.0, -90.0]), np.array([0.0, 180.0])
VALUES = np.arange(24.0).reshape(4, 3, 2)


def opened(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return xr.open_zarr(path).load()


def coords(time, lat=LAT, lon=LON):
    return {"time": time, "lat": lat, "lon": lon}


def test_labels_decide_where_values_go(tmp_path):
    with ZarrSaver(tmp_path / "a", coords={"time": TIMES}) as saver:
        saver.write(VALUES[2:3], coords(TIMES[2:3]), "t")
        saver.write(VALUES[[1, 0]], coords(TIMES[[1, 0]]), "t")  # permuted
        saver.write(VALUES[3:, ::-1, ::-1], coords(TIMES[3:], LAT[::-1], LON[::-1]), "t")
    found = opened(tmp_path / "a")
    np.testing.assert_array_equal(found.t, VALUES)
    np.testing.assert_array_equal(found.time, TIMES)
    assert found.t.dims == ("time", "lat", "lon")
    assert consolidated_is_current(tmp_path / "a")
    assert verify(tmp_path / "a") == []


def test_dimensions_are_matched_by_name(tmp_path):
    with ZarrSaver(tmp_path / "a") as saver:
        saver.write(VALUES, coords(TIMES), "t")
        turned = {"lon": LON, "time": TIMES[:1], "lat": LAT}
        saver.write(-VALUES[:1].transpose(2, 0, 1), turned, "t")
    np.testing.assert_array_equal(opened(tmp_path / "a").t[0], -VALUES[0])


def test_parts_of_the_other_axes_come_together(tmp_path):
    with ZarrSaver(tmp_path / "a", coords={"time": TIMES}) as saver:
        saver.add_array(coords(TIMES), "t", dtype="f8", attributes={"units": "K"})
        saver.write(VALUES[:2, :1], coords(TIMES[:2], LAT[:1]), "t")
        saver.flush()
        saver.write(VALUES[:2, [2, 1]], coords(TIMES[:2], LAT[[2, 1]]), "t")
    found = opened(tmp_path / "a")
    np.testing.assert_array_equal(found.t[:2], VALUES[:2])
    assert np.isnan(found.t[2:]).all()
    assert found.t.attrs == {"units": "K"}


def test_several_arrays_in_one_call(tmp_path):
    with ZarrSaver(tmp_path / "a") as saver:
        saver.write([VALUES, -VALUES], coords(TIMES), np.array(["u", "v"]))
    found = opened(tmp_path / "a")
    np.testing.assert_array_equal(found.u, VALUES)
    np.testing.assert_array_equal(found.v, -VALUES)


def test_an_added_array_that_is_never_written_is_there_and_missing(tmp_path):
    with ZarrSaver(tmp_path / "a") as saver:
        saver.add_array(coords(TIMES), ["t"])
    found = opened(tmp_path / "a")
    assert found.t.dtype == np.float32
    assert found.t.shape == (4, 3, 2)
    assert np.isnan(found.t).all()


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"lat": [90.0, 1.0, -90.0]}, CoordinateNotFoundError, "label 1.0.*nearest is 0.0"),
        ({"lat": [90.0, 90.0, 0.0]}, InvalidInputError, "label 90.0 stands there twice"),
        ({"lat": LAT[:2]}, InvalidInputError, r"of shape \(1, 2, 2\).*got data of shape"),
        ({"lat": LAT, "level": [1]}, InvalidInputError, "expected dimensions .time, lat, lon."),
        ({"time": TIMES[:1] + np.timedelta64(1, "h")}, CoordinateNotFoundError, "not among"),
    ],
)
def test_a_write_that_does_not_fit_changes_nothing(tmp_path, change, error, text):
    path = tmp_path / "a"
    with ZarrSaver(path, coords={"time": TIMES}) as saver:
        saver.write(VALUES[:1], coords(TIMES[:1]), "t")
        saver.flush()
        given = {**coords(TIMES[:1]), **change}
        block = VALUES[:1].reshape(1, 3, 2, 1) if "level" in change else VALUES[:1]
        with unchanged(path), pytest.raises(error, match=text):
            saver.write(block, given, "t")
        with unchanged(path), pytest.raises(ValueError, match="."):
            saver.write([VALUES[:1], block], given, ["new", "t"])


def test_a_refused_first_write_leaves_no_store(tmp_path):
    with ZarrSaver(tmp_path / "a", coords={"time": TIMES}) as saver:
        with pytest.raises(CoordinateNotFoundError):
            saver.write(VALUES[:1], coords(TIMES[:1] + np.timedelta64(1, "D")), "t")
        assert not (tmp_path / "a").exists()


def test_new_labels_are_added_when_the_store_is_opened_again(tmp_path):
    path = tmp_path / "a"
    with ZarrSaver(path, coords={"time": TIMES[:2]}) as saver:
        saver.write(VALUES[:2], coords(TIMES[:2]), "t")
        saver.write(VALUES[:1], coords(TIMES[:1]), "u")
    finer = np.append(
        TIMES[3:].astype("M8[m]"), TIMES[:1].astype("M8[m]") + np.timedelta64(30, "m")
    )
    with ZarrSaver(path, coords={"time": finer}) as saver:
        saver.write(VALUES[3:], coords(TIMES[3:]), "t")
        saver.write(VALUES[2:3], coords(finer[1:]), "t")
    found = opened(path)
    np.testing.assert_array_equal(found.time, [*TIMES[:2], *finer.astype("M8[ns]")])
    np.testing.assert_array_equal(found.t, VALUES[[0, 1, 3, 2]])
    assert np.isnan(found.u[1:]).all()
    assert verify(path) == []


def test_two_dimensional_latitudes_lie_on_index_dimensions(tmp_path):
    lat, lon = np.meshgrid(LAT, LON, indexing="ij")
    given = {"time": TIMES, "lat": lat, "lon": lon}
    with ZarrSaver(tmp_path / "a", attrs={"lat": {"units": "degrees_north"}}) as saver:
        saver.write(VALUES, given, "t")
        with pytest.raises(InvalidInputError, match="'lat' in .* has other values"):
            saver.write(VALUES, {**given, "lat": lat + 1}, "t")
    found = opened(tmp_path / "a")
    assert found.t.dims == ("time", "ilat", "ilon")
    assert set(found.t.coords) == {"time", "lat", "lon"}
    np.testing.assert_array_equal(found.lat, lat)
    assert found.lat.attrs["units"] == "degrees_north"


def test_rows_and_labels_do_not_mix_in_one_array(tmp_path):
    with ZarrSaver(tmp_path / "a", "t") as saver:
        saver.save([1.0, 2.0])
        with pytest.raises(InvalidInputError, match="grows row by row"):
            saver.write(np.ones(2), {"x": [1, 2]}, "t")
        saver.write(np.ones(2), {"x": [1, 2]}, "u")
        with pytest.raises(InvalidInputError, match="place results by label"):
            ZarrSaver(tmp_path / "a", "t").save({"u": [1.0]})
    assert zarr.open_group(tmp_path / "a", mode="r")["u"][:].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("approach", ["overwrite", "update"])
def test_only_append_writes_by_label(tmp_path, approach):
    with pytest.raises(InvalidInputError, match="expected approach='append'"):
        ZarrSaver(tmp_path / "a", approach=approach).write(np.ones(2), {"x": [1, 2]}, "t")


def test_partial_cells_survive_a_new_snapshot(tmp_path):
    path = tmp_path / "a"
    for part in (LAT[:1], LAT[1:2], LAT[2:]):
        with ZarrSaver(path, coords={"time": TIMES[:2]}) as saver:
            saver.add_array(coords(TIMES[:2]), "t", dtype="i4")
            saver.write(np.ones((1, 1, 2), "i4"), coords(TIMES[:1], part), "t")
            state = saver.session().peek().arrays["t"]
            assert bool(state.status[:1].all()) == (part[0] == -90.0)


@pytest.mark.parametrize(
    ("cls", "name"), [(ZarrSaver, "a.zarr"), (HDF5Saver, "a.h5"), (NetCDFSaver, "a.nc")]
)
def test_one_script_for_every_saver(tmp_path, cls, name):
    path = tmp_path / name
    with cls(path, coords={"time": TIMES[:2]}) as saver:
        saver.write(VALUES[[1, 0]], coords(TIMES[[1, 0]]), "t")
        turned = {"lon": LON, "time": TIMES[:1], "lat": LAT[::-1]}
        saver.write(VALUES[:1, ::-1].transpose(2, 0, 1), turned, "u")
        saver.add_array(coords(TIMES[:2]), "never")
        with pytest.raises(CoordinateNotFoundError):
            saver.write(VALUES[:1], coords(TIMES[2:3]), "t")
    with cls(path, coords={"time": TIMES[[3, 2]]}) as saver:
        saver.write(VALUES[2:], coords(TIMES[2:]), "t")
    found = zarr.open_group(path, mode="r") if cls is ZarrSaver else h5py.File(path)
    np.testing.assert_array_equal(found["t"][:], VALUES[[0, 1, 3, 2]])
    np.testing.assert_array_equal(found["u"][:, 0], VALUES[0].T)  # lon, time, lat
    assert found["never"].shape == (4, 3, 2)
    if cls is not ZarrSaver:
        found.close()
    assert verify(path) == []
