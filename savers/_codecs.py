"""From a chunk of values to the bytes of one stored object, and back.

The common codecs are called directly, without a pipeline around them; any other combination goes
through zarr itself, by way of an array of exactly one chunk in memory. Both give what zarr reads.
"""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._chunk_codec import ChunkCodec, DirectChunks
from savers._compressors import compressors_v2, compressors_v3
from savers._shards import shard_chunks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from savers._chunk_codec import Bytes

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
    return DirectChunks(dtype, compressors_v2(metadata["compressor"]), chunks)


class ZarrChunks(ChunkCodec):
    """Any codecs, by way of a zarr array of one chunk in memory (one a thread)."""

    def __init__(self, metadata: Mapping[str, Any], chunks: tuple[int, ...]) -> None:
        self.metadata = metadata
        self.chunks = chunks
        self._local = threading.local()

    def parts(self, block: NDArray[Any]) -> list[Bytes]:
        array, memory = self._array()
        array[...] = block
        return [memory[self._key()].to_bytes()]

    def decode(self, data: Bytes) -> NDArray[Any]:
        from zarr.core.buffer import default_buffer_prototype

        array, memory = self._array()
        memory[self._key()] = default_buffer_prototype().buffer.from_bytes(data)
        return np.asarray(array[...])

    def _array(self) -> tuple[Any, dict[str, Any]]:
        if not hasattr(self._local, "array"):
            self._local.memory = {}
            self._local.array = _one_chunk(self.metadata, self.chunks, self._local.memory)
        return self._local.array, self._local.memory

    def _key(self) -> str:
        start = ["c"] if self.metadata["zarr_format"] == 3 else []
        return "/".join([*start, *("0" for _ in self.chunks)] or ["0"])


def _one_chunk(metadata: Mapping[str, Any], chunks: tuple[int, ...], memory: dict[str, Any]) -> Any:
    """An array of the shape of one stored object, with keys that don't depend on a generation."""
    import json

    import zarr
    from zarr.core.buffer import default_buffer_prototype

    alone = {**metadata, "shape": list(chunks)}
    if metadata["zarr_format"] == 3:
        keys = {"name": "default", "configuration": {"separator": "/"}}
        name, alone = "zarr.json", {**alone, "chunk_key_encoding": keys, "attributes": {}}
    else:
        name, alone = ".zarray", {**alone, "dimension_separator": "/"}
    buffer = default_buffer_prototype().buffer
    memory[name] = buffer.from_bytes(json.dumps(alone).encode())
    store = zarr.storage.MemoryStore(memory)
    array = zarr.open_array(store, mode="r+", zarr_format=metadata["zarr_format"])
    return array.with_config({"write_empty_chunks": True})
