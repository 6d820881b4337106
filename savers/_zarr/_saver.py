"""Zarr v3 and v2 on disk: metadata documents, chunk keys, and what xarray reads from them.

Metadata is made by zarr-python and kept in the layout; publishing an array is writing that
document with the present shape, and then the root's with all of them (consolidated metadata).
Source: Zarr core specification 3.1 and storage specification v2.
"""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from pydantic import field_validator

from savers._chunked._saver import ChunkedSaver
from savers._codecs._choice import chunk_codec
from savers._codecs._settings import preset
from savers._codecs._zarrs import ZarrsChunks, ZarrsSettings, require_zarrs
from savers._config import SaverSettings
from savers._format import Facts
from savers._jobs import ItemStatus
from savers._ledger._state import ArrayLayout
from savers._session._session import close_all_before
from savers._stores._any_zarr import AnyZarr
from savers._stores._location import require_folder
from savers._values._coordinates import time_attributes
from savers._values._fill import default_fill
from savers.errors import FormatError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from savers._codecs._choice import ChunkCodec
    from savers._format import Format, NewArray
    from savers._ledger._state import State
    from savers._stores._location import Location
    from savers._stores._store import Store

__all__ = ["ZarrFormat", "ZarrSaver", "format_of"]

ID = "tasksavers_store"  # root attribute that ties a store to its ledger
Document = dict[str, Any]


