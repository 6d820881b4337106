"""What the CF conventions ask of a store's metadata (a first set of rules). Pure functions.

Source: CF conventions 1.11, sections 2.3 (names), 2.6.1 (Conventions), 3.1 (units), 3.2-3.3 (names
of quantities), 4.1-4.4 (latitude, longitude, time). Dimensions without a
coordinate are allowed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["CFArray", "cf_findings"]

_UNITS = {
    "latitude": ("degrees_north", "degree_north", "degree_N", "degrees_N", "degreeN", "degreesN"),
    "longitude": ("degrees_east", "degree_east", "degree_E", "degrees_E", "degreeE", "degreesE"),
}
_SHORT = {"lat": "latitude", "lon": "longitude", "latitude": "latitude", "longitude": "longitude"}
_SINCE = re.compile(r"\w+ since \d+-\d+-\d+")


@dataclass(frozen=True, slots=True)
class CFArray:
    """What the conventions speak of in an array.

    Parameters
    ----------
    dims : tuple of str
    attributes : mapping
    text : bool
        True for text, which needs no units.
    """

    dims: tuple[str, ...]
    attributes: Mapping[str, Any]
    text: bool = False


def cf_findings(arrays: Mapping[str, CFArray], root: Mapping[str, Any]) -> list[str]:
    """Return in words what does not follow the conventions.

    Parameters
    ----------
    arrays : mapping of name to CFArray
    root : mapping
        Attributes of the root.

    Examples
    --------
    >>> cf_findings({"t2m": CFArray(("lat",), {})}, {"Conventions": "CF-1.11"})
    ["'t2m' has no units", "'t2m' has neither standard_name nor long_name"]
    """
    findings = [] if "Conventions" in root else ["the root has no attribute Conventions"]
    for name, array in arrays.items():
        findings += _of_array(name, array)
    return findings


def _of_array(name: str, array: CFArray) -> Iterator[str]:
    attributes = array.attributes
    short = name.rpartition("/")[2]
    if not re.fullmatch(r"[A-Za-z]\w*", short, re.ASCII):
        yield f"{name!r} is not a name of letters, digits and underscores"
    if array.dims == (short,):
        yield from _of_coordinate(name, short, attributes)
        return
    if "units" not in attributes and not array.text:
        yield f"{name!r} has no units"
    if not {"standard_name", "long_name"} & attributes.keys():
        yield f"{name!r} has neither standard_name nor long_name"
    if not array.dims:
        yield f"{name!r} has no named dimensions"


def _of_coordinate(name: str, short: str, attributes: Mapping[str, Any]) -> Iterator[str]:
    units = attributes.get("units")
    kind = attributes.get("standard_name", _SHORT.get(short.lower(), short.lower()))
    if kind in _UNITS and units not in _UNITS[kind]:
        yield f"{name!r} is a {kind}: expected units {_UNITS[kind][0]}, got {units!r}"
    elif kind == "time" and not _SINCE.match(str(units)):
        yield f"{name!r} is a time: expected units like 'hours since 2000-01-01', got {units!r}"
    elif kind == "time" and "calendar" not in attributes:
        yield f"{name!r} is a time without a calendar"
