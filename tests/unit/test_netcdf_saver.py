"""NetCDFSaver, read back with plain h5py, h5netcdf and xarray."""

from __future__ import annotations

import cftime
import h5netcdf
import h5py
import numpy as np
import pytest
import xarray

from savers import InvalidInputError, NetCDFSaver
from savers.testing import SaverTests


def opened(path, **options):
    return xarray.open_dataset(path, engine="h5netcdf", **options)


class TestNetCDFSaver(SaverTests):
    def make_saver(self, path, **settings):
        return NetCDFSaver(path, **settings)

    def read(self, path, name="dataset"):
        group, _, leaf = name.rpartition("/")
        with opened(path, group=group or None, mask_and_scale=False) as dataset:
            return dataset[leaf].values


DAYS = np.array(["2025-01-15", "2025-04-16", "2025-07-16"], "M8[D]")
LEAD = np.array([0, 6, 12], "m8[h]")


def forecast(path, count=3, **settings):
    """Save `count` rows of temperature with labels, and return what was saved."""
    values = np.random.default_rng(1).normal(280, 5, (count, 3, 4)).astype("f4")
    coords = {"time": DAYS, "lead_time": LEAD, "lat": [10.0, 20.0, 30.0, 40.0]}
    attrs = {
        "title": "a test",
        "time": {"standard_name": "time"},
        "lat": {"standard_name": "latitude", "units": "degrees_north"},
        "t2m": {"units": "K", "long_name": "temperature", "valid_min": 0},
    }
    dims = ("time", "lead_time", "lat")
    with NetCDFSaver(path, "t2m", dims=dims, coords=coords, attrs=attrs, **settings) as saver:
        saver.save(values)
    return values


def test_dimensions_have_labels_and_the_first_is_unlimited(tmp_path):
    values = forecast(tmp_path / "out.nc", 2)
    with h5py.File(tmp_path / "out.nc") as file:
        assert file["t2m"].maxshape == (None, 3, 4)
        assert file["time"].maxshape == (None,)
        assert file["lat"].maxshape == (4,)
        assert [scale[0].name for scale in file["t2m"].dims] == ["/time", "/lead_time", "/lat"]
        ids = [int(file[name].attrs["_Netcdf4Dimid"]) for name in ("time", "lead_time", "lat")]
        assert ids == [0, 1, 2]
    with opened(tmp_path / "out.nc") as dataset:
        np.testing.assert_array_equal(dataset["t2m"], values)
        np.testing.assert_array_equal(dataset["time"], DAYS[:2].astype("M8[ns]"))
        np.testing.assert_array_equal(dataset["lead_time"], LEAD.astype("m8[ns]"))
        assert dataset.encoding["unlimited_dims"] == {"time"}
        assert dataset["t2m"].attrs["valid_min"].dtype == "f4"
        assert dataset.attrs["Conventions"] == "CF-1.11"


def test_more_rows_take_their_labels_with_them(tmp_path):
    values = forecast(tmp_path / "out.nc", 1)
    coords = {"time": DAYS, "lead_time": LEAD, "lat": [10.0, 20.0, 30.0, 40.0]}
    dims = ("time", "lead_time", "lat")
    with NetCDFSaver(tmp_path / "out.nc", "t2m", dims=dims, coords=coords) as saver:
        saver.save(values + 1)
        saver.flush()
        saver.save(values + 2)
    with opened(tmp_path / "out.nc") as dataset:
        np.testing.assert_array_equal(
            dataset["t2m"], np.concatenate([values + n for n in range(3)])
        )
        np.testing.assert_array_equal(dataset["time"], DAYS.astype("M8[ns]"))


