"""Where bytes lie: a local folder, or anything that maps keys to bytes.

An object in a store is whole or absent: `put` never leaves half of one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from savers._stores._files import (
    make_side_folder,
    storage_errors,
    sync_file,
    sync_folder,
    write_parts,
)
from savers._stores._secrets import masked, shows
from savers.errors import StorageError, StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, MutableMapping, Sequence

__all__ = [
    "ChangedError",
    "KeyStore",
    "LocalStore",
    "MappingStore",
    "StagingStore",
    "Store",
    "TransactionalStore",
]

#: Folders remembered as being there; a chunk grid of many axes has one for each of its rows.
MOST_KNOWN = 10_000

Bytes = bytes | bytearray | memoryview


class ChangedError(StoreInUseError):
    """An object is not the one that was read before; a document can be read and put again."""


class Store(Protocol):
    """A flat map from keys ("a/b/c") to bytes. Every method raises `StorageError`."""

    def get(self, key: str) -> bytes | None:
        """Return the object, None where there is none."""

    def get_all(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return several objects, side by side where each is a request."""

    def put(self, key: str, data: Bytes) -> None:
        """Create or replace an object; readers see the old or the new one, never a part."""

    def put_all(self, documents: Mapping[str, Bytes]) -> None:
        """Put several objects in any order, side by side where each is a request."""

    def write(self, key: str, *parts: Bytes) -> None:
        """Create an object that no reader looks at yet; a crash may leave half of it.

        Its bytes are the parts, one behind the other.
        """

    def delete(self, key: str) -> None:
        """Remove an object; no error where there is none."""

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove several objects."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a prefix ("" for all)."""

    def prune(self, prefix: str) -> None:
        """Remove empty folders below a prefix, in stores that have folders."""

    def barrier(self) -> None:
        """Return once everything written so far survives a power cut (where asked for)."""

    def close(self) -> None:
        """Let go of open files. Idempotent; a later call opens them again."""


@runtime_checkable
class StagingStore(Store, Protocol):
    """A store that can keep an object aside, and move it to its key in one step."""

    def stage(self, token: str, *parts: Bytes) -> str:
        """Write an object aside, under a token."""

    def publish(self, token: str, key: str) -> None:
        """Move a staged object to its key; readers see the old or the new one there."""

    def staged(self) -> Sequence[str]:
        """Return the tokens of all objects aside."""

    def get_staged(self, token: str) -> bytes | None:
        """Return an object aside, None where there is none."""

    def drop_staged(self, token: str) -> None:
        """Remove an object aside; no error where there is none."""


