"""What readers see of a Zarr store: each array's document, and then the root's with all of them.

The root's copy (consolidated metadata) is put last: it speaks of no document that is not there.
"""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING, Any

from savers._jobs import ItemStatus
from savers._zarr._documents import consolidated, consolidated_v2, dump, load

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from savers._ledger._state import ArrayLayout, State
    from savers._stores._store import Store
    from savers._zarr._documents import Document


def shown(state: State, name: str, shape: tuple[int, ...]) -> Document:
    """Return an array's document as readers are to see it now."""
    array = state.arrays[name]
    layout, node = array.layout, dict(array.layout.meta["node"])
    node["shape"] = list(shape)
    separator = "." if layout.generation % 2 else "/"
    attributes = {**node["attributes"], **state.settings.get("attributes", {}).get(name, {})}
    settled = array.status[: shape[0]] if layout.growing else array.status
    missing = bool((settled != ItemStatus.DONE).any())
    masked = not array.adopted and (layout.meta["asked_fill"] or missing)
    if node["zarr_format"] == 3:
        keys = node["chunk_key_encoding"]
        if keys["name"] == "default" and not array.adopted:
            node["chunk_key_encoding"] = {**keys, "configuration": {"separator": separator}}
        attributes |= _fill_attribute(layout) if masked else {}
    else:
        node["dimension_separator"] = separator
        means_missing = masked and _has_spare_value(layout)
        if not (array.adopted or means_missing or layout.values_dtype.kind in "fcMm"):
            node["fill_value"] = None  # xarray masks whatever equals it
    node["attributes"] = attributes
    return node


def _has_spare_value(layout: ArrayLayout) -> bool:
    """Return whether a value of the dtype stands for missing cells, and for nothing else."""
    dtype = layout.values_dtype
    return bool(
        layout.meta["asked_fill"]
        or dtype.kind in "fcMm"
        or (dtype.kind in "iu" and dtype.itemsize > 1)
    )


def _fill_attribute(layout: ArrayLayout) -> dict[str, Any]:
    """`_FillValue` in the form in which xarray keeps it in Zarr v3 attributes."""
    fill, dtype = layout.meta["node"]["fill_value"], layout.values_dtype
    if dtype.kind in "iuMm" and _has_spare_value(layout):
        return {"_FillValue": int(fill)}
    if dtype.kind == "f" and layout.meta["asked_fill"] and not isinstance(fill, str):
        return {"_FillValue": base64.standard_b64encode(struct.pack("<d", float(fill))).decode()}
    return {}


def publish_v3(
    store: Store,
    nodes: Mapping[str, Document],
    attrs: Mapping[str, Any],
    named: Collection[str],
    gone: Sequence[str],
) -> None:
    """Put the documents of arrays, and of groups above them, then the root."""
    root = load(store, "zarr.json") or {"attributes": {}, "zarr_format": 3, "node_type": "group"}
    known = (root.get("consolidated_metadata") or {}).get("metadata")
    table: dict[str, Any] = dict(_found_nodes(store) if known is None else known)
    missing = {group for name in nodes for group in _groups_above(name)} - table.keys()
    empty: Document = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
    shown = {**dict.fromkeys(sorted(missing), empty), **nodes}
    changed = {name: node for name, node in shown.items() if table.get(name) != node}
    store.put_all({f"{name}/zarr.json": dump(node) for name, node in changed.items()})
    table.update(changed)  # the others were put before the root that says so
    for name in gone:
        table.pop(name, None)
    store.barrier()  # after a power cut, too, the root speaks of no document that is not there
    root["attributes"] = _without(named, {**root["attributes"], **attrs})
    root["consolidated_metadata"] = consolidated(table)
    store.put("zarr.json", dump(root))


def publish_alone(
    store: Store, nodes: Mapping[str, Document], attrs: Mapping[str, Any], named: Collection[str]
) -> None:
    """Put documents without consolidated metadata: who changes one array changes no other's."""
    for name, node in nodes.items():
        for group in _groups_above(name):
            if store.get(f"{group}/zarr.json") is None:
                empty = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
                store.put(f"{group}/zarr.json", dump(empty))
        store.put(f"{name}/zarr.json", dump(node))
    root = load(store, "zarr.json") or {"attributes": {}, "zarr_format": 3, "node_type": "group"}
    attributes = _without(named, {**root["attributes"], **attrs})
    if attributes != root["attributes"]:
        store.put("zarr.json", dump({**root, "attributes": attributes}))


def _without(named: Collection[str], attributes: Document) -> Document:
    return {key: value for key, value in attributes.items() if key not in named}


def _found_nodes(store: Store) -> Iterator[tuple[str, Document]]:
    """What other programs put into this store before its metadata was consolidated."""
    for key in store.list(""):
        if key.endswith("/zarr.json"):
            node = load(store, key)
            if isinstance(node, dict):
                node.pop("consolidated_metadata", None)
                yield key.removesuffix("/zarr.json"), node


def _groups_above(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def publish_v2(
    store: Store,
    nodes: Mapping[str, Document],
    attrs: Mapping[str, Any],
    named: Collection[str],
    gone: Sequence[str],
) -> None:
    """Put the documents that changed, then the one that holds all of them."""
    table = (load(store, ".zmetadata") or {}).get("metadata") or _found_v2(store)
    documents: dict[str, Any] = {}
    for name, node in nodes.items():
        for group in _groups_above(name):
            if f"{group}/.zgroup" not in table:
                documents[f"{group}/.zgroup"] = {"zarr_format": 2}
        documents[f"{name}/.zattrs"] = node["attributes"]
        documents[f"{name}/.zarray"] = {k: v for k, v in node.items() if k != "attributes"}
    documents[".zgroup"] = {"zarr_format": 2}
    documents[".zattrs"] = _without(named, {**(load(store, ".zattrs") or {}), **attrs})
    changed = {key: document for key, document in documents.items() if table.get(key) != document}
    store.put_all({key: dump(document) for key, document in changed.items()})
    table = {**table, **documents}
    for name in gone:
        table.pop(f"{name}/.zarray", None)
        table.pop(f"{name}/.zattrs", None)
    store.put(".zmetadata", dump(consolidated_v2(table)))


def _found_v2(store: Store) -> Document:
    names = (".zgroup", ".zarray", ".zattrs")
    keys = [key for key in store.list("") if key.rpartition("/")[2] in names]
    return {key: load(store, key) for key in keys}
