"""What tests look at from the outside: stores of every kind, and bytes on disk."""

from __future__ import annotations

import importlib.util
import json
import uuid
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import zarr

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

#: Ways to name a place: local ones in different spellings, then stores without folders.
KINDS = ("path", "text", "file_url", "local_store", "obstore_local", "local_mapper", "dict",
         "memory_url", "memory_mapper", "memory_store", "fsspec_store", "obstore",
         "zarr_obstore", "wrapped_memory")  # fmt: skip

#: Repositories, where Icechunk is installed; only commits are seen there.
REPOSITORIES = ("icechunk",) if importlib.util.find_spec("icechunk") else ()

#: The same where nothing keeps a second process out, so that opening them warns.
UNGUARDED = ("logged_folder", "own_zarr", "dir_mapper", "s3_unconditional")

#: Ways to name a place on a server, and the fixture that starts it.
ON_SERVERS = {
    "s3_url": "s3_server",
    "s3_map": "s3_server",
    "s3_mapper": "s3_server",
    "s3_fsspec_store": "s3_server",
    "s3_obstore": "s3_server",
    "s3_zarr_obstore": "s3_server",
    "s3_unconditional": "s3_server",
    "az_url": "azurite",
    "az_obstore": "azurite",
    "gs_url": "gcs_model",
    "gs_obstore": "gcs_model",
}

#: Where data outlives the process that wrote it.
LASTING = ("path", "text", "file_url", "local_store", "obstore_local", "local_mapper",
           *UNGUARDED[:-1], *REPOSITORIES, *ON_SERVERS)  # fmt: skip

#: What names a place in which a single file can lie.
FOR_FILES = ("path", "text", "file_url", "local_store", "local_mapper", "memory_url",
             "memory_mapper", "fsspec_store", "s3_url", "s3_map", "s3_mapper", "s3_fsspec_store",
             "s3_unconditional",
             "az_url", "gs_url")  # fmt: skip

#: Where it ends with the process.
IN_MEMORY = ("dict", "memory_url", "memory_mapper", "memory_store", "fsspec_store", "obstore",
             "zarr_obstore", "wrapped_memory")  # fmt: skip

ALL = (*KINDS, *UNGUARDED[:-1], *REPOSITORIES, *ON_SERVERS)


