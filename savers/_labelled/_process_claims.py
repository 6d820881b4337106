"""Claims of chunks where no lock can be: among the writers of this process alone."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from savers._labelled._claims import refused

if TYPE_CHECKING:
    from savers._session._session import Session

__all__ = ["ProcessClaims"]

Chunk = tuple[str, tuple[int, ...]]

#: Who has which chunk of a dataset; all savers of a process that name it share its session.
_claimed: WeakKeyDictionary[Session, dict[Chunk, str]] = WeakKeyDictionary()
_mutex = threading.Lock()


class ProcessClaims:
    """The chunks that one writer may merge values into.

    Parameters
    ----------
    session : Session
    name : str
        The stream of this writer.
    """

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = name

    def take(self, array: str, index: tuple[int, ...], advice: str) -> None:
        """Claim a chunk.

        Raises
        ------
        StoreInUseError
            Another writer of this process merges values into it.
        """
        with _mutex:
            claimed = _claimed.setdefault(self.session, {})
            if claimed.setdefault((array, index), self.name) != self.name:
                raise refused(array, None, advice)

    def check(self) -> None:
        """Nothing to do: nobody takes over within a process."""

    def release(self, array: str, index: tuple[int, ...]) -> None:
        """Let another writer have a chunk."""
        with _mutex:
            claimed = _claimed.get(self.session, {})
            if claimed.get((array, index)) == self.name:
                del claimed[array, index]

    def close(self) -> None:
        """Release all chunks."""
        with _mutex:
            claimed = _claimed.get(self.session, {})
            for chunk in [chunk for chunk, name in claimed.items() if name == self.name]:
                del claimed[chunk]