@dataclass(frozen=True)
class ZarrFormat:
    """Zarr, version 3 or 2."""

    zarr_format: Literal[2, 3] = 3
    pipeline: ZarrsSettings | None = None
    name: str = "zarr"
    keywords: ClassVar[tuple[str, ...]] = (
        "compressor", "compressors", "compression", "codecs", "filters", "serializer",
    )  # fmt: skip
    timed: ClassVar[bool] = True

    def open_store(self, location: Location, dataset: str) -> Store:
        require_folder(location)
        if isinstance(location.store, AnyZarr):
            close_all_before("zarr.core.sync")
        return location.store

    def documents(self, names: Collection[str]) -> Sequence[str]:
        folders = ["", *(f"{name}/" for name in names)]
        return [folder + document for folder in folders for document in _DOCUMENTS]

    # -- layouts ---------------------------------------------------------------------------------

    def create(self, new: NewArray) -> ArrayLayout:
        fill = default_fill(new.dtype) if new.fill_value is None else new.fill_value
        attributes = dict(new.attributes)
        if new.dtype.kind in "Mm":
            attributes = {**time_attributes(new.dtype), **attributes}
        node = self._make(new, _stored_fill(fill, new.dtype), attributes)
        meta: dict[str, Any] = {"node": node, "along": new.along, "dims": list(new.dims)}
        missing_times = new.dtype.kind in "Mm" and new.dims != (new.name,)
        meta["asked_fill"] = new.fill_value is not None or missing_times
        return ArrayLayout(
            new.name, _dtype_name(new.dtype), new.shape, new.shards or new.chunks, new.growing,
            new.cells, new.rounding, new.generation, meta,
        )  # fmt: skip

    def _make(self, new: NewArray, fill: Any, attributes: Mapping[str, Any]) -> Document:
        import zarr

        memory: dict[str, Any] = {}
        options = _codec_options(new, self.zarr_format)
        if self.zarr_format == 3:
            options["dimension_names"] = new.dims or None
        elif new.shards:
            message = f"{new.name!r}: shards need zarr_format=3"
            raise InvalidInputError(message)
        try:
            with _bytes_are_meant(new.dtype):
                zarr.create_array(
                    zarr.storage.MemoryStore(memory), shape=new.shape, chunks=new.chunks,
                    shards=new.shards, dtype=_stored_dtype(new.dtype), fill_value=fill,
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
        node = _read_node(store, name)
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
            name, _dtype_name(_node_dtype(node)), (0, *shape[1:]) if growing else shape,
            _node_chunks(node), growing, (0,) if growing else (), generation=_parity(node),
            meta=meta,
        )  # fmt: skip
        return layout, shape

    def facts(self, layout: ArrayLayout) -> Facts:
        node = layout.meta["node"]
        inner, names = _codec_names(node)
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
        if self.pipeline is not None and _in_zarrs(_node_dtype(node)):
            return ZarrsChunks(node, layout.chunks, self.pipeline, layout.name)
        return chunk_codec(node, layout.chunks)

    def fill_value(self, layout: ArrayLayout) -> Any:
        fill = layout.meta["node"]["fill_value"]
        dtype = layout.values_dtype
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

    # -- chunks ----------------------------------------------------------------------------------

    def chunk_key(self, layout: ArrayLayout, chunk: tuple[int, ...]) -> str:
        separator = "." if layout.generation % 2 else "/"
        start = [] if _bare_keys(layout.meta["node"]) else ["c"]
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
        bare = _bare_keys(layout.meta["node"])
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
        root = _read_node(store, "")
        if root is None:
            return False, ""
        if "chunk_grid" in root or "chunks" in root:
            message = "expected a group at the root of the store, found an array"
            raise FormatError(message)
        return True, root["attributes"].get(ID, "")

    def root_attributes(self, store: Store) -> Mapping[str, Any]:
        with contextlib.suppress(FormatError, AttributeError):
            return dict((_read_node(store, "") or {}).get("attributes", {}))
        return {}

    def array_names(self, store: Store) -> Sequence[str]:
        keys = store.list("")
        return sorted(
            {k.rpartition("/")[0] for k in keys if k.endswith(("/zarr.json", "/.zarray"))}
        )

    def create_root(self, store: Store, store_id: str, attrs: Mapping[str, Any]) -> None:
        there = _read_node(store, "")
        root = there or {"attributes": {}, "zarr_format": self.zarr_format}
        found = self.zarr_format
        attributes = {**root["attributes"], **attrs, ID: store_id}
        if there is None and found == 3:
            root["consolidated_metadata"] = _consolidated({})
        if found == 3:
            store.put("zarr.json", _dump({**root, "attributes": attributes, "node_type": "group"}))
        else:
            store.put(".zgroup", _dump({"zarr_format": 2}))
            store.put(".zattrs", _dump(attributes))
            if there is None:
                metadata = {".zgroup": {"zarr_format": 2}, ".zattrs": attributes}
                store.put(".zmetadata", _dump(_consolidated_v2(metadata)))

    def published(self, store: Store, layout: ArrayLayout) -> tuple[int, ...] | None:
        node = _read_node(store, layout.name)
        if node is None or "shape" not in node:
            return None
        mine = layout.meta["node"]
        same = ("data_type", "dtype", "chunk_grid", "chunks", "codecs", "compressor", "filters")
        if any(node.get(key) != mine.get(key) for key in same):
            return None
        return tuple(node["shape"]) if _parity(node) == layout.generation % 2 else None

    def publish(
        self,
        store: Store,
        state: State,
        shapes: Mapping[str, tuple[int, ...]],
        attrs: Mapping[str, Any],
        gone: Sequence[str] = (),
    ) -> None:
        nodes = {name: _shown(state, name, shape) for name, shape in shapes.items()}
        named = attrs.keys() & state.arrays.keys()  # attributes of an array, not of the root
        for name in gone:
            store.delete(f"{name}/{'zarr.json' if self.zarr_format == 3 else '.zarray'}")
        if self.zarr_format == 3:
            _publish_v3(store, nodes, attrs, named, gone)
        else:
            _publish_v2(store, nodes, attrs, named, gone)


def format_of(store: Store) -> Literal[2, 3] | None:
    """Return the version of the Zarr format that a store has, None where there is no store."""
    newer, *older = store.get_all(_DOCUMENTS)
    if newer is not None:
        return 3
    return 2 if any(document is not None for document in older) else None


# -- documents -----------------------------------------------------------------------------------

#: What says that a node is there: of version 3, and of version 2.
_DOCUMENTS = ("zarr.json", ".zgroup", ".zarray")


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1).encode()


def _load(store: Store, key: str) -> Any:
    data = store.get(key)
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


