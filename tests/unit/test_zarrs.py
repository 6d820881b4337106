"""`pipeline="zarrs"`: the same values through zarrs, and nothing else of the process changes."""

from __future__ import annotations

import copy
import importlib.util
import pickle
import subprocess
import sys
import threading

import numcodecs
import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec

import savers
from savers import InvalidInputError, StorageError, ZarrSaver, ZarrsSettings
from savers._codecs._zarrs import ZarrsChunks
from tests.stores import chunk_files, tree, without_warnings

pytest.importorskip("zarrs")

DTYPES = [
    "?",
    "i1",
    "u2",
    "i4",
    "u8",
    "f2",
    "f4",
    "f8",
    "c8",
    "c16",
    ">f4",
    ">i8",
    "M8[s]",
    "m8[ns]",
]
CODECS = {
    "balanced": {},
    "raw": {"codecs": None},
    "small": {"codecs": "small"},
    "zstd-crc32c": {"compressors": [ZstdCodec(level=3), Crc32cCodec()]},
    "gzip": {"compressors": [GzipCodec(level=1)]},
    "lz4-bitshuffle": {"compressors": [BloscCodec(cname="lz4", shuffle="bitshuffle", typesize=4)]},
    "transpose": {"filters": [TransposeCodec(order=(1, 2, 0))]},
    "big-endian": {"serializer": BytesCodec(endian="big")},
    "shards": {"shards": (4, 6, 4)},
    "shards-crc32c": {"shards": (4, 6, 4), "compressors": [Crc32cCodec()]},
}
CODECS_V2 = {
    "balanced": {},
    "raw": {"codecs": None},
    "zstd": {"compressor": numcodecs.Zstd(3)},
    "blosc": {"compressor": numcodecs.Blosc("lz4", 5)},
}


def rows(dtype="f4", count=7):
    return (
        np.random.default_rng(0).integers(0, 2 if dtype == "?" else 90, (count, 6, 4)).astype(dtype)
    )


def read(path, name="dataset"):
    """Return an array as plain zarr reads it, which must be what zarrs reads where it can."""
    plain = zarr.open_group(path, mode="r")[name][...]
    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        array = zarr.open_group(path, mode="r")[name]
        if array.dtype.isnative and array.dtype.kind in "biufc":
            np.testing.assert_array_equal(array[...], plain)
    return plain


def save_both_ways(folder, data, options, **settings):
    """Save in parts that fill chunks, extend them and leave one open; return what zarr reads."""
    found = []
    for pipeline in (None, "zarrs"):
        path = folder / f"{pipeline}.zarr"
        with ZarrSaver(path, pipeline=pipeline, **settings) as saver:
            saver.save(data[:5], chunks=(2, 3, 4), **options)
            saver.flush()
            saver.save(data[5:], **options)
        assert savers.verify(path) == []
        found.append(read(path))
    return found


