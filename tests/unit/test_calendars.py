"""Dates of other calendars are labels like any others, and stored as CF says."""

from __future__ import annotations

import cftime
import numpy as np
import pytest
import xarray

from savers import CoordinateNotFoundError, InvalidInputError, ZarrSaver
from savers._values._coordinates import Labels
from tests.stores import without_warnings

DATES = {
    "noleap": cftime.DatetimeNoLeap,
    "360_day": cftime.Datetime360Day,
    "standard": cftime.DatetimeGregorian,
    "all_leap": cftime.DatetimeAllLeap,
    "julian": cftime.DatetimeJulian,
    "proleptic_gregorian": cftime.DatetimeProlepticGregorian,
}


@pytest.mark.parametrize("calendar", DATES)
def test_dates_of_a_calendar_are_found_again(calendar):
    kind = DATES[calendar]
    dates = [kind(1850, 1, 1), kind(2000, 2, 28, 6), kind(2000, 3, 1, 12, 30)]
    labels = Labels.of("time", dates)
    assert labels.calendar == calendar
    assert labels.values.dtype == "datetime64[m]"  # the coarsest that is exact
    assert [labels.index(date) for date in dates] == [0, 1, 2]
    assert [labels.shown(value) for value in labels.values] == dates
    with pytest.raises(CoordinateNotFoundError, match="nearest is 2000-02-28 06:00:00"):
        labels.index(kind(2000, 2, 28, 7))


def test_days_that_only_a_calendar_has():
    dates = [cftime.Datetime360Day(2000, 2, 29), cftime.Datetime360Day(2000, 2, 30)]
    labels = Labels.of("time", np.array(dates))
    assert labels.index(dates[1]) == 1
    assert np.diff(labels.values) == np.timedelta64(1, "D")


def test_labels_of_another_calendar_are_unknown():
    labels = Labels.of("time", [cftime.DatetimeNoLeap(2000, 1, 1)])
    for other in (cftime.Datetime360Day(2000, 1, 1), np.datetime64("2000-01-01"), "2000-01-01"):
        with pytest.raises(CoordinateNotFoundError):
            labels.index(other)
    with pytest.raises(CoordinateNotFoundError):
        Labels.of("time", np.array(["2000-01-01"], "M8[D]")).index(
            cftime.DatetimeNoLeap(2000, 1, 1)
        )


def test_what_is_refused():
    one = cftime.DatetimeNoLeap(2000, 1, 1)
    with pytest.raises(InvalidInputError, match="'noleap' as the first one, .* position 1"):
        Labels.of("time", [one, cftime.Datetime360Day(2000, 1, 2)])
    with pytest.raises(InvalidInputError, match="2000-01-01 00:00:00 stands there twice"):
        Labels.of("time", [one, one])
    with pytest.raises(InvalidInputError, match=r"1-d array, got shape \(1, 1\)"):
        Labels.of("time", np.array([[one]]))


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard"])
def test_xarray_reads_the_dates(tmp_path, calendar):
    dates = [DATES[calendar](2000, month, 28, 12) for month in (1, 2, 3)]
    for count in (2, 3):  # more of them follow
        with ZarrSaver(tmp_path / "out.zarr", dims=["time"], coords={"time": dates[:count]}) as one:
            one.save(np.arange(2.0) if count == 2 else [2.0])
    coder = xarray.coders.CFDatetimeCoder(use_cftime=True)
    with without_warnings(), xarray.open_zarr(tmp_path / "out.zarr", decode_times=coder) as ds:
        assert ds["time"].values.tolist() == dates
        assert ds["dataset"].values.tolist() == [0.0, 1.0, 2.0]
        assert ds["time"].encoding["calendar"] == calendar


def test_the_calendar_of_a_store_stays(tmp_path):
    dates = [cftime.DatetimeNoLeap(2000, 1, day) for day in (1, 2)]
    with ZarrSaver(tmp_path / "out.zarr", dims=["time"], coords={"time": dates}) as saver:
        saver.save([1.0])
    other = np.array(["2000-01-01", "2000-01-02"], "M8[D]")
    days = [cftime.Datetime360Day(2000, 1, day) for day in (1, 2)]
    for labels in (other, days):
        saver = ZarrSaver(tmp_path / "out.zarr", dims=["time"], coords={"time": labels})
        with saver, pytest.raises(InvalidInputError, match="calendar"):
            saver.save([2.0])
