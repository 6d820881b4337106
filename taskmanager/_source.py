"""The items of a call that resumes: known again, and without those that are done."""

from __future__ import annotations

import warnings
from array import array
from itertools import chain, compress, count, islice, repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from savers import InvalidInputError, ItemStatus, JobState
from taskmanager._inputs import Entry, Inputs, Reader
from taskmanager._items import POSITION_ONLY, digests
from taskmanager._pool import Work
from taskmanager._resume import Comparison, Decision, settled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["KeyedSource", "PositionSource"]

_BLOCK = 4096  # items compared with the ledger at once
_AHEAD = 250  # items read at once, at most, while skipping by key


class PositionSource:
    """Items known by position and digest.

    The first items are compared with the ledger when the source is made; `decision` is what came
    of it. Items that are done are not held. An iterator that can be read only once is held as
    long as it may turn out to be a new job.

    Raises
    ------
    LedgerMismatchError
        See `Comparison.decide`.
    """

    def __init__(self, inputs: Inputs, comparison: Comparison) -> None:
        self._warned = False
        self._compare(inputs.items, comparison)
        self.taken = comparison.compared
        status = np.zeros(0, np.uint8)
        if self.decision.resume is not None:
            status = self.decision.resume.status[: comparison.compared]
        self.resumed = int(np.count_nonzero(status == ItemStatus.DONE))
        self.skipped = int(np.count_nonzero(status == ItemStatus.SKIPPED))

    @property
    def ended(self) -> bool:
        """True once the input is exhausted."""
        return self._reader.ended

    @property
    def slow(self) -> bool:
        """True while the input makes the reader wait."""
        return self._reader.slow

    def take(self, most: int) -> list[Entry]:
        """Return up to `most` of the next items that are not done."""
        block = self._reader.read(most)
        if not block:
            return []
        self.taken = max(self.taken, block[-1][0] + 1)
        values = digests([item for _, item in block]).tolist()
        self._warn(unknown=POSITION_ONLY in values)
        return [
            Entry(Work(place, item), place, value)
            for (place, item), value in zip(block, values, strict=True)
        ]

    def empty(self) -> bool:
        """Return whether nothing has to run; looks at the next item of the input."""
        return self._reader.empty()

    def position(self, place: int) -> int:
        """Return `place`: position is identity."""
        return place

    def complete(self) -> int | None:
        """Return the number of items."""
        return self.taken

    def _compare(self, items: Iterable[Any], comparison: Comparison) -> None:
        iterator = iter(items)
        once = iterator is items
        held: list[tuple[int, Any]] = []
        while (wanted := comparison.wanted()) > 0:
            block = list(islice(iterator, min(wanted, _BLOCK)))
            if not block:
                break
            start = comparison.compared
            values = digests(block)
            self._warn(unknown=bool((values == POSITION_ONLY).any()))
            mask = comparison.feed(values, block)
            if once:
                held += compress(enumerate(block, start), mask.tolist())
        self.decision = comparison.decide(ended=comparison.wanted() > 0)
        rest = zip(count(comparison.compared), iterator) if once else None
        self._reader = Reader(_open_pairs(items, held, rest, self.decision))

    def _warn(self, *, unknown: bool) -> None:
        if unknown and not self._warned:
            self._warned = True
            warnings.warn(
                "some items have no canonical encoding and are known by their position alone: a "
                "changed item would not be noticed on resume; pass key=, a function that returns "
                "a number, a string or a tuple of such for an item",
                UserWarning,
                stacklevel=6,
            )


def _open_pairs(
    items: Iterable[Any],
    held: list[tuple[int, Any]],
    rest: Iterator[tuple[int, Any]] | None,
    decision: Decision,
) -> Iterator[tuple[int, Any]]:
    """Return (position, item) of everything that must run."""
    done = settled(decision.resume) if decision.resume else np.zeros(0, np.bool_)
    if rest is None:  # the input can be read again, so nothing was held
        return compress(enumerate(items), chain((~done).tolist(), repeat(True)))
    known = len(done)
    return chain((p for p in held if p[0] >= known or not done[p[0]]), rest)


class KeyedSource:
    """Items known by the digest of their key or labels, wherever they stand in the input.

    New ones take the next positions of the job, in the order in which they first appear.
    """

    def __init__(self, inputs: Inputs, comparison: Comparison) -> None:
        self.taken = self.resumed = self.skipped = 0
        self._inputs = inputs
        self.decision = comparison.decide(ended=False)
        self._ledger = _KnownDigests(self.decision.resume)
        self._new: dict[int, tuple[int, int]] = {}  # digest -> position, place
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
            block = self._reader.read(max(most, self._block))
            self._open = self._admit(block)
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
        labels = [self._inputs.labels_of(item, place) for place, item in block]
        values = [
            self._inputs.identify(item, label, place)
            for (place, item), label in zip(block, labels, strict=True)
        ]
        self.taken += len(block)
        entries = []
        known = self._ledger.positions(values)
        for (place, item), label, value, position in zip(block, labels, values, known, strict=True):
            index = self._position(value, position, place)
            self._positions.append(index)
            if self._runs(position):
                entries.append(Entry(Work(index, item), place, value, label))
        return entries

    def _position(self, value: int, known: int, place: int) -> int:
        """Return the position in the job, refusing a key that came before."""
        if known >= 0:
            before = self._ledger.claim(known, place)
        else:
            known = self._ledger.free(len(self._new))
            known, before = self._new.setdefault(value, (known, place))
            before = -1 if before == place else before
        if before >= 0:
            raise InvalidInputError(
                f"items {before} and {place} have the same {self._inputs.identity}: "
                "every item needs its own"
            )
        return known

    def _runs(self, known: int) -> bool:
        status = self._ledger.status(known)
        self.resumed += status == ItemStatus.DONE
        self.skipped += status == ItemStatus.SKIPPED
        return status not in (ItemStatus.DONE, ItemStatus.SKIPPED)


class _KnownDigests:
    """Position and status by digest, in flat arrays: a million items take 40 MB."""

    def __init__(self, state: JobState | None) -> None:
        digests = state.digests if state else np.zeros(0, np.uint64)
        positions = np.flatnonzero(digests)
        order = np.argsort(digests[positions], kind="stable")
        self._positions = positions[order]
        self._digests = digests[self._positions]
        self._status = state.status if state else np.zeros(0, np.uint8)
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

    def positions(self, values: list[int]) -> list[int]:
        """Return the position of each digest, -1 where the ledger knows none."""
        if not len(self._digests):
            return [-1] * len(values)
        wanted = np.array(values, np.uint64)
        at = np.minimum(np.searchsorted(self._digests, wanted), len(self._digests) - 1)
        found: list[int] = np.where(self._digests[at] == wanted, self._positions[at], -1).tolist()
        return found

    def claim(self, position: int, place: int) -> int:
        """Note where in the input a known item stands; return where it stood before, or -1."""
        before = int(self._places[position])
        self._places[position] = place
        return before

    def unseen_open(self) -> bool:
        """Return whether a known item that is not done was never claimed."""
        known = self._positions
        done = np.isin(self._status[known], (ItemStatus.DONE, ItemStatus.SKIPPED))
        return bool((~done & (self._places[known] < 0)).any())

    def status(self, position: int) -> int:
        """Return the `ItemStatus` of a known position, OPEN for -1."""
        return int(self._status[position]) if position >= 0 else int(ItemStatus.OPEN)