@pytest.mark.parametrize("version", [3, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_values_of_every_dtype_are_those_of_the_usual_way(dtype, version, tmp_path):
    data = rows(dtype)
    ours, theirs = save_both_ways(tmp_path, data, {}, zarr_format=version)
    np.testing.assert_array_equal(ours, theirs)
    stored = data.astype("i8") if data.dtype.kind in "Mm" else data
    np.testing.assert_array_equal(theirs, stored)


@pytest.mark.parametrize(
    ("version", "codecs"), [*((3, name) for name in CODECS), *((2, name) for name in CODECS_V2)]
)
def test_values_of_every_codec_are_those_of_the_usual_way(version, codecs, tmp_path):
    options = (CODECS if version == 3 else CODECS_V2)[codecs]
    settings = {"codecs": options["codecs"]} if "codecs" in options else {}
    rest = {name: value for name, value in options.items() if name != "codecs"}
    ours, theirs = save_both_ways(tmp_path, rows(), rest, zarr_format=version, **settings)
    np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(theirs, rows())


def test_arrays_without_axes_and_text_beside_them(tmp_path):
    path, names = tmp_path / "x.zarr", ["a", "bb", "c"]
    with ZarrSaver(path, dims=("name",), coords={"name": names}, pipeline="zarrs") as saver:
        saver.save([1.0, 2.0, 3.0])
    np.testing.assert_array_equal(read(path), [1.0, 2.0, 3.0])
    assert zarr.open_group(path, mode="r")["name"][...].tolist() == names
    group = zarr.open_group(path)
    group.create_array("alone", shape=(), dtype="f8")[...] = 1.0
    with without_warnings():
        zarr.consolidate_metadata(path)
    with ZarrSaver(path, "alone", "update", pipeline="zarrs") as saver:
        saver.save(7.5, indices=())
    assert read(path, "alone") == 7.5


@pytest.mark.parametrize("first", [None, "zarrs"])
def test_both_ways_take_turns_on_one_array(first, tmp_path):
    path, data = tmp_path / "x.zarr", rows(count=20)
    second = None if first else "zarrs"
    for start, pipeline in ((0, first), (5, second), (11, first)):
        with ZarrSaver(path, chunks=4, pipeline=pipeline) as saver:
            saver.save(data[start : {0: 5, 5: 11, 11: 20}[start]])
    np.testing.assert_array_equal(read(path), data)
    with ZarrSaver(path, approach="update", pipeline="zarrs") as saver:
        saver.save(-data[[1, 6, 19]], indices=[1, 6, 19])
    data[[1, 6, 19]] *= -1
    np.testing.assert_array_equal(read(path), data)
    with ZarrSaver(path, approach="overwrite", pipeline="zarrs") as saver:
        saver.save(data[:3])
    np.testing.assert_array_equal(read(path), data[:3])
    assert savers.verify(path) == []


def test_it_really_is_zarrs_that_writes_and_gets_the_settings(tmp_path, monkeypatch):
    import zarrs.pipeline

    made, real = [], zarrs.pipeline.CodecPipelineImpl

    def spy(metadata, **settings):
        made.append(settings)
        return real(metadata, **settings)

    monkeypatch.setattr(zarrs.pipeline, "CodecPipelineImpl", spy)
    asked = {
        "chunk_concurrent_minimum": 2, "chunk_concurrent_maximum": 3, "validate_checksums": False,
        "direct_io": False,
    }  # fmt: skip
    with zarr.config.set({"threading.max_workers": 5}):
        with ZarrSaver(
            tmp_path / "a.zarr", pipeline=ZarrsSettings(max_workers=1, **asked)
        ) as saver:
            saver.save(rows())
        with ZarrSaver(tmp_path / "b.zarr", pipeline="zarrs") as saver:
            saver.save(rows())
    for settings in made:
        settings.pop("store_config")
    theirs = {**asked, "num_threads": 1}
    assert made[0] == theirs
    assert made[-1] == {
        "num_threads": 5, "chunk_concurrent_minimum": None, "chunk_concurrent_maximum": None,
        "validate_checksums": True, "direct_io": False,
    }  # fmt: skip


# -- zarr.config ---------------------------------------------------------------------------------


@pytest.fixture
def config():
    """The user's own settings, which must be there unchanged after the test."""
    with zarr.config.set({"threading.max_workers": 3, "codec_pipeline.direct_io": False}):
        before = copy.deepcopy(zarr.config.config)
        yield zarr.config
        assert zarr.config.config == before


def test_settings_of_the_process_stay_as_they_were(config, tmp_path):
    pipeline = ZarrsSettings(max_workers=1, validate_checksums=False, direct_io=False)
    before = copy.deepcopy(config.config)
    with ZarrSaver(tmp_path / "x.zarr", chunks=2, pipeline=pipeline) as saver:
        saver.save(rows())
        assert config.config == before


def test_settings_stay_as_they_were_where_zarrs_refuses(config, tmp_path):
    with without_warnings():  # of zarr, about codecs that are not in the specification
        options = {"filters": [zarr.codecs.numcodecs.Delta(dtype="f4")]}
        with pytest.raises(InvalidInputError, match=r"'dataset': pipeline='zarrs' .*delta"):
            ZarrSaver(tmp_path / "x.zarr", pipeline="zarrs").save(rows(), **options)
    assert tree(tmp_path) == {}


def test_other_threads_see_their_own_settings_once_an_array_is_open(tmp_path, monkeypatch):
    saver = ZarrSaver(tmp_path / "x.zarr", chunks=2, pipeline="zarrs")
    saver.save(rows())
    saver.save(rows())
    monkeypatch.setattr(zarr.config, "set", None)  # whoever uses it now fails
    before, seen = copy.deepcopy(zarr.config.config), []
    thread = threading.Thread(target=lambda: seen.append(copy.deepcopy(zarr.config.config)))
    saver.save(rows())
    thread.start()
    saver.close()
    thread.join()
    assert seen == [before]
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "x.zarr")["dataset"][14:], rows())