@pytest.mark.parametrize(
    ("labels", "dtype", "units"),
    [
        (DAYS, "i4", "days since 1970-01-01"),
        (np.array(["2025-01-15T06", "2025-01-15T12"], "M8[ns]"), "i4", "hours since 1970-01-01"),
        (np.array(["2200-01-15T06:00:01"], "M8[s]"), "i8", "seconds since 1970-01-01"),
        (np.array([1], "M8[ns]"), "i4", "nanoseconds since 1970-01-01"),
        (np.array([2**53 + 1], "M8[ns]"), "i8", "nanoseconds since 1970-01-01"),
        (LEAD, "i4", "hours"),
    ],
)
def test_times_are_stored_exactly_in_the_smallest_integers(tmp_path, labels, dtype, units):
    with NetCDFSaver(tmp_path / "out.nc", dims=["time"], coords={"time": labels}) as saver:
        saver.save(np.zeros(len(labels)))
    with h5py.File(tmp_path / "out.nc") as file:
        assert file["time"].dtype == dtype
        assert file["time"].attrs["units"].decode() == units
    with opened(tmp_path / "out.nc") as dataset:
        assert (dataset["time"].values == labels).all()


@pytest.mark.parametrize("kind", [cftime.DatetimeNoLeap, cftime.Datetime360Day])
def test_calendars_of_models_come_back(tmp_path, kind):
    dates = [kind(2000, month, 28, 12) for month in (1, 2, 3)]
    with NetCDFSaver(tmp_path / "out.nc", dims=["time"], coords={"time": dates}) as saver:
        saver.save([1.0, 2.0, 3.0])
    with opened(tmp_path / "out.nc") as dataset:
        assert dataset["time"].values.tolist() == dates


def test_dimensions_without_labels_are_netcdf_dimensions(tmp_path):
    with NetCDFSaver(tmp_path / "out.nc", "g/a", dims={"g/a": ["n", "x"]}) as saver:
        saver.save({"g/a": np.zeros((2, 3)), "b": np.ones(2)})
        saver.flush()
        saver.save({"g/a": np.ones((4, 3))})
    with h5py.File(tmp_path / "out.nc") as file:
        assert file["g/n"].shape == (6,)
        assert file["g/n"].attrs["NAME"].startswith(b"This is a netCDF dimension but not")
    with opened(tmp_path / "out.nc", group="g") as dataset:
        assert dataset["a"].dims == ("n", "x")
        assert dict(dataset.sizes) == {"n": 6, "x": 3}
        assert set(dataset.variables) == {"a"}


def test_fill_values_stand_where_cells_may_be_missing(tmp_path):
    with NetCDFSaver(tmp_path / "out.nc", dims=["x"], coords={"x": [1, 2]}) as saver:
        saver.save(
            {"f": [1.0, 2.0], "i": [1, 2], "t": np.array([1, 2], "M8[s]"), "b": [True, False]}
        )
    with NetCDFSaver(tmp_path / "more.nc", fill_value=-1) as saver:
        saver.save([3, 4])
    with h5py.File(tmp_path / "out.nc") as file:
        assert np.isnan(file["f"].attrs["_FillValue"]).all()
        assert file["t"].attrs["_FillValue"] == np.iinfo("i8").min
        for name in ("i", "b", "x"):
            assert "_FillValue" not in file[name].attrs
    with h5py.File(tmp_path / "more.nc") as file:
        assert file["dataset"].attrs["_FillValue"].tolist() == [-1]
    with opened(tmp_path / "out.nc") as dataset:
        assert dataset["i"].dtype == "i8"
        assert dataset["b"].dtype == bool
        assert dataset["b"].values.tolist() == [True, False]
        assert (dataset["t"].values == np.array([1, 2], "M8[s]")).all()


def test_text_is_netcdf_text(tmp_path):
    with NetCDFSaver(tmp_path / "out.nc", attrs={"dataset": {"note": "größer"}}) as saver:
        saver.save(["a", "größer", ""])
    with opened(tmp_path / "out.nc") as dataset:
        assert dataset["dataset"].values.tolist() == ["a", "größer", ""]
        assert dataset["dataset"].attrs["note"] == "größer"


