"""Which cells of an array were never written, where its values alone can't tell.

A float that is missing is NaN, a time NaT. Of a bool, a text or a full-range integer only the
ledger knows.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._existing import find
from savers._jobs import ItemStatus
from savers.errors import InvalidTypeError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from savers._ledger._state import ArrayState

__all__ = ["Missing", "ask_ledger", "run_state"]


@dataclass(frozen=True)
class Missing:
    """The cells of an array that hold no result.

    Parameters
    ----------
    axes : tuple of int
        Axes along which cells are told apart.
    cells : ndarray of bool
        True for a missing cell; one axis for each of `axes`.
    """

    axes: tuple[int, ...]
    cells: NDArray[np.bool_]

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether the cells of an array of this shape are known."""
        if max(self.axes, default=-1) >= len(shape) or self.cells.ndim != len(self.axes):
            return False
        return all(shape[a] <= n for a, n in zip(self.axes, self.cells.shape, strict=True))

    def over(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return the mask of an array of this shape (a view, nothing is copied)."""
        here = self.cells[tuple(slice(shape[axis]) for axis in self.axes)]
        spread = [shape[axis] if axis in self.axes else 1 for axis in range(len(shape))]
        return np.broadcast_to(here.reshape(spread), shape)


def ask_ledger(
    target: object, storage_options: Mapping[str, Any] | None = None
) -> dict[str, Missing]:
    """Return the missing cells of each array that has any, by its path in the store.

    Raises
    ------
    LedgerCorruptedError
        A ledger is damaged.
    """
    with contextlib.suppress(NotFoundError, InvalidTypeError):
        return dict(_missing(target, storage_options))
    return {}


def run_state(target: object, storage_options: Mapping[str, Any] | None = None) -> dict[str, int]:
    """Return how many items of a store's jobs are done, failed and skipped; {} without a ledger.

    Returns
    -------
    dict of str to int
        ``run_items``, ``run_done``, ``run_failed``, ``run_skipped``, and ``run_unfinished``: the
        number of jobs that are not finished.
    """
    with contextlib.suppress(NotFoundError, InvalidTypeError):
        datasets = find(target, storage_options).datasets
        jobs = [job.state for found in datasets for job in found.replay().state.jobs.values()]
        status = np.concatenate([np.zeros(0, np.uint8), *(job.status for job in jobs)])
        names = {"done": ItemStatus.DONE, "failed": ItemStatus.FAILED}
        names |= {"skipped": ItemStatus.SKIPPED}
        counts = {f"run_{name}": int((status == code).sum()) for name, code in names.items()}
        unfinished = sum(not job.finished for job in jobs)
        return {"run_items": sum(counts.values()), **counts, "run_unfinished": unfinished}
    return {}


def _missing(
    target: object, storage_options: Mapping[str, Any] | None
) -> Iterator[tuple[str, Missing]]:
    for dataset in find(target, storage_options).datasets:
        for name, array in dataset.replay().state.arrays.items():
            cells = array.status != ItemStatus.DONE
            if cells.any() and not _asked(array):
                yield name, Missing(tuple(array.layout.cells), cells)


def _asked(array: ArrayState) -> bool:
    """Return whether the user chose the value of missing cells, or another program made it."""
    return array.adopted or bool(array.layout.meta["asked_fill"])