# -- objects that are left out -------------------------------------------------------------------


def test_empty_chunks_may_be_left_out(tmp_path):
    path = tmp_path / "x.zarr"
    settings = {"chunks": 1, "fill_value": 0.0, "pipeline": ZarrsSettings(write_empty_chunks=False)}
    data = np.zeros((6, 3))
    data[2], data[4] = 1.0, -0.0
    with ZarrSaver(path, **settings) as saver:
        saver.save(data)
    assert sorted(file.parent.name for file in chunk_files(path)) == ["2", "4"]
    assert savers.verify(path) == []
    np.testing.assert_array_equal(np.signbit(read(path)), np.signbit(data))
    with ZarrSaver(path, **settings, approach="update") as saver:
        saver.save(np.zeros((1, 3)), indices=[2])  # an object is there, and gets zeros
        saver.save(np.ones((1, 3)), indices=[3])  # there was none
    assert sorted(file.parent.name for file in chunk_files(path)) == ["2", "3", "4"]
    assert read(path)[:, 0].tolist() == [0, 0, 0, 1, -0.0, 0]
    assert savers.verify(path) == []
    (path / "dataset/c/0").mkdir()
    (path / "dataset/c/0/0").write_bytes(b"something")
    assert [str(finding) for finding in savers.verify(path)] == [
        "dataset/c/0/0: expected 0 bytes, found 9 (array 'dataset')"
    ]


def test_objects_are_written_whole_by_default(tmp_path):
    path = tmp_path / "x.zarr"
    with ZarrSaver(path, chunks=1, fill_value=0.0, pipeline="zarrs") as saver:
        saver.save(np.zeros((3, 2)))
    assert len(chunk_files(path)) == 3


def test_an_object_of_a_failed_commit_never_shows_as_an_empty_chunk(tmp_path, monkeypatch):
    path, settings = tmp_path / "x.zarr", ZarrsSettings(write_empty_chunks=False)
    saver = ZarrSaver(path, chunks=1, fill_value=0.0, pipeline=settings)
    saver.save([1.0])
    monkeypatch.setattr(type(saver.session().ledger), "append", _refuse)
    with pytest.raises(StorageError):
        saver.save([2.0])
    monkeypatch.undo()
    saver.save([0.0])
    saver.close()
    assert read(path).tolist() == [1.0, 0.0]
    assert savers.verify(path) == []


def _refuse(*_args, **_kwargs):
    raise StorageError(28, "no space")


# -- files of its own ----------------------------------------------------------------------------


def test_its_folder_goes_with_the_saver_and_after_a_crash_with_the_next(tmp_path):
    path, staged = tmp_path / "x.zarr", tmp_path / "x.zarr.ledger/staged"
    with ZarrSaver(path, "x", chunks=2, pipeline="zarrs") as saver:
        saver.save(rows())
        assert len(list(staged.iterdir())) == 1
    assert list(staged.iterdir()) == []
    (staged / "x@left/c/0").mkdir(parents=True)
    (staged / "x@left/c/0/0").write_bytes(b"half an object")
    (staged / "y@other/c").mkdir(parents=True)
    with ZarrSaver(path, "x") as saver:
        saver.save(rows())
    assert [entry.name for entry in staged.iterdir()] == ["y@other"]


def test_an_error_of_the_disk_names_path_and_free_space(tmp_path):
    saver = ZarrSaver(tmp_path / "x.zarr", "x", chunks=2, pipeline="zarrs")
    saver.save(rows())
    (folder,) = (tmp_path / "x.zarr.ledger/staged").iterdir()
    for file in (folder / "c").iterdir():
        file.rename(tmp_path / file.name)
    (folder / "c").rmdir()
    (folder / "c").write_bytes(b"in the way")
    with pytest.raises(StorageError, match=r"can't write .*staged/x@.*/c/.*Not a directory.*free"):
        saver.save(rows())
    (folder / "c").unlink()
    saver.save(rows())
    saver.close()
    assert len(read(tmp_path / "x.zarr", "x")) == 14


