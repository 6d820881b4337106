"""NumPy's dtypes and fill values as Zarr documents state them, and back. Pure functions."""

from __future__ import annotations

import base64
import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from savers.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from savers._zarr._documents import Document


def dtype_name(dtype: np.dtype[Any]) -> str:
    """Return a dtype's name in a layout."""
    return "T" if dtype.kind == "T" else dtype.str


@contextlib.contextmanager
def bytes_are_meant(dtype: np.dtype[Any]) -> Iterator[None]:
    """Spare callers who give bytes what zarr has to say about their place in version 3."""
    with warnings.catch_warnings() if dtype.kind == "S" else contextlib.nullcontext():
        if dtype.kind == "S":
            warnings.filterwarnings("ignore", "The data type .* does not have a Zarr V3")
        yield


def stored_dtype(dtype: np.dtype[Any]) -> Any:
    """Return what zarr is asked for: times are integers, text of variable length is text."""
    if dtype.kind in "Mm":
        return np.dtype("<i8")
    return "str" if dtype.kind == "T" else dtype


def stored_fill(fill: Any, dtype: np.dtype[Any]) -> Any:
    """Return a fill value as zarr takes it."""
    if dtype.kind in "Mm":
        return int(np.asarray(fill or "NaT", dtype).astype(np.int64))
    return fill


def fill_of(node: Document, dtype: np.dtype[Any]) -> Any:
    """Return the value that a document gives to cells that were never written."""
    fill = node["fill_value"]
    if dtype.kind in "Mm":
        return np.array("NaT", dtype)[()]
    if dtype.kind == "T":
        return fill or ""
    if dtype.kind == "S":
        return base64.standard_b64decode(fill or "")
    if fill is None:
        return np.zeros((), dtype)[()]
    if isinstance(fill, list):
        return complex(*map(float, fill))
    if isinstance(fill, str) and fill.startswith("0x"):
        return np.frombuffer(bytes.fromhex(fill[2:]), dtype.newbyteorder(">"))[0]
    return dtype.type(fill)


def node_dtype(node: Document) -> np.dtype[Any]:
    """Return the dtype of the values that a document describes."""
    from zarr.core.dtype import parse_dtype

    kind: Any = node.get("data_type", node.get("dtype"))
    filters = [codec["id"] for codec in node.get("filters") or ()]
    if kind == "string" or (kind == "|O" and filters == ["vlen-utf8"]):
        return np.dtype(np.dtypes.StringDType())
    try:
        native: Any = kind
        if "data_type" in node:
            native = parse_dtype(kind, zarr_format=3).to_native_dtype()
        found: np.dtype[Any] = np.dtype(native)
    except (TypeError, ValueError) as error:
        raise _not_extended(kind) from error
    if found.kind not in "biufcSMm":
        raise _not_extended(kind)
    return found


def in_zarrs(dtype: np.dtype[Any]) -> bool:
    """Whether zarrs takes values of a dtype; text and swapped bytes stay with the usual way."""
    return dtype.kind in "biufc" and dtype.isnative


def _not_extended(kind: object) -> FormatError:
    return FormatError(
        f"an array of data type {kind!r} can't be extended or changed here (text of variable "
        "length, numbers, bytes and times can)"
    )
