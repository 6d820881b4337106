"""What an HDF5 dataset is made of: dtype, filters, fill value, attributes.

Everything that a file needs is settled when an array is planned, by h5py itself on a dataset in
memory, and kept as JSON in the layout.
"""

from __future__ import annotations

import base64
import contextlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from savers.errors import FormatError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import h5py

    from savers._format import NewArray
    from savers._ledger._state import ArrayLayout

__all__ = [
    "GENERATION",
    "KEYWORDS",
    "attribute_value",
    "filter_names",
    "filters_of",
    "generation_of",
    "library_dtype",
    "pack_fill",
    "plain_attributes_of",
    "planned_filters",
    "settled_shape",
    "stored_dtype",
    "stored_fill",
    "text_of",
    "unpack_fill",
    "values_dtype_of",
]

#: Attribute of a dataset that was replaced so many times.
GENERATION = "tasksavers_generation"
#: The keywords of h5py that choose filters, and the presets that all formats share.
KEYWORDS = ("codecs", "compression", "compression_opts", "shuffle", "fletcher32")
#: Attributes by which HDF5 and NetCDF keep dimensions.
SYSTEM = frozenset(["CLASS", "NAME", "DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS",
                    "_Netcdf4Dimid", "_Netcdf4Coordinates", GENERATION])  # fmt: skip
#: What the presets are here, where only the filters count that every HDF5 library has.
PRESETS: Mapping[str | None, dict[str, Any]] = {
    None: {},
    "fast": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "balanced": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "small": {"compression": "gzip", "compression_opts": 6, "shuffle": True},
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    "lzf": {"compression": "lzf", "shuffle": True},
}

Filters = list[list[Any]]  # identifier, flags, parameters


# -- dtypes --------------------------------------------------------------------------------------


def library_dtype(dtype: np.dtype[Any]) -> Any:
    """Return how values lie in a file: times as integers, text of variable length in UTF-8."""
    import h5py

    if dtype.kind == "T":
        return h5py.string_dtype("utf-8")
    return np.dtype("<i8") if dtype.kind in "Mm" else dtype


def stored_dtype(layout: ArrayLayout) -> Any:
    """Return how the values of an array lie in its file, where a format says otherwise."""
    other = layout.meta.get("stored")
    return library_dtype(layout.values_dtype) if other is None else np.dtype(other)


def values_dtype_of(dataset: h5py.Dataset) -> np.dtype[Any]:
    """Return the dtype of the values of a dataset.

    Raises
    ------
    FormatError
        One that no saver extends.
    """
    import h5py

    text = h5py.check_string_dtype(dataset.dtype)
    if text is not None and text.length is None:
        return np.dtype(np.dtypes.StringDType())
    found: np.dtype[Any] = dataset.dtype
    special = h5py.check_enum_dtype(found) or h5py.check_ref_dtype(found) or found.subdtype
    if special or found.kind not in "biufcS":
        message = (
            f"{dataset.name}: a dataset of type {found} can't be extended or changed here "
            "(numbers, text and bytes can)"
        )
        raise FormatError(message)
    return found


# -- fill values ---------------------------------------------------------------------------------


def pack_fill(fill: object, dtype: np.dtype[Any]) -> str:
    """Return a fill value as JSON keeps it."""
    if dtype.kind == "T":
        return str(fill or "")
    return base64.b64encode(np.asarray(fill, dtype).tobytes()).decode()


def unpack_fill(text: str, dtype: np.dtype[Any]) -> Any:
    """Return a fill value from `pack_fill`."""
    return text if dtype.kind == "T" else np.frombuffer(base64.b64decode(text), dtype)[0]


def stored_fill(layout: ArrayLayout) -> Any:
    """Return the fill value of a dataset, None for the library's own."""
    if "stored" in layout.meta:
        return unpack_fill(layout.meta["stored_fill"], np.dtype(layout.meta["stored"]))
    fill, kind = unpack_fill(layout.meta["fill"], layout.values_dtype), layout.values_dtype.kind
    if kind == "T":
        return None
    return fill.astype("<i8") if kind in "Mm" else fill


# -- filters -------------------------------------------------------------------------------------


