"""A Zarr group as xarray sees it: its metadata read side by side, then its coordinates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import xarray
import zarr
from xarray.backends import ZarrStore
from xarray.conventions import CF_RELATED_DATA
from xarray.core.indexing import LazilyIndexedArray
from zarr.storage import StorePath

from savers._reading._lazy import StoredArray
from savers._reading._loop import paced, side_by_side
from savers._reading._store import supplying
from savers._zarr._format import ID as STORE_ID
from savers.errors import FormatError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from zarr.core.buffer import Buffer

    from savers._reading._missing import Missing
    from savers._reading._store import ReadStore

__all__ = [
    "VARIABLE_COST",
    "GatheredStore",
    "Group",
    "gather",
    "note_missing",
    "prefetch",
    "undecided",
]

ROOT = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata", ".zarray")
NODE = {3: ("zarr.json",), 2: (".zarray", ".zattrs")}

#: Opening a variable takes about as long as decoding this many bytes.
VARIABLE_COST = 1 << 15

Node = zarr.AsyncArray[Any] | zarr.AsyncGroup


@dataclass(frozen=True)
class Group:
    """A Zarr group and its members, metadata only.

    Parameters
    ----------
    store : ReadStore
    node : zarr.AsyncGroup
    members : mapping of str to zarr.AsyncArray or zarr.AsyncGroup, or None
        None while they are not known.
    root : mapping
        Attributes of the store's root.
    """

    store: ReadStore
    node: zarr.AsyncGroup
    members: Mapping[str, Node] | None
    root: Mapping[str, Any]


async def gather(store: ReadStore, group: str, *, consolidated: bool | None = None) -> Group:
    """Read the metadata of a group: one wave of requests where it is consolidated, else three.

    Parameters
    ----------
    store : ReadStore
    group : str
        Path of the group, "" for the root.
    consolidated : bool, optional
        Whether to use consolidated metadata; None: where there is.

    Raises
    ------
    NotFoundError
        There is no such store or group.
    FormatError
        An array lies there, or metadata that zarr doesn't understand.
    """
    group = group.strip("/")
    documents = await store.fetch(_join(path, name) for path in {"", group} for name in ROOT)
    if not any(documents.values()):
        message = f"expected a Zarr store at {store}, found none"
        raise NotFoundError(message)
    for path in {"", group}:
        if documents[_join(path, "zarr.json")]:  # the newer of two formats counts
            documents |= {_join(path, name): None for name in ROOT[1:]}
    with supplying(documents):
        found = await paced(_cost(documents), lambda: _parsed(store, group, consolidated))
    if found.members is None:
        return replace(found, members=await _listed(store, found.node))
    return found


def _cost(documents: Mapping[str, Buffer | None]) -> int:
    """Return how many bytes of decoding take as long as understanding these documents."""
    return VARIABLE_COST * sum(len(found) for found in documents.values() if found) // 1000


async def _parsed(store: ReadStore, path: str, consolidated: bool | None) -> Group:  # noqa: FBT001
    try:
        root = await zarr.AsyncGroup.open(
            StorePath(store), zarr_format=None, use_consolidated=consolidated
        )
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        message = f"expected a Zarr group at {store}, got metadata of none: {error}"
        raise FormatError(message) from error
    node = await _child(root, path) if path else root
    if not isinstance(node, zarr.AsyncGroup):
        message = f"expected a group at {path!r} in {store}, found an array"
        raise FormatError(message)
    if root.metadata.consolidated_metadata is None and node.metadata.consolidated_metadata is None:
        return Group(store, node, None, root.attrs)
    members = {name: child async for name, child in _consolidated(node)}
    return Group(store, node, members, root.attrs)


async def _child(root: zarr.AsyncGroup, path: str) -> Node:
    try:
        return await root.getitem(path)
    except KeyError:
        message = f"expected a group {path!r} in {root.store}, found none"
        raise NotFoundError(message) from None


async def _consolidated(node: zarr.AsyncGroup) -> Any:
    if node.metadata.consolidated_metadata is not None:
        async for member in node.members():
            yield member


async def _listed(store: ReadStore, node: zarr.AsyncGroup) -> dict[str, Node]:
    """Return the members of a group without consolidated metadata: a listing, then a wave."""
    listed = [name async for name in store.list_dir(node.path)]
    names = [name for name in listed if name not in ROOT]
    wanted = NODE[node.metadata.zarr_format]
    paths = {name: _join(node.path, name) for name in names}
    documents = await store.fetch(_join(paths[name], key) for name in names for key in wanted)
    nodes = [name for name in names if documents[_join(paths[name], wanted[0])]]
    groups = {_join(paths[name], ".zgroup"): None for name in nodes}  # arrays have none

    async def parsed() -> dict[str, Node]:
        return {name: await node.getitem(name) for name in nodes}

    with supplying({**documents, **groups}):
        return await paced(_cost(documents), parsed)


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


# -- as xarray sees it -----------------------------------------------------------------------------


class GatheredStore(ZarrStore):
    """xarray's view of a Zarr group whose metadata is here already.

    Parameters
    ----------
    group : Group
    """

    def __init__(self, group: Group) -> None:
        self.gathered = group
        self.nodes: dict[str, Node] = dict(group.members or {})
        self.missing: dict[str, Missing] = {}
        self.known: dict[str, xarray.Variable] = {}
        self.stored: dict[str, StoredArray] = {}
        masked = group.node.metadata.zarr_format == 2  # what xarray does with either version
        super().__init__(zarr.Group(group.node), mode="r", use_zarr_fill_value_as_mask=masked)

    def _fetch_members(self) -> dict[str, Any]:
        return {
            name: zarr.Group(node) if isinstance(node, zarr.AsyncGroup) else zarr.Array(node)
            for name, node in self.nodes.items()
        }

    def open_store_variable(self, name: str) -> xarray.Variable:
        """Return a variable as it is stored, its data a `StoredArray`."""
        found = self._variable(name).copy(deep=False)
        if name in self.missing:
            fill = found.attrs.pop("_FillValue", None)  # saved values may equal it
            found.encoding |= {} if fill is None else {"_FillValue": fill}
        return found

    def _variable(self, name: str) -> xarray.Variable:
        if name in self.known:
            return self.known[name]
        found = ZarrStore.open_store_variable(self, name)
        stored = self.stored[name] = StoredArray(found._data.array)  # noqa: SLF001
        lazy = LazilyIndexedArray(stored)
        made = xarray.Variable(found.dims, lazy, found.attrs, found.encoding, fastpath=True)
        self.known[name] = made
        return made


def undecided(store: GatheredStore) -> bool:
    """Return whether values alone may not tell which cells of a saver's store are missing."""
    if STORE_ID not in store.gathered.root:
        return False
    return any(
        variable.dims != (name,) and _hides_missing(variable)
        for name, variable in ZarrStore.load(store)[0].items()
    )


