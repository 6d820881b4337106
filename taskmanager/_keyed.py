"""Items known by their key or labels, wherever they stand in the input."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any

import numpy as np

from savers import InvalidInputError, ItemStatus, JobState
from taskmanager._inputs import Entry, Inputs, Reader
from taskmanager._pool import Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from taskmanager._resume import Comparison

__all__ = ["KeyedSource"]

_AHEAD = 250  # items read at once, at most, while skipping

_SETTLED = (ItemStatus.DONE, ItemStatus.SKIPPED)


class KeyedSource:
    """The items of an input that are not done; new ones take the next positions of the job.

    Parameters
    ----------
    inputs : Inputs
    comparison : Comparison
        Needs no items: jobs known by key are told apart by their spec alone.
    """

    def __init__(self, inputs: Inputs, comparison: Comparison) -> None:
        self.taken = self.resumed = self.skipped = 0
        self._inputs = inputs
        self.decision = comparison.decide(ended=False)
        self._ledger = _KnownDigests(self.decision.resume)
        self._new: dict[int, int] = {}  # digest -> place
        self._reader = Reader(enumerate(inputs.items))
        self._positions = array("q")  # of each place
        self._open: list[Entry] = []
        self._block = 1

    @property
    def ended(self) -> bool:
        """True once the input is exhausted and everything read was taken."""
        return self._reader.ended and not self._open

    @property
    def slow(self) -> bool:
        """True while the input makes the reader wait."""
        return self._reader.slow

    def take(self, most: int) -> list[Entry]:
        """Return up to `most` of the next items that are not done."""
        while not self._open and not self._reader.ended:
            self._open = self._admit(self._reader.read(max(most, self._block)))
            # Skipping goes in larger and larger steps, until the first item that must run.
            self._block = 1 if self._open else min(2 * self._block, _AHEAD)
        taken, self._open = self._open[:most], self._open[most:]
        return taken

    def empty(self) -> bool:
        """Return whether the input is empty; looks at its first item."""
        return self._reader.empty()

    def position(self, place: int) -> int:
        """Return the position in the job of an item of the input."""
        return self._positions[place]

    def complete(self) -> int | None:
        """Return how many items the job has, None when one that is not in this input is open."""
        if self._ledger.unseen_open():
            return None
        return self._ledger.size_with(len(self._new))

    def _admit(self, block: list[tuple[int, Any]]) -> list[Entry]:
        """Place a block of items; return those that must run."""
        if not block:
            return []
        first = self.taken
        labels = [self._inputs.labels_of(item, place) for place, item in block]
        values = self._inputs.identify(block, labels)
        known = self._ledger.positions(values)
        status = self._ledger.status(known)
        self._refuse_twice(self._ledger.claim(known, first), first)
        positions = self._numbered(values.tolist(), known.tolist(), first)
        self._positions.extend(positions)
        self.taken += len(block)
        self.resumed += int(np.count_nonzero(status == ItemStatus.DONE))
        self.skipped += int(np.count_nonzero(status == ItemStatus.SKIPPED))
        return [
            Entry(Work(positions[at], block[at][1]), first + at, int(values[at]), labels[at])
            for at in np.flatnonzero(~np.isin(status, _SETTLED)).tolist()
        ]

    def _numbered(self, values: list[int], known: list[int], first: int) -> list[int]:
        """Return the position of each item, giving the next free ones to new items."""
        for at, value in enumerate(values):
            if known[at] < 0:
                known[at] = self._ledger.free(len(self._new))
                before = self._new.setdefault(value, first + at)
                if before != first + at:
                    self._refuse(before, first + at)
        return known

    def _refuse_twice(self, before: NDArray[np.int64], first: int) -> None:
        twice = np.flatnonzero(before >= 0)
        if len(twice):
            self._refuse(int(before[twice[0]]), first + int(twice[0]))

    def _refuse(self, *places: int) -> None:
        raise InvalidInputError(
            f"items {min(places)} and {max(places)} have the same {self._inputs.identity}: "
            "every item needs its own"
        )


class _KnownDigests:
    """Position and status by digest, in flat arrays: a million items take 40 MB."""

    def __init__(self, state: JobState | None) -> None:
        digests = state.digests if state else np.zeros(0, np.uint64)
        positions = np.flatnonzero(digests)
        order = np.argsort(digests[positions], kind="stable")
        self._positions = positions[order]
        self._digests = digests[self._positions]
        self._status = state.status.copy() if state else np.zeros(0, np.uint8)
        self._places = np.full(len(digests), -1, np.int64)
        self._size = int(positions[-1]) + 1 if len(positions) else 0
        self._holes = np.flatnonzero(digests[: self._size] == 0)

    def free(self, count: int) -> int:
        """Return the position that comes after `count` new ones: first what a crash left open.

        Items that come in the same order again get the positions (and random numbers) that they
        had before.
        """
        if count < len(self._holes):
            return int(self._holes[count])
        return self._size + count - len(self._holes)

    def size_with(self, count: int) -> int:
        """Return the number of positions once `count` new ones are taken."""
        return self._size + max(0, count - len(self._holes))

    def positions(self, values: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the position of each digest, -1 where the ledger knows none."""
        if not len(self._digests):
            return np.full(len(values), -1, np.int64)
        at = np.minimum(np.searchsorted(self._digests, values), len(self._digests) - 1)
        return np.where(self._digests[at] == values, self._positions[at], -1)

    def status(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the `ItemStatus` at each position, OPEN for -1."""
        status = np.full(len(positions), ItemStatus.OPEN, np.uint8)
        known = positions >= 0
        status[known] = self._status[positions[known]]
        return status

    def claim(self, positions: NDArray[np.int64], first: int) -> NDArray[np.int64]:
        """Note where in the input known items stand; return where each stood before, or -1."""
        before = np.full(len(positions), -1, np.int64)
        at = np.flatnonzero(positions >= 0)
        known = positions[at]
        before[at] = self._places[known]
        self._places[known] = first + at  # of several, the last
        again = self._places[known] != first + at
        before[at[again]] = self._places[known[again]]
        return before

    def unseen_open(self) -> bool:
        """Return whether a known item that is not done was never claimed."""
        known = self._positions
        done = np.isin(self._status[known], _SETTLED)
        return bool((~done & (self._places[known] < 0)).any())
