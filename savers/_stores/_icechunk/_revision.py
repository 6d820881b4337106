"""The objects of a repository as one Icechunk session sees them, and the way to change them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import json
from typing import TYPE_CHECKING, Any

from savers._stores._icechunk._keys import (
    LEDGER,
    Place,
    aside_of,
    chunk_of,
    holds,
    inside,
    is_document,
    kept_document,
    key_of,
    ledger_document,
    mark_of,
    record_of,
)
from savers.errors import SaverError, StorageError

if TYPE_CHECKING:
    from collections.abc import (
        Callable,
        Collection,
        Coroutine,
        Iterable,
        Iterator,
        Mapping,
        Sequence,
    )

    from savers._stores._icechunk._keys import Document

__all__ = ["Revision", "is_conflict", "translated"]

#: Requests that are under way at a time.
MOST_REQUESTS = 32


class Revision:
    """What one session sees. Keys are those of a saver, as everywhere else.

    Parameters
    ----------
    session : icechunk.Session
    name : str
        For messages.
    known : mapping of str to bytes or None
        Documents as they are there, by key; any other is read when it is needed.
    """

    def __init__(
        self, session: Any, name: str, known: Mapping[str, bytes | None] | None = None
    ) -> None:
        self.session = session
        self.name = name
        self.known = dict(known or {})
        self._store = session.store

    # -- reading -----------------------------------------------------------------------------------

    def get_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return several objects."""
        self._learn(keys)
        places = [self._there(key) for key in keys]
        found = self._fetch({place for place in places if place} - self.known.keys())
        found |= self.known
        return [
            None if place is None else self._as_known(key, found[place])
            for key, place in zip(keys, places, strict=True)
        ]

    def _there(self, key: str) -> str | None:
        """Return the repository's key of an object, None where its array is not there."""
        if is_document(key):
            return key
        if not holds(key):
            return None
        place = self._place(key)
        return None if self._document(place.array) is None else place.key

    def _place(self, key: str) -> Place:
        if key.startswith(LEDGER):
            return record_of(key)
        chunk = chunk_of(key)
        document = self._document(chunk.array)
        seen = document is not None and chunk.odd == self._odd(chunk.array)
        if document is not None and seen and inside(document, chunk.at):
            return Place(chunk.array, chunk.at)
        return aside_of(chunk)

    def _odd(self, array: str) -> bool:
        return self._document(mark_of(array)) is not None

    def _document(self, path: str) -> Document | None:
        key = _metadata(path)
        if key not in self.known:
            self.known |= self._fetch([key])
        data = self.known[key]
        return None if data is None else _parsed(data)

    def _learn(self, keys: Iterable[str]) -> None:
        """Read what says where these objects lie, all of it at once."""
        paths = {path for key in keys for path in _concerned(key)}
        self.known |= self._fetch({*map(_metadata, paths)} - self.known.keys())

    def _as_known(self, key: str, data: bytes | None) -> bytes | None:
        """Return a document as its saver wrote it: the separator tells generations apart."""
        path = _path(key)
        if data is None or not is_document(key) or not path or not self._odd(path):
            return data
        return _with_separator(data, ".")

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a prefix."""
        found = [*self._listed(self._folder(prefix))]
        if prefix and not prefix.startswith(LEDGER):
            found += self._listed(LEDGER.rstrip("/"))
        odd = {array for array in {_array(there) for there in found} if array and self._odd(array)}
        keys = (key_of(there, odd) for there in found)
        return (key for key in keys if key is not None and key.startswith(prefix))

    def _folder(self, prefix: str) -> str:
        """Return the array or group in which all keys with a prefix lie."""
        if not prefix.startswith(LEDGER):
            return prefix.rpartition("/")[0]
        array = record_of(f"{prefix.rpartition('/')[0]}/0").array
        return LEDGER.rstrip("/") if self._document(array) is None else array

    def _listed(self, path: str) -> Sequence[str]:
        """Return the repository's keys below an array or a group, none where it is not there."""
        if path and self._document(path) is None:
            return []

        async def keys() -> Sequence[str]:
            return [key async for key in self._store.list_prefix(path)]

        found: Sequence[str] = self._run("list", keys())
        return found

    # -- changing ----------------------------------------------------------------------------------

    def apply(self, changes: Mapping[str, bytes | None]) -> None:
        """Bring changes into the session; None removes an object. They are not committed here.

        Raises
        ------
        StorageError
            Some of them are in, and the session's changes are to be discarded.
        """
        self._learn(changes)
        documents = {key: data for key, data in changes.items() if is_document(key)}
        objects = {key: data for key, data in changes.items() if not is_document(key)}
        new = {key: self._prepared(key, data) for key, data in documents.items()}
        self._set_documents({key: data for key, data in new.items() if data is not None})
        moved = {key: data for path in documents for key, data in self._moved(path, changes)}
        self._put_objects({**objects, **moved})

    def _prepared(self, key: str, data: bytes | None) -> bytes | None:
        """Return a document as the repository keeps it; what it replaces is removed before."""
        path = _path(key)
        if data is None:
            self._remove(path)
            self._remove(mark_of(path))
            return None
        odd = _is_odd(data)
        if path and odd != self._odd(path):
            self._remove(path)  # with the chunks of the generation that was seen so far
            self._mark(path, odd=odd)
        return _with_separator(data, "/") if odd else data

    def _set_documents(self, documents: Mapping[str, bytes]) -> None:
        new = {key: data for key, data in documents.items() if data != self.known.get(key)}
        self._set(new)
        self.known |= new

    def _mark(self, path: str, *, odd: bool) -> None:
        if odd:
            self._keep(mark_of(path), 1)
        else:
            self._remove(mark_of(path))

    def _moved(
        self, key: str, changes: Mapping[str, bytes | None]
    ) -> Iterator[tuple[str, bytes | None]]:
        """Yield the chunks that were kept aside until now, and that readers see from here on."""
        path = key.removesuffix("/zarr.json")
        document = self._document(path)
        if document is None or "chunk_grid" not in document:
            return
        chunk = chunk_of(f"{path}/c.0" if self._odd(path) else f"{path}/c/0")
        kept = self._listed(aside_of(chunk).array)
        for there in [there for there in kept if not is_document(there)]:
            if inside(document, chunk_of(there).at):
                known = key_of(there, set())
                if known is not None and known not in changes:
                    yield known, self._fetch([there])[there]
                self._delete([there])

    def _put_objects(self, objects: Mapping[str, bytes | None]) -> None:
        new: dict[str, bytes] = {}
        gone: list[Place] = []
        for key, data in objects.items():
            place = self._place(key)
            if data is not None:
                if place.array.startswith(LEDGER):
                    self._keep(place.array, len(place.at))
                new[place.key] = data
            elif self._document(place.array) is not None:
                gone.append(place)
        self._set(new)
        self._delete([place.key for place in gone])
        for array in {place.array for place in gone if place.array.startswith(LEDGER)}:
            if len(self._listed(array)) <= 1:
                self._remove(array)

    def _keep(self, array: str, axes: int) -> None:
        """Make an array that keeps objects, where there is none."""
        if self._document(LEDGER.rstrip("/")) is None:
            self._set_documents({f"{LEDGER}zarr.json": ledger_document()})
        if self._document(array) is None:
            self._set_documents({_metadata(array): kept_document(axes)})

    def _remove(self, path: str) -> None:
        """Remove an array with its chunks, or a group with all that is in it."""
        if self._document(path) is not None:
            self._delete([_metadata(path)])
            self.known.clear()

    # -- requests ----------------------------------------------------------------------------------

    def _fetch(self, keys: Iterable[str]) -> dict[str, bytes | None]:
        from zarr.core.buffer import default_buffer_prototype

        prototype = default_buffer_prototype()

        async def get(key: str) -> bytes | None:
            found = await self._store.get(key, prototype)
            return None if found is None else bytes(found.to_bytes())

        wanted = list(dict.fromkeys(keys))
        found = self._side_by_side("read", get, wanted)
        return dict(zip(wanted, found, strict=True))

    def _set(self, objects: Mapping[str, bytes]) -> None:
        from zarr.core.buffer import default_buffer_prototype

        buffer = default_buffer_prototype().buffer

        async def put(key: str) -> None:
            await self._store.set(key, buffer.from_bytes(objects[key]))

        self._side_by_side("write", put, objects)

    def _delete(self, keys: Collection[str]) -> None:
        self._side_by_side("delete", self._store.delete, keys)

    def _side_by_side(
        self, what: str, request: Callable[[str], Coroutine[Any, Any, Any]], keys: Collection[str]
    ) -> Sequence[Any]:
        async def gather() -> Sequence[Any]:
            room = asyncio.Semaphore(MOST_REQUESTS)

            async def one(key: str) -> Any:
                async with room:
                    return await request(key)

            return await asyncio.gather(*map(one, keys))

        found: Sequence[Any] = self._run(what, gather()) if keys else []
        return found

    def _run(self, what: str, work: Coroutine[Any, Any, Any]) -> Any:
        from zarr.core.sync import sync

        with translated(f"can't {what} in {self.name}"):
            return sync(work)


