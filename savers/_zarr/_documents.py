"""Metadata documents of a Zarr store: read, written, and what they say of keys and chunks.

Source: Zarr core specification 3.1 and storage specification v2.
"""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

from savers.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from savers._stores._store import Store

Document = dict[str, Any]
#: What says that a node is there: of version 3, and of version 2.
NODES = ("zarr.json", ".zgroup", ".zarray")


def dump(document: Mapping[str, Any]) -> bytes:
    """Return a document as bytes."""
    return json.dumps(document, indent=1).encode()


def load(store: Store, key: str) -> Any:
    """Return the document under a key, None where there is none."""
    return parsed(key, store.get(key))


def parsed(key: str, data: bytes | None) -> Any:
    """Return the document that was read under a key, None where there was none.

    Raises
    ------
    FormatError
        It is damaged.
    """
    if data is None:
        return None
    try:
        return json.loads(data)
    except ValueError as error:
        message = (
            f"{key} is not a JSON document ({error}): put a good copy of it back; "
            "`python -m savers verify` names all that is damaged"
        )
        raise FormatError(message) from error


def read_node(store: Store, name: str) -> Document | None:
    """Return the metadata of a node as one document, attributes included."""
    start = f"{name}/" if name else ""
    keys = [f"{start}{document}" for document in ("zarr.json", ".zarray", ".zgroup")]
    newer, *older = zip(keys, store.get_all(keys), strict=True)
    node: Document | None = parsed(*newer)
    if node is not None:
        return {"attributes": {}, **node}
    found: Document | None = next(filter(None, itertools.starmap(parsed, older)), None)
    return found and {**found, "attributes": load(store, f"{start}.zattrs") or {}}


def bare_keys(node: Document) -> bool:
    """Whether chunk keys are indices alone (version 2, and "v2" keys in version 3)."""
    return bool(node["zarr_format"] == 2 or node["chunk_key_encoding"]["name"] == "v2")


def node_chunks(node: Document) -> tuple[int, ...]:
    """Return the shape of an array's stored objects."""
    grid = node.get("chunk_grid")
    return tuple(grid["configuration"]["chunk_shape"] if grid else node["chunks"])


def parity(node: Document) -> int:
    """Return 0 where chunk keys are nested, 1 where dots part them; a replaced array changes it."""
    if "chunk_key_encoding" in node:
        keys = node["chunk_key_encoding"]
        default = "/" if keys["name"] == "default" else "."
        separator = keys.get("configuration", {}).get("separator", default)
    else:
        separator = node.get("dimension_separator", ".")
    return 0 if separator == "/" else 1


def consolidated(table: Mapping[str, Any]) -> Document:
    """Return the metadata of all nodes as the root of version 3 has it."""
    return {"kind": "inline", "must_understand": False, "metadata": dict(sorted(table.items()))}


def consolidated_v2(documents: Mapping[str, Any]) -> Document:
    """Return the metadata of all nodes as ``.zmetadata`` of version 2."""
    return {"zarr_consolidated_format": 1, "metadata": dict(documents)}
