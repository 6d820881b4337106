"""Zarr v3 and v2 as a format: layouts of arrays, chunk keys, and what a store shows.

Metadata is made by zarr-python and kept in the layout; publishing an array is writing that
document with the present shape. Source: Zarr core specification 3.1 and storage specification v2.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from savers._codecs._choice import chunk_codec
from savers._codecs._zarrs import ZarrsChunks, ZarrsSettings
from savers._format import Facts
from savers._ledger._state import ArrayLayout
from savers._session._sessions import close_all_before
from savers._stores._any_zarr import AnyZarr
from savers._stores._location import require_folder
from savers._stores._store import MappingStore, TransactionalStore
from savers._values._coordinates import time_attributes
from savers._values._fill import default_fill
from savers._zarr._codecs import codec_names, codec_options
from savers._zarr._documents import (
    NODES,
    bare_keys,
    consolidated,
    consolidated_v2,
    dump,
    node_chunks,
    parity,
    read_node,
)
from savers._zarr._dtypes import (
    bytes_are_meant,
    dtype_name,
    fill_of,
    in_zarrs,
    node_dtype,
    stored_dtype,
    stored_fill,
)
from savers._zarr._publish import publish_alone, publish_v2, publish_v3, shown
from savers.errors import FormatError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from savers._codecs._choice import ChunkCodec
    from savers._format import NewArray
    from savers._ledger._state import State
    from savers._stores._location import Location
    from savers._stores._store import Store
    from savers._zarr._documents import Document

__all__ = ["ID", "ZarrFormat", "format_in", "format_of"]

ID = "tasksavers_store"  # root attribute that ties a store to its ledger


@dataclass(frozen=True)
class ZarrFormat:
    """Zarr, version 3 or 2."""

    zarr_format: Literal[2, 3] = 3
    pipeline: ZarrsSettings | None = None
    consolidated: bool = True
    name: str = "zarr"
    keywords: ClassVar[tuple[str, ...]] = (
        "compressor", "compressors", "compression", "codecs", "filters", "serializer",
    )  # fmt: skip
    timed: ClassVar[bool] = True

    def open_store(self, location: Location, dataset: str) -> Store:
        require_folder(location)
        if isinstance(location.store, (AnyZarr, TransactionalStore)):
            close_all_before("zarr.core.sync")
        if isinstance(location.store, MappingStore):
            location.store.scratch = f"{location.ledger(dataset)[1]}staged/"
        return location.store

    def documents(self, names: Collection[str]) -> Sequence[str]:
        folders = ["", *(f"{name}/" for name in names)]
        return [folder + document for folder in folders for document in NODES]

    # -- layouts ---------------------------------------------------------------------------------

    def create(self, new: NewArray) -> ArrayLayout:
        fill = default_fill(new.dtype) if new.fill_value is None else new.fill_value
        attributes = dict(new.attributes)
        if new.dtype.kind in "Mm":
            attributes = {**time_attributes(new.dtype), **attributes}
        node = self._make(new, stored_fill(fill, new.dtype), attributes)
        meta: dict[str, Any] = {"node": node, "along": new.along, "dims": list(new.dims)}
        missing_times = new.dtype.kind in "Mm" and new.dims != (new.name,)
        meta["asked_fill"] = new.fill_value is not None or missing_times
        return ArrayLayout(
            new.name, dtype_name(new.dtype), new.shape, new.shards or new.chunks, new.growing,
            new.cells, new.rounding, new.generation, meta,
        )  # fmt: skip

    def _make(self, new: NewArray, fill: Any, attributes: Mapping[str, Any]) -> Document:
        import zarr

        memory: dict[str, Any] = {}
        options = codec_options(new, self.zarr_format)
        if self.zarr_format == 3:
            options["dimension_names"] = new.dims or None
        elif new.shards:
            message = f"{new.name!r}: shards need zarr_format=3"
            raise InvalidInputError(message)
        try:
            with bytes_are_meant(new.dtype):
                zarr.create_array(
                    zarr.storage.MemoryStore(memory), shape=new.shape, chunks=new.chunks,
                    shards=new.shards, dtype=stored_dtype(new.dtype), fill_value=fill,
                    attributes=dict(attributes), zarr_format=self.zarr_format, **options,
                )  # fmt: skip
        except (TypeError, ValueError, NotImplementedError) as error:
            message = f"{new.name!r}: zarr refuses these settings: {error}"
            raise InvalidInputError(message) from error
        documents = {key: json.loads(value.to_bytes()) for key, value in memory.items()}
        if self.zarr_format == 3:
            return documents["zarr.json"]  # type: ignore[no-any-return]
        names = {"_ARRAY_DIMENSIONS": list(new.dims)} if new.dims else {}
        return {**documents[".zarray"], "attributes": {**documents.get(".zattrs", {}), **names}}

    def adopt(self, store: Store, name: str) -> tuple[ArrayLayout, tuple[int, ...]] | None:
        node = read_node(store, name)
        if node is None:
            return None
        if "chunk_grid" not in node and "chunks" not in node:
            message = f"expected an array at {name!r}, found a group"
            raise FormatError(message)
        shape = tuple(node["shape"])
        dims = node.get("dimension_names") or node["attributes"].get("_ARRAY_DIMENSIONS") or []
        meta = {"node": node, "along": "", "dims": list(dims), "asked_fill": True}
        growing = bool(shape)
        layout = ArrayLayout(
            name, dtype_name(node_dtype(node)), (0, *shape[1:]) if growing else shape,
            node_chunks(node), growing, (0,) if growing else (), generation=parity(node),
            meta=meta,
        )  # fmt: skip
        return layout, shape

    def facts(self, layout: ArrayLayout) -> Facts:
        node = layout.meta["node"]
        inner, names = codec_names(node)
        return Facts(
            inner or layout.chunks,
            layout.chunks if inner else None,
            node["attributes"],
            {key: node.get(key) for key in ("codecs", "compressor", "filters")},
            names,
            node["fill_value"],
        )

    def check_replaceable(self, layout: ArrayLayout, new: ArrayLayout | None = None) -> None:
        """Version 2 keeps the chunks of a 1-d array under the same keys whatever the separator."""
        axes = min(len(layout.chunks), len((new or layout).chunks))
        if layout.meta["node"]["zarr_format"] == 2 and axes < 2:
            message = (
                f"{layout.name!r}: a 1-d array of zarr_format=2 can't be replaced in one step; "
                "use zarr_format=3, or another dataset_name"
            )
            raise InvalidInputError(message)

    def check_beside(
        self, store: Store, layout: ArrayLayout, others: Sequence[ArrayLayout]
    ) -> None:
        """Arrays share nothing that could differ."""

    def codec(self, layout: ArrayLayout) -> ChunkCodec:
        node = layout.meta["node"]
        if self.pipeline is not None and in_zarrs(node_dtype(node)):
            return ZarrsChunks(node, layout.chunks, self.pipeline, layout.name)
        return chunk_codec(node, layout.chunks)

    def fill_value(self, layout: ArrayLayout) -> Any:
        return fill_of(layout.meta["node"], layout.values_dtype)

    # -- chunks ----------------------------------------------------------------------------------

    def chunk_key(self, layout: ArrayLayout, chunk: tuple[int, ...]) -> str:
        separator = "." if layout.generation % 2 else "/"
        start = [] if bare_keys(layout.meta["node"]) else ["c"]
        parts = [*start, *map(str, chunk)]
        return f"{layout.name}/{separator.join(parts or ['0'])}"

    def read_chunk(self, store: Store, layout: ArrayLayout, chunk: tuple[int, ...]) -> bytes | None:
        return store.get(self.chunk_key(layout, chunk))

    def chunks_in(self, store: Store, layout: ArrayLayout) -> Iterator[tuple[tuple[int, ...], str]]:
        for index, key in self._chunk_objects(store, layout):
            if len(index) == len(layout.chunks):
                yield index, key

    def _chunk_objects(
        self, store: Store, layout: ArrayLayout
    ) -> Iterator[tuple[tuple[int, ...], str]]:
        bare = bare_keys(layout.meta["node"])
        separator = "." if layout.generation % 2 else "/"
        start = f"{layout.name}/" if bare else f"{layout.name}/c{separator}"
        for key in store.list(start if bare else f"{layout.name}/"):
            parts = key[len(start) :].split(separator)
            if key.startswith(start) and all(part.isdecimal() for part in parts):
                yield tuple(map(int, parts)), key

    def remove_chunks(self, store: Store, layout: ArrayLayout) -> None:
        store.delete_all([key for _, key in self._chunk_objects(store, layout)])
        store.prune(layout.name)

    # -- what readers see --------------------------------------------------------------------------

    def store_id(self, store: Store) -> tuple[bool, str]:
        root = read_node(store, "")
        if root is None:
            return False, ""
        if "chunk_grid" in root or "chunks" in root:
            message = "expected a group at the root of the store, found an array"
            raise FormatError(message)
        return True, root["attributes"].get(ID, "")

    def root_attributes(self, store: Store) -> Mapping[str, Any]:
        with contextlib.suppress(FormatError, AttributeError):
            return dict((read_node(store, "") or {}).get("attributes", {}))
        return {}

    def array_names(self, store: Store) -> Sequence[str]:
        keys = store.list("")
        return sorted(
            {k.rpartition("/")[0] for k in keys if k.endswith(("/zarr.json", "/.zarray"))}
        )

    def create_root(self, store: Store, store_id: str, attrs: Mapping[str, Any]) -> None:
        there = read_node(store, "")
        root = there or {"attributes": {}, "zarr_format": self.zarr_format}
        found = self.zarr_format
        attributes = {**root["attributes"], **attrs, ID: store_id}
        if there is None and found == 3 and self.consolidated:
            root["consolidated_metadata"] = consolidated({})
        if found == 3:
            store.put("zarr.json", dump({**root, "attributes": attributes, "node_type": "group"}))
        else:
            store.put(".zgroup", dump({"zarr_format": 2}))
            store.put(".zattrs", dump(attributes))
            if there is None:
                metadata = {".zgroup": {"zarr_format": 2}, ".zattrs": attributes}
                store.put(".zmetadata", dump(consolidated_v2(metadata)))

    def published(self, store: Store, layout: ArrayLayout) -> tuple[int, ...] | None:
        node = read_node(store, layout.name)
        if node is None or "shape" not in node:
            return None
        mine = layout.meta["node"]
        same = ("data_type", "dtype", "chunk_grid", "chunks", "codecs", "compressor", "filters")
        if any(node.get(key) != mine.get(key) for key in same):
            return None
        return tuple(node["shape"]) if parity(node) == layout.generation % 2 else None

    def publish(
        self,
        store: Store,
        state: State,
        shapes: Mapping[str, tuple[int, ...]],
        attrs: Mapping[str, Any],
        gone: Sequence[str] = (),
    ) -> None:
        nodes = {name: shown(state, name, shape) for name, shape in shapes.items()}
        named = attrs.keys() & state.arrays.keys()  # attributes of an array, not of the root
        for name in gone:
            store.delete(f"{name}/{'zarr.json' if self.zarr_format == 3 else '.zarray'}")
        if not self.consolidated:
            publish_alone(store, nodes, attrs, named)
        elif self.zarr_format == 3:
            publish_v3(store, nodes, attrs, named, gone)
        else:
            publish_v2(store, nodes, attrs, named, gone)


def format_of(store: Store) -> Literal[2, 3] | None:
    """Return the version of the Zarr format that a store has, None where there is no store."""
    newer, *older = store.get_all(NODES)
    if newer is not None:
        return 3
    return 2 if any(document is not None for document in older) else None


def format_in(
    store: Store, zarr_format: Literal[2, 3], pipeline: ZarrsSettings | None = None
) -> ZarrFormat:
    """Return the format of what is saved in a store.

    Raises
    ------
    InvalidInputError
        The store knows version 3 alone.
    """
    transactional = isinstance(store, TransactionalStore)
    if transactional and zarr_format != 3:
        message = "expected zarr_format=3 for an Icechunk repository, which has no other, got 2"
        raise InvalidInputError(message)
    return ZarrFormat(zarr_format, pipeline, consolidated=not transactional)
