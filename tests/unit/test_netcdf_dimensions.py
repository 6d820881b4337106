"""Dimensions of a NetCDF file: shared within a group and from above, one size each."""

from __future__ import annotations

import pytest

from savers import InvalidInputError
from savers._netcdf._dimensions import Axes, Dimension, dimensions


def test_labels_are_found():
    arrays = {"a": Axes(("y", "x"), (2, 3)), "x": Axes(("x",), (3,))}
    found, paths = dimensions(arrays, "out.nc")
    assert found == [
        Dimension("y", 2, unlimited=False),
        Dimension("x", 3, unlimited=False, labelled=True),
    ]
    assert paths == {"x": ("x",), "a": ("y", "x")}


def test_a_growing_dimension_is_as_long_as_its_longest_array():
    arrays = {
        "a": Axes(("time",), (5,), unlimited=True),
        "b": Axes(("time", "x"), (3, 2), unlimited=True),
        "c": Axes(("x", "time"), (2, 4)),
    }
    found, _ = dimensions(arrays, "out.nc")
    assert {one.path: (one.size, one.unlimited) for one in found} == {
        "time": (5, True),
        "x": (2, False),
    }


def test_a_group_uses_the_dimensions_above_it_where_they_fit():
    arrays = {
        "g/a": Axes(("x", "y"), (3, 7)),
        "g/h/b": Axes(("y",), (7,)),
        "x": Axes(("x",), (3,)),
        "y": Axes(("y",), (2,)),
    }
    found, paths = dimensions(arrays, "out.nc")
    assert paths["g/a"] == ("x", "g/y")  # a size of its own
    assert paths["g/h/b"] == ("g/y",)
    assert {one.path for one in found if one.labelled} == {"x", "y"}


def test_two_sizes_of_one_dimension_are_refused():
    arrays = {"a": Axes(("x",), (3,)), "b": Axes(("x",), (4,))}
    with pytest.raises(InvalidInputError, match="expected 3 entries along 'x' in out.nc.* got 4"):
        dimensions(arrays, "out.nc")