def test_packed_floats_come_back_within_half_a_step(tmp_path):
    packing = {"t2m": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 273.15}}
    values = forecast(tmp_path / "out.nc", packing=packing)
    with h5py.File(tmp_path / "out.nc") as file:
        assert file["t2m"].dtype == "i2"
        assert file["t2m"].attrs["_FillValue"].dtype == "i2"
    with opened(tmp_path / "out.nc") as dataset:
        assert np.abs(dataset["t2m"].values - values).max() <= 0.005 + 1e-4
    saver = NetCDFSaver(tmp_path / "out.nc", "t2m", "update", packing=packing)
    with saver:
        saver.save(np.full((3, 4), np.nan, "f4"), 0)
        with pytest.raises(InvalidInputError, match="'t2m' is packed into int16"):
            saver.save(np.full((3, 4), 1e4, "f4"), 1)
    with opened(tmp_path / "out.nc") as dataset:
        assert np.isnan(dataset["t2m"].values[0]).all()
        assert np.abs(dataset["t2m"].values[1:] - values[1:]).max() <= 0.005 + 1e-4


def test_another_packing_than_that_of_the_array_is_refused(tmp_path):
    packing = {"t2m": {"dtype": "int16", "scale_factor": 0.01, "add_offset": 273.15}}
    forecast(tmp_path / "out.nc", 1, packing=packing)
    other = {"t2m": {"dtype": "int16", "scale_factor": 0.02}}
    saver = NetCDFSaver(tmp_path / "out.nc", "t2m", packing=other)
    with saver, pytest.raises(InvalidInputError, match="was created with packing="):
        saver.save(np.zeros((1, 3, 4), "f4"))


@pytest.mark.parametrize(
    ("settings", "data", "text"),
    [
        ({}, np.zeros(2, "c8"), "no complex"),
        ({}, np.zeros(2, "S3"), "no bytes"),
        ({"dims": ["x "]}, [1.0], "is no NetCDF name"),
        ({"dims": ["dataset", "y"]}, [[1.0]], "has the name of one of its dimensions"),
        ({"attrs": {"dataset": {"a": {"b": 1}}}}, [1.0], "attribute 'a' of 'dataset'"),
        ({"attrs": {"dataset": {"_FillValue": 1.0}}}, [1.0], "give fill_value="),
        ({"attrs": {"a": None}}, [1.0], "attribute 'a' of the root"),
        ({"packing": {"dataset": 3}}, [1.0], "expected packing as"),
        ({"packing": {"dataset": {"dtype": "int8", "scale_factor": 1}}, "fill_value": 1}, [1.0],
         "leave fill_value out"),
        ({"dims": {"a": ["n", "x"], "b": ["n", "x"]}}, {"a": [[1.0]], "b": [[1.0, 2.0]]},
         "expected 1 entries along 'x'"),
        ({"dims": {"a": ["n", "b"], "b": ["n", "x"]}}, {"a": [[1.0]], "b": [[1.0, 2.0]]},
         "'b' is the name of a dimension"),
    ],
)  # fmt: skip
def test_what_netcdf_can_not_hold_is_refused_before_anything_changes(
    tmp_path, settings, data, text
):
    saver = NetCDFSaver(tmp_path / "out.nc", **settings)
    with saver, pytest.raises(InvalidInputError, match=text):
        saver.save(data)
    assert not list(tmp_path.iterdir())


def test_a_replaced_array_gives_its_dimensions_other_sizes(tmp_path):
    for shape in ((2, 3), (4, 5), (2, 3, 4)):
        rows = np.random.default_rng(1).normal(size=shape)
        dims = ("n", "x", "y")[: len(shape)]
        with NetCDFSaver(tmp_path / "out.nc", approach="overwrite", dims=dims) as saver:
            saver.save(rows)
        with opened(tmp_path / "out.nc") as dataset:
            np.testing.assert_array_equal(dataset["dataset"], rows)
            assert dataset["dataset"].dims == dims


def test_more_labels_replace_those_of_a_coordinate(tmp_path):
    for count in (2, 3):
        coords = {"time": DAYS[:count]}
        with NetCDFSaver(tmp_path / "out.nc", dims=["time"], coords=coords) as saver:
            saver.save(np.arange(2.0) if count == 2 else [2.0])
    with opened(tmp_path / "out.nc") as dataset:
        assert dataset["dataset"].values.tolist() == [0.0, 1.0, 2.0]
        assert (dataset["time"].values == DAYS).all()