@contextlib.contextmanager
def translated(what: str) -> Iterator[None]:
    """Raise errors of Icechunk as `StorageError`."""
    try:
        yield
    except SaverError:
        raise
    except Exception as error:
        why = str(error).partition("\n")[0].removeprefix("  x ")
        raise StorageError(errno.EIO, f"{what}: {why}") from error


def is_conflict(error: StorageError) -> bool:
    """Return whether Icechunk refused a commit because of another one."""
    from icechunk import ConflictError, RebaseFailedError

    return isinstance(error.__cause__, (ConflictError, RebaseFailedError))


def _metadata(path: str) -> str:
    return f"{path}/zarr.json".removeprefix("/")


def _path(key: str) -> str:
    return key.removesuffix("zarr.json").rstrip("/")


@functools.lru_cache(256)
def _parsed(data: bytes) -> Document:
    found: Document = json.loads(data)
    return found


def _concerned(key: str) -> Iterator[str]:
    """Yield the arrays and groups that say where an object lies, or that go with a document."""
    if key.startswith(LEDGER):
        yield from (LEDGER.rstrip("/"), record_of(key).array)
    elif is_document(key):
        path = _path(key)
        yield from (path, mark_of(path))
        yield from (aside_of(chunk_of(f"{path}/c{odd}0")).array for odd in "/." if path)
    elif holds(key):
        chunk = chunk_of(key)
        yield from (chunk.array, mark_of(chunk.array), aside_of(chunk).array)


def _array(there: str) -> str:
    """Return the array of a chunk that readers see, "" for anything else."""
    return "" if is_document(there) or there.startswith(LEDGER) else chunk_of(there).array


def _is_odd(data: bytes) -> bool:
    keys = json.loads(data).get("chunk_key_encoding", {})
    return bool(keys.get("configuration", {}).get("separator") == ".")


def _with_separator(data: bytes, separator: str) -> bytes:
    document = json.loads(data)
    keys = document["chunk_key_encoding"]
    document["chunk_key_encoding"] = {**keys, "configuration": {"separator": separator}}
    return json.dumps(document, indent=1).encode()