def planned_filters(new: NewArray) -> Filters:
    """Return the filters that h5py makes of the settings of a new array.

    Raises
    ------
    InvalidInputError
        h5py refuses them.
    """
    import h5py

    if new.shards:
        message = f"{new.name!r}: HDF5 has no shards; use chunks"
        raise InvalidInputError(message)
    settings = _filter_settings(new)
    try:
        with h5py.File(io.BytesIO(), "w") as memory:
            dataset = memory.create_dataset(
                "x", shape=new.chunks, chunks=new.chunks, dtype=library_dtype(new.dtype), **settings
            )
            return filters_of(dataset)
    except (TypeError, ValueError, OSError) as error:
        message = f"{new.name!r}: h5py refuses these settings: {error}"
        raise InvalidInputError(message) from error


def _filter_settings(new: NewArray) -> dict[str, Any]:
    own = {name: new.codecs[name] for name in KEYWORDS[1:] if name in new.codecs}
    compression: Any = own.get("compression")
    if hasattr(compression, "filter_id"):  # an object of hdf5plugin
        own["compression"] = compression.filter_id
        own.setdefault("compression_opts", tuple(compression.filter_options))
    if "compression" in own:
        return own
    asked = new.codecs.get("codecs", "balanced")
    if not (asked is None or isinstance(asked, str)) or asked not in PRESETS:
        known = ", ".join(name or "None" for name in PRESETS)
        message = (
            f"{new.name!r}: expected codecs one of {known}, got {asked!r}; other filters of HDF5 "
            "are given as compression=, e.g. hdf5plugin.Zstd()"
        )
        raise InvalidInputError(message)
    if new.dtype.kind == "T":
        return own  # only the references would be compressed, not the text
    return {**PRESETS[asked], **own}


def filters_of(dataset: h5py.Dataset) -> Filters:
    """Return the filters of a dataset, in their order."""
    plist = dataset.id.get_create_plist()
    found = [plist.get_filter(position) for position in range(plist.get_nfilters())]
    return [[int(code), int(flags), [int(n) for n in given]] for code, flags, given, _ in found]


def filter_names(filters: Filters) -> tuple[str, ...]:
    """Return the names of filters."""
    names = {1: "deflate", 2: "shuffle", 3: "fletcher32", 4: "szip", 6: "scaleoffset", 32000: "lzf",
             32001: "blosc", 32004: "lz4", 32008: "bitshuffle", 32015: "zstd"}  # fmt: skip
    level = {code: f"-{given[0]}" for code, _, given in filters if code == 1 and given}
    return tuple(names.get(code, f"filter {code}") + level.get(code, "") for code, _, _ in filters)


# -- attributes ----------------------------------------------------------------------------------


def attribute_value(value: Any, where: str) -> Any:
    """Return the value of an attribute as h5py takes it.

    Raises
    ------
    InvalidInputError
        Mappings, lists of different kinds and other values that no attribute holds.
    """
    import h5py

    if value is None:
        return h5py.Empty("f4")
    if isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(one, str) for one in value):
            return np.array(value, dtype=h5py.string_dtype("utf-8"))
        with contextlib.suppress(ValueError):  # lists of different lengths
            found = np.array(value)
            if found.dtype.kind in "biuf":
                return found
    message = f"attribute {where}: HDF5 holds numbers, text and lists of either, got {value!r}"
    raise InvalidInputError(message)


def plain_attributes_of(node: h5py.HLObject) -> dict[str, Any]:
    """Return the attributes of an object as JSON knows them; others are left out."""
    return dict(_plain_attributes(node))


def _plain_attributes(node: h5py.HLObject) -> Iterator[tuple[str, Any]]:
    import h5py

    for name in node.attrs:
        if name in SYSTEM:
            continue
        try:
            value = node.attrs[name]
        except (OSError, TypeError, ValueError):  # of a type that h5py doesn't know
            continue
        if isinstance(value, h5py.Empty):
            yield name, "" if value.dtype.kind == "S" else None
        elif isinstance(value, bytes):  # text of fixed length, as NetCDF has it
            yield name, text_of(value)
        elif isinstance(value, (np.ndarray, np.generic)) and value.dtype.kind in "biufUO":
            yield name, value.tolist()
        elif isinstance(value, (str, bool, int, float)):
            yield name, value


def text_of(value: object) -> str:
    """Return the text of an attribute, of fixed length or not; "" where it is none."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def generation_of(dataset: h5py.Dataset) -> int:
    """Return how often a dataset was replaced."""
    return int(dataset.attrs.get(GENERATION, 0))


def settled_shape(layout: ArrayLayout) -> tuple[int | None, ...]:
    """Return the extents that an array may reach; None where it may grow without end."""
    first = layout.growing or bool(layout.meta.get("along"))
    return tuple(
        None if (first and axis == 0) or not size else size
        for axis, size in enumerate(layout.shape)
    )
