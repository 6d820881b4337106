"""An Icechunk repository as a store: what is changed becomes true with a commit, all or nothing.

Changes are kept in memory until then; the commit brings them into a session and ends that. The
next session begins at the snapshot of the commit, so that Icechunk itself finds out when somebody
else changed the same objects in between; where they changed others, it puts ours behind theirs.
"""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from savers._stores._icechunk._keys import LEDGER
from savers._stores._icechunk._revision import Revision, is_conflict, translated
from savers._stores._icechunk._sessions import RepositorySessions, SessionCopies
from savers._stores._store import ChangedError
from savers.errors import InvalidTypeError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from savers._stores._icechunk._sessions import Sessions
    from savers._stores._store import Bytes

__all__ = ["Branch", "branch_of", "is_repository"]


class Branch:
    """The objects on a branch of a repository.

    Parameters
    ----------
    sessions : Sessions
    lenient : bool
        True for one writer of several: where somebody changed the metadata of an array, but none
        of the objects that this one changes, its commit goes behind that.

    Attributes
    ----------
    moved : bool
        True when somebody else committed before the session was there that goes on from the last
        commit: whether that concerns this writer is to be looked at.
    """

    def __init__(self, sessions: Sessions, *, lenient: bool = False) -> None:
        self.sessions = sessions
        self.lenient = lenient
        self.name = sessions.name
        self.moved = False
        self._at_tip = lenient
        self._changes: dict[str, bytes | None] = {}
        self._revision: Revision | None = None
        self._mutex = threading.RLock()

    @property
    def travels(self) -> bool:
        """True where a saver of this store can be pickled."""
        return self.sessions.travels

    def apart(self) -> Branch:
        """Return the same branch, for the changes of one writer of several."""
        return Branch(self.sessions, lenient=True)

    # -- objects -----------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        return self.get_all([key])[0]

    def get_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return several objects."""
        with self._mutex:
            others = [key for key in keys if key not in self._changes]
            found = dict(zip(others, self._here().get_all(others), strict=True)) if others else {}
            return [found[key] if key in found else self._changes[key] for key in keys]

    def put(self, key: str, data: Bytes) -> None:
        with self._mutex:
            self._changes[key] = bytes(data)

    def put_all(self, documents: Mapping[str, Bytes]) -> None:
        for key, data in documents.items():
            self.put(key, data)

    def write(self, key: str, *parts: Bytes) -> None:
        self.put(key, parts[0] if len(parts) == 1 else b"".join(parts))

    @property
    def exclusive(self) -> bool:
        """A former writer is kept out by conflicts, not by seals."""
        return False

    def create(self, key: str, data: Bytes) -> None:
        """Put an object where none is; the commit makes sure of it."""
        self.put(key, data)

    def delete(self, key: str) -> None:
        self.delete_all([key])

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove objects; no error where there are none."""
        with self._mutex:
            self._changes.update(dict.fromkeys(keys))

    def list(self, prefix: str) -> Iterator[str]:
        with self._mutex:
            there = set(self._here().list(prefix))
            for key, data in self._changes.items():
                if key.startswith(prefix):
                    (there.discard if data is None else there.add)(key)
        return iter(sorted(there))

    def prune(self, prefix: str) -> None:
        """Nothing to do: there are no folders."""

    def barrier(self) -> None:
        """Nothing to do: a commit is durable when it returns, as far as the storage is."""

    def close(self) -> None:
        """Forget what is not committed. Idempotent."""
        with self._mutex:
            self._changes.clear()
            self._revision = None
            self.moved = self._at_tip = False

    # -- transactions ------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Go to the tip of the branch, and forget what is not committed."""
        with self._mutex:
            self.close()
            self._revision, self._at_tip = self._fresh(), True

    def renew(self) -> None:
        """Go to the tip of the branch, where nothing waits to be committed."""
        with self._mutex:
            if not self._changes:
                self.refresh()

    def seen(self) -> None:
        """Note that what others committed was looked at."""
        self.moved = False

    def discard(self) -> None:
        """Forget what is not committed, and stay at the snapshot that was seen so far."""
        with self._mutex:
            self._changes.clear()

    def commit(self, message: str) -> None:
        """Make all changes true in one step.

        Raises
        ------
        StoreInUseError
            Somebody else changed the same objects; theirs stand, nothing of ours does.
        StorageError
            It could not be; nothing is committed.
        """
        with self._mutex:
            if not self._changes:
                return
            revision = self._here()
            try:
                self._commit(revision, message)
            except BaseException:
                self._revision = self._unchanged(revision)
                raise
            self._changes.clear()

    def _commit(self, revision: Revision, message: str) -> None:
        revision.apply(self._changes)
        if not revision.session.has_uncommitted_changes:
            return
        try:
            with translated(f"can't commit to {self.name}"):
                there, alone = _committed(revision.session, message)
        except StorageError as error:
            self._look_again(revision, message, error)
            return
        self._revision, self.moved = None, True
        with contextlib.suppress(StorageError):  # the commit stands; the next call tries again
            fresh = self._fresh()
            self.moved = fresh.session.snapshot_id != there
            known = revision.known if alone and not self.moved else {}
            self._revision = Revision(fresh.session, self.name, known)

    def _look_again(self, revision: Revision, message: str, error: StorageError) -> None:
        """Find out whether a commit that failed stands all the same: its answer may have been lost.

        An answer that was lost looks like somebody else's commit to Icechunk, which asks again.
        """
        tip = self._fresh()
        records = [k for k, v in self._changes.items() if k.startswith(LEDGER) and v is not None]
        if records and tip.get_all(records) == [self._changes[key] for key in records]:
            self._revision, self.moved = tip, True
            return
        if not is_conflict(error):
            raise error
        keys = list(self._changes)
        before = self._unchanged(revision) if self.lenient else None
        if before is not None and before.get_all(keys) == tip.get_all(keys):
            self._commit(tip, message)  # somebody gave an array more labels
            return
        message = (
            f"another writer changed the same objects on {self.name}: its commit stands, and "
            "nothing of this one was saved. Let one driver at a time save to a dataset"
        )
        raise ChangedError(message) from error

    def _unchanged(self, revision: Revision) -> Revision | None:
        """Return a revision without changes; None where an interrupt came behind its commit."""
        if revision.session.read_only:
            self.moved = True
            return None
        revision.session.discard_changes()
        return Revision(revision.session, self.name)

    def _here(self) -> Revision:
        if self._revision is None:
            if self._at_tip:
                self._revision = self._fresh()
            else:
                with translated(f"can't open {self.name}"):
                    self._revision = Revision(self.sessions.view(), self.name)
        return self._revision

    def _fresh(self) -> Revision:
        with translated(f"can't open {self.name}"):
            return Revision(self.sessions.fresh(), self.name)


def _committed(session: Any, message: str) -> tuple[str, bool]:
    """Return the snapshot of a commit, and whether nobody else's lies between it and its base."""
    from icechunk import ConflictDetector, ConflictError

    try:
        return session.commit(message), True
    except ConflictError:
        return session.commit(message, rebase_with=ConflictDetector()), False


def is_repository(folder: Path) -> bool:
    """Return whether a local folder is that of a repository."""
    return (folder / "snapshots").is_dir() and (folder / "manifests").is_dir()


def branch_of(target: Any) -> Branch:
    """Return the store of a repository, a session or a session's store.

    Raises
    ------
    InvalidTypeError
        Something else of Icechunk, or a fork, which can't be committed.
    """
    kind = type(target).__name__
    if kind == "Repository":
        return Branch(RepositorySessions(target))
    read_only = bool(getattr(target, "read_only", False))
    if kind == "IcechunkStore":
        target = target.session
        kind = type(target).__name__
    if kind != "Session":
        message = f"expected an Icechunk repository, session or session.store, got {kind}"
        raise InvalidTypeError(message)
    return Branch(SessionCopies(target, read_only=read_only))
