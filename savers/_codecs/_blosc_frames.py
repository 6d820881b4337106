"""Blosc frames that are made in shares, by several threads, and joined: byte for byte one frame.

A frame is a header of 16 bytes (format, flags, bytes of the values, of a block and of the frame),
the place of each block, and the blocks one behind the other. A block knows nothing of the others,
so the frames of neighbouring blocks become one frame by counting anew. Source: Blosc 1 chunk format
(README_CHUNK_FORMAT.rst of c-blosc).
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from savers._codecs._codec import Bytes

__all__ = ["cuts", "joined"]

HEADER = struct.Struct("<4B3I")  # versions, flags, size of a value; bytes of values, block, frame
FLAGS = 2
RAW = 0x02  # the values as they are: nothing was gained
WHOLE = 0x10  # blocks are not split into one stream for each byte of a value


def cuts(size: int, block: int) -> list[slice]:
    """Return the bytes of each share: whole blocks; what is left over goes with the last one."""
    bounds = [*range(0, block * max(1, size // block), block), size]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


def joined(frames: Sequence[bytes]) -> list[Bytes] | None:
    """Return the frame of all values, in parts, from the frames of its shares.

    Parameters
    ----------
    frames : sequence of bytes
        Those of `cuts`, in order.

    Returns
    -------
    list of bytes, or None
        None where the values have to be encoded in one piece: some shares did not get smaller.
    """
    heads = [HEADER.unpack_from(frame) for frame in frames]
    flags = {head[FLAGS] for head in heads}
    if len(flags) > 1 or not (heads[0][FLAGS] & (WHOLE | RAW)):
        return None
    *same, _, block, _ = heads[0]
    values = sum(head[4] for head in heads)
    if heads[0][FLAGS] & RAW:
        return [HEADER.pack(*same, values, block, HEADER.size + values), *_bodies(frames, heads, 0)]
    places: list[int] = []
    blocks = -(-values // block)
    at = HEADER.size + 4 * blocks
    for frame, head in zip(frames, heads, strict=True):
        count = -(-head[4] // block)
        first = HEADER.size + 4 * count
        inside = struct.unpack_from(f"<{count}I", frame, HEADER.size)
        places += [at + place - first for place in inside]
        at += len(frame) - first
    header = HEADER.pack(*same, values, block, at) + struct.pack(f"<{blocks}I", *places)
    return [header, *_bodies(frames, heads, block)]


def _bodies(
    frames: Sequence[bytes], heads: Sequence[tuple[int, ...]], block: int
) -> list[memoryview]:
    """Return the frames without header and places (there are none where `block` is 0)."""
    counts = [-(-head[4] // block) if block else 0 for head in heads]
    return [
        memoryview(frame)[HEADER.size + 4 * count :]
        for frame, count in zip(frames, counts, strict=True)
    ]
