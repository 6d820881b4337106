"""Keywords are honoured when an array is created, checked ever after, and never ignored."""

from __future__ import annotations

import numcodecs
import numpy as np
import pytest
import zarr

from savers import InvalidInputError, ZarrSaver
from tests.stores import chunk_files, tree, unchanged

ROWS = np.arange(24.0).reshape(6, 4)


def saved(path, rows=ROWS, /, settings=None, **options):
    """An array as zarr sees it, saved in two calls with the same keywords."""
    with ZarrSaver(path, **(settings or {})) as saver:
        saver.save(rows[:4], **options)
        saver.save(rows[4:], **options)
    array = zarr.open_group(path, mode="r")["dataset"]
    np.testing.assert_array_equal(array[...], rows)
    return array


@pytest.mark.parametrize("where", ["constructor", "call"])
@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"chunks": (3, 2)}, {"chunks": (3, 2)}),
        ({"chunks": 3}, {"chunks": (3, 4)}),
        ({"chunks": [3, 4]}, {"chunks": (3, 4)}),
        ({"chunks": (1, 4), "shards": (4, 4)}, {"chunks": (1, 4), "shards": (4, 4)}),
        ({"dtype": "float32"}, {"dtype": np.dtype("f4")}),
        ({"dtype": np.int16}, {"dtype": np.dtype("i2")}),
        ({"fill_value": -1.0}, {"fill_value": -1.0}),
    ],
    ids=str,
)
def test_layout_keywords(tmp_path, where, options, found):
    given = {"settings": options} if where == "constructor" else options
    array = saved(tmp_path / "a", **given)
    assert {name: getattr(array, name) for name in found} == found


