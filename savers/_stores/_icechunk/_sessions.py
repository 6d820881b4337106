"""From what users give to sessions on the tip of their branch.

A session of Icechunk ends with its commit. A repository gives new ones; where a session (or its
store) was given, copies of it are moved to the tip of its branch, and it is itself left as it is.
"""

from __future__ import annotations

import hashlib
from typing import Any, Protocol

from savers.errors import InvalidInputError

__all__ = ["RepositorySessions", "SessionCopies", "Sessions"]


class Sessions(Protocol):
    """Where sessions come from."""

    @property
    def identity(self) -> str:
        """The same for two ways to name one branch."""

    @property
    def name(self) -> str:
        """For messages."""

    @property
    def travels(self) -> bool:
        """True where what was given can be pickled, and holds no credentials then."""

    def view(self) -> Any:
        """Return a session to read what the user would read."""

    def fresh(self) -> Any:
        """Return a session on the tip of the branch, with nothing changed in it."""

    def require_writable(self) -> None:
        """Refuse what no commit can come from.

        Raises
        ------
        InvalidInputError
            A read-only session, one with changes that are not committed, or one that can't be gone
            on from.
        """


class RepositorySessions:
    """Sessions of a repository, on its branch ``main``."""

    branch = "main"

    def __init__(self, repository: Any) -> None:
        self.repository = repository
        self.identity = f"object:{id(repository)}"
        storage = str(repository.storage)
        self.name = f"branch 'main' of {' '.join(storage.split())}"
        self.travels = "localfilesystem" in "".join(storage.split()).lower()

    def view(self) -> Any:
        return self.repository.readonly_session(self.branch)

    def fresh(self) -> Any:
        return self.repository.writable_session(self.branch)

    def require_writable(self) -> None:
        """A repository always gives new sessions."""


class SessionCopies:
    """Copies of a session, on the tip of its branch.

    Parameters
    ----------
    session : icechunk.Session
        Never changed nor committed.
    read_only : bool
        True where its store was opened for reading.
    """

    travels = False

    def __init__(self, session: Any, *, read_only: bool = False) -> None:
        self.session = session
        self.read_only = read_only or session.read_only
        self._bytes = bytes(session._session.as_bytes())  # noqa: SLF001 -- a fork can't commit
        digest = hashlib.blake2b(self._bytes, digest_size=16).hexdigest()
        self.identity = f"icechunk:{digest}"
        self.name = f"branch {session.branch!r} of an Icechunk repository"

    def view(self) -> Any:
        return self.session

    def fresh(self) -> Any:
        import icechunk

        if self.read_only:
            return self.session
        kind = type(self.session._session)  # noqa: SLF001
        copy = icechunk.Session(kind.from_bytes(self._bytes))
        copy.rebase(icechunk.ConflictDetector())
        self._bytes = bytes(copy._session.as_bytes())  # noqa: SLF001 -- next time it is nearer
        return copy

    def require_writable(self) -> None:
        if self.read_only:
            message = (
                "expected a writable Icechunk session, got a read-only one: "
                'repository.writable_session("main"), or the repository itself'
            )
            raise InvalidInputError(message)
        if b"in_memory_object_store" in self._bytes:
            message = (
                "a session of a repository in memory can't be gone on from after its commit: "
                "expected the repository, as in ZarrSaver(repository)"
            )
            raise InvalidInputError(message)
        if self.session.has_uncommitted_changes:
            message = (
                "expected an Icechunk session without changes, got one with changes that are not "
                "committed: session.commit(...) them first (or session.discard_changes())"
            )
            raise InvalidInputError(message)
