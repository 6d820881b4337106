"""What encodes one stored object, and the plain case: values as bytes, then compressors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from savers._compressors import Transform

__all__ = ["Bytes", "ChunkCodec", "DirectChunks"]

Bytes = bytes | memoryview


class ChunkCodec(ABC):
    """Encode and decode whole chunks; safe to use from several threads."""

    @abstractmethod
    def parts(self, block: NDArray[Any]) -> list[Bytes]:
        """Return the stored object for a block of the chunk's shape, in parts.

        They may be views of `block`: good until it changes.
        """

    @abstractmethod
    def decode(self, data: Bytes) -> NDArray[Any]:
        """Return the block that a stored object holds (read-only or not)."""

    def encode(self, block: NDArray[Any]) -> bytes:
        """Return the stored object in one piece, which nobody else holds."""
        return b"".join(self.parts(block))


class DirectChunks(ChunkCodec):
    """Values as bytes, through a chain of compressors."""

    def __init__(
        self, dtype: np.dtype[Any], chain: Sequence[Transform], chunks: tuple[int, ...]
    ) -> None:
        self.dtype = dtype
        self.chain = chain
        self.chunks = chunks

    def parts(self, block: NDArray[Any]) -> list[Bytes]:
        data: Any = raw_bytes(np.ascontiguousarray(block, dtype=self.dtype))
        for forward, _ in self.chain:
            data = forward(data)
        return [data]

    def decode(self, data: Bytes) -> NDArray[Any]:
        value: Any = data
        for _, back in reversed(self.chain):
            value = back(value)
        return np.frombuffer(value, self.dtype).reshape(self.chunks)


def raw_bytes(values: NDArray[Any]) -> memoryview:
    """Return the bytes of contiguous values, without a copy."""
    return values.reshape(-1).view(np.uint8).data