@pytest.fixture
def theirs(tmp_path):
    """A file that another program made, with rows to come."""
    path = tmp_path / "theirs.nc"
    with h5netcdf.File(path, "w") as file:
        file.attrs["Conventions"] = "CF-1.8"
        file.dimensions = {"time": None, "x": 3, "spare": 2}
        file.resize_dimension("time", 2)
        time = file.create_variable("time", ("time",), "f8", data=[0.0, 1.0])
        time.attrs["units"] = "days since 2000-01-01"
        values = np.arange(6, dtype="f4").reshape(2, 3)
        field = file.create_variable("t2m", ("time", "x"), "f4", data=values, fillvalue=-999.0)
        field.attrs["units"] = "K"
        packed = file.create_variable(
            "packed", ("time",), "i2", data=np.array([2, -1], "i2"), fillvalue=-1
        )
        packed.attrs["scale_factor"], packed.attrs["add_offset"] = 0.5, 10.0
        file.create_variable("other", ("x",), "i4", data=[1, 2, 3])
    return path


def test_rows_are_added_to_the_file_of_another_program(theirs):
    with NetCDFSaver(theirs, "t2m") as saver:
        saver.save(np.full((1, 3), 7, "f4"))
    with NetCDFSaver(theirs, "new", dims=["time", "x"]) as saver:
        saver.save(np.ones((3, 3), "f4"))
    with (
        NetCDFSaver(theirs, "bad", dims=["time", "x"]) as saver,
        pytest.raises(InvalidInputError, match="expected 3 entries along 'x'"),
    ):
        saver.save(np.ones((3, 4), "f4"))
    with h5netcdf.File(theirs) as file:
        assert file.dimensions["time"].size == 3
        assert file.dimensions["spare"].size == 2
        assert file.attrs["Conventions"] == "CF-1.8"
        assert file["t2m"].attrs["units"] == "K"
        assert file["t2m"][...].tolist() == [[0, 1, 2], [3, 4, 5], [7, 7, 7]]
        assert file["new"].dimensions == ("time", "x")
        assert file["other"][...].tolist() == [1, 2, 3]


def test_packed_values_of_another_program_are_packed_its_way(theirs):
    with NetCDFSaver(theirs, "packed") as saver:
        saver.save([13.0, np.nan])
        for bad in (1e6, 9.5):  # out of range; what would mean missing
            with pytest.raises(InvalidInputError, match="'packed' is packed into int16"):
                saver.save([bad])
    with NetCDFSaver(theirs, "packed", "update") as saver:
        saver.save([12.5], [0])
    with opened(theirs) as dataset:
        np.testing.assert_array_equal(dataset["packed"].values, [12.5, np.nan, 13.0, np.nan])
    with h5py.File(theirs) as file:
        assert file["packed"][...].tolist() == [5, -1, 6, -1]


def test_an_array_never_ends_before_a_dimension_of_fixed_length(tmp_path):
    """NetCDF's own library can't read one that does."""
    dims = {"a": ["time"], "dataset": ["time", "x"]}
    saver = NetCDFSaver(tmp_path / "out.nc", dims=dims, coords={"time": DAYS})
    with saver:
        saver.write(np.zeros((1, 2)), {"time": DAYS[1:2], "x": np.arange(2)}, "dataset")
    saver = NetCDFSaver(tmp_path / "out.nc", "a", dims=["time"], coords={"time": DAYS})
    with saver, pytest.raises(InvalidInputError, match="can't append 'a' along 'time'"):
        saver.save([1.0])


def test_a_bare_dimension_becomes_unlimited_for_all_who_use_it(tmp_path):
    with h5netcdf.File(tmp_path / "out.nc", "w") as file:
        file.dimensions = {"x": 2}
        file.create_variable("fixed", ("x",), "f8", data=[1.0, 2.0])
    for count in (1, 3):
        with NetCDFSaver(tmp_path / "out.nc", "grown", dims=["x"]) as saver:
            saver.save(np.arange(float(count)))
    with h5netcdf.File(tmp_path / "out.nc") as file:
        assert file.dimensions["x"].isunlimited()
        assert file.dimensions["x"].size == 4
        assert file["fixed"].dimensions == file["grown"].dimensions == ("x",)
        assert file["grown"][...].tolist() == [0.0, 0.0, 1.0, 2.0]
