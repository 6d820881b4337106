"""Chunks that are not whole yet, in memory: each further piece costs no reading."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["OpenChunks"]

ChunkId = tuple[str, int, tuple[int, ...]]  # array, generation, chunk


class OpenChunks:
    """Committed values by chunk, and how many bytes they are together."""

    def __init__(self) -> None:
        self._blocks: dict[ChunkId, NDArray[Any]] = {}
        self.nbytes = 0

    def get(self, chunk: ChunkId) -> NDArray[Any] | None:
        """Return the values of a chunk, None where they are not kept."""
        return self._blocks.get(chunk)

    def keep(self, chunk: ChunkId, block: NDArray[Any]) -> None:
        """Keep the values of a chunk."""
        self.forget(chunk)
        self._blocks[chunk] = block
        self.nbytes += block.nbytes

    def forget(self, chunk: ChunkId) -> None:
        """Let go of a chunk. No error where it is not kept."""
        block = self._blocks.pop(chunk, None)
        if block is not None:
            self.nbytes -= block.nbytes

    def clear(self) -> None:
        """Let go of all."""
        self._blocks.clear()
        self.nbytes = 0
