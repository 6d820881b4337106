"""From what users give as a place (path, URL, mapping, store) to the store behind it."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from savers._stores._any_zarr import AnyZarr
from savers._stores._bucket._options import open_bucket, open_reader
from savers._stores._bucket._requests import BUDGET, Requests, gate_of
from savers._stores._bucket._store import ObjectStore
from savers._stores._filesystems import (
    FsspecStore,
    blocking,
    remember_nothing,
    settings,
    unwrapped,
    whereabouts,
)
from savers._stores._icechunk._branch import Branch, branch_of, is_repository
from savers._stores._icechunk._keys import LEDGER
from savers._stores._secrets import secrets_of, without_secrets
from savers._stores._store import LocalStore, MappingStore
from savers.errors import FormatError, InvalidInputError, InvalidTypeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from savers._stores._store import KeyStore, Store

__all__ = [
    "Location",
    "ledger_folder",
    "local",
    "locate",
    "require_folder",
    "require_writable",
]


@dataclass(frozen=True, slots=True)
class Location:
    """A store, and where its ledger lies.

    Parameters
    ----------
    name : str
        For messages: path or URL, without credentials.
    identity : str
        The same for two ways of writing the same place.
    path : Path or None
        The folder or file, where it is local.
    store : Store
    beside : ObjectStore or None
        Where the ledger lies, where that is beside the store in a bucket.
    private : bool
        True for memory of this process, into which no other can write.
    """

    name: str
    identity: str
    path: Path | None
    store: Store
    beside: ObjectStore | None = None
    private: bool = False

    def ledger(self, dataset: str) -> tuple[KeyStore, str]:
        """Return the objects that keep the ledger of a dataset, and the prefix of their keys.

        Raises
        ------
        FormatError
            It is kept in a folder, or nowhere.
        """
        if self.beside is not None:
            return self.beside, ""
        if isinstance(self.store, Branch):
            return self.store, LEDGER
        if isinstance(self.store, (MappingStore, ObjectStore)):
            return self.store, f"{dataset}/.ledger/"
        message = f"{self.name} can't keep a ledger"
        raise FormatError(message)

    def look(self, documents: Sequence[str], dataset: str) -> Sequence[Callable[[], None]]:
        """Return requests for documents and for the names in the ledger, to be sent side by side.

        Their answers are remembered until `forget`. None where no reading is a request.
        """
        if not isinstance(self.store, ObjectStore):
            return ()
        if self.beside is None:
            return self.store.look(documents, [f"{dataset}/.ledger/"])
        return [*self.store.look(documents), *self.beside.look(prefixes=[""])]

    def forget(self) -> None:
        """Ask for everything again from here on. Idempotent."""
        for store in (self.store, self.beside):
            if isinstance(store, ObjectStore):
                store.forget()


#: URL schemes that obstore serves, and the scheme it knows them by.
_OBSTORE = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az",
            "abfss": "az", "http": "http", "https": "https"}  # fmt: skip


def locate(
    target: object, storage_options: Mapping[str, Any] | None = None, *, synced: bool = False
) -> Location:
    """Return the location that `target` names. Nothing is created or contacted.

    Parameters
    ----------
    target : str, Path, mapping, zarr Store, obstore store, Icechunk repository or session
        A path, a URL (``file``, ``s3``, ``gs``, ``az``, ``http``, ``memory`` and all that fsspec
        knows), or a store object.
    storage_options : mapping, optional
        Settings of a remote store, in the spelling of fsspec's file systems or of obstore.
    synced : bool
        Files are fsynced (``durability="power"``).

    Raises
    ------
    InvalidInputError
        An empty path, an unknown URL scheme, or the folder of an Icechunk repository.
    InvalidTypeError
        None of the kinds above.
    """
    if isinstance(target, (str, os.PathLike)):
        return _locate_path(os.fspath(target), storage_options, synced=synced)
    kind = f"{type(target).__module__}.{type(target).__qualname__}"
    if _is_icechunk(target):
        return _locate_icechunk(target)
    if _is_zarr(target):
        return _locate_zarr(target, synced=synced)
    if kind.startswith("obstore."):
        return _locate_obstore(target, kind, synced=synced)
    if isinstance(target, MutableMapping):
        return _locate_mapping(target, synced=synced)
    message = f"expected a path, URL, mapping or store, got {type(target).__name__}"
    raise InvalidTypeError(message)


def local(path: Path, *, synced: bool = False) -> Location:
    """Return the location of a local folder or file; its ledger lies beside it."""
    path = Path(os.path.abspath(path))
    if not path.name:
        message = f"expected the path of a store, got the root folder {path}"
        raise InvalidInputError(message)
    scratch = ledger_folder(path) / "staged"
    identity = f"{os.path.realpath(path.parent)}/{path.name}"
    return Location(str(path), identity, path, LocalStore(path, scratch, synced=synced))


def ledger_folder(path: Path) -> Path:
    """Return where the ledger of a local store lies: ``<name>.ledger`` beside it."""
    return path.with_name(path.name + ".ledger")


def _locate_path(
    target: str | bytes, options: Mapping[str, Any] | None, *, synced: bool
) -> Location:
    text = os.fsdecode(target).strip()
    if not text:
        message = "expected the path or URL of a store, got an empty text"
        raise InvalidInputError(message)
    scheme, separator, rest = text.partition("://")
    if not separator:
        _refuse_mangled_url(text)
        return _locate_folder(Path(text), synced=synced)
    if scheme.lower() in ("file", "local"):
        return _locate_folder(Path(rest), synced=synced)
    return _locate_url(scheme.lower(), text, options)


def _locate_folder(path: Path, *, synced: bool) -> Location:
    if is_repository(path):
        message = (
            f"expected a store at {path}, found an Icechunk repository, which has no path or URL "
            "here: give icechunk.Repository.open(icechunk.local_filesystem_storage(path)), or a "
            "session of it"
        )
        raise InvalidInputError(message)
    return local(path, synced=synced)


def _refuse_mangled_url(text: str) -> None:
    """`Path("s3://bucket/x")` has lost a slash; making a folder "s3:" of it would hide that."""
    mangled = re.match(r"([a-z][a-z0-9+.-]+):/", text)
    if mangled:
        scheme = mangled.group(1)
        shown = without_secrets(text.replace(":/", "://", 1)).replace("://", ":/", 1)
        message = f"expected a path, or a URL {scheme}://..., got {shown!r} (a URL made a Path?)"
        raise InvalidInputError(message)


def _locate_url(scheme: str, url: str, options: Mapping[str, Any] | None) -> Location:
    shown, secrets = without_secrets(url), secrets_of(url, options)
    if scheme in _OBSTORE:
        return _in_bucket(f"{_OBSTORE[scheme]}://{url.partition('://')[2]}", options)
    import fsspec

    if scheme not in {*fsspec.available_protocols(), *fsspec.registry}:
        message = (
            f"unknown URL scheme {scheme!r} in {shown}; known are file, s3, gs, az, memory, ..."
        )
        raise InvalidInputError(message)
    mapping = fsspec.get_mapper(url, **dict(options or {}))
    return _through_fsspec(mapping, shown, secrets)


def _in_bucket(url: str, options: Mapping[str, Any] | None) -> Location:
    """A place in a bucket; its ledger lies beside it, as that of a local folder does."""
    bucket = open_bucket(url, options)
    budget = BUDGET if bucket.budget is None else bucket.budget
    name = f"{bucket.url}/{bucket.path}".rstrip("/")
    requests = Requests(name, bucket.secrets, budget, gate_of(bucket.where))
    reader = partial(open_reader, url, options)
    if not bucket.path:  # nothing lies beside a bucket
        whole = ObjectStore(bucket.client, name, requests=requests, secrets=bucket.secrets)
        whole.reader = reader
        return Location(name, bucket.identity, None, whole)
    ledger = f"{bucket.path}.ledger/"
    store = ObjectStore(
        bucket.client, name, f"{bucket.path}/", scratch=f"{ledger}staged/", requests=requests,
        secrets=bucket.secrets,
    )  # fmt: skip
    store.reader = reader
    return Location(name, bucket.identity, None, store, store.beside(ledger))


def _locate_obstore(target: Any, kind: str, *, synced: bool) -> Location:
    if kind == "obstore.store.LocalStore" and target.prefix is not None:
        return local(Path(target.prefix), synced=synced)
    secrets = secrets_of("", getattr(target, "config", None))
    store = ObjectStore(target, kind, secrets=secrets)
    private = kind == "obstore.store.MemoryStore"
    return Location(kind, f"object:{id(target)}", None, store, private=private)


def _is_zarr(target: object) -> bool:
    """Return whether it is a zarr store; there is none where zarr was not imported yet."""
    abstract = sys.modules.get("zarr.abc.store")
    return abstract is not None and isinstance(target, abstract.Store)


def _locate_zarr(store: Any, *, synced: bool) -> Location:
    kind = f"{type(store).__module__}.{type(store).__qualname__}"
    if kind == "zarr.storage._local.LocalStore":
        return local(store.root, synced=synced)
    if kind == "zarr.storage._obstore.ObjectStore":
        return locate(store.store)
    if kind == "zarr.storage._fsspec.FsspecStore":
        return _locate_mapping(blocking(store.fs).get_mapper(store.path), synced=synced)
    return _locate_any_zarr(store)


def _locate_any_zarr(store: Any) -> Location:
    """A store of which only zarr's interface is known; a wrapper is where that lies that it wraps.

    Two memory stores of one dict are one place.
    """
    from zarr.storage import MemoryStore, WrapperStore

    name = f"zarr {type(store).__name__}"
    if not store.supports_listing:
        message = f"a {name} can't list what it holds, which saving and resuming need"
        raise InvalidTypeError(message)
    if isinstance(store, WrapperStore):
        inner = _locate_zarr(store._store, synced=False)  # noqa: SLF001 -- as zarr documents it
        return Location(name, inner.identity, None, AnyZarr(store, name), private=inner.private)
    held = store._store_dict if isinstance(store, MemoryStore) else store  # noqa: SLF001
    private = isinstance(store, MemoryStore)
    return Location(name, f"object:{id(held)}", None, AnyZarr(store, name), private=private)


def _require_no_http(target: object) -> None:
    url = isinstance(target, str) and re.match("https?://", target.strip(), re.IGNORECASE)
    if url or f"{type(target).__module__}.{type(target).__qualname__}" == "obstore.store.HTTPStore":
        shown = without_secrets(target) if isinstance(target, str) else "an HTTPStore"
        message = (
            f"{shown} can be read, not written to: save to a path, or a bucket by its own address "
            "(s3://, gs://, az:// and storage_options={'endpoint_url': ...})"
        )
        raise InvalidInputError(message)


def require_writable(target: object) -> None:
    """Refuse a place that can't be written to, before anything is.

    Raises
    ------
    InvalidInputError
        It is read-only, objects in it can't be replaced (as in a ZIP file), or it is an Icechunk
        session with changes that are not committed.
    """
    if _is_icechunk(target):
        branch_of(target).sessions.require_writable()
        return
    _require_no_http(target)
    if not _is_zarr(target):
        return
    store: Any = target
    _require_no_http(getattr(store, "store", None))  # of obstore, within zarr's
    name = f"zarr {type(store).__name__}"
    if store.read_only:
        message = f"expected a store to write to, got a read-only {name}: open it for writing"
        raise InvalidInputError(message)
    if not (store.supports_writes and store.supports_deletes):
        message = (
            f"objects in a {name} can't be replaced or removed, which saving needs: save to a "
            "path or URL, then copy"
        )
        raise InvalidInputError(message)


def _is_icechunk(target: object) -> bool:
    return type(target).__module__.partition(".")[0] == "icechunk"


def _locate_icechunk(target: object) -> Location:
    store = branch_of(target)
    return Location(store.name, store.sessions.identity, None, store)


#: File systems of fsspec whose places obstore serves, with conditions.
_CLOUDS = {"S3FileSystem": "s3", "AzureBlobFileSystem": "az", "GCSFileSystem": "gs"}


def _locate_mapping(mapping: MutableMapping[str, Any], *, synced: bool) -> Location:
    filesystem = unwrapped(getattr(mapping, "fs", None))
    if type(filesystem).__name__ == "LocalFileSystem":
        return local(Path(mapping.root), synced=synced)  # type: ignore[attr-defined]
    protocol = getattr(filesystem, "protocol", None)
    cloud = _CLOUDS.get(type(filesystem).__name__)
    if protocol and cloud is not None:
        return _in_bucket(f"{cloud}://{mapping.root}", settings(filesystem))  # type: ignore[attr-defined]
    if protocol and hasattr(mapping, "root"):
        scheme = protocol if isinstance(protocol, str) else protocol[0]
        root = str(mapping.root)
        shown = without_secrets(root if "://" in root else f"{scheme}://{root}")
        secrets = secrets_of(root, getattr(filesystem, "storage_options", None))
        return _through_fsspec(mapping, shown, secrets)
    name = type(mapping).__name__
    private = isinstance(mapping, dict)
    store = MappingStore(mapping, name)
    return Location(name, f"object:{id(mapping)}", None, store, private=private)


def _through_fsspec(mapping: Any, shown: str, secrets: Collection[str]) -> Location:
    filesystem = unwrapped(mapping.fs)
    remember_nothing(filesystem)
    place = filesystem.unstrip_protocol(mapping.root)
    identity = f"{whereabouts(filesystem)} {without_secrets(place)}"
    private = type(filesystem).__name__ == "MemoryFileSystem"
    store = FsspecStore(mapping, shown, secrets)
    return Location(shown, identity, None, store, private=private)


def require_folder(location: Location) -> None:
    """Refuse a local path that is a file."""
    if location.path is not None and location.path.exists() and not location.path.is_dir():
        message = f"expected a folder at {location.path}, found a file"
        raise FormatError(message)