@pytest.mark.parametrize(
    ("options", "codecs"),
    [
        ({"compressor": numcodecs.Blosc("zstd", 9)}, ["bytes", "blosc"]),
        ({"compressors": numcodecs.Zstd(3)}, ["bytes", "zstd"]),
        ({"compressors": numcodecs.GZip(3)}, ["bytes", "gzip"]),
        ({"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
         ["bytes", "zstd", "crc32c"]),
        ({"compression": "gzip"}, ["bytes", "gzip"]),
        ({"compressors": None}, ["bytes"]),
        ({"codecs": None}, ["bytes"]),
        ({"codecs": "fast"}, ["bytes", "blosc"]),
        ({"codecs": "zstd"}, ["bytes", "zstd"]),
        ({"filters": [zarr.codecs.TransposeCodec(order=(1, 0))]}, ["transpose", "bytes", "blosc"]),
        ({}, ["bytes", "blosc"]),
    ],
    ids=str,
)  # fmt: skip
def test_codec_keywords_of_a_call(tmp_path, options, codecs):
    array = saved(tmp_path / "a", **options)
    assert [codec.to_dict()["name"] for codec in array.metadata.codecs] == codecs


@pytest.mark.parametrize(
    ("name", "codec"), [("balanced", ("zstd", 1)), ("fast", ("lz4", 5)), ("small", ("zstd", 5))]
)
def test_codec_settings_by_name(tmp_path, name, codec):
    array = saved(tmp_path / "a", settings={"codecs": name})
    blosc = array.metadata.codecs[1]
    settings = blosc.to_dict()["configuration"]
    assert (settings["cname"], settings["clevel"]) == codec
    assert settings["shuffle"] == "shuffle"


def test_numcodecs_blosc_keeps_all_its_settings(tmp_path):
    given = numcodecs.Blosc(cname="lz4hc", clevel=7, shuffle=numcodecs.Blosc.BITSHUFFLE)
    array = saved(tmp_path / "a", chunks=(4, 4), compressor=given)
    blosc = array.metadata.codecs[1]
    settings = blosc.to_dict()["configuration"]
    kept = [settings[name] for name in ("cname", "clevel", "shuffle")]
    assert kept == ["lz4hc", 7, "bitshuffle"]


def test_the_three_usage_lines_of_the_document(tmp_path):
    rows = np.arange(2500.0)
    with ZarrSaver(tmp_path / "a") as saver:
        saver.save(rows, chunks=(1000,), compressor=numcodecs.Blosc(cname="zstd", clevel=9))
    array = zarr.open_group(tmp_path / "a", mode="r")["dataset"]
    assert array.chunks == (1000,)
    np.testing.assert_array_equal(array[:], rows)


@pytest.mark.parametrize("version_2", [
    {"compressor": numcodecs.Blosc("lz4", 3)}, {"compressor": numcodecs.LZ4()}, {"codecs": "small"},
    {"compressor": None}, {"filters": [numcodecs.Delta("f8")]}, {"compression": "gzip"},
    {"compressors": zarr.codecs.ZstdCodec(level=2)},
], ids=str)  # fmt: skip
def test_version_2_takes_the_same_keywords(tmp_path, version_2):
    array = saved(tmp_path / "a", settings={"zarr_format": 2}, chunks=(4, 2), **version_2)
    assert array.metadata.zarr_format == 2
    assert array.chunks == (4, 2)


def test_attributes_of_array_and_root(tmp_path):
    attrs = {"dataset": {"units": "K"}, "title": "run", "levels": np.arange(3), "big": np.int64(3)}
    with ZarrSaver(tmp_path / "a", attrs=attrs) as saver:
        saver.save([1.0], attributes={"long_name": "temperature"})
    group = zarr.open_group(tmp_path / "a", mode="r")
    assert dict(group["dataset"].attrs) == {"units": "K", "long_name": "temperature"}
    root = dict(group.attrs)
    assert len(root.pop("tasksavers_store")) == 32
    assert root == {"title": "run", "levels": [0, 1, 2], "big": 3}


def test_attributes_of_an_array_that_comes_later_are_not_left_at_the_root(tmp_path):
    with ZarrSaver(tmp_path / "a", attrs={"v": {"units": "m"}, "title": "run"}) as saver:
        saver.save({"u": [1.0]})
        saver.save({"u": [1.0], "v": [2.0]})
    group = zarr.open_group(tmp_path / "a", mode="r")
    assert dict(group["v"].attrs) == {"units": "m"}
    assert group.attrs["title"] == "run"
    assert "v" not in group.attrs


def test_root_attributes_of_every_saver_of_a_process_are_kept(tmp_path):
    with ZarrSaver(tmp_path / "a") as one, ZarrSaver(tmp_path / "a", attrs={"by": "two"}) as two:
        one.save([1.0])
        two.save([2.0])
    assert zarr.open_group(tmp_path / "a", mode="r").attrs["by"] == "two"


# -- afterwards ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "asked", "says"),
    [
        ({}, {"chunks": (2, 2)}, r"created with chunks=\(\d+, 4\), got \(2, 2\)"),
        ({"chunks": (3, 4)}, {"chunks": 2}, r"created with chunks=\(3, 4\), got 2"),
        ({"chunks": (1, 4), "shards": (4, 4)}, {"chunks": (2, 4)}, r"chunks=\(1, 4\), got \(2, 4"),
        ({"chunks": (1, 4), "shards": (4, 4)}, {"shards": (2, 4)}, r"shards=\(4, 4\), got \(2, 4"),
        ({}, {"shards": (4, 4)}, "created with shards=None"),
        ({}, {"dtype": "f4"}, "created with dtype='<f8', got 'f4'"),
        ({}, {"compressor": numcodecs.GZip()}, "created with codecs="),
        ({"chunks": (1, 4), "shards": (4, 4)}, {"compressor": None}, "created with codecs="),
        ({}, {"codecs": "small"}, "created with codecs="),
        ({}, {"fill_value": 0.0}, "created with fill_value='NaN', got 0.0"),
        ({}, {"attributes": {"units": "m"}}, r"attributes\['units'\]=None, got 'm'"),
        ({"attributes": {"units": "K"}}, {"attributes": {"units": "m"}}, "='K', got 'm'"),
    ],
    ids=str,
)  # fmt: skip
def test_other_keywords_than_it_was_created_with_are_refused(tmp_path, made, asked, says):
    with ZarrSaver(tmp_path / "a") as saver:
        saver.save(ROWS, **made)
    with unchanged(tmp_path), ZarrSaver(tmp_path / "a") as saver:
        with pytest.raises(InvalidInputError, match=says):
            saver.save(ROWS, **asked)
        with pytest.raises(InvalidInputError, match=says):
            saver.save(ROWS, **asked)


