"""Memory that one worker and the driver share: large buffers travel without a copy on a pipe.

It is an anonymous file, so that nothing can leak: it is gone with the last process that maps it,
however that process ended. Its pages exist only once they were touched, and low ones are used
first. The first page is the board: the worker notes there what it is doing (see `Board`), and the
driver clears one byte for each region it no longer reads. Neither side ever waits for the other.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ARENA_BYTES", "BUDGET_BYTES", "Board", "Lender", "Reader", "Region", "anonymous_file"]

#: Address space of an arena; memory is taken only where it was written.
ARENA_BYTES = 2 << 30
#: Bytes that a worker may have lent at a time (or three results, where these are larger).
BUDGET_BYTES = 64 << 20

_BOARD_BYTES = mmap.PAGESIZE
_FLAGS_AT = 256
_SLOTS = 256
_ALIGNMENT = 64
_PATIENCE_SECONDS = 0.05

#: What the board's `running` says besides the index of an item.
IDLE, LOADING, STARTING, SETTING_UP = -1, -2, -3, -4


@dataclass(frozen=True, slots=True)
class Region:
    """A lent part of an arena: its slot, and the (offset, length) of each buffer in it."""

    slot: int
    parts: tuple[tuple[int, int], ...]


def anonymous_file(size: int) -> int:
    """Return the descriptor of a file of `size` bytes that no folder lists."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("taskmanager")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


class Board:
    """What a worker is doing, for the driver to read at any time, also after its death."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._words = memoryview(memory)[:_FLAGS_AT].cast("q")

    def note(self, running: int, count: int = 1) -> None:
        """Note the index of the item that starts (of the first of `count`), or a stage."""
        words = self._words
        words[1] = int(monotonic() * 1e9)
        words[2] = count
        words[0] = running  # last: who reads it finds the other two in place

    def read(self) -> tuple[int, int, float]:
        """Return what runs, with how many, since when (`time.monotonic`)."""
        words = self._words
        return words[0], words[2], words[1] / 1e9


class Lender:
    """The worker's side: place buffers in regions, take back those that were released."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memoryview(memory)
        self._flags = self._memory[_FLAGS_AT : _FLAGS_AT + _SLOTS]
        self._lent: list[tuple[int, int, int]] = []  # start, end, slot; by start
        self._free = list(range(_SLOTS))
        self._patient = True

    def place(self, buffers: Sequence[memoryview]) -> Region | None:
        """Copy the buffers into a region; None when there is no room for them now.

        A reader that gives regions back is waited for; one that keeps them is not.
        """
        sizes = [buffer.nbytes for buffer in buffers]
        total = sum(_aligned(size) for size in sizes)
        start = self._find(total)
        if start is None and self._patient:
            start = self._wait(total)
        if start is None:
            return None
        return self._copy(buffers, start, total)

    def _wait(self, total: int) -> int | None:
        held, end = len(self._lent), monotonic() + _PATIENCE_SECONDS
        while (start := self._find(total)) is None and monotonic() < end:
            sleep(0.0005)
        self._patient = start is not None or len(self._lent) < held
        return start

    def _find(self, total: int) -> int | None:
        """Return where the first gap of `total` bytes starts, within the budget."""
        self._take_back()
        held = sum(end - start for start, end, _ in self._lent)
        if not self._free or (self._lent and held + total > max(BUDGET_BYTES, 3 * total)):
            return None
        start = _BOARD_BYTES
        for begin, end, _ in self._lent:
            if begin - start >= total:
                return start
            start = end
        return start if start + total <= len(self._memory) else None

    def _take_back(self) -> None:
        flags = bytes(self._flags)  # one look: the driver releases while this runs
        kept = [lent for lent in self._lent if flags[lent[2]]]
        if len(kept) < len(self._lent):
            self._patient = True
            self._free += [slot for _, _, slot in self._lent if not flags[slot]]
            self._lent = kept

    def _copy(self, buffers: Sequence[memoryview], start: int, total: int) -> Region:
        slot = self._free.pop()
        parts, at = [], start
        for buffer in buffers:
            self._memory[at : at + buffer.nbytes] = buffer
            parts.append((at, buffer.nbytes))
            at += _aligned(buffer.nbytes)
        self._flags[slot] = 1
        self._lent.append((start, start + total, slot))
        self._lent.sort()
        return Region(slot, tuple(parts))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


class Reader:
    """The driver's side: views of regions, each given back once its last view is gone."""

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        self._flags = memoryview(memory)[_FLAGS_AT : _FLAGS_AT + _SLOTS]

    def view(self, region: Region) -> list[NDArray[np.uint8]]:
        """Return the buffers of a region as arrays over the shared memory."""
        begin = region.parts[0][0]
        end = sum(region.parts[-1])
        # Every view made from `whole` keeps it alive, and it keeps the mapping alive.
        whole = np.frombuffer(self._memory, np.uint8, end - begin, begin)
        weakref.finalize(whole, _release, self._flags, region.slot, os.getpid()).atexit = False
        return [whole[at - begin : at - begin + size] for at, size in region.parts]


def _release(flags: memoryview, slot: int, pid: int) -> None:
    """Runs wherever the last view dies, in any thread: one byte, no lock."""
    if os.getpid() == pid:  # views that a fork of the driver inherited and drops count for nothing
        flags[slot] = 0


def map_arena(fd: int) -> mmap.mmap:
    """Map a whole arena."""
    return mmap.mmap(fd, os.fstat(fd).st_size)
