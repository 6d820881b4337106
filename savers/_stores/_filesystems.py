"""File systems of fsspec, made again for the way they are asked: blocking, or from an event loop.

A file system within another one (a folder of it, a cache) is made again along with it.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from typing import TYPE_CHECKING, Any

from savers._stores._store import MappingStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = [
    "FsspecStore",
    "awaited",
    "blocking",
    "close",
    "remember_nothing",
    "settings",
    "unwrapped",
    "whereabouts",
]

#: Names of options that say how or by whom is asked, not where.
_NOT_WHERE = re.compile("asynchronous|auth|connection|cred|key|pass|sas|secret|token|user")


def blocking(filesystem: Any) -> Any:
    """Return the twin of a file system that was made for an event loop; any other as it is."""
    if not getattr(filesystem, "asynchronous", False):
        return filesystem
    return _again(filesystem, blocking, asynchronous=False)


def awaited(filesystem: Any) -> Any:
    """Return a twin for the event loop that runs now."""
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper

    inner = unwrapped(filesystem)
    if not (inner.async_impl and all(within.async_impl for within in _within(inner))):
        return AsyncFileSystemWrapper(inner, asynchronous=True)
    return _again(inner, awaited, asynchronous=True, skip_instance_cache=True)


def unwrapped(filesystem: Any) -> Any:
    """Return the blocking file system that fsspec made awaitable by threads; others as they are."""
    wrapped = type(filesystem).__name__ == "AsyncFileSystemWrapper"
    return filesystem.sync_fs if wrapped else filesystem


def _again(filesystem: Any, twin: Callable[[Any], Any], **mode: bool) -> Any:
    def made(value: Any) -> Any:
        return twin(value) if _is_filesystem(value) else value

    given = {name: made(value) for name, value in filesystem.storage_options.items()}
    return type(filesystem)(*map(made, filesystem.storage_args), **{**given, **mode})


def _is_filesystem(value: Any) -> bool:
    return hasattr(value, "storage_args")


def _within(filesystem: Any) -> list[Any]:
    given = [*filesystem.storage_args, *filesystem.storage_options.values()]
    return [value for value in given if _is_filesystem(value)]


async def close(filesystem: Any) -> None:
    """Close what an asynchronous file system leaves to its user."""
    for name in ("_session", "_s3"):
        session = getattr(filesystem, name, None)
        if session is not None:
            await session.close()
    for within in _within(filesystem):
        await close(within)


def remember_nothing(filesystem: Any) -> None:
    """Have a file system look each time: a remembered listing hides what was written since.

    With it, s3fs says of an object that it read a moment ago in a listing that there is none.
    """
    listings: Any = getattr(filesystem, "dircache", None)
    if hasattr(listings, "use_listings_cache"):
        listings.use_listings_cache = False
        filesystem.invalidate_cache()
    for within in _within(filesystem):
        remember_nothing(within)


class FsspecStore(MappingStore):
    """A folder of a file system, of which parts are listed by themselves."""

    def list(self, prefix: str) -> Iterator[str]:
        folder = prefix.rpartition("/")[0]
        if not folder:
            return super().list(prefix)
        where = f"{self.root}/{folder}" if self.root else folder
        with self._errors("list", prefix):
            below = list(iter(self.filesystem.get_mapper(where)))  # its length would list it again
        keys = (f"{folder}/{key}" for key in below)
        return (key for key in keys if key.startswith(prefix))

    @property
    def filesystem(self) -> Any:
        """The file system."""
        return self.mapping.fs  # type: ignore[attr-defined]

    @property
    def root(self) -> str:
        """The folder."""
        return str(self.mapping.root).rstrip("/")  # type: ignore[attr-defined]


def whereabouts(filesystem: Any) -> str:
    """Return by what file systems of different places are told apart, in a few letters."""
    return hashlib.sha256(_where(unwrapped(filesystem)).encode()).hexdigest()[:16]


def settings(filesystem: Any) -> dict[str, Any]:
    """Return how a file system was made; positional arguments have their names, too."""
    signature = inspect.signature(type(filesystem).__init__)
    bound = signature.bind(None, *filesystem.storage_args, **filesystem.storage_options)
    given: dict[str, Any] = {}
    for name, value in [*bound.arguments.items()][1:]:
        more = signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
        given |= value if more else {name: value}
    return given


def _where(filesystem: Any) -> str:
    given = settings(filesystem)
    parts = [
        f"{name}={_where(value) if _is_filesystem(value) else repr(value)}"
        for name, value in sorted(given.items())
        if value not in (None, ()) and not _NOT_WHERE.search(name)
    ]
    return f"{type(filesystem).__qualname__}({', '.join(parts)})"
