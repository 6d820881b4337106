"""Chunks of HDF5 datasets as stored objects: what lies in the file, byte by byte.

Two kinds differ. A chunk whose filters we don't know is encoded by h5py in memory, and its object
begins with the filter mask (which filters were left out). Text lies in a heap of the file, so its
object is the text itself, as JSON.
"""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._codecs._codec import ChunkCodec
from savers._codecs._deflate import filtered_chunks
from savers._codecs._packing import PackedChunks, Packing
from savers._hdf5._layout import stored_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    import h5py
    from numpy.typing import NDArray

    from savers._codecs._codec import Bytes
    from savers._ledger._state import ArrayLayout

__all__ = ["codec_of", "create_like", "read_object", "write_object"]

Index = tuple[int, ...]
MASK = 4  # bytes of a filter mask


def codec_of(layout: ArrayLayout) -> ChunkCodec:
    """Return the codec of an array's stored objects."""
    stored = stored_codec(layout)
    if "packing" in layout.meta:
        return PackedChunks(Packing(**layout.meta["packing"]), layout.values_dtype, stored)
    return stored


def stored_codec(layout: ArrayLayout) -> ChunkCodec:
    """Return the codec of values as they lie in the file."""
    if layout.values_dtype.kind == "T":
        return TextChunks(layout.chunks)
    filters = [(code, given) for code, _, given in layout.meta["filters"]]
    dtype = np.dtype(stored_dtype(layout))
    return filtered_chunks(dtype, layout.chunks, filters) or LibraryChunks(layout)


class TextChunks(ChunkCodec):
    """Text of variable length, as a JSON list."""

    def __init__(self, chunks: Index) -> None:
        self.chunks = chunks

    def parts(self, block: NDArray[Any]) -> list[Bytes]:
        return [json.dumps(block.astype(object).ravel().tolist()).encode()]

    def decode(self, data: Bytes) -> NDArray[Any]:
        found = np.array(json.loads(bytes(data)), dtype=object).reshape(self.chunks)
        return found.astype(np.dtypes.StringDType())


class LibraryChunks(ChunkCodec):
    """Whatever filters libhdf5 has or loads: through a dataset of one chunk in memory."""

    def __init__(self, layout: ArrayLayout) -> None:
        self.layout = layout

    def parts(self, block: NDArray[Any]) -> list[Bytes]:
        import h5py

        with h5py.File(io.BytesIO(), "w") as memory:
            dataset = create_like(memory, "x", self.layout, block.shape)
            dataset[...] = block
            mask, data = dataset.id.read_direct_chunk((0,) * block.ndim)
        return [mask.to_bytes(MASK, "little"), data]

    def decode(self, data: Bytes) -> NDArray[Any]:
        import h5py

        with h5py.File(io.BytesIO(), "w") as memory:
            dataset = create_like(memory, "x", self.layout, self.layout.chunks)
            _write_raw(dataset, (0,) * len(self.layout.chunks), data, masked=True)
            found: NDArray[Any] = dataset[...]
        return found


def create_like(
    group: h5py.Group,
    name: str,
    layout: ArrayLayout,
    shape: Index,
    maxshape: Sequence[int | None] | None = None,
    **settings: Any,
) -> h5py.Dataset:
    """Make a dataset with the chunks and filters of an array."""
    import h5py

    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    for code, flags, given in layout.meta["filters"]:
        plist.set_filter(code, flags, tuple(given))
    return group.create_dataset(
        name, shape=shape, maxshape=maxshape, chunks=layout.chunks,
        dtype=stored_dtype(layout), dcpl=plist, **settings,
    )  # fmt: skip


# -- in a file -----------------------------------------------------------------------------------


def write_object(dataset: h5py.Dataset, layout: ArrayLayout, index: Index, data: Bytes) -> None:
    """Put the stored object of a chunk into its dataset; what lies beyond the extents stays out."""
    start = tuple(i * n for i, n in zip(index, layout.chunks, strict=True))
    codec = stored_codec(layout)
    if not isinstance(codec, TextChunks):
        _write_raw(dataset, start, data, masked=isinstance(codec, LibraryChunks))
        return
    region = _region(dataset, start, layout.chunks)
    inside = tuple(slice(0, cut.stop - cut.start) for cut in region)
    dataset[region] = codec.decode(data)[inside].astype(object)


def _write_raw(dataset: h5py.Dataset, start: Index, data: Bytes, *, masked: bool) -> None:
    mask = int.from_bytes(data[:MASK], "little") if masked else 0
    dataset.id.write_direct_chunk(start, data[MASK:] if masked else data, filter_mask=mask)


def read_object(dataset: h5py.Dataset, layout: ArrayLayout, index: Index) -> bytes | None:
    """Return the stored object of a chunk that is in a dataset, None where it was never written."""
    start = tuple(i * n for i, n in zip(index, layout.chunks, strict=True))
    if any(a >= size for a, size in zip(start, dataset.shape, strict=True)):
        return None
    codec = stored_codec(layout)
    if not isinstance(codec, TextChunks) and dataset.chunks is not None:
        if dataset.id.get_chunk_info_by_coord(start).byte_offset is None:
            return None
        mask, data = dataset.id.read_direct_chunk(start)
        if isinstance(codec, LibraryChunks):
            return bytes(mask.to_bytes(MASK, "little") + data)
        if not mask:
            return bytes(data)
    return codec.encode(_block(dataset, layout, start))


def _block(dataset: h5py.Dataset, layout: ArrayLayout, start: Index) -> NDArray[Any]:
    """Return the values of a chunk, filled up beyond the extents."""
    region = _region(dataset, start, layout.chunks)
    inside = tuple(slice(0, cut.stop - cut.start) for cut in region)
    text = layout.values_dtype.kind == "T"
    block = np.full(layout.chunks, dataset.fillvalue, object if text else dataset.dtype)
    if text:
        block[...] = layout.meta["fill"]
    block[inside] = dataset.asstr()[region] if text else dataset[region]
    return block


def _region(dataset: h5py.Dataset, start: Index, chunks: Index) -> tuple[slice, ...]:
    ends = (min(a + n, size) for a, n, size in zip(start, chunks, dataset.shape, strict=True))
    return tuple(slice(a, b) for a, b in zip(start, ends, strict=True))
