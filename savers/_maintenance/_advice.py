"""Chunk and shard advice for an array that is yet to be saved. Pure functions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from savers._values._chunking import LARGEST, plan_chunks

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Advice", "advise"]

#: From this many files on, shards are worth their memory.
MANY_FILES = 1000


@dataclass(frozen=True, slots=True)
class Advice:
    """One way to store an array.

    Parameters
    ----------
    way : str
        How results reach their place.
    chunks : tuple of int
        What the savers take by default.
    shards : tuple of int or None
        Cells of a file that holds several chunks, where there would be many files without.
    files : int
        Files or objects of the whole array, without metadata.
    file_bytes : int
        Bytes of a full file before compression.
    results : int
        Results that share a file; until they are there, they wait in the ledger.
    """

    way: str
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    files: int
    file_bytes: int
    results: int


def advise(shape: Sequence[int], itemsize: int) -> list[Advice]:
    """Return the ways to store an array of `shape`: by rows, and by labels of its first axes.

    Parameters
    ----------
    shape : sequence of int
        Extents of the whole array; a result is a row, or what is left beside the labelled axes.
    itemsize : int
        Bytes of a value.

    Examples
    --------
    >>> [(a.way, a.chunks, a.files) for a in advise((12, 721, 1440), 4)]
    [('rows', (1, 721, 1440), 12), ('labels on axis 0', (1, 721, 1440), 12),
     ('labels on axes 0-1', (1, 183, 1440), 48)]
    """
    chunks = plan_chunks((None, *shape[1:]), itemsize)
    ways = [_advice("rows", shape, itemsize, chunks, (0,))]
    for count in range(1, max(2, len(shape))):
        joined = tuple(range(count))
        axes = "axis 0" if count == 1 else f"axes 0-{count - 1}"
        chunks = plan_chunks(shape, itemsize, joined)
        ways.append(_advice(f"labels on {axes}", shape, itemsize, chunks, joined))
    return ways


def _advice(
    way: str,
    shape: Sequence[int],
    itemsize: int,
    chunks: tuple[int, ...],
    joined: Sequence[int],
) -> Advice:
    shards = None
    if _files(shape, chunks) >= MANY_FILES:
        shards = _shards(shape, itemsize, chunks, joined)
    stored = shards or chunks
    size = math.prod(stored) * itemsize
    results = math.prod(stored[axis] for axis in joined)
    return Advice(way, chunks, shards, _files(shape, stored), size, results)


def _files(shape: Sequence[int], stored: Sequence[int]) -> int:
    return math.prod(-(-size // length) for size, length in zip(shape, stored, strict=True))


def _shards(
    shape: Sequence[int], itemsize: int, chunks: tuple[int, ...], joined: Sequence[int]
) -> tuple[int, ...] | None:
    """Join whole chunks along the last joined axes first, as long as a file stays small enough."""
    shards = list(chunks)
    for axis in sorted(joined, reverse=True):
        room = LARGEST // (math.prod(shards) * itemsize)
        there = -(-shape[axis] // shards[axis])
        shards[axis] *= max(1, min(room, there))
    return None if tuple(shards) == chunks else tuple(shards)
