"""What encodes one stored object, and the plain case: values as bytes, then compressors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._codecs import _blosc_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from numpy.typing import NDArray

    from savers._codecs._compressors import Transform

__all__ = ["Bytes", "ChunkCodec", "DirectChunks", "FileCodec"]

Bytes = bytes | memoryview


class ChunkCodec(ABC):
    """Encode and decode whole chunks; safe to use from several threads.

    Several threads encode one block by calling its `shares`, each once, and then `joined`. A codec
    that can't be shared out has one share, which is `parts`.
    """

    @abstractmethod
    def parts(self, block: NDArray[Any]) -> list[Bytes]:
        """Return the stored object for a block of the chunk's shape, in parts.

        They may be views of `block`: good until it changes.
        """

    @abstractmethod
    def decode(self, data: Bytes) -> NDArray[Any]:
        """Return the block that a stored object holds (read-only or not)."""

    def shares(self, block: NDArray[Any]) -> list[Callable[[], list[Bytes]]]:
        """Return calls that each encode a share of `block`, in any order and any thread."""
        return [partial(self.parts, block)]

    def joined(self, block: NDArray[Any], shares: Sequence[list[Bytes]]) -> list[Bytes]:
        """Return what `parts` returns, from what all the shares of `block` returned."""
        return shares[0]

    def encode(self, block: NDArray[Any]) -> bytes:
        """Return the stored object in one piece, which nobody else holds."""
        return b"".join(self.parts(block))


class FileCodec(ChunkCodec):
    """A codec that writes each object to a file by itself."""

    @abstractmethod
    def work_in(self, folder: str) -> None:
        """Take a folder for its files; it is made when the first of them is."""

    @abstractmethod
    def encoded(self, block: NDArray[Any], *, whole: bool) -> AbstractContextManager[str]:
        """Encode a block; give the path of its object, which may be moved away.

        There is none where the block holds nothing but the fill value, unless `whole` is asked for.

        Raises
        ------
        StorageError
            The file could not be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Remove the folder."""


class DirectChunks(ChunkCodec):
    """Values as bytes, through a chain of compressors."""

    def __init__(
        self, dtype: np.dtype[Any], chain: Sequence[Transform], chunks: tuple[int, ...]
    ) -> None:
        self.dtype = dtype
        self.chain = chain
        self.chunks = chunks
        self._block = chain[0].block if len(chain) == 1 else 0

    def parts(self, block: NDArray[Any]) -> list[Bytes]:
        return [self._through(self._raw(block))]

    def _raw(self, block: NDArray[Any]) -> memoryview:
        return raw_bytes(np.ascontiguousarray(block, dtype=self.dtype))

    def _through(self, data: Any) -> Any:
        for transform in self.chain:
            data = transform.encode(data)
        return data

    def shares(self, block: NDArray[Any]) -> list[Callable[[], list[Bytes]]]:
        as_it_is = block.flags.c_contiguous and block.dtype == self.dtype  # a copy is a thread's
        if not (self._block and as_it_is and block.nbytes >= 2 * self._block):
            return super().shares(block)
        raw = self._raw(block)
        cuts = _blosc_frames.cuts(len(raw), self._block)
        return [lambda cut=cut: [self._through(raw[cut])] for cut in cuts]  # type: ignore[misc]

    def joined(self, block: NDArray[Any], shares: Sequence[list[Bytes]]) -> list[Bytes]:
        if len(shares) == 1:
            return shares[0]
        return _blosc_frames.joined([bytes(share) for (share,) in shares]) or self.parts(block)

    def decode(self, data: Bytes) -> NDArray[Any]:
        value: Any = data
        for transform in reversed(self.chain):
            value = transform.decode(value)
        return np.frombuffer(value, self.dtype).reshape(self.chunks)


def raw_bytes(values: NDArray[Any]) -> memoryview:
    """Return the bytes of contiguous values, without a copy."""
    return values.reshape(-1).view(np.uint8).data
