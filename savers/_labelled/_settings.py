"""What the constructor of AsyncZarrSaver is given, in the terms of its model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from savers._labelled._streams import writers_of
from savers.errors import AlreadyExistsError, InvalidInputError, InvalidTypeError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from savers._session._session import Session

__all__ = ["look_at_store", "mode_of", "sizes_of", "target_of"]

MODES = ("a", "r+", "w", "w-")


def mode_of(given: Mapping[str, Any] | None) -> str:
    """Return the mode of `zarr_kwargs`."""
    settings = {"mode": "a", **(given or {})}
    asked = settings.pop("mode")
    mode = {"x": "w-"}.get(asked, asked)
    if settings or mode not in MODES:
        message = f"expected zarr_kwargs={{'mode': one of {MODES}}}, got {dict(given or {})!r}"
        raise InvalidInputError(message)
    return str(mode)


def sizes_of(keyword: str, given: Mapping[str, Any] | None) -> dict[str, int]:
    """Return cells by dimension."""
    sizes = dict(given or {})
    if not all(isinstance(size, int) and size > 0 for size in sizes.values()):
        message = f"expected {keyword} as a mapping of dimension to a positive int, got {given!r}"
        raise InvalidInputError(message)
    return sizes


def target_of(file_name: object, store: object, fs_factory: object) -> object:
    """Return what to open: a store object, or a path in a file system.

    Raises
    ------
    InvalidTypeError
        `fs_factory` can't be called.
    """
    if fs_factory is not None and not callable(fs_factory):
        message = f"expected fs_factory as a callable, got {fs_factory!r}"
        raise InvalidTypeError(message)
    if store is not None:
        return store
    if fs_factory is None or getattr(fs_factory, "__name__", "") == "LocalFileSystem":
        return file_name
    return fs_factory().get_mapper(str(file_name))


def look_at_store(mode: str, where: str, session: Session) -> None:
    """Compare what is there with what `mode` asks for; "w" removes it.

    Raises
    ------
    NotFoundError, AlreadyExistsError
        The store is not there, or is.
    """
    if mode == "a":
        return
    session.transactions.refresh()
    exists, _ = session.format.store_id(session.store)
    if mode == "r+" and not exists:
        message = f"expected a store at {where} (mode 'r+'), there is none"
        raise NotFoundError(message)
    if mode == "w-" and exists:
        message = f"there is a store at {where} already (mode 'w-')"
        raise AlreadyExistsError(message)
    if mode == "w" and exists:
        _remove_everything(session)


def _remove_everything(session: Session) -> None:
    """Remove arrays and ledgers; not what other programs keep beside them."""
    home = session.home()
    for place in (writers_of(home), home):
        for dataset in {*place.datasets(), session.dataset}:
            for name in place.streams(dataset):
                place.remove(name)
    for key in list(session.store.list("")):
        session.store.delete(key)
    session.store.prune("")
    if session.transactions.store is not None:
        session.transactions.store.commit(f"{session.dataset}: everything removed, to begin anew")
