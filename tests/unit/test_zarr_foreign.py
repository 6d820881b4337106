"""Arrays that zarr or xarray made are extended and changed as zarr itself would."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
import zarr

from savers import FormatError, InvalidInputError, LedgerMismatchError, ZarrSaver
from tests.stores import consolidated_is_current, unchanged, without_warnings

KEYS = [
    (3, {"name": "default", "separator": "/"}),
    (3, {"name": "default", "separator": "."}),
    (3, {"name": "v2", "separator": "/"}),
    (3, {"name": "v2", "separator": "."}),
    (2, {"name": "v2", "separator": "/"}),
    (2, {"name": "v2", "separator": "."}),
]


def make(path, values, version=3, dtype=None, **options):
    """An array `dataset` of zarr's own, in chunks of 2."""
    options.setdefault("chunks", (2,) * values.ndim)
    with without_warnings():
        group = zarr.open_group(path, mode="w", zarr_format=version)
        array = group.create_array(
            "dataset", shape=values.shape, dtype=dtype or values.dtype, **options
        )
        array[...] = values


def read(path):
    with without_warnings():
        return zarr.open_group(path, mode="r")["dataset"][...]


def extend_and_change(path, values, version=3):
    """Append the values again, put row 0 where row 1 was; return what must be there now."""
    with ZarrSaver(path, zarr_format=version) as saver:
        saver.save(values)
    with ZarrSaver(path, approach="update", zarr_format=version) as saver:
        saver.save(values[:1], indices=[1])
    wanted = np.concatenate([values, values])
    wanted[1] = values[0]
    return wanted


@pytest.mark.parametrize("shape", [(5,), (5, 3)])
@pytest.mark.parametrize(("version", "keys"), KEYS)
def test_every_chunk_key_encoding(tmp_path, version, keys, shape):
    values = np.arange(np.prod(shape)).reshape(shape) + 0.5
    make(tmp_path / "a", values, version, chunk_key_encoding=keys)
    wanted = extend_and_change(tmp_path / "a", values, version)
    np.testing.assert_array_equal(read(tmp_path / "a"), wanted)
    assert consolidated_is_current(tmp_path / "a")


@pytest.mark.parametrize("dtype", [">i4", ">f8", "<f2", "?", "u1", "c8", "M8[s]", "m8[ms]", "S3",
                                   "str"])  # fmt: skip
@pytest.mark.parametrize("version", [3, 2])
def test_every_dtype(tmp_path, dtype, version):
    values = np.arange(5).astype("U3" if dtype == "str" else dtype)
    make(tmp_path / "a", values, version, dtype=dtype)
    wanted = extend_and_change(tmp_path / "a", values, version)
    assert read(tmp_path / "a").tolist() == wanted.tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"shards": (4, 4), "chunks": (2, 2)},
        {"compressors": None},
        {"compressors": zarr.codecs.GzipCodec(level=2)},
        {"compressors": [zarr.codecs.ZstdCodec(), zarr.codecs.Crc32cCodec()]},
        {"serializer": zarr.codecs.BytesCodec(endian="big")},
        {"filters": zarr.codecs.TransposeCodec(order=(1, 0))},
        {"fill_value": 7.0},
    ],
    ids=["shards", "raw", "gzip", "checksum", "big", "transpose", "fill"],
)
def test_every_codec(tmp_path, options):
    values = np.arange(15.0).reshape(5, 3)
    make(tmp_path / "a", values, **options)
    wanted = extend_and_change(tmp_path / "a", values)
    np.testing.assert_array_equal(read(tmp_path / "a"), wanted)


def test_version_2_in_fortran_order_with_filters(tmp_path):
    import numcodecs

    values = np.arange(15).reshape(5, 3)
    make(tmp_path / "a", values, 2, order="F", filters=[numcodecs.Delta(dtype="i8")])
    wanted = extend_and_change(tmp_path / "a", values, 2)
    np.testing.assert_array_equal(read(tmp_path / "a"), wanted)


@pytest.mark.parametrize(("version", "keys"), [case for case in KEYS if case[0] == 3])
def test_overwriting_one_leaves_only_the_new_values(tmp_path, version, keys):
    make(tmp_path / "a", np.ones((5, 3)), version, chunk_key_encoding=keys)
    with ZarrSaver(tmp_path / "a", approach="overwrite") as saver:
        saver.save(np.arange(4).reshape(2, 2))
    np.testing.assert_array_equal(read(tmp_path / "a"), [[0, 1], [2, 3]])
    assert consolidated_is_current(tmp_path / "a")


