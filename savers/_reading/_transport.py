"""From what users give as a place to the requests that read it.

obstore makes them where it can, else fsspec with a file system for each event loop.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore, ObjectStore

from savers._reading._store import LoopStore, ReadStore, cut
from savers._stores._bucket._store import ObjectStore as Bucket
from savers._stores._filesystems import awaited, close
from savers._stores._icechunk._branch import Branch
from savers._stores._location import locate
from savers._stores._secrets import harmless, without_secrets
from savers._stores._store import MappingStore
from savers.errors import NotFoundError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, MutableMapping
    from pathlib import Path

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

    from savers._reading._store import Source

__all__ = ["fetch_file", "reading_store"]


def reading_store(target: object, storage_options: Mapping[str, Any] | None = None) -> ReadStore:
    """Return the store that `target` names, for reading. Nothing is requested.

    Parameters
    ----------
    target : str, Path, mapping, zarr Store, obstore store, Icechunk repository or session
        As for `savers._stores._location.locate`, and any other zarr store.
    storage_options : mapping, optional

    Raises
    ------
    NotFoundError
        A local folder is not there.
    InvalidInputError, InvalidTypeError
        Not a place.
    """
    if isinstance(target, Store):
        return _of_zarr(target)
    location = locate(target, storage_options)
    if location.path is not None:
        return _of_folder(location.path)
    store = location.store
    secrets = getattr(store, "secrets", ())
    if isinstance(store, Bucket):
        return ReadStore(ObjectStore(store.reader(), read_only=True), location.name, secrets)
    if isinstance(store, Branch):
        return ReadStore(store.sessions.view().store, location.name)
    mapping = store.mapping if isinstance(store, MappingStore) else None
    found = ReadStore(_of_mapping(mapping), location.name, secrets)
    if isinstance(target, str):
        options = harmless(storage_options or {})
        found.again = partial(reading_store, without_secrets(target), options)
    return found


async def fetch_file(
    target: str, storage_options: Mapping[str, Any] | None
) -> tuple[str | bytes, str]:
    """Return a local path as it is, of a remote file its bytes; and its name for messages.

    Raises
    ------
    NotFoundError
        There is no such remote file.
    StorageError
        The request failed.
    """
    if "://" not in target:
        return target, target
    folder, _, name = target.rpartition("/")
    store = reading_store(folder, storage_options)
    found = await store.get(name)
    if found is None:
        message = f"expected a file at {store}/{name}, found none"
        raise NotFoundError(message)
    return found.to_bytes(), f"{store}/{name}"


def _of_zarr(store: Store) -> ReadStore:
    if isinstance(store, LocalStore):
        return _of_folder(store.root)
    if isinstance(store, FsspecStore):
        return ReadStore(_of_filesystem(store.fs, store.path), str(store))
    return ReadStore(store, f"zarr {type(store).__name__}")


def _of_folder(path: Path) -> ReadStore:
    from obstore.store import LocalStore as Folder

    if not path.is_dir():
        what = "a file" if path.exists() else "nothing"
        message = f"expected a store at {path}, found {what}"
        raise NotFoundError(message)
    return ReadStore(ObjectStore(Folder(os.path.abspath(path)), read_only=True), str(path))


def _of_mapping(mapping: Any) -> Source:
    if hasattr(mapping, "fs") and hasattr(mapping, "root"):
        return _of_filesystem(mapping.fs, mapping.root)
    return MappingSource(mapping)


def _of_filesystem(filesystem: Any, root: str) -> Source:
    return LoopStore(partial(_filesystem_here, filesystem, root), _close_filesystem)


def _filesystem_here(filesystem: Any, root: str) -> FsspecStore:
    return FsspecStore(awaited(filesystem), True, root)


async def _close_filesystem(store: FsspecStore) -> None:
    await close(store.fs)


@dataclass
class MappingSource:
    """A mapping of keys to bytes that waits for nothing, such as a dict."""

    mapping: MutableMapping[str, Any]

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object, None where there is none."""
        value = self.mapping.get(key)
        if value is None:
            return None
        data = value.to_bytes() if hasattr(value, "to_bytes") else bytes(value)
        return cut(prototype.buffer.from_bytes(data), byte_range)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names below a prefix."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        below = (key[len(start) :] for key in list(self.mapping) if key.startswith(start))
        for name in dict.fromkeys(key.partition("/")[0] for key in below):
            yield name