class KeyStore(Protocol):
    """What a ledger of record objects needs of a store."""

    @property
    def exclusive(self) -> bool:
        """True where `create` keeps a second writer from creating the same object."""

    def get(self, key: str) -> bytes | None:
        """Return the object, None where there is none."""

    def get_all(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """Return several objects."""

    def create(self, key: str, data: Bytes) -> None:
        """Put an object where none is; `StoreInUseError` where it can be seen that one is."""

    def put(self, key: str, data: Bytes) -> None:
        """Create or replace an object."""

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove objects; no error where there are none."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a prefix."""


@runtime_checkable
class TransactionalStore(Store, KeyStore, Protocol):
    """A store whose changes stay with this process until a commit makes all of them true."""

    @property
    def moved(self) -> bool:
        """True when somebody else may have changed what the last commit left."""

    def seen(self) -> None:
        """Note that this was looked at."""

    def apart(self) -> TransactionalStore:
        """Return the same place for one writer of several, who commits by itself.

        It may have its chunks in arrays whose metadata others change.
        """

    def refresh(self) -> None:
        """See what others committed; what is not committed is forgotten."""

    def renew(self) -> None:
        """See what others committed, where nothing waits to be."""

    def discard(self) -> None:
        """Forget what is not committed."""

    def commit(self, message: str) -> None:
        """Make all changes true in one step.

        Raises
        ------
        StoreInUseError
            Somebody else changed the same objects; nothing is committed.
        StorageError
            It could not be; nothing is committed.
        """


# -- local files ---------------------------------------------------------------------------------


class LocalStore:
    """A folder on disk.

    Parameters
    ----------
    root : Path
    scratch : Path
        Folder on the same file system for objects that are not yet whole.
    synced : bool
        True: files and folder entries are fsynced by `barrier` at the latest.
    """

    def __init__(self, root: Path, scratch: Path, *, synced: bool = False) -> None:
        self.root = root
        self.scratch = scratch
        self.synced = synced
        self._root, self._scratch = str(root), str(scratch)  # joined often: text is quicker
        self._known: set[str] = set()
        self._unsynced: set[str] = set()
        self._count = 0

    def get(self, key: str) -> bytes | None:
        path = self.root / key
        with storage_errors("read", path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def get_all(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        return [self.get(key) for key in keys]

    def put(self, key: str, data: Bytes) -> None:
        token = self.stage(f"put-{os.getpid()}-{self._count}", data)
        self._count += 1
        self.publish(token, key)

    def put_all(self, documents: Mapping[str, Bytes]) -> None:
        for key, data in documents.items():
            self.put(key, data)

    def write(self, key: str, *parts: Bytes) -> None:
        self._create(f"{self._root}/{key}", parts)

    def stage(self, token: str, *parts: Bytes) -> str:
        """Write an object aside; `publish` moves it to its key in one step."""
        self._make_scratch()
        self._create(f"{self._scratch}/{token}", parts)
        return token

    def _make_scratch(self) -> None:
        if self._scratch not in self._known:
            make_side_folder(self.scratch.parent)
            make_side_folder(self.scratch)

    def folder_aside(self, token: str) -> str:
        """Return the path of a folder in which `take` finds files; it is yet to be made."""
        self._make_scratch()
        return f"{self._scratch}/{token}"

    def take(self, path: str, key: str, token: str = "") -> bytes | None:
        """Move a file to its key, or aside under a token; return its bytes.

        None says that there is no such file; an older object at the key is then removed.
        """
        target = f"{self._scratch}/{token}" if token else f"{self._root}/{key}"
        with storage_errors("replace", target):
            try:
                data = Path(path).read_bytes()
            except FileNotFoundError:
                self.delete(key)
                return None
            if self.synced:
                sync_file(path)
            self._rename(path, target)
        return data

    def publish(self, token: str, key: str) -> None:
        """Rename a staged object to its key."""
        path = f"{self._root}/{key}"
        with storage_errors("replace", path):
            self._rename(f"{self._scratch}/{token}", path)

    def _rename(self, source: str, target: str) -> None:
        folder = target.rpartition("/")[0]
        self._ensure_folder(folder)
        try:
            os.replace(source, target)
        except FileNotFoundError:  # somebody removed the folder since, or it was none
            self._known.clear()
            self._ensure_folder(folder)
            os.replace(source, target)
        self._note(folder)

    def staged(self) -> Sequence[str]:
        with storage_errors("list", self.scratch):
            try:
                return os.listdir(self.scratch)
            except FileNotFoundError:
                return []

    def get_staged(self, token: str) -> bytes | None:
        path = self.scratch / token
        with storage_errors("read", path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def drop_staged(self, token: str) -> None:
        path = self.scratch / token
        with storage_errors("delete", path):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def delete(self, key: str) -> None:
        path = self.root / key
        with storage_errors("delete", path):
            path.unlink(missing_ok=True)
        self._note(str(path.parent))

    def delete_all(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.delete(key)

    def list(self, prefix: str) -> Iterator[str]:
        top = self.root / prefix
        for folder, _, names in os.walk(top):
            below = os.path.relpath(folder, self.root)
            for name in names:
                yield name if below == "." else f"{below}/{name}"

    def prune(self, prefix: str) -> None:
        for folder, _, _ in os.walk(self.root / prefix, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        self._known.clear()

    def close(self) -> None:
        """Nothing to do: no file stays open."""

    def barrier(self) -> None:
        if not self.synced:
            return
        for folder in list(self._unsynced):
            with storage_errors("sync", folder):
                sync_folder(folder)
            self._unsynced.discard(folder)

    def _create(self, path: str, parts: Sequence[Bytes]) -> None:
        folder = path.rpartition("/")[0]
        with storage_errors("write", path):
            descriptor = self._open_new(path, folder)
            try:
                write_parts(descriptor, parts)
                if self.synced:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._note(folder)

    def _open_new(self, path: str, folder: str) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._ensure_folder(folder)
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:  # somebody removed the folder since
            self._known.clear()
            self._ensure_folder(folder)
            return os.open(path, flags, 0o666)

    def _ensure_folder(self, folder: str) -> None:
        if folder in self._known:
            return
        self._make_folder(folder)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known.add(folder)

    def _make_folder(self, folder: str) -> None:
        """Make a folder, trying first what is most often so: the one above it is there."""
        above = folder.rpartition("/")[0]
        try:
            os.mkdir(folder)
        except FileExistsError:
            return
        except FileNotFoundError:
            self._make_folder(above)
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder)
        self._note(above)

    def _note(self, folder: str) -> None:
        if self.synced:
            self._unsynced.add(folder)


# -- everything else -----------------------------------------------------------------------------


class MappingStore:
    """A mutable mapping of keys to bytes: fsspec mappings, a dict.

    Such stores promise neither a rename nor conditional writes.

    Parameters
    ----------
    mapping : mutable mapping of str to bytes
    name : str
        For messages, without credentials.
    secrets : collection of str
        Texts that no message may show, whatever the store says.
    """

    def __init__(
        self, mapping: MutableMapping[str, Any], name: str, secrets: Collection[str] = ()
    ) -> None:
        self.mapping = mapping
        self.name = name
        self.secrets = secrets
        #: Where objects wait aside, as a prefix of their keys.
        self.scratch = ".staged/"

    def get(self, key: str) -> bytes | None:
        with self._errors("read", key):
            try:
                value = self.mapping[key]
            except (KeyError, FileNotFoundError):
                return None
            return value.to_bytes() if hasattr(value, "to_bytes") else bytes(value)

    def put(self, key: str, data: Bytes) -> None:
        with self._errors("write", key):
            self.mapping[key] = bytes(data)

    def put_all(self, documents: Mapping[str, Bytes]) -> None:
        for key, data in documents.items():
            self.put(key, data)

    def write(self, key: str, *parts: Bytes) -> None:
        self.put(key, parts[0] if len(parts) == 1 else b"".join(parts))

    def delete(self, key: str) -> None:
        with self._errors("delete", key), contextlib.suppress(KeyError, FileNotFoundError):
            del self.mapping[key]

    def stage(self, token: str, *parts: Bytes) -> str:
        self.write(self.scratch + token, *parts)
        return token

    def publish(self, token: str, key: str) -> None:
        """Put a staged object to its key; a crash in between leaves it aside, to be put again."""
        data = self.get_staged(token)
        if data is None:
            message = f"{self.scratch}{token} in {self.name} is gone before it was put to its key"
            raise StorageError(errno.ENOENT, message)
        self.put(key, data)
        self.drop_staged(token)

    def staged(self) -> Sequence[str]:
        return [key[len(self.scratch) :] for key in self.list(self.scratch)]

    def get_staged(self, token: str) -> bytes | None:
        return self.get(self.scratch + token)

    def drop_staged(self, token: str) -> None:
        self.delete(self.scratch + token)

    @property
    def exclusive(self) -> bool:
        """A mapping can't tell a new key from an old one in one step."""
        return False

    def get_all(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return several objects."""
        return [self.get(key) for key in keys]

    def create(self, key: str, data: Bytes) -> None:
        """Put an object where none should be; a mapping can't make sure of that."""
        self.put(key, data)

    def delete_all(self, keys: Sequence[str]) -> None:
        """Remove objects; no error where there are none."""
        for key in keys:
            self.delete(key)

    def list(self, prefix: str) -> Iterator[str]:
        with self._errors("list", prefix):
            keys = list(iter(self.mapping))  # its length may cost another listing
        return (key for key in keys if key.startswith(prefix))

    def prune(self, prefix: str) -> None:
        """Nothing to do: there are no folders."""

    def close(self) -> None:
        """Nothing to do: the mapping belongs to whoever made it."""

    def barrier(self) -> None:
        """Nothing to do: an assignment is as durable as the mapping makes it."""

    @contextlib.contextmanager
    def _errors(self, operation: str, key: str) -> Iterator[None]:
        try:
            yield
        except StorageError:
            raise
        except Exception as error:
            failure = self._failure(error, f"can't {operation} {key} in {self.name}")
            if not shows(error, self.secrets):
                raise failure from error
            try:
                raise failure from None
            finally:
                failure.__context__ = None  # nothing leads back to the text with the secret

    def _failure(self, error: Exception, what: str) -> StorageError:
        code = getattr(error, "errno", None) or errno.EIO
        return StorageError(code, masked(f"{what}: {error}", self.secrets))