def _read_node(store: Store, name: str) -> Document | None:
    """Return the metadata of a node as one document, attributes included."""
    start = f"{name}/" if name else ""
    node: Document | None = _load(store, f"{start}zarr.json")
    if node is not None:
        return {"attributes": {}, **node}
    found = _load(store, f"{start}.zarray") or _load(store, f"{start}.zgroup")
    return found and {**found, "attributes": _load(store, f"{start}.zattrs") or {}}


def _bare_keys(node: Document) -> bool:
    """Whether chunk keys are indices alone (version 2, and "v2" keys in version 3)."""
    return bool(node["zarr_format"] == 2 or node["chunk_key_encoding"]["name"] == "v2")


def _shown(state: State, name: str, shape: tuple[int, ...]) -> Document:
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


def _publish_v3(
    store: Store,
    nodes: Mapping[str, Document],
    attrs: Mapping[str, Any],
    named: Collection[str],
    gone: Sequence[str],
) -> None:
    root = _load(store, "zarr.json") or {"attributes": {}, "zarr_format": 3, "node_type": "group"}
    known = (root.get("consolidated_metadata") or {}).get("metadata")
    table: dict[str, Any] = dict(_found_nodes(store) if known is None else known)
    for name, node in nodes.items():
        for group in _groups_above(name):
            if group not in table:
                table[group] = {"attributes": {}, "zarr_format": 3, "node_type": "group"}
                store.put(f"{group}/zarr.json", _dump(table[group]))
        if table.get(name) != node:  # else it was put before the root that says so
            store.put(f"{name}/zarr.json", _dump(node))
            table[name] = node
    for name in gone:
        table.pop(name, None)
    store.barrier()  # after a power cut, too, the root speaks of no document that is not there
    root["attributes"] = _without(named, {**root["attributes"], **attrs})
    root["consolidated_metadata"] = _consolidated(table)
    store.put("zarr.json", _dump(root))


def _consolidated(table: Mapping[str, Any]) -> Document:
    return {"kind": "inline", "must_understand": False, "metadata": dict(sorted(table.items()))}


def _consolidated_v2(documents: Mapping[str, Any]) -> Document:
    return {"zarr_consolidated_format": 1, "metadata": dict(documents)}


def _without(named: Collection[str], attributes: Document) -> Document:
    return {key: value for key, value in attributes.items() if key not in named}


def _found_nodes(store: Store) -> Iterator[tuple[str, Document]]:
    """What other programs put into this store before its metadata was consolidated."""
    for key in store.list(""):
        if key.endswith("/zarr.json"):
            node = _load(store, key)
            if isinstance(node, dict):
                node.pop("consolidated_metadata", None)
                yield key.removesuffix("/zarr.json"), node


