"""Labels: how they are stored, and at which index a label lies.

Times are stored as integers with CF units (CF conventions 1.11, sections 4.4 and 5): exact, and
decoded by xarray, ncdump and CDO alike.
"""

from __future__ import annotations

import datetime
import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._values._blocks import as_result, fit, retimed
from savers._values._calendars import as_dates, as_times, calendar_of
from savers.errors import CoordinateNotFoundError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["Labels", "coarsest_unit", "stored_dtype", "time_attributes"]

_UNITS = {"D": "days", "h": "hours", "m": "minutes", "s": "seconds",
          "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}  # fmt: skip
_COARSER = {"Y": "D", "M": "D", "W": "D", "generic": "s", "ps": "", "fs": "", "as": ""}


def time_attributes(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the CF attributes of times stored as integers in the unit of `dtype`."""
    unit = _UNITS[np.datetime_data(dtype)[0]]
    if dtype.kind == "M":
        return {"units": f"{unit} since 1970-01-01", "calendar": "proleptic_gregorian"}
    return {"units": unit, "dtype": "timedelta64[ns]"}


def stored_dtype(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """Return the dtype in which a store keeps values of `dtype`: times in a unit that CF knows.

    Raises
    ------
    InvalidInputError
        A unit finer than nanoseconds.
    """
    if dtype.kind not in "Mm":
        return np.dtype(np.dtypes.StringDType()) if dtype.kind in "UT" else dtype
    unit, count = np.datetime_data(dtype)
    unit = _COARSER.get(unit, unit)
    if not unit or (dtype.kind == "m" and np.datetime_data(dtype)[0] in "YM"):
        message = f"{name!r}: {dtype} has no CF unit; convert it to days ... nanoseconds"
        raise InvalidInputError(message)
    del count  # a multiple ([6h]) is kept in its plain unit
    return np.dtype(f"<{dtype.kind}8[{unit}]")


def coarsest_unit(values: NDArray[Any]) -> NDArray[Any]:
    """Return times in the coarsest unit that holds them all exactly."""
    if values.dtype.kind not in "Mm":
        return values
    kind = values.dtype.kind
    values = retimed(values, stored_dtype(values.dtype, "time"))
    for unit in _UNITS:
        if unit == np.datetime_data(values.dtype)[0]:
            break
        coarse = retimed(values, np.dtype(f"{kind}8[{unit}]"))
        if np.all((retimed(coarse, values.dtype) == values) | np.isnat(values)):
            return coarse
    return values


@dataclass(frozen=True)
class Labels:
    """The labels of one dimension, in order.

    Parameters
    ----------
    dimension : str
    values : ndarray, shape (n,)
        Unique numbers, texts or times.
    calendar : str
        That of cftime dates, kept as `savers._values._calendars` says; "" for NumPy's own times.
    """

    dimension: str
    values: NDArray[Any]
    calendar: str = ""

    @classmethod
    def of(cls, dimension: str, given: object) -> Labels:
        """Return the labels that a user gave.

        Raises
        ------
        InvalidInputError
            Not one-dimensional, NaN or NaT, or a label twice.
        """
        objects = getattr(getattr(given, "dtype", None), "kind", "") == "O"
        values: Any = np.asarray(given) if objects else given
        calendar = calendar_of(values)
        if calendar:
            values = as_times(values, calendar, dimension)
        values = as_result(_plain(values), dimension)
        if values.ndim != 1:
            message = f"coordinate {dimension!r}: expected a 1-d array, got shape {values.shape}"
            raise InvalidInputError(message)
        values = coarsest_unit(values)
        labels = cls(dimension, values, calendar)
        labels._require_unique()
        return labels

    @staticmethod
    def plain(given: object, dimension: str) -> NDArray[Any]:
        """Return what a user gave for a coordinate as an array of any shape, unchecked.

        Dates of cftime stay what they are.
        """
        dates = np.asarray(given) if calendar_of(given) else None
        return as_result(_plain(given), dimension) if dates is None else dates

    def _require_unique(self) -> None:
        missing = self.values != self.values  # true for NaN and NaT alone
        if missing.any():
            at = int(np.argmax(missing))
            message = f"coordinate {self.dimension!r}: label {at} is missing ({self.values[at]})"
            raise InvalidInputError(message)
        if len(self.table) != len(self.values):
            unique, counts = np.unique(self.values, return_counts=True)
            twice = unique[counts > 1][0]
            message = f"coordinate {self.dimension!r}: label {self.shown(twice)} stands there twice"
            raise InvalidInputError(message)

    @property
    def table(self) -> dict[Any, int]:
        """Index of each label."""
        cached: dict[Any, int] | None = self.__dict__.get("_table")
        if cached is None:
            cached = {label: index for index, label in enumerate(self.values.tolist())}
            self.__dict__["_table"] = cached
        return cached

    def index(self, label: object) -> int:
        """Return where a label lies.

        Raises
        ------
        CoordinateNotFoundError
            It is not among the labels; the text names the nearest one.
        """
        found = self.table.get(self._key(label))
        if found is None:
            raise CoordinateNotFoundError(self._unknown(label))
        return found

    def indices(self, given: object) -> NDArray[np.int64]:
        """Return where labels lie, shape (n,).

        Raises
        ------
        CoordinateNotFoundError
            One is not among the labels; the text names the nearest one.
        InvalidInputError
            Not one-dimensional, or a label twice.
        """
        values = self.plain(given, self.dimension)
        if values.ndim != 1:
            message = f"coordinate {self.dimension!r}: expected a 1-d array, got {values.shape}"
            raise InvalidInputError(message)
        keys = self._keys(values)
        found = [self.table.get(key, -1) for key in keys]
        if -1 in found:
            raise CoordinateNotFoundError(self._unknown(values[found.index(-1)]))
        if len(set(found)) != len(found):
            twice = next(values[i] for i, at in enumerate(found) if at in found[:i])
            message = f"coordinate {self.dimension!r}: label {twice} stands there twice"
            raise InvalidInputError(message)
        return np.array(found, np.int64)

    def are(self, given: NDArray[Any]) -> bool:
        """Return whether these are all the labels, in their order: a quick look at the usual."""
        same = given.dtype == self.values.dtype and given.shape == self.values.shape
        return same and bool(np.array_equal(given, self.values))

    def _keys(self, values: NDArray[Any]) -> list[Any]:
        """Return labels as they stand in `table`; None for what no label can be equal to."""
        times = self.values.dtype.kind in "Mm"
        if not times or values.dtype.kind != self.values.dtype.kind:
            return [self._key(value) for value in values] if times else values.tolist()
        keys = self._keys_in(values.dtype)
        return [keys.get(value) for value in values.tolist()]

    def _keys_in(self, dtype: np.dtype[Any]) -> dict[Any, Any]:
        """Return the keys of `table` by the same times in another unit."""
        cached: dict[Any, dict[Any, Any]] = self.__dict__.setdefault("_units", {})
        if dtype not in cached:
            theirs = retimed(self.values, dtype)
            same = retimed(theirs, self.values.dtype) == self.values
            pairs = zip(theirs.tolist(), self.values.tolist(), same, strict=True)
            cached[dtype] = {time: key for time, key, fits in pairs if fits}
        return cached[dtype]

    def extended(self, more: Labels) -> Labels:
        """Return these labels with those of `more` that are new behind them.

        Raises
        ------
        InvalidInputError
            The new labels are of another kind (times, text, numbers).
        """
        keys = self._keys(more.values) if more.calendar == self.calendar else [None]
        new = [at for at, key in enumerate(keys) if key is None or key not in self.table]
        if not new:
            return self
        mine, theirs = (f"{one.calendar} {one.values.dtype}".strip() for one in (self, more))
        if _family(self.values) != _family(more.values) or self.calendar != more.calendar:
            message = f"coordinate {self.dimension!r} has {mine} labels, got {theirs} ones to add"
            raise InvalidInputError(message)
        joined = coarsest_unit(_joined(self.values, more.values[new]))
        labels = Labels(self.dimension, joined, self.calendar)
        labels._require_unique()
        return labels

    def _key(self, label: object) -> Any:
        if self.values.dtype.kind not in "Mm":
            return label.item() if isinstance(label, (np.generic, np.ndarray)) else label
        if calendar_of(label) != self.calendar:
            return None
        try:
            exact = self._time(label)
            if exact.dtype.kind not in ("U", self.values.dtype.kind):
                return None
            ours = exact.astype(self.values.dtype)
            same = exact.dtype.kind == "U" or retimed(ours, exact.dtype) == exact
        except (ValueError, TypeError, OverflowError):
            return None
        return ours.item() if same else None

    def _unknown(self, label: object) -> str:
        given = label.item() if isinstance(label, np.generic) else label
        given = str(label) if isinstance(label, (np.datetime64, np.timedelta64)) else given
        shown = f"label {given!r} is not among the {len(self.values)} of {self.dimension!r}"
        nearest = self._nearest(label)
        return f"{shown}; the nearest is {nearest}" if nearest is not None else shown

    def _nearest(self, label: object) -> Any:
        try:
            if self.values.dtype.kind in "UT":
                close = difflib.get_close_matches(str(label), self.values.astype(str), 1, 0.0)
                return repr(str(close[0])) if close else None
            distance = np.abs(self.values - self._time(label).astype(self.values.dtype))
            return self.shown(self.values[int(np.argmin(distance))])
        except (ValueError, TypeError, IndexError, OverflowError):
            return None

    def _time(self, label: object) -> NDArray[Any]:
        if calendar_of(label) and self.calendar:
            return as_times([label], self.calendar, self.dimension).reshape(())
        return np.asarray(_plain(label))

    def shown(self, value: Any) -> Any:
        """Return one of the values as its calendar writes it."""
        return as_dates(np.array([value]), self.calendar)[0] if self.calendar else value


def _family(values: NDArray[Any]) -> str:
    kind = values.dtype.kind
    return {"T": "U", "i": "n", "u": "n", "f": "n"}.get(kind, kind)


def _joined(first: NDArray[Any], more: NDArray[Any]) -> NDArray[Any]:
    """Join labels in the dtype that holds them all exactly."""
    if first.dtype.kind in "UT":
        return np.array([*first.tolist(), *more.tolist()])
    common = np.result_type(first, more)
    return np.concatenate([fit(one, common, "label") for one in (first, more)])


def _plain(given: object) -> object:
    """Python's own times as NumPy's (without a zone, which labels don't have)."""
    if isinstance(given, (datetime.datetime, datetime.date)):
        return np.datetime64(given)
    if isinstance(given, datetime.timedelta):
        return np.timedelta64(given)
    if (
        isinstance(given, (list, tuple))
        and given
        and isinstance(given[0], (datetime.date, datetime.timedelta, np.datetime64, np.timedelta64))
    ):
        return np.array([_plain(one) for one in given])
    return given


def find(labels: Mapping[str, Labels], wanted: Mapping[str, object]) -> dict[str, int]:
    """Return the index of each wanted label by dimension.

    Raises
    ------
    CoordinateNotFoundError
        A dimension has no labels, or a label is unknown.
    """
    found = {}
    for dimension, label in wanted.items():
        if dimension not in labels:
            known = ", ".join(labels) or "none"
            message = f"no coordinate {dimension!r} to place a result by; there are: {known}"
            raise CoordinateNotFoundError(message)
        found[dimension] = labels[dimension].index(label)
    return found
