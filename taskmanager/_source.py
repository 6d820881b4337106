"""Items known by their position and value, without those that are done."""

from __future__ import annotations

import inspect
import warnings
from itertools import chain, compress, count, islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from savers import ItemStatus
from taskmanager._inputs import Entry, Inputs, PlaceSource, Reader
from taskmanager._items import POSITION_ONLY, digests
from taskmanager._pool import Work
from taskmanager._resume import Comparison, Decision, settled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["PositionSource"]

_BLOCK = 4096  # items compared with the ledger at once


class PositionSource(PlaceSource):
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
                stacklevel=_level_of_caller(),
            )


def _level_of_caller() -> int:
    """Return the `stacklevel` of the first frame outside this package."""
    package, level = str(Path(__file__).parent), 0
    here = inspect.currentframe()
    frame = here and here.f_back
    while frame is not None and frame.f_code.co_filename.startswith(package):
        frame, level = frame.f_back, level + 1
    return level + 1


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
