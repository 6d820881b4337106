"""The metadata documents of a store, against those that its ledgers would publish."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from savers._session._publishing import shapes
from savers._stores._store import MappingStore
from savers.errors import SaverError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from savers._existing import Existing
    from savers._ledger._state import State

__all__ = ["compare_documents"]

#: A document, or a node in the consolidated metadata of one: key of the document, name of the node.
Place = tuple[str, str]
#: Fields of an array's document that lag behind the ledger until the next publication.
LAGGING = ("shape", "fill_value")
CONSOLIDATED = ("zarr.json", ".zmetadata")


def compare_documents(
    existing: Existing,
    states: Sequence[State],
    unpublished: Sequence[State],
    counts: dict[str, int],
) -> Iterator[tuple[str, str, str]]:
    """Yield key, array and problem of what differs.

    Parameters
    ----------
    existing : Existing
    states : sequence of State
        What the ledgers say.
    unpublished : sequence of State
        Those of which readers may not yet see everything.
    counts : dict of str to int
        ``documents`` is raised by what was compared.
    """
    lagging = {name for state in unpublished for name in state.arrays}
    replaced = {name for state in unpublished for name in state.stale}
    expected = published(existing, states)
    actual: dict[str, Any] = {}
    unreadable = set()
    for key in expected:
        try:
            data = existing.location.store.get(key)
            if data is not None:
                actual[key] = json.loads(data)
                counts["documents"] += 1
        except (SaverError, ValueError) as error:
            unreadable.add(key)
            yield key, _array_of(key), f"unreadable: {error}"
    found = _places(actual)
    for place, node in _places({key: json.loads(data) for key, data in expected.items()}).items():
        array = _array_of(place[1] or place[0])
        if place[0] not in unreadable and array not in replaced:
            problem = _problem(place, node, found, late=array in lagging)
            if problem:
                yield place[0], array, problem
    gone = {name for state in unpublished for name in state.gone}
    yield from _foreign(existing, [p for p in found if _array_of(p[1]) not in gone], expected)


def published(existing: Existing, states: Sequence[State]) -> dict[str, bytes]:
    """Return the documents that the ledgers would publish, by key."""
    memory = MappingStore({}, existing.location.name)
    for state in states:
        attrs = state.settings.get("attrs", {})
        existing.format.create_root(memory, state.store_id, attrs)
        existing.format.publish(memory, state, shapes(state), attrs)
    return dict(memory.mapping)


def _array_of(key: str) -> str:
    """Return the array that a key, or a key of the consolidated metadata, speaks of."""
    last = key.rpartition("/")[2]
    return key.rpartition("/")[0] if last.startswith(".z") or last == "zarr.json" else key


def _places(documents: Mapping[str, Any]) -> dict[Place, Any]:
    """Take the consolidated metadata apart, so that every node is compared by itself."""
    places: dict[Place, Any] = {}
    for key, document in documents.items():
        places[key, ""] = document
        if key in CONSOLIDATED and isinstance(document, dict):
            outer = document.get("consolidated_metadata", document)
            table = outer.get("metadata") if isinstance(outer, dict) else None
            if isinstance(table, dict):
                places |= {(key, name): node for name, node in table.items()}
                places[key, ""] = _emptied(document)
    return places


def _emptied(document: Mapping[str, Any]) -> dict[str, Any]:
    if "consolidated_metadata" in document:
        outer = document["consolidated_metadata"]
        return {**document, "consolidated_metadata": {**outer, "metadata": {}}}
    return {**document, "metadata": {}}


# -- one node ------------------------------------------------------------------------------------


def _problem(place: Place, expected: Any, found: Mapping[Place, Any], *, late: bool) -> str:
    """Return what is wrong with a node. `late`: readers may not yet see everything of it."""
    key, name = place
    which = f"node {name!r}: " if name else ""
    if place not in found:
        missing = not late and (not name or (key, "") in found)
        return f"{which}missing" if missing else ""
    actual = found[place]
    if not isinstance(expected, dict) or not isinstance(actual, dict):
        return "" if expected == actual else f"{which}expected {expected!r}, found {actual!r}"
    if late:
        expected, actual = _settled(expected), _settled(actual)
    if _is_group(expected):
        actual = _without_additions(actual, expected)
    for field in sorted({*expected, *actual}):
        if expected.get(field) != actual.get(field):
            return f"{which}{field} is {_short(actual, field)}, not {_short(expected, field)}"
    return ""


def _settled(node: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is published later."""
    node = {name: value for name, value in node.items() if name not in (*LAGGING, "_FillValue")}
    if isinstance(node.get("attributes"), dict):
        node["attributes"] = {n: v for n, v in node["attributes"].items() if n != "_FillValue"}
    return node


def _is_group(node: Mapping[str, Any]) -> bool:
    return node.get("node_type") == "group"


def _without_additions(actual: Mapping[str, Any], expected: Mapping[str, Any]) -> dict[str, Any]:
    """Other programs may add attributes to a group."""
    if not isinstance(actual.get("attributes"), dict):
        return dict(actual)
    mine = {n: v for n, v in actual["attributes"].items() if n in expected["attributes"]}
    return {**actual, "attributes": mine}


def _short(node: Mapping[str, Any], field: str) -> str:
    text = json.dumps(node[field]) if field in node else "there"
    return text if len(text) < 60 else f"{text[:56]}..."


def _foreign(
    existing: Existing, places: Collection[Place], expected: Collection[str]
) -> Iterator[tuple[str, str, str]]:
    """Nodes that no ledger knows are those of other programs, and must be in the store."""
    names = {key.removesuffix("/zarr.json") for key in expected} | set(expected)
    for key, name in places:
        if name and name not in names:
            own = name if key == ".zmetadata" else f"{name}/zarr.json"
            if existing.location.store.get(own) is None:
                yield key, _array_of(name), f"node {name!r}: there is no such node in the store"
