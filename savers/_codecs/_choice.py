"""From a chunk of values to the bytes of one stored object, and back.

The common codecs are called directly, without a pipeline around them; any other combination goes
through zarr itself. Both give what zarr reads.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._codecs._codec import ChunkCodec, DirectChunks
from savers._codecs._compressors import compressors_v2, compressors_v3
from savers._codecs._one_chunk import ZarrChunks
from savers._codecs._shards import shard_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["ChunkCodec", "DirectChunks", "ZarrChunks", "chunk_codec"]


def chunk_codec(metadata: Mapping[str, Any], chunks: Sequence[int]) -> ChunkCodec:
    """Return the codec of an array's stored objects.

    Parameters
    ----------
    metadata : mapping
        The array's ``zarr.json``, or its ``.zarray``.
    chunks : sequence of int
        Shape of one stored object.
    """
    shape = tuple(chunks)
    by_zarr = functools.cache(lambda: ZarrChunks(metadata, shape))
    if metadata["zarr_format"] == 2:
        return _direct_v2(metadata, shape) or by_zarr()
    dtypes = functools.partial(_bytes_dtype, metadata["data_type"])
    sharded = shard_chunks(dtypes, metadata, shape, by_zarr)
    return sharded or _direct_v3(dtypes, metadata, shape) or by_zarr()


_V3_TYPES = frozenset(
    ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
     "float16", "float32", "float64", "complex64", "complex128"]
)  # fmt: skip


def _bytes_dtype(kind: object, codec: Mapping[str, Any]) -> np.dtype[Any] | None:
    """Return the dtype that values of a data type have behind a "bytes" codec."""
    if not isinstance(kind, str) or kind not in _V3_TYPES or codec["name"] != "bytes":
        return None
    endian = codec.get("configuration", {}).get("endian", "little")
    return np.dtype(kind).newbyteorder("<" if endian == "little" else ">")


def _direct_v3(
    dtypes: Callable[[Mapping[str, Any]], np.dtype[Any] | None],
    metadata: Mapping[str, Any],
    chunks: tuple[int, ...],
) -> DirectChunks | None:
    first, *rest = metadata["codecs"]
    dtype, chain = dtypes(first), compressors_v3(rest)
    return None if dtype is None or chain is None else DirectChunks(dtype, chain, chunks)


def _direct_v2(metadata: Mapping[str, Any], chunks: tuple[int, ...]) -> DirectChunks | None:
    if metadata["filters"] or metadata["order"] != "C" or not isinstance(metadata["dtype"], str):
        return None
    dtype = np.dtype(metadata["dtype"])
    if dtype.kind not in "biufc":
        return None
    return DirectChunks(dtype, compressors_v2(metadata["compressor"], dtype.itemsize), chunks)
