"""What tests look at from the outside: stores of every kind, and bytes on disk."""

from __future__ import annotations

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
KINDS = ("path", "text", "file_url", "local_store", "local_mapper", "dict", "memory_url",
         "memory_mapper", "memory_store", "fsspec_store", "obstore")  # fmt: skip


class Place:
    """A fresh place for a store: `target` goes to a saver, `zarr` is what zarr reads it by."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind = kind
        self.path = folder / "out.zarr"
        self.target, self.zarr = getattr(self, f"_{kind}")()

    def _path(self) -> tuple[Any, Any]:
        return self.path, str(self.path)

    def _text(self) -> tuple[Any, Any]:
        return str(self.path), str(self.path)

    def _file_url(self) -> tuple[Any, Any]:
        return f"file://{self.path}", str(self.path)

    def _local_store(self) -> tuple[Any, Any]:
        return zarr.storage.LocalStore(self.path), str(self.path)

    def _local_mapper(self) -> tuple[Any, Any]:
        import fsspec

        return fsspec.get_mapper(str(self.path)), str(self.path)

    def _dict(self) -> tuple[Any, Any]:
        given: dict[str, bytes] = {}
        return given, _Mirror(given)

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

    def group(self) -> zarr.Group:
        """Open what lies there with zarr alone."""
        store = self.zarr.store() if isinstance(self.zarr, _Mirror) else self.zarr
        return zarr.open_group(store, mode="r")

    def read(self, name: str = "dataset") -> NDArray[Any]:
        """Read an array with zarr alone."""
        return self.group()[name][...]

    def documents(self) -> dict[str, bytes]:
        """Return every object of a local store."""
        return {name: data for name, data in tree(self.path).items() if data is not None}


class _Mirror:
    """A dict of bytes as zarr's memory store, copied when it is read."""

    def __init__(self, given: dict[str, bytes]) -> None:
        self.given = given

    def store(self) -> Any:
        from zarr.core.buffer import default_buffer_prototype

        buffer = default_buffer_prototype().buffer
        return zarr.storage.MemoryStore({k: buffer.from_bytes(v) for k, v in self.given.items()})


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
