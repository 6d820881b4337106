"""Where bytes lie: a local folder, or anything that maps keys to bytes.

`locate` turns what users give (path, URL, mapping, zarr or obstore store) into a `Location`;
below it two stores do the work, `LocalStore` and `MappingStore`. An object in a store is whole or
absent: `put` never leaves half of one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from savers._secrets import masked, secrets_of, shows, without_secrets
from savers.errors import FormatError, InvalidInputError, InvalidTypeError, StorageError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["LocalStore", "Location", "MappingStore", "Store", "locate"]

Bytes = bytes | bytearray | memoryview


class Store(Protocol):
    """A flat map from keys ("a/b/c") to bytes. Every method raises `StorageError`."""

    def get(self, key: str) -> bytes | None:
        """Return the object, None where there is none."""

    def put(self, key: str, data: Bytes) -> None:
        """Create or replace an object; readers see the old or the new one, never a part."""

    def write(self, key: str, data: Bytes) -> None:
        """Create an object that no reader looks at yet; a crash may leave half of it."""

    def delete(self, key: str) -> None:
        """Remove an object; no error where there is none."""

    def list(self, prefix: str) -> Iterator[str]:
        """Yield the keys below a prefix ("" for all)."""

    def prune(self, prefix: str) -> None:
        """Remove empty folders below a prefix, in stores that have folders."""

    def barrier(self) -> None:
        """Return once everything written so far survives a power cut (where asked for)."""


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
    """

    name: str
    identity: str
    path: Path | None
    store: Store


# -- local files ---------------------------------------------------------------------------------


@contextlib.contextmanager
def storage_errors(operation: str, path: Path) -> Iterator[None]:
    """Turn an OSError into a `StorageError` that names path, operation and free space."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        free = _free_space(path)
        message = f"can't {operation} {path}: {error.strerror or error} ({free})"
        raise StorageError(error.errno, message) from error


def _free_space(path: Path) -> str:
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            return f"{shutil.disk_usage(folder).free / 1e6:.1f} MB free"
    return "free space unknown"


def write_all(descriptor: int, data: Bytes) -> None:
    """Write the whole of `data`; a short write is continued, as POSIX allows it at any time."""
    view = memoryview(data).cast("B")
    done = os.write(descriptor, view)
    while done < len(view):
        done += os.write(descriptor, view[done:])


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
        self._known: set[Path] = set()
        self._unsynced: set[Path] = set()
        self._count = 0

    def get(self, key: str) -> bytes | None:
        path = self.root / key
        with storage_errors("read", path):
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def put(self, key: str, data: Bytes) -> None:
        token = self.stage(f"put-{os.getpid()}-{self._count}", data)
        self._count += 1
        self.publish(token, key)

    def write(self, key: str, data: Bytes) -> None:
        self._create(self.root / key, data)

    def stage(self, token: str, data: Bytes) -> str:
        """Write an object aside; `publish` moves it to its key in one step."""
        if self.scratch not in self._known:
            make_side_folder(self.scratch.parent)
            make_side_folder(self.scratch)
        self._create(self.scratch / token, data)
        return token

    def publish(self, token: str, key: str) -> None:
        """Rename a staged object to its key."""
        path = self.root / key
        with storage_errors("replace", path):
            self._ensure_folder(path.parent)
            os.replace(self.scratch / token, path)
        self._note(path.parent)

    def delete(self, key: str) -> None:
        path = self.root / key
        with storage_errors("delete", path):
            path.unlink(missing_ok=True)
        self._note(path.parent)

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

    def barrier(self) -> None:
        if not self.synced:
            return
        pending, self._unsynced = self._unsynced, set()
        for folder in pending:
            with storage_errors("sync", folder):
                sync_folder(folder)

    def _create(self, path: Path, data: Bytes) -> None:
        with storage_errors("write", path):
            descriptor = self._open_new(path)
            try:
                write_all(descriptor, data)
                if self.synced:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        self._note(path.parent)

    def _open_new(self, path: Path) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        self._ensure_folder(path.parent)
        try:
            return os.open(path, flags, 0o666)
        except FileNotFoundError:  # somebody removed the folder since
            self._known.clear()
            self._ensure_folder(path.parent)
            return os.open(path, flags, 0o666)

    def _ensure_folder(self, folder: Path) -> None:
        if folder in self._known:
            return
        missing = [f for f in (folder, *folder.parents) if not f.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        for made in missing:
            self._note(made.parent)
        self._known.add(folder)

    def _note(self, folder: Path) -> None:
        if self.synced:
            self._unsynced.add(folder)


def make_side_folder(folder: Path) -> None:
    """Make a folder of side files, for its owner alone; a link in its place is refused.

    Raises
    ------
    StorageError
        A symbolic link or something that is no folder lies there.
    """
    with storage_errors("make the folder", folder):
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            mode = folder.lstat().st_mode
            if not stat.S_ISDIR(mode):
                code = errno.ELOOP if stat.S_ISLNK(mode) else errno.ENOTDIR
                message = f"expected a folder, not a link or a file; move it away: {folder}"
                raise StorageError(code, message) from None


def refuse_link(path: Path) -> None:
    """Refuse a symbolic link in the place of a side file.

    Raises
    ------
    StorageError
        There is one.
    """
    if path.is_symlink():
        message = f"expected a file of ours, not a link; move it away: {path}"
        raise StorageError(errno.ELOOP, message)


def sync_folder(folder: Path) -> None:
    """Make the entries of a folder survive a power cut; no error where it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # removed since; its parent is on the list as well
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# -- everything else -----------------------------------------------------------------------------


