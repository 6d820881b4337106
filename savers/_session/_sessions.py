"""One session a dataset and process, for all savers that name it; published at exit."""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import os
import threading
from typing import TYPE_CHECKING

from savers._session._session import LATER, Session

if TYPE_CHECKING:
    from savers._format import Format
    from savers._stores._location import Location

__all__ = ["close_all_before", "leave", "session_for"]

_sessions: dict[tuple[str, str], Session] = {}
_registry = threading.RLock()


def session_for(location: Location, dataset: str, fmt: Format, *, synced: bool) -> Session:
    """Return the session of a dataset, shared by all savers of this process, for one user more.

    An array that another dataset of the store keeps (a field of its results) is used through that
    dataset.
    """
    alone = Session(location, dataset, fmt, synced=synced)
    if alone.folder is not None and not alone.has_ledger():
        owned = alone.array_of_others(dataset)
        dataset = owned[0] if owned is not None else dataset
    with _registry:
        key = (location.identity, dataset)
        session = _sessions.get(key)
        if session is None or session.pid != os.getpid():
            session = Session(location, dataset, fmt, synced=synced)
            _sessions[key] = session
        session.users += 1
        return session


def leave(session: Session) -> None:
    """Count one user less; the last one closes the session."""
    with _registry:
        session.users -= 1
        if session.users > 0:
            return
        if _sessions.get((session.location.identity, session.dataset)) is session:
            del _sessions[session.location.identity, session.dataset]
    if session.pid == os.getpid():
        session.close()


def close_all() -> None:
    """At interpreter exit: what a saver left open is published."""
    for session in list(_sessions.values()):
        if session.pid == os.getpid():
            with contextlib.suppress(*LATER):
                session.close()


@functools.cache
def close_all_before(module: str) -> None:
    """At exit, publish what is left open before a module takes back what that needs.

    `atexit` calls last what was registered first, so the module is imported first.
    """
    importlib.import_module(module)
    atexit.register(close_all)


atexit.register(close_all)
os.register_at_fork(after_in_child=_sessions.clear)
