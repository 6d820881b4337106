"""What NetCDF-4 allows, and how values and attributes lie in its files. Pure functions.

Source: NetCDF-4 file format specification (NetCDF User's Guide, appendix C), CF conventions 1.11.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._values._coordinates import time_attributes
from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from savers._format import NewArray

__all__ = ["check_name", "check_names", "stored_dtype", "typed_attributes", "values_dtype"]

#: Names that the format itself uses.
RESERVED = frozenset(["_NCProperties", "_Netcdf4Dimid", "_Netcdf4Coordinates", "_nc3_strict",
                      "CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST"])  # fmt: skip
#: Attributes that are of the type of their variable (CF 1.11, appendix A).
OF_ITS_TYPE = frozenset(["missing_value", "valid_min", "valid_max", "valid_range", "actual_range",
                         "flag_values", "flag_masks"])  # fmt: skip
_LONGEST = 256  # bytes
_NAME = re.compile(r"[^\W]|[^\x00-\x7f]")


# -- names ---------------------------------------------------------------------------------------


def check_name(name: str, what: str) -> None:
    """Refuse a name that NetCDF doesn't know.

    Raises
    ------
    InvalidInputError
        Empty, over 256 bytes, reserved, beginning with anything but a letter, digit or underscore,
        ending with a blank, or with a slash or a control character in it.
    """
    complaint = ""
    if not name or len(name.encode()) > _LONGEST:
        complaint = f"expected 1 to {_LONGEST} bytes"
    elif name in RESERVED:
        complaint = "the format uses this name itself"
    elif not _NAME.match(name):
        complaint = "expected a letter, a digit or an underscore as the first character"
    elif name.endswith(" ") or "/" in name or _has_controls(name):
        complaint = "expected no slash, no control character and no blank at the end"
    elif name != unicodedata.normalize("NFC", name):
        complaint = "expected Unicode in its composed form (NFC)"
    if complaint:
        message = f"{what} {name!r} is no NetCDF name: {complaint}"
        raise InvalidInputError(message)


def _has_controls(name: str) -> bool:
    return any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in name)


def check_names(new: NewArray) -> None:
    """Refuse names of an array, its groups, dimensions or attributes that NetCDF doesn't know."""
    for part in new.name.split("/"):
        check_name(part, "array" if part == new.name else f"in {new.name!r}:")
    for dimension in new.dims:
        check_name(dimension, f"{new.name!r}: dimension")
    for attribute in new.attributes:
        check_name(attribute, f"{new.name!r}: attribute")
    if len(set(new.dims)) < len(new.dims):
        message = f"{new.name!r}: expected dimensions that differ, got {new.dims}"
        raise InvalidInputError(message)
    leaf = new.name.rpartition("/")[2]
    if leaf in new.dims and len(new.dims) > 1:
        message = (
            f"{new.name!r} has the name of one of its dimensions {new.dims}: in NetCDF only the "
            "labels of a dimension do; choose another dataset_name"
        )
        raise InvalidInputError(message)


# -- values --------------------------------------------------------------------------------------


def values_dtype(new: NewArray) -> np.dtype[Any]:
    """Return the dtype in which callers see the values: float16 is kept as float32.

    Raises
    ------
    InvalidInputError
        Complex numbers and bytes.
    """
    if new.dtype.kind == "c":
        message = f"{new.name!r}: NetCDF has no complex numbers; save real and imaginary parts"
        raise InvalidInputError(message)
    if new.dtype.kind == "S":
        message = f"{new.name!r}: NetCDF has no bytes of fixed length; save text, or numbers"
        raise InvalidInputError(message)
    return np.dtype("f4") if new.dtype == np.float16 else new.dtype


def stored_dtype(new: NewArray) -> np.dtype[Any]:
    """Return the dtype in the file: times as integers, as short as they fit."""
    dtype = values_dtype(new)
    if dtype.kind == "b":
        return np.dtype("i1")
    if dtype.kind not in "Mm":
        return dtype
    return np.dtype("<i8") if new.labels is None else _time_dtype(new.labels)


def _time_dtype(labels: NDArray[Any]) -> np.dtype[Any]:
    """Floats would do for some, but xarray and ncdump decode large ones off by microseconds."""
    ticks = labels.view("i8")
    short = not ticks.size or (ticks.min() >= -(2**31) and ticks.max() < 2**31)
    return np.dtype("<i4" if short else "<i8")


# -- attributes ----------------------------------------------------------------------------------


def typed_attributes(new: NewArray) -> dict[str, Any]:
    """Return the attributes that say what the stored values mean, and those that were asked for."""
    dtype = values_dtype(new)
    own: Mapping[str, Any] = {}
    if dtype.kind in "Mm":
        own = time_attributes(dtype)
    elif dtype.kind == "b":
        own = {"dtype": "bool"}
    return {**own, **new.attributes}


def attribute_value(name: str, value: Any, dtype: np.dtype[Any], where: str) -> Any:
    """Return an attribute as the file holds it: text as characters, numbers as small as they fit.

    Parameters
    ----------
    name : str
    value : object
        Text, a number, a truth value (kept as 0 or 1), or a list of texts or numbers.
    dtype : numpy.dtype
        Of the stored values; some attributes are of the same type.
    where : str
        For messages.

    Raises
    ------
    InvalidInputError
        Any other value, or one that does not fit the type.
    """
    import h5py

    if isinstance(value, str):
        return _characters(value)
    if isinstance(value, (list, tuple)) and value and all(isinstance(one, str) for one in value):
        return np.array(value, dtype=h5py.string_dtype("utf-8"))
    numbers = np.atleast_1d(np.asarray(value)) if value is not None else np.zeros(0)
    if numbers.dtype.kind not in "biuf" or numbers.ndim != 1 or not numbers.size:
        message = (
            f"attribute {name!r} of {where}: NetCDF holds text, numbers and lists of either, "
            f"got {value!r}"
        )
        raise InvalidInputError(message)
    if name in OF_ITS_TYPE and dtype.kind in "iuf":
        return _cast(name, numbers, dtype, where)
    return _smallest(numbers)


def _characters(text: str) -> Any:
    """Return what NetCDF reads as NC_CHAR: one string of fixed length."""
    import h5py

    data = text.encode()
    if not data:
        return h5py.Empty("S1")
    kind = h5py.string_dtype("ascii" if text.isascii() else "utf-8", len(data))
    return np.array(data, dtype=kind)


def _cast(name: str, numbers: NDArray[Any], dtype: np.dtype[Any], where: str) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        cast = numbers.astype(dtype)
    if dtype.kind in "iu" and not (cast == numbers).all():
        message = f"attribute {name!r} of {where}: {dtype} can't hold {numbers.tolist()}"
        raise InvalidInputError(message)
    return cast


def _smallest(numbers: NDArray[Any]) -> NDArray[Any]:
    if numbers.dtype.kind == "b":
        return numbers.astype("i1")
    if numbers.dtype.kind in "iu" and (np.abs(numbers.astype("f8")) < 2**31).all():
        return numbers.astype("i4")
    return numbers
