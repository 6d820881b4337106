"""Stores of which only zarr's interface is known; file systems of which only fsspec's is."""

from __future__ import annotations

import subprocess
import sys

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from savers import AsyncZarrSaver, InvalidInputError, StoreInUseError, ZarrSaver, open_dataset
from savers._stores._location import locate
from savers.errors import InvalidTypeError
from tests.stores import OwnStore

STEPS = np.arange(4, dtype="timedelta64[h]")


def read_only(path):
    zarr.open_group(path, mode="w")
    store = zarr.storage.LocalStore(path)
    return [store.with_read_only(read_only=True), OwnStore(path, read_only=True),
            zarr.storage.LoggingStore(store.with_read_only(read_only=True)),
            zarr.storage.MemoryStore(read_only=True)]  # fmt: skip


def test_a_read_only_store_is_refused_before_anything_is_saved(tmp_path):
    for store in read_only(tmp_path / "x.zarr"):
        with pytest.raises(
            InvalidInputError, match=r"read-only zarr \w+Store: open it for writing"
        ):
            ZarrSaver(store)


def test_a_store_whose_objects_can_not_be_replaced_is_refused(tmp_path):
    store = zarr.storage.ZipStore(tmp_path / "x.zip", mode="w")
    with pytest.raises(InvalidInputError, match="ZipStore can't be replaced or removed"):
        ZarrSaver(store)


def test_a_store_that_lists_nothing_is_refused():
    class Blind(zarr.storage.MemoryStore):
        supports_listing = False

    with pytest.raises(InvalidTypeError, match="zarr Blind can't list what it holds"):
        ZarrSaver(Blind())


def test_a_zip_file_that_holds_a_store_is_read(tmp_path):
    with ZarrSaver(tmp_path / "x.zarr", dims=("x",)) as saver:
        saver.save([True, False])
    with zarr.storage.ZipStore(tmp_path / "x.zip", mode="w") as store:
        for path in (tmp_path / "x.zarr").rglob("*"):
            if path.is_file():
                key = str(path.relative_to(tmp_path / "x.zarr"))
                value = zarr.core.buffer.default_buffer_prototype().buffer
                zarr.core.sync.sync(store.set(key, value.from_bytes(path.read_bytes())))
    store = zarr.storage.ZipStore(tmp_path / "x.zip", mode="r")
    assert open_dataset(store).dataset.values.tolist() == [1.0, 0.0]
    store.close()


LEFT_OPEN = """
import sys, warnings
warnings.simplefilter("ignore")
from savers import ZarrSaver
from tests.stores import OwnStore
from pathlib import Path
saver = ZarrSaver(OwnStore(Path(sys.argv[1])))
saver.save([1.0])
saver.flush()
saver.save([2.0])
"""


def test_a_saver_left_open_is_published_before_zarrs_event_loop_ends(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert zarr.open_group(tmp_path, mode="r")["dataset"][:].tolist() == [1.0, 2.0]


def test_wrappers_of_one_store_are_one_place():
    memory = zarr.storage.MemoryStore()
    same = zarr.storage.MemoryStore(memory._store_dict)
    places = {locate(store).identity for store in (memory, same, zarr.storage.WrapperStore(memory))}
    assert len(places) == 1
    with ZarrSaver(memory) as one, ZarrSaver(zarr.storage.WrapperStore(same)) as other:
        one.save([1.0])
        other.save([2.0])
        one.save([3.0])
    assert zarr.open_group(memory, mode="r")["dataset"][:].tolist() == [1.0, 2.0, 3.0]


def test_one_place_of_fsspec_is_one_however_it_is_named(tmp_path):
    store = zarr.storage.FsspecStore.from_url("memory://a/b")
    ways = ("memory://a/b", fsspec.get_mapper("memory://a/b"), store)
    assert len({locate(way).identity for way in ways}) == 1
    inner = LocalFileSystem()
    ways = (DirFileSystem(str(tmp_path), inner), DirFileSystem(path=str(tmp_path), fs=inner))
    assert len({locate(way.get_mapper("a/b")).identity for way in ways}) == 1


@pytest.mark.filterwarnings("ignore:.*without conditional writes:UserWarning")
def test_two_file_systems_of_one_class_are_two_places(tmp_path):
    inner = LocalFileSystem(auto_mkdir=True)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    here, there = (DirFileSystem(str(tmp_path / name), inner).get_mapper("x.zarr") for name in "ab")
    with ZarrSaver(here) as one, ZarrSaver(there) as other:
        one.save([1.0])
        other.save([2.0])
    for name, wanted in (("a", [1.0]), ("b", [2.0])):
        found = zarr.open_group(tmp_path / name / "x.zarr", mode="r")["dataset"][:]
        assert found.tolist() == wanted


def test_who_asks_does_not_make_it_another_place():
    ways = [
        fsspec.filesystem("memory", username=name, skip_instance_cache=True).get_mapper("a/b")
        for name in ("me", "you")
    ]
    assert len({locate(way).identity for way in ways}) == 1
    assert "me" not in locate(ways[0]).identity.split("/")


@pytest.mark.parametrize("root", ["x.zarr", ""])
def test_a_part_of_a_file_system_is_listed_by_itself(tmp_path, monkeypatch, root):
    (tmp_path / "x.zarr").mkdir()
    filesystem = DirFileSystem(str(tmp_path), LocalFileSystem(auto_mkdir=True))
    store = locate(filesystem.get_mapper(root)).store
    for key in ("a/b/c", "a/bb", "ab/c"):
        store.put(key, b"")
    listed = []
    find = LocalFileSystem.find

    def noted(self, path, **settings):
        listed.append(path)
        return find(self, path, **settings)

    monkeypatch.setattr(LocalFileSystem, "find", noted)
    assert sorted(store.list("a/b")) == ["a/b/c", "a/bb"]
    assert listed == [f"{tmp_path}/{root}/a".replace("//", "/")]
    assert sorted(store.list("")) == ["a/b/c", "a/bb", "ab/c"]
    assert list(store.list("none/")) == []


@pytest.mark.parametrize("kind", [dict, zarr.storage.MemoryStore])
def test_a_chunk_that_another_writer_of_this_process_fills_is_refused(kind):
    store = kind()

    def saver_of():
        return AsyncZarrSaver(
            "", {"lead_time": STEPS}, store=store, chunked_coords={"lead_time": 2}, blocking=False
        )

    def write(saver, number):
        at = {"lead_time": STEPS[number : number + 1], "lat": [1.0, 2.0]}
        return saver.write(np.full((1, 2), number + 1.0), at, "t2m")

    with saver_of() as one, saver_of() as other:
        write(one, 0)
        with pytest.raises(StoreInUseError, match=r"another writer.*'lead_time': 1"):
            write(other, 1)
        write(other, 2)
        one.close()
        write(other, 1)
        write(other, 3)
        other.flush()
        assert other.missing("t2m") == []
    with saver_of() as saver:
        assert saver.missing("t2m") == []
        write(saver, 0)
    assert open_dataset(store).t2m.values[:, 0].tolist() == [1.0, 2.0, 3.0, 4.0]