class MappingStore:
    """A mutable mapping of keys to bytes: fsspec mappings, zarr's memory store, a dict.

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

    def get(self, key: str) -> bytes | None:
        with self._errors("read", key):
            try:
                value = self.mapping[key]
            except (KeyError, FileNotFoundError):
                return None
            return value.to_bytes() if hasattr(value, "to_bytes") else bytes(value)

    def put(self, key: str, data: Bytes) -> None:
        with self._errors("write", key):
            self.mapping[key] = self._value(bytes(data))

    def write(self, key: str, data: Bytes) -> None:
        self.put(key, data)

    def delete(self, key: str) -> None:
        with self._errors("delete", key), contextlib.suppress(KeyError, FileNotFoundError):
            del self.mapping[key]

    def list(self, prefix: str) -> Iterator[str]:
        with self._errors("list", prefix):
            keys = list(self.mapping)
        return (key for key in keys if key.startswith(prefix))

    def prune(self, prefix: str) -> None:
        """Nothing to do: there are no folders."""

    def barrier(self) -> None:
        """Nothing to do: an assignment is as durable as the mapping makes it."""

    def _value(self, data: bytes) -> Any:
        return data

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


class ZarrMemory(MappingStore):
    """The dict behind a `zarr.storage.MemoryStore`, whose values are zarr buffers."""

    def _value(self, data: bytes) -> Any:
        from zarr.core.buffer import default_buffer_prototype

        return default_buffer_prototype().buffer.from_bytes(data)


class ObstoreMapping(MutableMapping[str, bytes]):
    """An obstore store (S3, GCS, Azure, HTTP, memory) as a mapping."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def __getitem__(self, key: str) -> bytes:
        try:
            return bytes(self.store.get(key).bytes())
        except FileNotFoundError as error:
            raise KeyError(key) from error

    def __setitem__(self, key: str, data: bytes) -> None:
        self.store.put(key, data)

    def __delitem__(self, key: str) -> None:
        self.store.delete(key)

    def __iter__(self) -> Iterator[str]:
        for batch in self.store.list():
            yield from (entry["path"] for entry in batch)

    def __len__(self) -> int:
        return sum(1 for _ in self)


# -- what users give -----------------------------------------------------------------------------

#: URL schemes that obstore serves, and the scheme it knows them by.
_OBSTORE = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "abfs": "az",
            "abfss": "az", "http": "http", "https": "https"}  # fmt: skip


def locate(
    target: object, storage_options: Mapping[str, Any] | None = None, *, synced: bool = False
) -> Location:
    """Return the location that `target` names. Nothing is created or contacted.

    Parameters
    ----------
    target : str, Path, mapping, zarr Store or obstore store
        A path, a URL (``file``, ``s3``, ``gs``, ``az``, ``http``, ``memory`` and all that fsspec
        knows), or a store object.
    storage_options : mapping, optional
        Settings of a remote store, in the spelling of fsspec's file systems or of obstore.
    synced : bool
        Files are fsynced (``durability="power"``).

    Raises
    ------
    InvalidInputError
        An empty path or an unknown URL scheme.
    InvalidTypeError
        None of the kinds above.
    """
    if isinstance(target, (str, os.PathLike)):
        return _locate_path(os.fspath(target), storage_options, synced=synced)
    kind = f"{type(target).__module__}.{type(target).__qualname__}"
    if kind.startswith("zarr.storage."):
        return _locate_zarr(target, synced=synced)
    if kind.startswith("obstore."):
        mapping = ObstoreMapping(target)
        secrets = secrets_of("", getattr(target, "config", None))
        return Location(kind, f"object:{id(target)}", None, MappingStore(mapping, kind, secrets))
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
        return local(Path(text), synced=synced)
    if scheme.lower() in ("file", "local"):
        return local(Path(rest), synced=synced)
    return _locate_url(scheme.lower(), text, options)


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
    if scheme in _OBSTORE and not options:
        from obstore.exceptions import BaseError
        from obstore.store import from_url

        try:
            mapping: MutableMapping[str, Any] = ObstoreMapping(from_url(url))
        except (BaseError, ValueError) as error:
            message = f"can't use {shown}: {masked(str(error), secrets)}"
            raise InvalidInputError(message) from None
        return Location(shown, shown, None, MappingStore(mapping, shown, secrets))
    import fsspec

    if scheme not in {*fsspec.available_protocols(), *fsspec.registry}:
        message = (
            f"unknown URL scheme {scheme!r} in {shown}; known are file, s3, gs, az, memory, ..."
        )
        raise InvalidInputError(message)
    mapping = fsspec.get_mapper(url, **dict(options or {}))
    return Location(shown, shown, None, MappingStore(mapping, shown, secrets))


