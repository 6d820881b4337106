"""How far work may run ahead of the saver: in items, in bytes, and in what a crash would repeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskmanager._flow import Chunking

if TYPE_CHECKING:
    from taskmanager._saving import Saving
    from taskmanager._settings import Call, Settings

__all__ = ["LOOK_AHEAD", "chunking_of", "room_beside_saving", "room_without_saver"]

#: Items taken from the input before earlier ones went to the saver.
LOOK_AHEAD = 250


def chunking_of(settings: Settings, call: Call) -> Chunking:
    """Return how chunks are sized: automatic ones never let a crash repeat over an interval."""
    fixed = None if call.chunk_size == "auto" else call.chunk_size
    most = LOOK_AHEAD // 2
    if call.saver is not None and call.policy.items is not None:
        most = call.policy.items
    return Chunking(fixed, most, settings.workers)


def room_without_saver(out: int, chunk: int, workers: int) -> int:
    """Return how many more items may be handed out.

    Parameters
    ----------
    out : int
        Items that are out, or whose results wait for their consumer.
    chunk : int
        Size of the next chunk.
    workers : int
    """
    return max(LOOK_AHEAD, 2 * workers * chunk) - out


def room_beside_saving(
    saving: Saving, interval: int | None, max_bytes: int, out: int, chunk: int, workers: int
) -> int:
    """Return how many more items may be handed out, so that a slow saver slows the workers.

    Parameters
    ----------
    saving : Saving
        What waits there counts.
    interval : int or None
        Items between two commits. A crash repeats at most two intervals and a chunk a worker.
    max_bytes : int
        Results may hold about so much.
    out, chunk, workers : int
        As above.
    """
    ahead = max(LOOK_AHEAD, interval or 0, 2 * workers * chunk) - out - saving.unstaged
    if interval is not None:
        ahead = min(ahead, 2 * interval + workers * chunk - out - saving.uncommitted)
    room = min(ahead, _room_in_memory(saving, max_bytes, out))
    saving.wanted = room <= chunk
    if room <= 0 and not out:
        saving.release_soon()
    return room


def _room_in_memory(saving: Saving, max_bytes: int, out: int) -> int:
    """Count what is out with the mean size of the results so far; one item may always run."""
    mean = saving.mean_bytes
    room = int((max_bytes - saving.held_bytes) / mean) - out if mean else LOOK_AHEAD
    return max(room, 0 if out or saving.unstaged else 1)