class Place:
    """A place for a store: `target` goes to a saver, `zarr` is what zarr reads it by.

    Parameters
    ----------
    kind : str
        One of `KINDS` and `ON_SERVERS`.
    folder : Path
        Where it lies, or (its name) the prefix of its keys on a server.
    server : optional
        What the fixture that `ON_SERVERS` names gives.
    name : str

    Attributes
    ----------
    options : dict
        `storage_options` that go with `target`.
    """

    def __init__(self, kind: str, folder: Path, server: Any = None, name: str = "out.zarr") -> None:
        self.kind = kind
        self.server = server
        self.path = folder / name
        self.key = f"{folder.name}/{name}"
        self.options: dict[str, Any] = {}
        self.target, self.zarr = getattr(self, f"_{kind}")()

    def _path(self) -> tuple[Any, Any]:
        return self.path, str(self.path)

    def _text(self) -> tuple[Any, Any]:
        return str(self.path), str(self.path)

    def _file_url(self) -> tuple[Any, Any]:
        return f"file://{self.path}", str(self.path)

    def _local_store(self) -> tuple[Any, Any]:
        return zarr.storage.LocalStore(self.path), str(self.path)

    def _obstore_local(self) -> tuple[Any, Any]:
        from obstore.store import LocalStore

        return LocalStore(self.path, mkdir=True), str(self.path)

    def _local_mapper(self) -> tuple[Any, Any]:
        import fsspec

        return fsspec.get_mapper(str(self.path)), str(self.path)

    def _dict(self) -> tuple[Any, Any]:
        given: dict[str, bytes] = {}
        return given, lambda: _copied(given)

    def _memory_url(self) -> tuple[Any, Any]:
        url = f"memory://{uuid.uuid4().hex}/out.zarr"
        return url, url

    def _memory_mapper(self) -> tuple[Any, Any]:
        import fsspec

        url = f"memory://{uuid.uuid4().hex}/out.zarr"
        return fsspec.get_mapper(url), url

    def _memory_store(self) -> tuple[Any, Any]:
        store = zarr.storage.MemoryStore()
        return store, store

    def _fsspec_store(self) -> tuple[Any, Any]:
        url = f"memory://{uuid.uuid4().hex}/out.zarr"
        return zarr.storage.FsspecStore.from_url(url), url

    def _obstore(self) -> tuple[Any, Any]:
        from obstore.store import MemoryStore

        store = MemoryStore()
        return store, zarr.storage.ObjectStore(store, read_only=True)

    def _zarr_obstore(self) -> tuple[Any, Any]:
        store, read_by = self._obstore()
        return zarr.storage.ObjectStore(store), read_by

    def _wrapped_memory(self) -> tuple[Any, Any]:
        store = zarr.storage.MemoryStore()
        return zarr.storage.WrapperStore(store), store

    def _logged_folder(self) -> tuple[Any, Any]:
        store = zarr.storage.LocalStore(self.path)
        return zarr.storage.LoggingStore(store, log_level="CRITICAL"), str(self.path)

    def _own_zarr(self) -> tuple[Any, Any]:
        return OwnStore(self.path), str(self.path)

    def _icechunk(self) -> tuple[Any, Any]:
        import icechunk

        storage = icechunk.local_filesystem_storage(str(self.path))
        repository = icechunk.Repository.open_or_create(storage)
        return repository, lambda: repository.readonly_session("main").store

    def _dir_mapper(self) -> tuple[Any, Any]:
        """A file system that is wrapped in another one: all that is known of it is fsspec's."""
        return self.filesystem().get_mapper(self.path.name), str(self.path)

    def filesystem(self) -> Any:
        """Return the file system of `dir_mapper`, for `fs_factory`."""
        from fsspec.implementations.dirfs import DirFileSystem
        from fsspec.implementations.local import LocalFileSystem

        return DirFileSystem(str(self.path.parent), LocalFileSystem(auto_mkdir=True))

    # -- on a server -------------------------------------------------------------------------------

    def _s3_url(self) -> tuple[Any, Any]:
        self.options = self.server.options()
        return self.server.url(BUCKET, self.key), self._in_bucket()

    _az_url = _gs_url = _s3_url

    def _s3_map(self) -> tuple[Any, Any]:
        import s3fs

        s3 = s3fs.S3FileSystem(**self.server.options())
        return s3fs.S3Map(root=f"{BUCKET}/{self.key}", s3=s3, check=False), self._in_bucket()

    def _s3_mapper(self) -> tuple[Any, Any]:
        import fsspec

        given = fsspec.get_mapper(f"s3://{BUCKET}/{self.key}", **self.server.options())
        return given, self._in_bucket()

    def _s3_fsspec_store(self) -> tuple[Any, Any]:
        options = {**self.server.options(), "asynchronous": True}
        url = f"s3://{BUCKET}/{self.key}"
        given = zarr.storage.FsspecStore.from_url(url, storage_options=options)
        return given, self._in_bucket()

    def _s3_obstore(self) -> tuple[Any, Any]:
        return self.server.store(BUCKET, self.key), self._in_bucket()

    _az_obstore = _gs_obstore = _s3_obstore

    def _s3_zarr_obstore(self) -> tuple[Any, Any]:
        return zarr.storage.ObjectStore(self.server.store(BUCKET, self.key)), self._in_bucket()

    def _s3_unconditional(self) -> tuple[Any, Any]:
        """A bucket behind a file system that knows no conditions."""
        import s3fs
        from fsspec.implementations.dirfs import DirFileSystem

        inner = s3fs.S3FileSystem(**self.server.options())
        return DirFileSystem(BUCKET, inner).get_mapper(self.key), self._in_bucket()

    def _in_bucket(self) -> Any:
        return zarr.storage.ObjectStore(self.server.store(BUCKET, self.key), read_only=True)

    # -- looking at it -----------------------------------------------------------------------------

    def group(self) -> zarr.Group:
        """Open what lies there with zarr alone."""
        return zarr.open_group(self.store(), mode="r")

    def store(self) -> Any:
        """Return what zarr opens."""
        return self.zarr() if callable(self.zarr) else self.zarr

    def read(self, name: str = "dataset") -> NDArray[Any]:
        """Read an array with zarr alone."""
        return self.group()[name][...]

    def content(self) -> bytes:
        """Return the single file that lies there."""
        if self.server is not None:
            return bytes(self.server.store(BUCKET).get(self.key).bytes())
        if isinstance(self.zarr, str) and self.zarr.startswith("memory://"):
            import fsspec

            return fsspec.filesystem("memory").cat_file(self.zarr)
        return self.path.read_bytes()

    def documents(self) -> dict[str, bytes]:
        """Return every object of a local store."""
        return {name: data for name, data in tree(self.path).items() if data is not None}


