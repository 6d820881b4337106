"""The input as it comes: items with their places, read no further than somebody asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from savers import InvalidInputError
from taskmanager._items import POSITION_ONLY, digests
from taskmanager._pool import Work

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Entry", "Inputs", "PlaceSource", "PlainSource", "Reader", "Source"]

_PATIENCE = 0.02  # seconds that a slow input may hold up everything else


class Entry:
    """An item that is to run, and all the driver knows of it."""

    __slots__ = ("attempts", "digest", "labels", "place", "work")

    def __init__(
        self,
        work: Work,
        place: int,
        digest: int = 0,
        labels: Mapping[str, object] | None = None,
    ) -> None:
        self.work = work
        self.place = place  # in the input; work.index is the position in the job
        self.digest = digest
        self.labels = labels
        self.attempts = 0


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the user gave: items, and how they are known and placed."""

    items: Iterable[Any]
    key: Callable[[Any], object] | None = None
    labels: Callable[[Any], Mapping[str, object]] | None = None

    @property
    def identity(self) -> str:
        """The word for it in `JobSpec.identity`."""
        return "key" if self.key else "labels" if self.labels else "position"

    def labels_of(self, item: object, place: int) -> dict[str, object] | None:
        """Return the labels of an item, None when there is no `labels` function."""
        if self.labels is None:
            return None
        labels = self.labels(item)
        if not isinstance(labels, Mapping):
            raise InvalidInputError(
                f"labels(item) of item {place}: expected a mapping dimension -> label, "
                f"got {labels!r}"
            )
        return dict(labels)

    def identify(
        self, block: Sequence[tuple[int, Any]], labels: Sequence[object]
    ) -> NDArray[np.uint64]:
        """Return the digests by which items are known wherever they stand.

        Raises
        ------
        InvalidInputError
            A key or labels have no canonical encoding.
        """
        key = self.key
        values = [key(item) for _, item in block] if key else labels
        found = digests(values)
        for at in np.flatnonzero(found == POSITION_ONLY).tolist():
            raise InvalidInputError(
                f"{self.identity} of item {block[at][0]}: expected numbers, strings, dates, or "
                f"tuples of them, got {values[at]!r}, which has no canonical encoding"
            )
        return found


class Source(Protocol):
    """Where the driver takes its items from."""

    taken: int  #: Items taken from the input so far, with those that need no run.
    resumed: int  #: Of these: found done.
    skipped: int  #: Of these: given up for good by an earlier run.

    @property
    def slow(self) -> bool:
        """True while the input makes the reader wait."""

    @property
    def ended(self) -> bool:
        """True once the input is exhausted."""

    def take(self, most: int) -> list[Entry]:
        """Return up to `most` items that must run; fewer while the input is slow."""

    def position(self, place: int) -> int:
        """Return the position in the job of an item of the input."""

    def complete(self) -> int | None:
        """Return how many items the job has, None when others of it are still to do."""


class Reader:
    """Read (place, item) pairs of an input.

    Attributes
    ----------
    ended : bool
        True once the input is exhausted.
    slow : bool
        True when the last read had to wait for the input: whoever has something else to do
        should do that first.
    """

    def __init__(self, pairs: Iterator[tuple[int, Any]]) -> None:
        self.ended = False
        self.slow = False
        self._pairs = pairs

    def read(self, most: int) -> list[tuple[int, Any]]:
        """Return the next pairs, up to `most`; a slow input gives what it has."""
        block: list[tuple[int, Any]] = []
        deadline = time.perf_counter() + _PATIENCE
        for pair in islice(self._pairs, most):
            block.append(pair)
            if time.perf_counter() > deadline:
                self.slow = True
                return block
        self.slow = False
        self.ended = len(block) < most
        return block

    def empty(self) -> bool:
        """Return whether nothing is left; looks at the next item."""
        first = next(self._pairs, None)
        if first is not None:
            self._pairs = chain([first], self._pairs)
        return first is None


class PlaceSource:
    """Base of sources in which the position of an item is its place in the input."""

    taken = 0
    resumed = 0
    skipped = 0
    _reader: Reader

    @property
    def ended(self) -> bool:
        """True once the input is exhausted."""
        return self._reader.ended

    @property
    def slow(self) -> bool:
        """True while the input makes the reader wait."""
        return self._reader.slow

    def position(self, place: int) -> int:
        """Return `place`: position is identity."""
        return place

    def complete(self) -> int | None:
        """Return the number of items."""
        return self.taken


class PlainSource(PlaceSource):
    """Every item runs and nothing is kept: a run without a saver."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._reader = Reader(enumerate(items))

    def take(self, most: int) -> list[Entry]:
        """Return up to `most` of the next items."""
        block = self._reader.read(most)
        self.taken += len(block)
        return [Entry(Work(place, item), place) for place, item in block]
