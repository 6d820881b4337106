"""Stores with transactions: what belongs together becomes true together.

A commit of a dataset is then its chunks, its record, the shapes that readers see and nothing in
between: all of it is one commit of the store, or nothing.
"""

from __future__ import annotations

import contextlib
import math
from typing import TYPE_CHECKING, Any

from savers._session._publishing import refuse_changed
from savers._stores._store import ChangedError, TransactionalStore
from savers.errors import SaverError, StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from savers._session._commit import Box
    from savers._session._session import Session

__all__ = ["Transactions", "described"]


class Transactions:
    """The transactions of a session; in a store without them nothing is different.

    Attributes
    ----------
    store : TransactionalStore or None
    under_way : bool
        True within a transaction.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self.store = session.store if isinstance(session.store, TransactionalStore) else None
        self.under_way = False

    def refresh(self) -> None:
        """See what others committed."""
        if self.store is not None:
            self.store.refresh()

    @contextlib.contextmanager
    def unit(self, message: str) -> Iterator[None]:
        """Commit what is done within, with what readers see of it; after an error, nothing.

        Raises
        ------
        StoreInUseError
            Another writer changed the dataset; it is to be opened again.
        """
        if self.store is None or self.under_way:
            yield
            return
        self.under_way = True
        try:
            self._look(self.store)
            yield
            self.session.publish()
            self.store.commit(message)
        except BaseException as error:
            self._undo(self.store, error)
            raise
        finally:
            self.under_way = False

    def _look(self, store: TransactionalStore) -> None:
        """Somebody else's commit right behind ours is no matter where it is of other datasets."""
        if not store.moved:
            return
        session = self.session
        if not session.ledger.is_current():
            message = f"another driver saves to {session.dataset!r} in {session.location.name}"
            raise ChangedError(message)
        refuse_changed(session.format, store, session.location.name, session.ledger.state)
        store.seen()

    def _undo(self, store: TransactionalStore, error: BaseException) -> None:
        store.discard()
        try:
            if not isinstance(error, StoreInUseError):
                self.session.undo()
                return
        except SaverError as failure:
            error.add_note(f"the dataset is to be opened again: {failure}")
        self.session.let_go()


def described(
    dataset: str, record: Mapping[str, Any], cells: Mapping[str, Sequence[Box]] | None = None
) -> str:
    """Return what a commit brings, in words.

    >>> described("run", {"kind": "commit", "job": 2}, {"run": [((4,), (7,), 1)]})
    'run: job 2, run 4 to 6'
    """
    parts = [f"job {record['job']}"] if "job" in record else []
    parts += [_extent(name, boxes) for name, boxes in (cells or {}).items() if boxes]
    if record.get("finished") or record["kind"] == "finish":
        parts.append("finished")
    return f"{dataset}: {', '.join(parts) or record['kind']}"


def _extent(name: str, boxes: Sequence[Box]) -> str:
    """Rows by their numbers, labelled cells by their count."""
    if any(len(start) != 1 for start, _, _ in boxes):
        count = sum(math.prod(b - a for a, b in zip(*box[:2], strict=True)) for box in boxes)
        return f"{name} {count} cells"
    first, last = min(box[0][0] for box in boxes), max(box[1][0] for box in boxes) - 1
    return f"{name} {first}" if first == last else f"{name} {first} to {last}"