def _hides_missing(variable: xarray.Variable) -> bool:
    integer = variable.dtype.kind in "iu" and "units" not in variable.attrs
    masked = integer and ("_FillValue" in variable.attrs or variable.dtype.itemsize == 1)
    return masked or variable.dtype.kind in "bSTUO"


def note_missing(store: GatheredStore, missing: Mapping[str, Missing]) -> None:
    """Mask the missing cells of arrays, by their paths in the store."""
    variables = ZarrStore.load(store)[0]
    for name, node in store.nodes.items():
        found = missing.get(node.path)
        if found is None or isinstance(node, zarr.AsyncGroup):
            continue
        if found.fits(node.shape) and _hides_missing(variables[name]):
            store.missing[name] = found


async def prefetch(store: GatheredStore, options: Mapping[str, Any]) -> None:
    """Read, in one wave, the cells that xarray looks at while it opens a Dataset.

    These are all coordinates, and the first and last cell of other times.
    """
    variables, attrs = ZarrStore.load(store)
    dropped = options.get("drop_variables") or ()
    dropped = {dropped} if isinstance(dropped, str) else set(dropped)
    kept = {name: found for name, found in variables.items() if name not in dropped}
    coordinates = _coordinates(kept, attrs, options.get("decode_coords", True))
    whole = [store.stored[name].keep_all() for name in kept if name in coordinates]
    times = [name for name, found in kept.items() if _are_times(found, options)]
    ends = [store.stored[name].keep_ends() for name in times if name not in coordinates]
    await side_by_side([*whole, *ends])


def _coordinates(
    variables: Mapping[str, xarray.Variable], attrs: Mapping[str, Any], decode_coords: object
) -> set[str]:
    """Return the names that xarray will make coordinates of."""
    asked: tuple[str, ...] = ("coordinates",) if decode_coords else ()
    if decode_coords == "all":
        asked += CF_RELATED_DATA
    texts = [found.get(name, "") for found in _all_attrs(variables, attrs) for name in asked]
    words = {word.strip(":") for text in texts for word in str(text).split()}
    return {name for name, v in variables.items() if v.dims == (name,) or name in words}


def _all_attrs(
    variables: Mapping[str, xarray.Variable], attrs: Mapping[str, Any]
) -> Iterator[Mapping[str, Any]]:
    yield attrs
    for variable in variables.values():
        yield variable.attrs


def _are_times(variable: xarray.Variable, options: Mapping[str, Any]) -> bool:
    """Return whether xarray will look at the first and the last cell, for the dtype of times."""
    wanted = bool(options.get("decode_times", True))
    return wanted and variable.size > 0 and "since" in str(variable.attrs.get("units", ""))