def test_fixed_length_text_is_refused_and_stays(tmp_path):
    make(tmp_path / "a", np.array(["ab", "c"]))
    with (
        unchanged(tmp_path),
        ZarrSaver(tmp_path / "a") as saver,
        pytest.raises(FormatError, match="fixed_length_utf32.*can't be extended"),
    ):
        saver.save(["longer than two"])


def test_a_version_2_store_is_not_mixed_with_version_3(tmp_path):
    make(tmp_path / "a", np.zeros(2), 2)
    with unchanged(tmp_path), pytest.raises(FormatError, match="leave zarr_format out"):
        ZarrSaver(tmp_path / "a", zarr_format=3).save([1.0])
    assert read(tmp_path / "a").shape == (2,)


@pytest.mark.parametrize("maker", ["zarr", "saver"])
@pytest.mark.parametrize("version", [2, 3])
def test_a_store_keeps_its_own_version(tmp_path, version, maker):
    if maker == "zarr":
        make(tmp_path / "a", np.zeros(2), version)
    else:
        with ZarrSaver(tmp_path / "a", zarr_format=version) as saver:
            saver.save([0.0, 0.0])
    for value in (1.0, 2.0):
        with ZarrSaver(tmp_path / "a") as saver:
            saver.save([value])
    with ZarrSaver(tmp_path / "a", "other") as saver:
        saver.save([3.0])
    assert (tmp_path / "a/zarr.json").exists() == (version == 3)
    assert (tmp_path / "a/.zgroup").exists() == (version == 2)
    assert read(tmp_path / "a").tolist() == [0, 0, 1, 2]
    assert zarr.open_group(tmp_path / "a", mode="r")["other"][...].tolist() == [3]


def test_a_dataset_of_xarray_is_extended_and_stays_one(tmp_path):
    path = tmp_path / "a"
    made = xr.Dataset(
        {"t2m": (("time", "x"), np.arange(6.0).reshape(2, 3), {"units": "K"})},
        coords={"x": [10, 20, 30]},
        attrs={"title": "analysis"},
    )
    with without_warnings():  # zarr warns of consolidated metadata in version 3
        made.to_zarr(path, zarr_format=3, consolidated=True)
    with ZarrSaver(path, "t2m") as saver:
        saver.save([[7.0, 8.0, 9.0]])
    with xr.open_zarr(path) as found:
        assert found.t2m.values.tolist() == [[0, 1, 2], [3, 4, 5], [7, 8, 9]]
        assert found.t2m.attrs == {"units": "K"}
        assert found.x.values.tolist() == [10, 20, 30]
        assert found.attrs["title"] == "analysis"
    assert consolidated_is_current(path)


def test_an_array_that_is_refused_is_not_half_taken_over(tmp_path):
    path = tmp_path / "a"
    make(path, np.zeros((2, 3)))
    saver = ZarrSaver(path)
    saver.save({"other": [1]})
    with pytest.raises(InvalidInputError, match=r"expected results of shape \(3,\), got \(4,\)"):
        saver.save(np.ones((1, 4)))
    saver.save(np.ones((1, 3)))
    saver.close()
    with ZarrSaver(path) as saver:
        saver.save(np.ones((1, 3)))
    np.testing.assert_array_equal(read(path), [[0] * 3] * 2 + [[1] * 3] * 2)


def test_a_store_that_another_program_resized_since_is_refused(tmp_path):
    path = tmp_path / "a"
    with ZarrSaver(path) as saver:
        saver.save([1.0, 2.0])
    zarr.open_array(path / "dataset", mode="r+").resize((5,))
    with (
        ZarrSaver(path) as saver,
        pytest.raises(LedgerMismatchError, match="changed by another program"),
    ):
        saver.save([3.0])
    assert zarr.open_array(path / "dataset", mode="r").shape == (5,)


def test_a_group_is_no_array(tmp_path):
    zarr.open_group(tmp_path / "a").create_group("dataset")
    with (
        unchanged(tmp_path),
        ZarrSaver(tmp_path / "a") as saver,
        pytest.raises(FormatError, match="found a group"),
    ):
        saver.save([1])
    zarr.create_array(tmp_path / "b", shape=3, dtype="i4")
    with (
        unchanged(tmp_path),
        ZarrSaver(tmp_path / "b") as saver,
        pytest.raises(FormatError, match="found an array"),
    ):
        saver.save([1])