#: The bucket of places on a server; it has to be made.
BUCKET = "places"


def _copied(given: dict[str, bytes]) -> zarr.storage.MemoryStore:
    """A dict of bytes as zarr's memory store."""
    from zarr.core.buffer import default_buffer_prototype

    buffer = default_buffer_prototype().buffer
    return zarr.storage.MemoryStore({k: buffer.from_bytes(v) for k, v in given.items()})


class OwnStore(zarr.abc.store.Store):
    """A store that somebody wrote against zarr's interface: files in a folder, and no more."""

    supports_writes = supports_deletes = supports_listing = True

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        super().__init__(read_only=read_only)
        self.folder = folder

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OwnStore) and other.folder == self.folder

    def __hash__(self) -> int:
        return hash(self.folder)

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        path = self.folder / key
        if not path.is_file():
            return None
        return prototype.buffer.from_bytes(path.read_bytes())

    async def get_partial_values(self, prototype: Any, key_ranges: Any) -> Any:
        return [await self.get(key, prototype) for key, _ in key_ranges]

    async def exists(self, key: str) -> bool:
        return (self.folder / key).is_file()

    async def set(self, key: str, value: Any) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
        aside.write_bytes(value.to_bytes())
        aside.replace(path)

    async def delete(self, key: str) -> None:
        (self.folder / key).unlink(missing_ok=True)

    async def list(self) -> Any:
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                yield str(path.relative_to(self.folder))

    async def list_prefix(self, prefix: str) -> Any:
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> Any:
        for path in sorted((self.folder / prefix).glob("*")):
            yield path.name


def tree(folder: Path) -> dict[str, bytes | None]:
    """Return every file (its bytes) and folder (None) below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Fail when anything below `folder` is another byte for byte afterwards."""
    before = tree(folder)
    yield
    after = tree(folder)
    assert after.keys() == before.keys()
    assert after == before


def chunk_files(path: Path, name: str = "dataset") -> list[Path]:
    """Return the files of an array that hold values."""
    files = [file for file in (path / name).rglob("*") if file.is_file()]
    return [file for file in files if file.name != "zarr.json" and not file.name.startswith(".z")]


def consolidated_is_current(path: Path) -> bool:
    """Whether the root's copy of all metadata is what the arrays say of themselves."""
    if (path / ".zmetadata").exists():
        table = json.loads((path / ".zmetadata").read_text())["metadata"]
        names = (".zarray", ".zattrs", ".zgroup")
        found = [file for file in path.rglob(".z*") if file.name in names]
        return table == {str(f.relative_to(path)): json.loads(f.read_text()) for f in found}
    root = json.loads((path / "zarr.json").read_text())
    nodes = {
        str(file.parent.relative_to(path)): json.loads(file.read_text())
        for file in path.rglob("zarr.json")
        if file.parent != path
    }
    return root["consolidated_metadata"]["metadata"] == nodes


@contextmanager
def without_warnings() -> Iterator[None]:
    """For calls of zarr that warn of what a test needs on purpose."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
