"""A bucket, or a part of it: every object is put under a condition, through obstore.

A key that is new is put with If-None-Match, a key whose object is known with If-Match. Where the
condition fails, the object is read back: the same bytes are an earlier attempt whose answer got
lost; other bytes are somebody else's. Objects are uploaded in the background, `barrier` waits for
them. Source: S3 API, "Conditional writes"; put modes of obstore.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import threading
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from savers._stores._bucket._look import Look
from savers._stores._bucket._requests import Conflict, Requests
from savers._stores._bucket._uploads import Uploads, side_by_side
from savers._stores._store import ChangedError
from savers.errors import StorageError, StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from savers._stores._store import Bytes

__all__ = ["ObjectStore", "Version"]

#: Objects whose version is remembered; any other is read again before it is replaced.
MOST_KNOWN = 10_000
#: Bytes of an object that is not sent again when it holds the same as before.
MOST_DIGESTED = 256 << 10
#: Bytes of staged objects that are kept in memory until they are put to their keys.
MOST_STAGED = 64 << 20
#: Times that an object may change under a writer that looks at it.
MOST_CHANGES = 10
#: Keys of one request to delete.
MOST_DELETED = 1000

Version = dict[str, str]


class Known(NamedTuple):
    """An object as it was last seen: its version, and a digest of its bytes ("" of a chunk's)."""

    version: Version
    digest: bytes


class ObjectStore:
    """The objects below a prefix of a bucket.

    Parameters
    ----------
    client : obstore store
        Of the whole bucket; it must not retry by itself.
    name : str
        For messages, without credentials.
    prefix : str
        Empty, or ends with a slash.
    scratch : str
        Where objects wait aside, as a prefix of the bucket.
    secrets : collection of str
        Texts that no message may show.
    requests : Requests
        What sends them, shared by the parts of a bucket.
    """

    def __init__(
        self,
        client: Any,
        name: str,
        prefix: str = "",
        *,
        scratch: str = ".staged/",
        requests: Requests | None = None,
        secrets: Collection[str] = (),
    ) -> None:
        self.client = client
        self.name = name
        self.prefix = prefix
        self.scratch = scratch
        self.secrets = secrets
        self.requests = requests or Requests(name, secrets)
        #: True: a document that was put is not asked for before the next put of it, because the
        #: condition of that one fails where somebody else replaced it.
        self.documents = False
        #: Makes the obstore client of these keys that readers use; it retries by itself.
        self.reader: Callable[[], Any] = lambda: client
        self._fence: Callable[[], None] = _no_fence
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._look: Look | None = None
        self._latest: tuple[str, bytes] | None = None  # the document that was put last
        self._mutex = threading.Lock()
        self._uploads = Uploads(self.requests.gate.most)
        self._aside: dict[str, bytes] = {}
        self._moving: dict[str, str] = {}  # paths, and the staged objects on their way there
        self._moved: list[str] = []
        self._failed: list[tuple[str, str]] = []

    def beside(self, prefix: str) -> ObjectStore:
        """Return the objects below another prefix of the same bucket."""
        requests, secrets = self.requests, self.secrets
        return ObjectStore(self.client, self.name, prefix, requests=requests, secrets=secrets)

    def keep_aside(self, scratch: str, fence: Callable[[], None]) -> None:
        """Note where objects wait aside, and what raises once this writer may no longer write."""
        self.scratch, self._fence = scratch, fence

    # -- objects -----------------------------------------------------------------------------------

    def get(self, key: str) -> bytes | None:
        path = self.prefix + key
        if (token := self._moving.get(path)) is not None:
            return self.get_staged(token)
        look, latest = self._look, self._latest
        if latest is not None and latest[0] == path:
            return latest[1]
        if look is not None and path in look.objects:
            return look.objects[path]
        found = self._read(path)
        return None if found is None else found[0]

    def look(
        self, keys: Sequence[str] = (), prefixes: Sequence[str] = ()
    ) -> list[Callable[[], None]]:
        """Return requests for objects and listings; until `forget` their answers are remembered.

        They may be sent side by side. What this store changes is asked for again.
        """
        look = self._look = Look()

        def read(path: str) -> None:
            found = self._read(path)
            look.objects[path] = None if found is None else found[0]

        def survey(prefix: str) -> None:
            look.listings[prefix] = self._list(prefix)

        reads = [functools.partial(read, self.prefix + key) for key in keys]
        return [*reads, *(functools.partial(survey, self.prefix + prefix) for prefix in prefixes)]

    def forget(self) -> None:
        """Ask for everything again from here on. Idempotent."""
        self._look = None

    def _changed(self, *paths: str) -> None:
        look, latest = self._look, self._latest
        if look is not None:
            look.changed(paths)
        if latest is not None and latest[0] in paths:
            self._latest = None

    def put(self, key: str, data: Bytes) -> None:
        """Replace the document that was read last, or create it where none was found.

        Nothing is sent where it is known to hold these bytes.

        Raises
        ------
        ChangedError
            Another process changed it since; the next call replaces that one.
        """
        path, whole = self.prefix + key, bytes(data)
        known, digest = self._known.get(path), _digest(whole)
        if known is not None and known.digest and known.digest == digest:
            return
        if self._attempt(path, whole, known and known.version, digest):
            if self.documents and digest and self.requests.conditional:
                self._latest = (path, whole)
            return
        self._refuse(path)

    def put_chunk(self, key: str, data: Bytes) -> None:
        """Do as `put`, and send the bytes in any case: another writer may have put others since.

        Raises
        ------
        ChangedError
            As for `put`.
        """
        path = self.prefix + key
        known = self._known.get(path)
        if not self._attempt(path, bytes(data), known and known.version):
            self._refuse(path)

    def _refuse(self, path: str) -> NoReturn:
        self._fence()
        message = f"{path} in {self.name} was changed by another process"
        raise ChangedError(message)

    def put_all(self, documents: Mapping[str, Bytes]) -> None:
        """Put several documents side by side, each as `put` does."""
        puts = [functools.partial(self.put, key, data) for key, data in documents.items()]
        side_by_side(puts, self.requests.gate.most)

    @property
    def exclusive(self) -> bool:
        """Whether the bucket turned out to honour conditions."""
        return self.requests.conditional

    def get_all(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return several objects, read side by side."""
        found: dict[str, bytes | None] = {}

        def read(key: str) -> None:
            found[key] = self.get(key)

        side_by_side([functools.partial(read, key) for key in keys], self.requests.gate.most)
        return [found[key] for key in keys]

    def create(self, key: str, data: Bytes) -> None:
        """Put an object where none is.

        Raises
        ------
        StoreInUseError
            Another one is there.
        """
        path, whole = self.prefix + key, bytes(data)
        if self._attempt(path, whole, None):
            return
        message = f"{path} in {self.name} was written by another process"
        raise StoreInUseError(message)

    def write(self, key: str, *parts: Bytes) -> None:
        """Put an object in the background; `parts` may not change before the next `barrier`."""
        path, whole = self.prefix + key, _joined(parts)
        self._uploads.submit(lambda: self._replace(path, whole), len(whole))

    def later(self, call: Callable[[], None]) -> None:
        """Have a call done in the background; the next `barrier` waits for it."""
        self._uploads.submit(call, 0)

    def delete(self, key: str) -> None:
        self.delete_all([key])

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove objects, a thousand with a request; no error where there are none."""
        self._delete([self.prefix + key for key in keys])

    def list(self, prefix: str) -> Iterator[str]:
        for path in self._list(self.prefix + prefix):
            yield path[len(self.prefix) :]

    def prune(self, prefix: str) -> None:
        """Nothing to do: there are no folders."""

    def barrier(self) -> None:
        """Wait for uploads and moves; a move that failed is tried again by the next call."""
        failed, self._failed = self._failed, []
        for token, path in failed:
            self._submit_move(token, path)
        try:
            self._uploads.wait()
        finally:
            self._drop_moved()

    def close(self) -> None:
        """End the threads and forget what was seen. Idempotent."""
        with contextlib.suppress(StorageError, StoreInUseError):
            self._uploads.wait()
        self._uploads.close()
        self._aside.clear()
        self._moving.clear()
        self._failed.clear()
        self._known.clear()
        self._look = self._latest = None

    # -- objects aside -----------------------------------------------------------------------------

    def stage(self, token: str, *parts: Bytes) -> str:
        """Put an object aside, in the background."""
        path, whole = self.scratch + token, bytes(_joined(parts))  # the caller's may change
        with self._mutex:
            if sum(map(len, self._aside.values())) + len(whole) <= MOST_STAGED:
                self._aside[token] = whole
        self._uploads.submit(lambda: self._replace(path, whole), len(whole))
        return token

    def publish(self, token: str, key: str) -> None:
        """Put a staged object to its key, in the background."""
        path = self.prefix + key
        self._moving[path] = token
        self._submit_move(token, path)

    def _submit_move(self, token: str, path: str) -> None:
        size = len(self._aside.get(token, b""))
        self._uploads.submit(lambda: self._move(token, path), size)

    def _move(self, token: str, path: str) -> None:
        try:
            self._replace(path, self._staged_bytes(token))
        except BaseException:
            self._failed.append((token, path))
            raise
        with self._mutex:
            self._moved.append(token)
            self._moving.pop(path, None)

    def _staged_bytes(self, token: str) -> bytes:
        data = self.get_staged(token)
        if data is None:
            message = f"{self.scratch}{token} in {self.name} is gone before it was moved to its key"
            raise StorageError(errno.ENOENT, message)
        return data

    def _drop_moved(self) -> None:
        """Left there, the objects are removed by the next opening."""
        with self._mutex:
            moved, self._moved = self._moved, []
            for token in moved:
                self._aside.pop(token, None)
        with contextlib.suppress(StorageError):
            self._delete([self.scratch + token for token in moved])

    def staged(self) -> Sequence[str]:
        return [path[len(self.scratch) :] for path in self._list(self.scratch)
                if "/" not in path[len(self.scratch) :]]  # fmt: skip

    def get_staged(self, token: str) -> bytes | None:
        if token in self._aside:
            return self._aside[token]
        found = self._read(self.scratch + token)
        return None if found is None else found[0]

    def drop_staged(self, token: str) -> None:
        with contextlib.suppress(StorageError, StoreInUseError):
            self._uploads.wait()  # it may still be on its way
        self._aside.pop(token, None)
        self._delete([self.scratch + token])

    # -- conditions --------------------------------------------------------------------------------

    def _replace(self, path: str, data: Bytes) -> None:
        """Put a chunk, of which this writer is the only owner: over its own, or a dead writer's.

        The order matters: whoever took over since the fence was asked has changed the object that
        was read before, and then the condition fails.
        """
        known = self._known.get(path)
        if self._attempt(path, data, known and known.version):
            return
        for _ in range(MOST_CHANGES):
            found = self._read(path)
            self._fence()
            if self._attempt(path, data, found and found[1]):
                return
        message = f"{path} in {self.name} is written by another process all the time"
        raise StoreInUseError(message)

    def _attempt(
        self, path: str, data: Bytes, version: Version | None, digest: bytes = b""
    ) -> bool:
        """Put an object under a condition; return whether its bytes are there now."""
        self._changed(path)
        try:
            answer = self.requests.send("write", path, lambda: self._put(path, data, version))
        except (Conflict, FileNotFoundError):  # another object, or none any more
            found = self._read(path)
            return found is not None and found[0] == data
        self._remember(path, answer, digest)
        return True

    def _put(self, path: str, data: Bytes, version: Version | None) -> Any:
        import obstore
        from obstore.exceptions import NotSupportedError

        mode: Any = (version or "create") if self.requests.conditional else "overwrite"
        try:
            return obstore.put(self.client, path, data, mode=mode, use_multipart=False)
        except NotSupportedError:
            if not self.requests.conditional:
                raise
        self.ignores_conditions()
        return self._put(path, data, version)

    def refuses_twice(self, key: str, data: Bytes) -> bool:
        """Return whether an object that is there is not created again."""
        path = self.prefix + key
        try:
            self.requests.send("write", path, lambda: self._put(path, data, None))
        except Conflict:
            return True
        with self._mutex:
            self._known.pop(path, None)
        return False

    def ignores_conditions(self) -> None:
        """Go on without conditions, and say so."""
        if not self.requests.conditional:
            return
        self.requests.conditional = False
        message = (
            f"{self.name} has no conditional writes: nothing keeps a second writer out, and a late "
            "write of a dead one may replace newer data; see docs/stores.md"
        )
        warnings.warn(message, UserWarning, stacklevel=2)

    def _read(self, path: str) -> tuple[bytes, Version] | None:
        """Return bytes and version of an object, None where there is none."""
        import obstore

        def request() -> tuple[bytes, Any]:
            answer = obstore.get(self.client, path)
            return bytes(answer.bytes()), answer.meta

        try:
            data, meta = self.requests.send("read", path, request)
        except FileNotFoundError:
            with self._mutex:
                self._known.pop(path, None)
            self._changed(path)
            return None
        return data, self._remember(path, meta, _digest(data))

    def _remember(self, path: str, meta: Any, digest: bytes) -> Version:
        version = {name: meta[name] for name in ("e_tag", "version") if meta.get(name)}
        with self._mutex:
            self._known[path] = Known(version, digest)
            self._known.move_to_end(path)
            if len(self._known) > MOST_KNOWN:
                self._known.popitem(last=False)
        return version

    def _delete(self, paths: Sequence[str]) -> None:
        import obstore

        for first in range(0, len(paths), MOST_DELETED):
            batch = list(paths[first : first + MOST_DELETED])
            self._changed(*batch)
            try:
                delete = functools.partial(obstore.delete, self.client, batch)
                self.requests.send("delete", batch[0], delete)
            except FileNotFoundError:  # one is gone; obstore may not have asked for the rest
                for path in batch if len(batch) > 1 else ():
                    self._delete([path])
            with self._mutex:
                for path in batch:
                    self._known.pop(path, None)

    def _list(self, prefix: str) -> Sequence[str]:
        import obstore

        if self._look is not None and (seen := self._look.listed(prefix)) is not None:
            return seen

        def request() -> Sequence[str]:
            found = obstore.list(self.client, prefix or None).collect()
            return [entry["path"] for entry in found]

        return sorted(self.requests.send("list", prefix, request))


def _joined(parts: Sequence[Bytes]) -> Bytes:
    """Return parts in one piece; one alone is not copied."""
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _digest(data: Bytes) -> bytes:
    """Return what tells documents apart; chunks are too large to look at twice."""
    return hashlib.blake2b(data, digest_size=16).digest() if len(data) <= MOST_DIGESTED else b""


def _no_fence() -> None:
    """Nobody else is kept out."""
