"""How one writer of several gets at the store, apart from the owner of the dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

from savers._ledger._home import Home
from savers._stores._bucket._store import ObjectStore
from savers._stores._bucket._uploads import side_by_side
from savers._stores._store import TransactionalStore

if TYPE_CHECKING:
    from savers._session._session import Session
    from savers._stores._store import Store

__all__ = ["Apart"]


class Apart:
    """The store as one writer sees it.

    Attributes
    ----------
    store : Store
        Where its chunks go.
    readable : Store
        Where chunks are read that a record speaks of; in a store with transactions, as of the last
        `look`, without what this writer has yet to commit.
    home : Home
        Where its stream of records goes.
    seen : Home
        Where the records of all writers are read, as of the last `look`.
    """

    def __init__(self, session: Session) -> None:
        self.store = self.readable = _own(session.store)
        self.home = self.seen = session.home()
        self._transactions: TransactionalStore | None = None
        if isinstance(session.store, TransactionalStore):
            self._transactions, reader = session.store.apart(), session.store.apart()
            self.store, self.readable = self._transactions, reader
            self.home = Home(None, self._transactions, self.home.prefix)
            self.seen = Home(None, reader, self.home.prefix)
        elif isinstance(self.home.store, ObjectStore):
            store = self.home.store
            self.seen = Home(None, store.beside(store.prefix), self.home.prefix)

    def look(self) -> None:
        """See what others committed; in a bucket it is listed once until the next look."""
        if isinstance(self.readable, TransactionalStore):
            self.readable.refresh()
        elif isinstance(self.seen.store, ObjectStore):
            side_by_side(self.seen.store.look(prefixes=[self.seen.prefix]))

    def begin(self) -> None:
        """Have what is read from here on, and put on that ground, as the ground of the commit."""
        if self._transactions is not None:
            self._transactions.renew()

    def commit(self, message: str) -> None:
        """Make chunks and records true, where a store asks for it.

        Raises
        ------
        StorageError
            It could not be; the next call tries it again.
        """
        if self._transactions is not None:
            self._transactions.commit(message)


def _own(store: Store) -> Store:
    """The lock's owner alone is bound to its lease."""
    return store.beside(store.prefix) if isinstance(store, ObjectStore) else store