def _locate_zarr(store: Any, *, synced: bool) -> Location:
    kind = type(store).__name__
    if kind == "LocalStore":
        return local(store.root, synced=synced)
    if kind == "MemoryStore":
        name = "zarr MemoryStore"
        memory = ZarrMemory(store._store_dict, name)  # noqa: SLF001
        return Location(name, f"object:{id(store._store_dict)}", None, memory)  # noqa: SLF001
    if kind == "ObjectStore":
        return locate(store.store)
    if kind == "FsspecStore":
        return _locate_mapping(_synchronous(store.fs).get_mapper(store.path), synced=synced)
    message = f"a zarr {kind} can't be written to by a saver; give its path, URL or fsspec mapping"
    raise InvalidTypeError(message)


def _synchronous(filesystem: Any) -> Any:
    """Return a blocking twin of an fsspec file system made for zarr's event loop."""
    if not getattr(filesystem, "asynchronous", False):
        return filesystem
    options = {**filesystem.storage_options, "asynchronous": False}
    return type(filesystem)(*filesystem.storage_args, **options)


def _locate_mapping(mapping: MutableMapping[str, Any], *, synced: bool) -> Location:
    filesystem = getattr(mapping, "fs", None)
    if type(filesystem).__name__ in ("LocalFileSystem", "AsyncFileSystemWrapper"):
        inner = getattr(filesystem, "sync_fs", filesystem)
        if type(inner).__name__ == "LocalFileSystem":
            return local(Path(mapping.root), synced=synced)  # type: ignore[attr-defined]
    name = str(getattr(mapping, "root", None) or type(mapping).__name__)
    protocol = getattr(filesystem, "protocol", None)
    if protocol and hasattr(mapping, "root"):
        scheme = protocol if isinstance(protocol, str) else protocol[0]
        root = str(mapping.root)
        identity = without_secrets(root if "://" in root else f"{scheme}://{root}")
        secrets = secrets_of(root, getattr(filesystem, "storage_options", None))
        return Location(identity, identity, None, MappingStore(mapping, identity, secrets))
    return Location(name, f"object:{id(mapping)}", None, MappingStore(mapping, name))


def check_array_name(name: object) -> str:
    """Return `name` as the path of an array within a store.

    Raises
    ------
    InvalidInputError
        Not a text, empty, absolute, with ``..``, NUL, backslash or a reserved or over-long part.
    """
    if not isinstance(name, str) or not name:
        message = f"expected the name of an array, got {name!r}"
        raise InvalidInputError(message)
    for part in name.split("/"):
        problem = _problem(part)
        if problem:
            message = f"array name {name!r}: {problem}"
            raise InvalidInputError(message)
    return name


def _problem(part: str) -> str:
    if part in ("", ".", ".."):
        return f"a part can't be {part!r}"
    if part.startswith(("__", ".")) or part == "zarr.json":
        return f"{part!r} is reserved"
    if "\\" in part or not part.isprintable():
        return f"{part!r} holds a character that stores can't keep"
    if len(part.encode("utf-8", "surrogatepass")) > 200:
        return f"a part is longer than 200 bytes: {part[:20]!r}..."
    return ""


def names_of(fields: Sequence[str]) -> list[str]:
    """Return the checked names of arrays."""
    return [check_array_name(name) for name in fields]


def require_folder(location: Location) -> None:
    """Refuse a local path that is a file."""
    if location.path is not None and location.path.exists() and not location.path.is_dir():
        message = f"expected a folder at {location.path}, found a file"
        raise FormatError(message)
