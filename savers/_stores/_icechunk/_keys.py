"""Where an object lies in an Icechunk repository, which takes documents and chunks of arrays alone.

Chunks that readers see lie in their array. All else is kept in arrays below ``.ledger``, one chunk
an object: records, and chunks that readers don't see yet (of a generation that is built aside, or
behind the end of their array). Pure functions.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

__all__ = [
    "LEDGER",
    "Place",
    "aside_of",
    "chunk_of",
    "holds",
    "inside",
    "is_document",
    "kept_document",
    "key_of",
    "ledger_document",
    "mark_of",
    "record_of",
]

LEDGER = ".ledger/"
ASIDE = "aside/"
MARK = "odd/"
#: Extent of the arrays that keep objects; the index of an object has no other bound.
MOST = (1 << 31) - 1

Index = tuple[int, ...]
Document = dict[str, Any]

_CHUNK = re.compile(r"(?P<array>.+)/c(?:(?P<separator>[/.])(?P<index>\d+(?:[/.]\d+)*))?")
_ASIDE = re.compile(r"(?P<array>.+)@(?P<odd>[01])")


class Place(NamedTuple):
    """A chunk of an array, as the repository knows both.

    Attributes
    ----------
    array : str
        Path of the array.
    at : tuple of int
    """

    array: str
    at: Index

    @property
    def key(self) -> str:
        """The key of the chunk."""
        return "/".join([self.array, "c", *map(str, self.at)])


class ChunkKey(NamedTuple):
    """What the key of a chunk says; `odd` is the parity of its generation."""

    array: str
    odd: bool
    at: Index


def is_document(key: str) -> bool:
    """Return whether a key is that of an array's or group's metadata."""
    return key == "zarr.json" or key.endswith("/zarr.json")


def holds(key: str) -> bool:
    """Return whether a repository has room for an object of this name."""
    return is_document(key) or key.startswith(LEDGER) or bool(_CHUNK.fullmatch(key))


def chunk_of(key: str) -> ChunkKey:
    """Return what the key of a chunk says.

    Raises
    ------
    ValueError
        It is none.
    """
    found = _CHUNK.fullmatch(key)
    if found is None:
        raise ValueError(f"expected the key of a chunk, got {key!r}")
    index = tuple(map(int, re.split("[/.]", found["index"]))) if found["index"] else ()
    return ChunkKey(found["array"], found["separator"] == ".", index)


def record_of(key: str) -> Place:
    """Return where an object of the ledger lies; what has no number is the first of its own."""
    name, _, number = key.removeprefix(LEDGER).rpartition("/")
    if not number.isdecimal():
        name, number = key.removeprefix(LEDGER), "0"
    return Place(_kept(name), (int(number),))


def aside_of(chunk: ChunkKey) -> Place:
    """Return where a chunk lies that readers don't see."""
    return Place(_kept(f"{ASIDE}{chunk.array}@{int(chunk.odd)}"), chunk.at)


def mark_of(array: str) -> str:
    """Return the path of the array that is there while readers see an odd generation."""
    return _kept(f"{MARK}{array}")


def _kept(name: str) -> str:
    return LEDGER + quote(name, safe="@")


def key_of(there: str, odd: set[str]) -> str | None:
    """Return the key under which a saver knows what lies at `there`; None for what is internal.

    Parameters
    ----------
    there : str
        A key of the repository.
    odd : set of str
        The arrays of which readers see an odd generation.
    """
    if is_document(there):
        return None if there.startswith(LEDGER) else there
    chunk = chunk_of(there)
    if not there.startswith(LEDGER):
        return _chunk_key(chunk.array, chunk.at, odd=chunk.array in odd)
    name = unquote(chunk.array.removeprefix(LEDGER))
    aside = _ASIDE.fullmatch(name.removeprefix(ASIDE)) if name.startswith(ASIDE) else None
    if aside is not None:
        return _chunk_key(aside["array"], chunk.at, odd=aside["odd"] == "1")
    return None if name.startswith(MARK) else f"{LEDGER}{name}/{chunk.at[0]:012d}"


def _chunk_key(array: str, index: Index, *, odd: bool) -> str:
    return f"{array}/{('.' if odd else '/').join(['c', *map(str, index)])}"


def inside(document: Document, index: Index) -> bool:
    """Return whether a chunk has a cell within the shape of its array."""
    sizes = document["chunk_grid"]["configuration"]["chunk_shape"]
    bounds = zip(index, sizes, document["shape"], strict=True)
    return all(i * size < extent for i, size, extent in bounds)


def kept_document(axes: int) -> bytes:
    """Return the metadata of an array that keeps objects."""
    return _dump(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": [MOST] * axes,
            "data_type": "uint8",
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1] * axes}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": 0,
            "codecs": [{"name": "bytes"}],
            "dimension_names": [f"object_{axis}" for axis in range(axes)],
            "attributes": {"about": "objects of tasksavers, not values: one a chunk"},
        }
    )


def ledger_document() -> bytes:
    """Return the metadata of the group that all of it lies in."""
    return _dump({"zarr_format": 3, "node_type": "group", "attributes": {}})


def _dump(document: Document) -> bytes:
    return json.dumps(document, indent=1).encode()
