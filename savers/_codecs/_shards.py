"""Shards: many chunks in one stored object, assembled in memory and written in one go.

The inner chunks lie one behind the other, in C order; the index (offset and size of each) follows
with its CRC-32C. Source: Zarr v3 codec "sharding_indexed", version 1.0.
"""

from __future__ import annotations

import itertools
import math
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from crc32c import crc32c

from savers._codecs._codec import ChunkCodec, DirectChunks
from savers._codecs._compressors import compressors_v3
from savers._codecs._engine import GRAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from savers._codecs._codec import Bytes

__all__ = ["ShardChunks", "shard_chunks"]

#: Offset and size of a chunk that is not there.
MISSING = (1 << 64) - 1


class ShardChunks(ChunkCodec):
    """Shards whose inner chunks have common codecs, and whose index lies at the end.

    Parameters
    ----------
    inner : DirectChunks
        Codec of one inner chunk.
    shape : tuple of int
        Shape of a shard: a multiple of that of the inner chunks along each axis.
    other : callable
        Returns a codec that reads shards with missing chunks: it knows their fill value.
    """

    def __init__(
        self, inner: DirectChunks, shape: tuple[int, ...], other: Callable[[], ChunkCodec]
    ) -> None:
        self.inner = inner
        self.shape = shape
        self.other = other
        self.grid = tuple(n // size for n, size in zip(shape, inner.chunks, strict=True))
        self.count = math.prod(self.grid)

    @cached_property
    def _cuts(self) -> list[tuple[slice, ...]]:
        sizes = self.inner.chunks
        return [
            tuple(slice(i * n, i * n + n) for i, n in zip(place, sizes, strict=True))
            for place in itertools.product(*map(range, self.grid))
        ]

    def parts(self, block: NDArray[Any]) -> list[Bytes]:
        return self.joined(block, [self._encoded(block, self._cuts)])

    def shares(self, block: NDArray[Any]) -> list[Callable[[], list[Bytes]]]:
        step = -(-GRAIN * self.count // block.nbytes)
        firsts = range(0, self.count, step)
        return [partial(self._encoded, block, self._cuts[n : n + step]) for n in firsts]

    def _encoded(self, block: NDArray[Any], cuts: Sequence[tuple[slice, ...]]) -> list[Bytes]:
        return [part for cut in cuts for part in self.inner.parts(block[cut])]

    def joined(self, block: NDArray[Any], shares: Sequence[list[Bytes]]) -> list[Bytes]:
        found = list(itertools.chain.from_iterable(shares))
        sizes = np.array([len(part) for part in found], "<u8")
        index = np.stack((np.cumsum(sizes) - sizes, sizes), axis=1).astype("<u8").tobytes()
        return [*found, index + crc32c(index).to_bytes(4, "little")]

    def decode(self, data: Bytes) -> NDArray[Any]:
        index = self._index(data)
        if (index == MISSING).any():
            return self.other().decode(data)
        block = np.empty(self.shape, self.inner.dtype)
        view = memoryview(data)
        for cut, (offset, size) in zip(self._cuts, index.tolist(), strict=True):
            block[cut] = self.inner.decode(view[offset : offset + size])
        return block

    def _index(self, data: Bytes) -> NDArray[np.uint64]:
        """Return offset and size of each chunk, shape (chunks, 2), checked."""
        begin = len(data) - 16 * self.count - 4
        raw = data[max(0, begin) : -4]
        if begin < 0 or crc32c(raw).to_bytes(4, "little") != bytes(data[-4:]):
            message = f"a stored shard of {len(data)} bytes does not match its index's checksum"
            raise ValueError(message)
        return np.frombuffer(raw, "<u8").reshape(-1, 2)


def shard_chunks(
    dtypes: Callable[[Mapping[str, Any]], np.dtype[Any] | None],
    metadata: Mapping[str, Any],
    shape: tuple[int, ...],
    other: Callable[[], ChunkCodec],
) -> ShardChunks | None:
    """Return the codec of a sharded v3 array; None where zarr itself has to do it.

    Parameters
    ----------
    dtypes : callable
        Returns the dtype that a "bytes" codec document leads to, None for any other.
    metadata : mapping
        The array's ``zarr.json``.
    shape : tuple of int
        Shape of a shard.
    other : callable
        As in `ShardChunks`.
    """
    codecs = metadata["codecs"]
    if len(codecs) != 1 or codecs[0]["name"] != "sharding_indexed":
        return None
    settings = codecs[0]["configuration"]
    first, *rest = settings["codecs"]
    dtype, chain = dtypes(first), compressors_v3(rest)
    if dtype is None or chain is None or not _plain_index(settings):
        return None
    return ShardChunks(DirectChunks(dtype, chain, tuple(settings["chunk_shape"])), shape, other)


def _plain_index(settings: Mapping[str, Any]) -> bool:
    """Little-endian with a checksum, at the end: what zarr-python makes by default."""
    names = [codec["name"] for codec in settings["index_codecs"]]
    endian = settings["index_codecs"][0].get("configuration", {}).get("endian", "little")
    at_end = settings.get("index_location", "end") == "end"
    return names == ["bytes", "crc32c"] and endian == "little" and at_end
