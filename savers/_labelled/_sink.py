"""What a queue of chunks needs of the store that they go into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from savers._labelled._handles import Submission
    from savers._labelled._slots import Coverage
    from savers._ledger._state import ArrayLayout

__all__ = ["Sink"]

Index = tuple[int, ...]


class Sink:
    """Puts, claims, loads and records chunks; `LabelledStore` is the one of every saver."""

    def put(self, layout: ArrayLayout, index: Index, block: NDArray[Any]) -> list[Any]:
        """Put a chunk; return what a record says of it."""
        raise NotImplementedError

    def record(self, chunks: Sequence[Any], writes: Sequence[Submission]) -> None:
        """Make it true that these chunks and writes are in the store."""
        raise NotImplementedError

    def load(self, layout: ArrayLayout, index: Index) -> tuple[NDArray[Any], Coverage]:
        """Claim a chunk, and return what the store has of it."""
        raise NotImplementedError

    def release(self, layout: ArrayLayout, index: Index) -> None:
        """Let other writers have a chunk."""
        raise NotImplementedError

    def fill(self, layout: ArrayLayout) -> object:
        """Return the value of cells that were never written."""
        raise NotImplementedError

    def weight(self, layout: ArrayLayout) -> int:
        """Return how many times its bytes a chunk takes, encoded bytes included."""
        raise NotImplementedError
