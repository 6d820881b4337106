"""What a crash left in the ledger alone is finished and shown, without running anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from savers._existing import find
from savers._session._publishing import shapes
from savers._session._sessions import leave, session_for
from savers.errors import LedgerMismatchError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from savers._existing import Dataset, Existing
    from savers._ledger._state import State
    from savers._session._session import Session

__all__ = ["Recovered", "recover"]

Index = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Recovered:
    """What readers see of an array.

    Parameters
    ----------
    dataset, array : str
    before, after : tuple of int or None
        Shape that readers saw before, and see now; None where they saw nothing.
    chunks : int
        Chunks of which something was only in the ledger.
    """

    dataset: str
    array: str
    before: Index | None
    after: Index
    chunks: int


def recover(path: object, storage_options: Mapping[str, Any] | None = None) -> list[Recovered]:
    """Finish and publish what only the ledgers at `path` hold.

    Raises
    ------
    NotFoundError
        There is no store, or no ledger of one.
    StoreInUseError
        Somebody writes there; the text names who.
    LedgerCorruptedError, LedgerMismatchError
        A ledger is damaged or belongs to another store; nothing was changed.
    """
    existing = find(path, storage_options)
    if not existing.datasets:
        message = f"{existing.location.name} has no ledger: there is nothing to recover"
        raise NotFoundError(message)
    for dataset in existing.datasets:
        _refuse_other_store(existing, dataset)
    return [one for dataset in existing.datasets for one in _recover(existing, dataset)]


def _refuse_other_store(existing: Existing, dataset: Dataset) -> None:
    """Opening would set such a ledger aside and begin a new one; here that is no help."""
    state = dataset.replay().state
    exists, store_id = existing.format.store_id(existing.store(dataset.name))
    if not exists or store_id != state.store_id:
        reason = "is another one" if exists else "is gone"
        message = (
            f"the ledger of {dataset.name!r} was kept for a store that {reason}: "
            f"{existing.location.name}; put the store back, or move the ledger away"
        )
        raise LedgerMismatchError(message)


def _recover(existing: Existing, dataset: Dataset) -> list[Recovered]:
    session = session_for(existing.location, dataset.name, existing.format, synced=True)
    try:
        before = _seen(session, session.peek())
        open_chunks = {name: len(a.loose) for name, a in session.peek().arrays.items()}
        state = session.open()
        after = shapes(state)
    finally:
        leave(session)
    return [
        Recovered(dataset.name, name, before.get(name), shape, open_chunks.get(name, 0))
        for name, shape in after.items()
    ]


def _seen(session: Session, state: State) -> dict[str, Index | None]:
    fmt, store = session.format, session.store
    return {name: fmt.published(store, array.layout) for name, array in state.arrays.items()}