def _groups_above(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _publish_v2(
    store: Store,
    nodes: Mapping[str, Document],
    attrs: Mapping[str, Any],
    named: Collection[str],
    gone: Sequence[str],
) -> None:
    table = (_load(store, ".zmetadata") or {}).get("metadata") or _found_v2(store)
    documents: dict[str, Any] = {}
    for name, node in nodes.items():
        for group in _groups_above(name):
            if f"{group}/.zgroup" not in table:
                documents[f"{group}/.zgroup"] = {"zarr_format": 2}
        documents[f"{name}/.zattrs"] = node["attributes"]
        documents[f"{name}/.zarray"] = {k: v for k, v in node.items() if k != "attributes"}
    documents[".zgroup"] = {"zarr_format": 2}
    documents[".zattrs"] = _without(named, {**(_load(store, ".zattrs") or {}), **attrs})
    for key, document in documents.items():
        if table.get(key) != document:
            store.put(key, _dump(document))
    table = {**table, **documents}
    for name in gone:
        table.pop(f"{name}/.zarray", None)
        table.pop(f"{name}/.zattrs", None)
    store.put(".zmetadata", _dump(_consolidated_v2(table)))


def _found_v2(store: Store) -> Document:
    names = (".zgroup", ".zarray", ".zattrs")
    keys = [key for key in store.list("") if key.rpartition("/")[2] in names]
    return {key: _load(store, key) for key in keys}


# -- dtypes, fill values, codecs -------------------------------------------------------------------


def _dtype_name(dtype: np.dtype[Any]) -> str:
    return "T" if dtype.kind == "T" else dtype.str


@contextlib.contextmanager
def _bytes_are_meant(dtype: np.dtype[Any]) -> Iterator[None]:
    """Spare callers who give bytes what zarr has to say about their place in version 3."""
    with warnings.catch_warnings() if dtype.kind == "S" else contextlib.nullcontext():
        if dtype.kind == "S":
            warnings.filterwarnings("ignore", "The data type .* does not have a Zarr V3")
        yield


def _stored_dtype(dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "Mm":
        return np.dtype("<i8")
    return "str" if dtype.kind == "T" else dtype


def _stored_fill(fill: Any, dtype: np.dtype[Any]) -> Any:
    if dtype.kind in "Mm":
        return int(np.asarray(fill or "NaT", dtype).astype(np.int64))
    return fill


def _node_dtype(node: Document) -> np.dtype[Any]:
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


def _in_zarrs(dtype: np.dtype[Any]) -> bool:
    """Whether zarrs takes values of a dtype; text and swapped bytes stay with the usual way."""
    return dtype.kind in "biufc" and dtype.isnative


def _not_extended(kind: object) -> FormatError:
    return FormatError(
        f"an array of data type {kind!r} can't be extended or changed here (text of variable "
        "length, numbers, bytes and times can)"
    )


def _node_chunks(node: Document) -> tuple[int, ...]:
    grid = node.get("chunk_grid")
    return tuple(grid["configuration"]["chunk_shape"] if grid else node["chunks"])


def _parity(node: Document) -> int:
    if "chunk_key_encoding" in node:
        keys = node["chunk_key_encoding"]
        default = "/" if keys["name"] == "default" else "."
        separator = keys.get("configuration", {}).get("separator", default)
    else:
        separator = node.get("dimension_separator", ".")
    return 0 if separator == "/" else 1


def _codec_names(node: Document) -> tuple[tuple[int, ...] | None, tuple[str, ...]]:
    """Return the chunk shape within a shard, and the codecs by name."""
    if node["zarr_format"] == 2:
        compressor = [node["compressor"]] if node["compressor"] else []
        chain = [*(node.get("filters") or ()), *compressor]
        return None, tuple(str(codec["id"]) for codec in chain)
    first = node["codecs"][0]
    if first["name"] != "sharding_indexed":
        return None, _names(node["codecs"])
    settings = first["configuration"]
    return tuple(settings["chunk_shape"]), _names(settings["codecs"])


def _names(codecs: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(
        str(codec["name"] + _variant(codec.get("configuration", {})))
        for codec in codecs
        if codec["name"] not in ("bytes", "vlen-utf8")
    )


def _variant(settings: Mapping[str, Any]) -> str:
    """Return what tells blosc codecs apart, as "(zstd-1, shuffle)"."""
    if "cname" not in settings:
        return ""
    return f"({settings['cname']}-{settings['clevel']}, {settings['shuffle']})"


def _codec_options(new: NewArray, zarr_format: int) -> dict[str, Any]:
    """Settings of `zarr.create_array` from what the user asked for."""
    options: dict[str, Any] = {
        name: new.codecs[name] for name in ("filters", "serializer") if name in new.codecs
    }
    asked = [n for n in ("compressor", "compressors", "compression", "codecs") if n in new.codecs]
    if len(asked) > 1 and "codecs" in asked:
        asked.remove("codecs")  # the saver's default; a keyword of the call comes before it
    if len(asked) > 1:
        message = f"{new.name!r}: expected one of compressor, compressors, compression, got {asked}"
        raise InvalidInputError(message)
    given = new.codecs[asked[0]] if asked else "balanced"
    options["compressors"] = _compressors(given, new, zarr_format)
    return options


def _compressors(given: Any, new: NewArray, zarr_format: int) -> Any:
    if given is None or isinstance(given, str):
        try:
            chosen = preset(given, new.dtype)
        except KeyError as error:
            known = "balanced, fast, small, zstd, gzip, lz4, blosc, None"
            message = f"{new.name!r}: unknown codecs {given!r}; known: {known}"
            raise InvalidInputError(message) from error
    else:
        chosen = tuple(given) if isinstance(given, (list, tuple)) else (given,)
    if zarr_format == 2:
        return [_as_numcodecs(codec) for codec in chosen] or None
    return [_as_v3(codec, new) for codec in chosen] or None


def _as_v3(codec: Any, new: NewArray) -> Any:
    """A numcodecs object as the core v3 codec that writes the same bytes."""
    settings = codec.get_config() if hasattr(codec, "codec_id") else None
    if settings is None:
        return codec
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    kind = settings.pop("id")
    if kind == "blosc":
        shuffle = settings["shuffle"]
        if shuffle == -1:
            shuffle = 2 if new.dtype.itemsize == 1 else 1
        names: dict[int, Any] = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle"}
        return BloscCodec(
            typesize=new.dtype.itemsize, cname=settings["cname"], clevel=settings["clevel"],
            shuffle=names[shuffle], blocksize=settings["blocksize"],
        )  # fmt: skip
    if kind == "zstd":
        return ZstdCodec(level=settings["level"], checksum=settings.get("checksum", False))
    if kind == "gzip":
        return GzipCodec(level=settings["level"])
    message = (
        f"{new.name!r}: numcodecs {kind!r} has no core Zarr v3 codec; take Blosc, Zstd or GZip, "
        "a zarr.codecs object, or zarr_format=2"
    )
    raise InvalidInputError(message)


def _as_numcodecs(codec: Any) -> Any:
    """A v3 codec as the numcodecs object of v2."""
    if hasattr(codec, "codec_id"):
        return codec
    import numcodecs

    document = codec.to_dict()
    settings = dict(document.get("configuration", {}))
    if document["name"] == "blosc":
        settings.pop("typesize", None)
        shuffle = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}[settings.pop("shuffle")]
        return numcodecs.Blosc(**settings, shuffle=shuffle)
    if document["name"] == "zstd":
        return numcodecs.Zstd(**settings)
    return numcodecs.GZip(**settings)


# -- the saver -----------------------------------------------------------------------------------


class ZarrSettings(SaverSettings):
    """Keywords of `ZarrSaver`."""

    zarr_format: Literal[2, 3] | None = None
    pipeline: ZarrsSettings | None = None

    @field_validator("pipeline", mode="before")
    @classmethod
    def _by_name(cls, value: object) -> object:
        return ZarrsSettings() if value == "zarrs" else value


class ZarrSaver(ChunkedSaver):
    """Save results to arrays of a Zarr store.

    Parameters, approaches and errors are those of `ChunkedSaver`; see there.

    Parameters
    ----------
    zarr_format : {3, 2}, optional
        Version of the Zarr format; by default that of a store that is there, and 3 for a new one.
    pipeline : "zarrs" or ZarrsSettings, optional
        Numbers are encoded by zarrs (extra ``fast``), into local stores only; see docs/codecs.md
        before you take it for faster.

    Examples
    --------
    >>> import tempfile, zarr
    >>> path = tempfile.mkdtemp() + "/results.zarr"
    >>> with ZarrSaver(path, dataset_name="energy") as saver:
    ...     saver.save([1.0, 2.0, 3.0])
    ...     saver.save([4.0])
    >>> zarr.open_group(path)["energy"][:]
    array([1., 2., 3., 4.])
    """

    settings_type = ZarrSettings
    settings: ZarrSettings

    def __init__(
        self,
        file_path: object,
        dataset_name: str = "dataset",
        approach: str = "append",
        **settings: Any,
    ) -> None:
        super().__init__(file_path, dataset_name, approach, **settings)
        if self.settings.pipeline is not None:
            require_zarrs()
            self._require_folder()

    def _require_folder(self) -> None:
        if self._location.path is None:
            message = f"pipeline='zarrs' writes to local stores only, got {self.where}"
            raise InvalidInputError(message)

    def make_format(self) -> Format:
        there, asked = format_of(self._location.store), self.settings.zarr_format
        if there and asked and there != asked:
            message = (
                f"expected a store with zarr_format={asked} at {self.where}, this one has {there}: "
                "leave zarr_format out"
            )
            raise FormatError(message)
        return ZarrFormat(asked or there or 3, self.settings.pipeline)