def test_a_damaged_chunk_is_an_error_of_the_format(tmp_path):
    array = zarr.create_array(tmp_path / "x", shape=4, chunks=4, dtype="f4",
                              compressors=[Crc32cCodec()])  # fmt: skip
    for settings, error in (
        (ZarrsSettings(), "checksum"),
        (ZarrsSettings(validate_checksums=False), ""),
    ):
        codec = ZarrsChunks(array.metadata.to_dict(), (4,), settings, "x")
        codec.work_in(str(tmp_path / f"scratch{error}"))
        data = bytearray(codec.encode(np.arange(4, dtype="f4")))
        data[-1] ^= 1
        if error:
            with pytest.raises(savers.FormatError, match="can't decode a stored chunk"):
                codec.decode(bytes(data))
        else:
            assert codec.decode(bytes(data)).tolist() == [0, 1, 2, 3]
        codec.close()


def test_direct_io_writes_the_same(tmp_path):
    saver = ZarrSaver(tmp_path / "x.zarr", chunks=2, pipeline=ZarrsSettings(direct_io=True))
    try:
        saver.save(rows())
    except StorageError as error:  # a file system without it says so
        pytest.skip(str(error))
    saver.close()
    np.testing.assert_array_equal(read(tmp_path / "x.zarr"), rows())


# -- refused -------------------------------------------------------------------------------------


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InvalidInputError, match=r"pip install 'tasksavers\[fast\]'"):
        ZarrSaver(tmp_path / "x.zarr", pipeline="zarrs")


def test_only_local_stores_are_written_to():
    for target in ({}, "memory://somewhere/x.zarr", zarr.storage.MemoryStore()):
        with pytest.raises(InvalidInputError, match="writes to local stores only"):
            ZarrSaver(target, pipeline="zarrs")


def test_unknown_settings_are_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="pipeline='rust'"):
        ZarrSaver(tmp_path / "x.zarr", pipeline="rust")
    with pytest.raises(ValueError, match="greater than 0"):
        ZarrsSettings(max_workers=0)
    with pytest.raises(ValueError, match="Extra inputs"):
        ZarrsSettings(threads=1)
    assert list(tmp_path.iterdir()) == []


def test_an_array_that_zarrs_can_not_go_on_with_is_refused_before_anything_changes(tmp_path):
    path = tmp_path / "x.zarr"
    with ZarrSaver(path, zarr_format=2) as saver:
        saver.save(rows(), compressor=numcodecs.LZ4())
    before = tree(tmp_path)
    with pytest.raises(InvalidInputError, match="pipeline='zarrs' can't encode this array .*lz4"):
        ZarrSaver(path, zarr_format=2, pipeline="zarrs").save(rows())
    assert tree(tmp_path) == before


def test_one_dataset_has_one_pipeline_in_a_process(tmp_path):
    with ZarrSaver(tmp_path / "x.zarr") as saver:
        saver.save(rows())
        with pytest.raises(InvalidInputError, match="another pipeline"):
            ZarrSaver(tmp_path / "x.zarr", pipeline="zarrs").save(rows())


def test_it_travels(tmp_path):
    saver = ZarrSaver(tmp_path / "x.zarr", pipeline=ZarrsSettings(max_workers=2))
    with pickle.loads(pickle.dumps(saver)) as copied:
        assert copied.settings.pipeline == ZarrsSettings(max_workers=2)
        copied.save(rows())
    np.testing.assert_array_equal(read(tmp_path / "x.zarr"), rows())


# -- processes -----------------------------------------------------------------------------------

LEFT_OPEN = """
import sys
from savers import ZarrSaver
saver = ZarrSaver(sys.argv[1], chunks=4, pipeline="zarrs")
for part in range(3):
    saver.save([[part, 1.0], [part, 2.0]])
"""

FORKED = """
import os, sys
from savers import InvalidInputError, ZarrSaver
with ZarrSaver(sys.argv[1] + "/a.zarr", pipeline="zarrs") as saver:
    saver.save([1.0])
if os.fork():
    os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
try:
    ZarrSaver(sys.argv[1] + "/b.zarr", pipeline="zarrs").save([1.0])
except InvalidInputError as error:
    assert "forked" in str(error)
    assert sorted(os.listdir(sys.argv[1])) == ["a.zarr", "a.zarr.ledger"]
    with ZarrSaver(sys.argv[1] + "/c.zarr") as saver:
        saver.save([1.0])
    os._exit(7)
"""


def test_a_saver_left_open_publishes_at_exit(tmp_path):
    command = [sys.executable, "-c", LEFT_OPEN, tmp_path / "x.zarr"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert read(tmp_path / "x.zarr")[:, 0].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_forked_process_is_told_that_threads_stay_behind(tmp_path):
    command = [sys.executable, "-W", "ignore", "-c", FORKED, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (7, "")
