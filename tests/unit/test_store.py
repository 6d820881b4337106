"""Every store maps keys to whole objects, and every way to write a place leads to one identity."""

from __future__ import annotations

import contextlib
import errno
import os
import resource

import pytest

from savers import InvalidInputError, StorageError
from savers._stores._bucket._store import ObjectStore
from savers._stores._location import locate
from savers._stores._store import LocalStore, MappingStore
from savers._values._names import check_array_name
from tests.stores import KINDS, UNGUARDED, Place, tree


@pytest.fixture(scope="module", autouse=True)
def _woken(tmp_path_factory):
    """Event loops of fsspec and obstore live as long as the process."""
    for kind in KINDS:
        locate(Place(kind, tmp_path_factory.mktemp(kind)).target).store.put("a", b"")


@pytest.fixture(params=[*KINDS, *UNGUARDED[:-1]])
def store(request, tmp_path):
    store = locate(Place(request.param, tmp_path).target).store
    yield store
    if isinstance(store, ObjectStore):
        store.close()


def test_objects_are_put_got_listed_and_deleted(store):
    assert store.get("a/b") is None
    store.put("a/b", b"one")
    store.put("a/c/d", bytearray(b"two"))
    store.write("ab", memoryview(b"three"))
    store.barrier()
    assert (store.get("a/b"), store.get("a/c/d"), store.get("ab")) == (b"one", b"two", b"three")
    assert sorted(store.list("")) == ["a/b", "a/c/d", "ab"]
    assert sorted(store.list("a/")) == ["a/b", "a/c/d"]
    assert list(store.list("x/")) == []
    store.put("a/b", b"")
    assert store.get("a/b") == b""
    assert store.get("a") is None
    for key in ("a/b", "a/b", "a/c/d"):
        store.delete(key)
    store.prune("a")
    store.barrier()
    assert sorted(store.list("")) == ["ab"]


@contextlib.contextmanager
def files_of_at_most(size):
    """The kernel refuses to let files of this process grow beyond `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_local_object_is_whole_or_absent(tmp_path):
    store = LocalStore(tmp_path / "out", tmp_path / "scratch")
    store.put("a/b", b"old")
    with (
        files_of_at_most(4),
        pytest.raises(StorageError, match=r"can't write .*File too large.*MB free") as caught,
    ):
        store.put("a/b", b"newer than that")
    assert caught.value.errno == errno.EFBIG
    assert store.get("a/b") == b"old"
    store.put("a/b", b"newer than that")
    assert store.get("a/b") == b"newer than that"


@pytest.mark.parametrize("way", ["put", "write", "take"])
def test_a_folder_that_was_none_or_is_gone_is_made_when_it_is_asked_for_again(tmp_path, way):
    store = LocalStore(tmp_path / "store", tmp_path / "scratch")
    (tmp_path / "given").write_bytes(b"one")

    def store_one():
        if way == "take":
            store.take(str(tmp_path / "given"), "a/b/c")
        else:
            getattr(store, way)("a/b/c", b"one")

    store.put("a/first", b"")
    (tmp_path / "store/a/b").write_bytes(b"in the way")
    with pytest.raises(StorageError, match="Not a directory"):
        store_one()
    (tmp_path / "store/a/b").unlink()
    store_one()
    assert store.get("a/b/c") == b"one"


def test_short_writes_are_continued(tmp_path, monkeypatch):
    store = LocalStore(tmp_path / "out", tmp_path / "scratch")
    write, writev = os.write, os.writev
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:3]))
    monkeypatch.setattr(os, "writev", lambda fd, parts: writev(fd, [b"".join(parts)[:3]]))
    store.put("a", bytes(range(100)))
    store.write("b", b"", bytes(range(7)), b"x", bytes(5))
    assert store.get("a") == bytes(range(100))
    assert store.get("b") == bytes(range(7)) + b"x" + bytes(5)


def test_synced_objects_and_folders_are_synced_by_the_barrier(tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def noted(descriptor):
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    store = LocalStore(tmp_path / "out", tmp_path / "scratch", synced=True)
    store.write("a/b", b"x")
    store.barrier()
    wanted = [tmp_path / "out/a/b", tmp_path / "out/a", tmp_path / "out", tmp_path]
    assert {str(path) for path in wanted} <= set(synced)
    synced.clear()
    store.barrier()
    assert synced == []


def test_an_error_of_a_mapping_names_operation_key_and_store():
    class Broken(dict):
        def __getitem__(self, key):
            raise RuntimeError("no network")

        def __setitem__(self, key, value):
            raise PermissionError(errno.EACCES, "denied")

    store = MappingStore(Broken(), "bucket/x")
    with pytest.raises(StorageError, match="can't read a/b in bucket/x: no network") as caught:
        store.get("a/b")
    assert caught.value.errno == errno.EIO
    with pytest.raises(StorageError, match="can't write a/b in bucket/x") as caught:
        store.put("a/b", b"")
    assert caught.value.errno == errno.EACCES


def test_one_place_has_one_identity_however_it_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    written = ["x.zarr", "./x.zarr", "link/x.zarr", str(tmp_path / "x.zarr"), tmp_path / "x.zarr",
               f"file://{tmp_path}/x.zarr", "y/../x.zarr", "x.zarr/", " x.zarr "]  # fmt: skip
    assert {locate(target).identity for target in written} == {str(tmp_path / "x.zarr")}
    assert locate("memory://a/b").identity == locate("memory://a/b").identity
    assert locate("memory://a/b").identity != locate("memory://a/c").identity
    assert locate({}).identity != locate({}).identity
    assert set(tree(tmp_path)) == {"link"}


@pytest.mark.parametrize(
    "name", ["a", "a/b", "ünï", "with space", "a.b", "-x", "x" * 200, "c", "0"]
)
def test_names_of_arrays(name):
    assert check_array_name(name) == name


NO_NAMES = ["", "/a", "a/", "a//b", "..", "a/../b", ".", ".zarray", "__x", "zarr.json", "a\\b",
            "a\nb", "a\0b", "x" * 201, "ü" * 101, "a/.b", 5, None]  # fmt: skip


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_of_an_array(name):
    with pytest.raises(InvalidInputError):
        check_array_name(name)
