"""How large a stored chunk should be. Pure functions.

A stored chunk (or shard) is one file or object: too small wastes files and requests, too large
wastes memory and keeps results in the ledger for long. The plan depends on the size of one
result, never on how many came with the first save.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["check_chunks", "plan_chunks"]

MIB = 1 << 20
#: A stored chunk holds at least this many bytes (before compression) where the array has them.
SMALLEST = 1 * MIB
#: A result larger than this is cut along its own axes.
LARGEST = 32 * MIB


def plan_chunks(
    shape: Sequence[int | None], itemsize: int, joined: Collection[int] = (0,)
) -> tuple[int, ...]:
    """Return the chunk shape for an array whose results are written one by one.

    Parameters
    ----------
    shape : sequence of int or None
        Extent of each axis, None where it grows.
    itemsize : int
        Bytes of one value.
    joined : collection of int
        Axes along which several results may share a chunk (the append axis, or the labelled
        dimensions); a result spans all others.

    Returns
    -------
    tuple of int
        At least 1 MiB a chunk where the array has as much, at most 32 MiB.

    Examples
    --------
    >>> plan_chunks((None, 100, 100), 8)
    (14, 100, 100)
    >>> plan_chunks((None, 4000, 4000), 4)
    (1, 2000, 4000)
    >>> plan_chunks((4, 16, 21, 32, 64), 4, joined=(0, 1))
    (1, 8, 21, 32, 64)
    """
    chunks = [1 if axis in joined else max(1, size or 1) for axis, size in enumerate(shape)]
    for axis in sorted(joined, reverse=True):
        missing = -(-SMALLEST // max(1, math.prod(chunks) * itemsize))
        chunks[axis] = _joined_length(shape[axis], missing)
    while math.prod(chunks) * itemsize > LARGEST and max(chunks) > 1:
        axis = next(a for a, n in enumerate(chunks) if n > 1)
        chunks[axis] = -(-chunks[axis] // 2)
    return tuple(chunks)


def _joined_length(size: int | None, missing: int) -> int:
    """Length of at least `missing` along an axis: a divisor of its size where one is near."""
    if size is None:
        return missing
    if missing >= size:
        return max(1, size)
    near = range(missing, min(size, 2 * missing) + 1)
    return next((length for length in near if size % length == 0), missing)


def check_chunks(chunks: object, shape: Sequence[int | None], name: str) -> tuple[int, ...]:
    """Return `chunks` as a chunk shape for `shape`; an int is the length of the first axis.

    Raises
    ------
    InvalidInputError
        Not an int or tuple of positive ints, or of another length than `shape`.
    """
    rest = tuple(max(1, size or 1) for size in shape[1:])
    given = (chunks, *rest) if isinstance(chunks, int) else chunks
    valid = isinstance(given, (tuple, list)) and all(
        isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in given
    )
    if not valid or len(given) != len(shape):  # type: ignore[arg-type]
        message = (
            f"{name!r}: expected chunks as {len(shape)} positive integers, "
            f"or one for the first axis, got {chunks!r}"
        )
        raise InvalidInputError(message)
    return tuple(int(n) for n in given)  # type: ignore[attr-defined]
