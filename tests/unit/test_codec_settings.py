"""Settings that people choose: presets, and rounding with a guarantee."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from savers import ZarrSaver
from savers._codecs._settings import preset
from savers._values._rounding import rounded
from savers.errors import InvalidInputError
from tests.properties import EXAMPLES  # noqa: F401 -- sets how hard the property tests try

FLOATS = st.sampled_from(["f2", "f4", "f8", "c8", "c16"])


def parts(values):
    """Real and imaginary parts, in float64 or better, as one array."""
    flat = np.ascontiguousarray(values).reshape(-1)
    return flat.view(flat.real.dtype).astype(np.longdouble)


@given(
    FLOATS.flatmap(lambda kind: hnp.arrays(kind, hnp.array_shapes(max_dims=2, max_side=20))),
    st.floats(1e-18, 1, exclude_max=True),
)
@example(np.array([np.finfo("f4").max], "f4"), 0.4)
@example(np.array([1e-45, 1e-40, -0.0, np.nan, -np.inf], "f4"), 0.3)
@example(np.array([1.0, 1.5, 1.75, 1.9999999], "f4"), 0.9)
def test_no_value_moves_by_more_than_its_share(values, relative):
    found = rounded(values, relative)
    assert found.dtype == values.dtype
    assert found.shape == values.shape
    was, now = parts(values), parts(found)
    np.testing.assert_array_equal(np.isfinite(was), np.isfinite(now))
    np.testing.assert_array_equal(np.isnan(was), np.isnan(now))
    finite = np.isfinite(was)
    assert (np.abs(now[finite] - was[finite]) <= relative * np.abs(was[finite])).all()
    assert rounded(found, relative).tobytes() == found.tobytes()


def test_rounded_values_compress_better():
    field = np.random.default_rng(0).normal(size=(256, 256)).astype("f4")
    codec = preset("balanced", field.dtype)[0]
    import numcodecs

    blosc = numcodecs.Blosc("zstd", codec.clevel, 1, codec.blocksize)
    assert len(blosc.encode(rounded(field, 1e-3))) < 0.6 * len(blosc.encode(field))


@pytest.mark.parametrize("dtype", ["f4", "f8", "c16"])
def test_a_saver_keeps_its_promise(tmp_path, dtype):
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(100, 50)) * 10.0 ** rng.integers(-30, 30, (100, 50))).astype(dtype)
    with ZarrSaver(tmp_path / "out", chunks=(30, 50), keep_relative=1e-3) as saver:
        for start in range(0, 100, 10):
            saver.save(rows[start : start + 10])
    array = zarr.open_group(tmp_path / "out", mode="r")["dataset"]
    found = array[:]
    assert found.dtype == rows.dtype
    assert (np.abs(found - rows) <= 1e-3 * np.abs(rows)).all()
    assert (found != rows).any()
    assert array.attrs["keep_relative"] == 1e-3
    with ZarrSaver(tmp_path / "out", approach="update") as saver:  # it is the array's, not ours
        saver.save(np.full(50, np.pi, dtype), indices=7)
    found = zarr.open_group(tmp_path / "out", mode="r")["dataset"][7, 0]
    assert 0 < abs(found - np.pi) <= 1e-3 * np.pi


def test_arrays_are_rounded_each_by_its_own(tmp_path):
    rows = np.random.default_rng(0).normal(size=(20, 5))
    keep = {"a": 1e-2}
    with ZarrSaver(tmp_path / "out", keep_relative=keep, dims=("n", "x"),
                   coords={"x": np.linspace(0, 1, 5)}) as saver:  # fmt: skip
        saver.save({"a": rows, "b": rows, "n_items": np.arange(100).reshape(20, 5)})
    group = zarr.open_group(tmp_path / "out", mode="r")
    assert (group["a"][:] != rows).any()
    np.testing.assert_array_equal(group["b"][:], rows)
    np.testing.assert_array_equal(group["x"][:], np.linspace(0, 1, 5))


@pytest.mark.parametrize(
    ("keep", "rows", "said"),
    [
        (1e-3, np.arange(4), "'dataset' holds int64"),
        (1e-3, np.array(["a"]), "'dataset' holds"),
        ({"dataset": 1e-3}, np.array([True]), "'dataset' holds bool"),
    ],
)
def test_what_has_no_digits_to_lose_is_refused(tmp_path, keep, rows, said):
    with (
        ZarrSaver(tmp_path / "out", keep_relative=keep) as saver,
        pytest.raises(InvalidInputError, match=f"keep_relative is for floats, {said}"),
    ):
        saver.save(rows)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("keep", [0, 1, -1e-3, np.nan, "1e-3", {"dataset": 2.0}])
def test_a_share_that_is_none_is_refused(tmp_path, keep):
    with pytest.raises(InvalidInputError, match="keep_relative"):
        ZarrSaver(tmp_path / "out", keep_relative=keep)


def test_an_array_that_keeps_everything_is_not_rounded_later(tmp_path):
    with ZarrSaver(tmp_path / "out") as saver:
        saver.save([1.1])
    with (
        ZarrSaver(tmp_path / "out", keep_relative=1e-3) as saver,
        pytest.raises(InvalidInputError, match="was created with keep_relative=None"),
    ):
        saver.save([1.1])


@pytest.mark.parametrize("version", [3, 2])
@pytest.mark.parametrize("codecs", ["fast", "balanced", "small", None])
def test_presets_are_core_codecs_that_zarr_reads(tmp_path, codecs, version):
    rows = np.random.default_rng(0).integers(0, 50, (300, 1000)).astype("i4")
    with ZarrSaver(tmp_path / "out", codecs=codecs, zarr_format=version) as saver:
        saver.save(rows)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "out", mode="r")["dataset"][:], rows)
    if version == 3:
        node = json.loads((tmp_path / "out/dataset/zarr.json").read_text())
        assert [codec["name"] for codec in node["codecs"]] == ["bytes", *["blosc"] * bool(codecs)]
