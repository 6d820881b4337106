"""Labels compare exactly, times in a common unit, and unknown ones name the nearest."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.properties  # noqa: F401 -- sets how hard properties are tried
from savers import CoordinateNotFoundError, InvalidInputError
from savers._values._coordinates import Labels, coarsest_unit, find, stored_dtype, time_attributes

TICKS = {"D": 86400 * 10**9, "h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6,
         "us": 10**3, "ns": 1}  # fmt: skip


@given(
    st.sampled_from(sorted(TICKS)),
    st.lists(st.integers(-(2**40), 2**40), min_size=1, unique=True),
    st.integers(1, 3600),
)
def test_times_are_kept_in_the_coarsest_unit_that_is_exact(unit, numbers, step):
    values = (np.array(numbers) * step).astype(f"M8[{unit}]")
    coarse = coarsest_unit(values)
    found = np.datetime_data(coarse.dtype)[0]
    moments = [n * step * TICKS[unit] for n in numbers]
    assert [n * TICKS[found] for n in coarse.view("i8").tolist()] == moments
    coarser = [name for name in TICKS if TICKS[name] > TICKS[found]]
    assert all(any(moment % TICKS[name] for moment in moments) for name in coarser)


@given(st.sampled_from(sorted(TICKS)), st.sampled_from(sorted(TICKS)), st.integers(0, 10**4))
def test_a_time_is_found_in_whatever_unit_it_is_given(stored, asked, number):
    labels = Labels.of("time", np.array([0, number + 1], f"M8[{stored}]"))
    moment = (number + 1) * TICKS[stored]
    if moment % TICKS[asked] == 0:
        assert labels.index(np.datetime64(moment // TICKS[asked], asked)) == 1
    late = np.datetime64(moment + 1, "ns")
    with pytest.raises(CoordinateNotFoundError, match="nearest is"):
        labels.index(late)


def test_no_time_overflows_into_a_label():
    labels = Labels.of("time", np.array(["2000-01-01", "1677-09-22"], "M8[ns]"))
    for year in ("200000-01-01", "-10000-01-01", "9999-12-31"):
        with pytest.raises(CoordinateNotFoundError):
            labels.index(np.datetime64(year))


@pytest.mark.parametrize(
    ("values", "label", "index"),
    [
        ([10, 20], 20, 1),
        ([10, 20], np.int8(20), 1),
        ([10, 20], 20.0, 1),
        ([0.1, 0.2], 0.2, 1),
        (["a", "b"], "b", 1),
        (np.array(["a", "b"]), np.str_("b"), 1),
        (["2000-01-01", "2000-01-02"], "2000-01-02", 1),
        (np.array(["2000-01-01", "2000-01-02"], "M8[D]"), "2000-01-02", 1),
        (np.array(["2000-01-01", "2000-01-02"], "M8[D]"), datetime.date(2000, 1, 2), 1),
        ([datetime.datetime(2000, 1, 1), datetime.datetime(2000, 1, 1, 6)],  # noqa: DTZ001
         datetime.datetime(2000, 1, 1, 6), 1),  # noqa: DTZ001
        ([datetime.timedelta(0), datetime.timedelta(hours=6)], np.timedelta64(360, "m"), 1),
        (range(5), 4, 4),
    ],
    ids=str,
)  # fmt: skip
def test_a_label_is_found_however_it_is_written(values, label, index):
    assert Labels.of("x", values).index(label) == index


@pytest.mark.parametrize(
    ("values", "label", "says"),
    [
        ([10, 20], 19, "label 19 is not among the 2 of 'x'; the nearest is 20"),
        ([10, 20], "20", "label '20' is not among"),
        ([10, 20], 20.5, "not among"),
        ([10, 20], None, "not among"),
        ([0.1, 0.2], np.float32(0.1), "not among"),  # compared exactly
        (["alpha", "beta"], "alhpa", "the nearest is 'alpha'"),
        (np.array(["2000-01-01"], "M8[D]"), "noon", "not among"),
        (np.array(["2000-01-01"], "M8[D]"), 10957, "not among"),
        (np.array(["2000-01-01"], "M8[D]"), np.timedelta64(10957, "D"), "not among"),
        ([], 1, "not among the 0 of 'x'"),
    ],
    ids=str,
)
def test_an_unknown_label_is_an_error_that_helps(values, label, says):
    with pytest.raises(CoordinateNotFoundError, match=says) as caught:
        Labels.of("x", values).index(label)
    assert isinstance(caught.value, KeyError)
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([[1, 2]], r"expected a 1-d array, got shape \(1, 2\)"),
        (5, r"expected a 1-d array, got shape \(\)"),
        ([1, 2, 1], "label 1 stands there twice"),
        ([0.0, np.nan], r"label 1 is missing \(nan\)"),
        (np.array(["NaT", "2000-01-01"], "M8[D]"), r"label 0 is missing \(NaT\)"),
        (np.array([1], "M8[ps]"), "no CF unit"),
        ([1, None], "got NoneType"),
    ],
    ids=str,
)
def test_labels_that_are_none(values, says):
    with pytest.raises(InvalidInputError, match=says):
        Labels.of("x", values)


def test_several_dimensions_at_once():
    labels = {"time": Labels.of("time", [1, 2]), "x": Labels.of("x", ["a", "b"])}
    assert find(labels, {"x": "a", "time": 2}) == {"x": 0, "time": 1}
    with pytest.raises(CoordinateNotFoundError, match="no coordinate 'y'.*there are: time, x"):
        find(labels, {"y": 1})


@pytest.mark.parametrize(
    ("dtype", "stored", "attributes"),
    [
        ("M8[s]", "<M8[s]", {"units": "seconds since 1970-01-01"}),
        ("M8[6h]", "<M8[h]", {"units": "hours since 1970-01-01"}),
        ("M8[M]", "<M8[D]", {"units": "days since 1970-01-01"}),
        ("m8[W]", "<m8[D]", {"units": "days", "dtype": "timedelta64[ns]"}),
    ],
)
def test_times_are_stored_with_cf_units(dtype, stored, attributes):
    found = stored_dtype(np.dtype(dtype), "x")
    assert found.str == stored
    assert attributes.items() <= time_attributes(found).items()


@pytest.mark.parametrize("dtype", ["M8[ps]", "m8[as]", "m8[M]", "m8[Y]"])
def test_times_without_a_cf_unit_are_refused(dtype):
    with pytest.raises(InvalidInputError, match=f"'x': .*{dtype[3:-1]}.*has no CF unit"):
        stored_dtype(np.dtype(dtype), "x")