@pytest.mark.parametrize(
    "settings",
    [
        {"chunks": 5},
        {"dtype": "f4"},
        {"fill_value": 0.0},
        {"codecs": "fast"},
        {"attrs": {"dataset": {"units": "m"}}},
        {"dims": ("a", "b")},
    ],
    ids=str,
)
def test_other_settings_of_a_new_saver_are_refused(tmp_path, settings):
    with ZarrSaver(tmp_path / "a") as saver:
        saver.save(ROWS)
    with (
        unchanged(tmp_path),
        ZarrSaver(tmp_path / "a", **settings) as saver,
        pytest.raises(InvalidInputError, match="was created with"),
    ):
        saver.save(ROWS)


def test_the_same_keywords_again_are_fine(tmp_path):
    options = {"chunks": (2, 4), "shards": (4, 4), "compressor": numcodecs.Zstd(2),
               "fill_value": 0.0, "attributes": {"a": 1}, "dtype": "f4"}  # fmt: skip
    for _ in range(2):
        with ZarrSaver(tmp_path / "a", codecs="fast") as saver:
            saver.save(ROWS, **options)
            saver.save(ROWS, **options)
    assert zarr.open_group(tmp_path / "a", mode="r")["dataset"].shape == (24, 4)


# -- refused ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"chunk": 3}, TypeError, "no keyword 'chunk'; known are chunks"),
        ({"nonsense": 1}, TypeError, "no keyword 'nonsense'"),
        ({"chunks": "auto"}, ValueError, "expected chunks as 2 positive integers.*got 'auto'"),
        ({"chunks": (2, 2, 2)}, ValueError, "expected chunks as 2"),
        ({"chunks": 0}, ValueError, "expected chunks as 2"),
        ({"chunks": True}, ValueError, "expected chunks as 2"),
        ({"chunks": (3, 4), "shards": (4, 4)}, ValueError, "zarr refuses"),
        ({"dtype": "nonsense"}, ValueError, "'nonsense' is no dtype"),
        ({"dtype": "i4,f8"}, ValueError, "expected numbers, text"),
        ({"dtype": object}, ValueError, "expected numbers, text"),
        ({"dtype": "i4"}, ValueError, "can't hold the float64 value 0.5"),
        ({"compressor": "nonsense"}, ValueError, "unknown codecs 'nonsense'; known: balanced"),
        ({"compressors": 3}, ValueError, "zarr refuses"),
        ({"compressor": numcodecs.LZMA()}, ValueError, "'lzma' has no core Zarr v3 codec"),
        ({"compressor": None, "compressors": None}, ValueError, "expected one of compressor"),
        ({"filters": 5}, ValueError, "zarr refuses"),
        ({"fill_value": "x"}, ValueError, "zarr refuses"),
        ({"attributes": 5}, ValueError, "expected attributes as a dict, got 5"),
        ({"attributes": {"a": object()}}, ValueError, r"attribute dataset\.a: expected text"),
        ({"attributes": {"a": {"b": np.nan}}}, ValueError, r"attribute dataset\.a\.b: expected"),
        ({"indices": [0]}, ValueError, "indices are for approach='update'"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_keyword_of_a_call_that_can_not_be_honoured(tmp_path, options, error, says):
    with unchanged(tmp_path), ZarrSaver(tmp_path / "a") as saver:
        with pytest.raises(error, match=says) as caught:
            saver.save(ROWS + 0.5, **options)
        assert isinstance(caught.value, InvalidInputError)


@pytest.mark.parametrize(
    ("settings", "error", "says"),
    [
        ({"approach": "appendd"}, ValueError, r"expected approach one of \('append', 'overwri"),
        ({"approach": None}, ValueError, "expected approach one of"),
        ({"mode": "a"}, TypeError, "ZarrSaver has no keyword 'mode'; known are file_path"),
        ({"zarr_format": 4}, ValueError, "zarr_format=4"),
        ({"zarr_format": "3"}, ValueError, "zarr_format='3'"),
        ({"durability": "full"}, ValueError, "durability='full'"),
        ({"chunks": 2.5}, ValueError, "chunks=2.5"),
        ({"max_inflight_bytes": 0}, ValueError, "max_inflight_bytes=0"),
        ({"dataset_name": ""}, ValueError, "expected the name of an array"),
        ({"dataset_name": "../x"}, ValueError, "a part can't be '..'"),
        ({"dataset_name": "/x"}, ValueError, "a part can't be ''"),
        ({"dataset_name": "a\0b"}, ValueError, "can't keep"),
        ({"dataset_name": ".hidden"}, ValueError, "reserved"),
        ({"dataset_name": "zarr.json"}, ValueError, "reserved"),
        ({"dataset_name": "x" * 201}, ValueError, "longer than 200 bytes"),
        (
            {"dims": ("x",), "coords": {"time": [1]}},
            ValueError,
            "'time', which is not among the dims",
        ),
        ({"dims": ("t",), "coords": {"t": [[1]]}}, ValueError, "expected a 1-d array"),
        ({"dims": ("t",), "coords": {"t": [1, 1]}}, ValueError, "label 1 stands there twice"),
        ({"dims": ("t",), "coords": {"t": [1, np.nan]}}, ValueError, "label 1 is missing"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_setting_that_can_not_be_honoured(tmp_path, settings, error, says):
    with unchanged(tmp_path):
        with pytest.raises(error, match=says) as caught:
            ZarrSaver(tmp_path / "a", **settings)
        assert isinstance(caught.value, InvalidInputError)


@pytest.mark.parametrize("approach", ["append", " Append ", "OVERWRITE", "Update\n"])
def test_case_and_blanks_of_an_approach_are_forgiven(tmp_path, approach):
    assert ZarrSaver(tmp_path / "a", approach=approach).approach == approach.strip().lower()


# -- chunk planning --------------------------------------------------------------------------------


def test_a_hundred_saves_of_one_small_item_leave_few_files(tmp_path):
    with ZarrSaver(tmp_path / "a") as saver:
        for number in range(100):
            saver.save([np.full(8, number)])
    assert len(chunk_files(tmp_path / "a")) == 1
    array = zarr.open_group(tmp_path / "a", mode="r")["dataset"]
    assert array.shape == (100, 8)
    assert np.prod(array.chunks) * 8 >= 1 << 20


def test_the_plan_does_not_follow_the_size_of_the_first_save(tmp_path):
    shapes = set()
    for count in (1, 7, 1000):
        path = tmp_path / str(count)
        with ZarrSaver(path) as saver:
            saver.save(np.zeros((count, 100)))
        shapes.add(zarr.open_group(path, mode="r")["dataset"].chunks)
    assert len(shapes) == 1


def test_nothing_of_a_saver_lies_outside_store_and_ledger(tmp_path):
    with ZarrSaver(tmp_path / "a") as saver:
        saver.save(ROWS)
    assert {name.partition("/")[0] for name in tree(tmp_path)} == {"a", "a.ledger"}
