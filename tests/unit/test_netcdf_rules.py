"""What NetCDF allows: names, dtypes, attributes."""

from __future__ import annotations

import h5py
import numpy as np
import pytest

from savers import InvalidInputError
from savers._format import NewArray
from savers._netcdf._rules import (
    attribute_value,
    check_name,
    check_names,
    stored_dtype,
    typed_attributes,
    values_dtype,
)


def new(name="a", dtype="f4", dims=("x",), **more):
    return NewArray(name, np.dtype(dtype), (3,) * len(dims), (3,) * len(dims), dims=dims, **more)


@pytest.mark.parametrize("name", ["t2m", "_x", "2m_temperature", "größe", "a b", "x+y", "a" * 256])
def test_names_that_netcdf_knows(name):
    check_name(name, "array")


@pytest.mark.parametrize(
    "name",
    ["", "a" * 257, "a/b", "a ", "a\n", "\x7fa", " a", "+a", "_NCProperties", "CLASS",
     "Gro\u0308sse"],
)  # fmt: skip
def test_names_that_it_does_not(name):
    with pytest.raises(InvalidInputError, match="is no NetCDF name"):
        check_name(name, "array")


def test_every_name_of_an_array_is_checked():
    check_names(new("g/a", dims=("x", "y")))
    check_names(new("x"))
    for bad in (
        new("g /a"),
        new(dims=("x", "y ")),
        new(attributes={"_Netcdf4Dimid": 1}),
        new(dims=("x", "x")),
        new("x", dims=("y", "x")),
    ):
        with pytest.raises(InvalidInputError):
            check_names(bad)


def test_dtypes_in_the_file():
    assert stored_dtype(new(dtype="f8")) == "f8"
    assert stored_dtype(new(dtype="?")) == "i1"
    assert typed_attributes(new(dtype="?")) == {"dtype": "bool"}
    assert values_dtype(new(dtype="f2")) == stored_dtype(new(dtype="f2")) == "f4"
    assert stored_dtype(new(dtype="M8[s]")) == "i8"  # data may have any value, and NaT
    for bad in ("c8", "c16", "S4"):
        with pytest.raises(InvalidInputError, match="NetCDF has no"):
            values_dtype(new(dtype=bad))


@pytest.mark.parametrize(
    ("last", "stored"),
    [(0, "i4"), (2**31 - 1, "i4"), (-(2**31), "i4"), (2**31, "i8"), (-(2**31) - 1, "i8")],
)
def test_times_are_int32_where_that_is_exact(last, stored):
    labels = np.array([0, last], "M8[s]")
    assert stored_dtype(new(dtype="M8[s]", labels=labels)) == stored
    assert (labels.view("i8").astype(stored).astype("i8") == labels.view("i8")).all()


def test_attributes_are_as_small_as_they_fit_and_lists():
    for value, dtype in ((1, "i4"), (2**31, "i8"), (True, "i1"), (0.1, "f8"), ([1, 2.5], "f8")):
        found = attribute_value("x", value, np.dtype("f4"), "a")
        assert found.dtype == dtype
        assert found.tolist() == np.atleast_1d(value).tolist()


def test_some_attributes_are_of_the_type_of_their_variable():
    assert attribute_value("valid_min", 0.5, np.dtype("f4"), "a").dtype == "f4"
    assert attribute_value("flag_values", [0, 1], np.dtype("u1"), "a").dtype == "u1"
    with pytest.raises(InvalidInputError, match="can't hold"):
        attribute_value("valid_range", [0, 300], np.dtype("u1"), "a")


@pytest.mark.parametrize("value", [None, {"a": 1}, [], [1, "a"], [[1, 2]], object()])
def test_what_no_attribute_holds(value):
    with pytest.raises(InvalidInputError, match="attribute 'x' of 'a'"):
        attribute_value("x", value, np.dtype("f4"), "'a'")


@pytest.mark.parametrize("text", ["K", "", "größer als °C", "a\nb"])
def test_text_attributes_come_back(tmp_path, text):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs["x"] = attribute_value("x", text, np.dtype("f4"), "a")
        found = file.attrs["x"]
        if text:
            assert found.decode() == text
            assert h5py.check_string_dtype(file.attrs.get_id("x").dtype).length == len(found)
        else:
            assert isinstance(found, h5py.Empty)
