"""Dates of other calendars (cftime objects) as NumPy times.

A date is kept as its distance from 1970-01-01 in its own calendar, in the form of a datetime64:
comparing, storing and changing units then work as for any other time, and the name of the calendar
goes with it. Source: CF conventions 1.11, section 4.4.2 (calendars).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["as_dates", "as_times", "calendar_of"]

_UNITS = "microseconds since 1970-01-01"


def calendar_of(value: object) -> str:
    """Return the calendar of a cftime date, or of an array or sequence of them; "" for others."""
    if isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.dtype.kind == "O" and value.size else None
    elif isinstance(value, (list, tuple)):
        value = value[0] if value else None
    known = type(value).__module__.partition(".")[0] == "cftime"
    return str(getattr(value, "calendar", "")) if known else ""


def as_times(dates: Sequence[Any], calendar: str, name: str) -> NDArray[Any]:
    """Return dates of one calendar as distances from 1970-01-01, of dtype datetime64[us].

    Raises
    ------
    InvalidInputError
        A date of another calendar.
    """
    from cftime import date2num

    if np.ndim(dates) != 1:
        message = f"coordinate {name!r}: expected a 1-d array, got shape {np.shape(dates)}"
        raise InvalidInputError(message)
    for position, date in enumerate(dates):
        if calendar_of(date) != calendar:
            message = (
                f"coordinate {name!r}: expected dates of the calendar {calendar!r} as the first "
                f"one, got {date!r} at position {position}"
            )
            raise InvalidInputError(message)
    numbers = np.asarray(date2num(list(dates), _UNITS, calendar), np.int64)
    return numbers.view("datetime64[us]")


def as_dates(times: NDArray[Any], calendar: str) -> list[Any]:
    """Return the dates behind `as_times`."""
    from cftime import num2date

    return list(num2date(times.astype("datetime64[us]").view(np.int64), _UNITS, calendar))
