"""How many items go to a worker at once."""

from __future__ import annotations

__all__ = ["chunk_size"]

#: Seconds of work in a chunk: far above the cost of handing it over, far below a human's patience.
TARGET_SECONDS = 0.05


def chunk_size(
    seconds_per_item: float | None,
    *,
    save_interval: int,
    max_workers: int,
    target: float = TARGET_SECONDS,
) -> int:
    """Return the number of items of the next chunk.

    Parameters
    ----------
    seconds_per_item : float or None
        Measured time of an item; None before the first one: then chunks have one item.
    save_interval : int
        Items between two saves; a chunk never exceeds ``save_interval / max_workers``, which
        bounds what a crash repeats.
    max_workers : int
    target : float
        Seconds of work a chunk should hold.

    Examples
    --------
    >>> chunk_size(None, save_interval=100, max_workers=4)
    1
    >>> chunk_size(0.01, save_interval=100, max_workers=4)
    5
    >>> chunk_size(1e-6, save_interval=100, max_workers=4)
    25
    """
    if seconds_per_item is None:
        return 1
    bound = max(1, save_interval // max_workers)
    if seconds_per_item * bound <= target:
        return bound
    return max(1, int(target / seconds_per_item))
