"""A frame made in shares is the frame that Blosc makes in one piece."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import Blosc

from savers import ZarrSaver
from savers._codecs import _blosc_frames
from savers._codecs._codec import DirectChunks
from savers._codecs._compressors import compressors_v3

BLOCK = 4096


def codec(values, shuffle="shuffle", level=1):
    settings = {"cname": "zstd", "clevel": level, "shuffle": shuffle,
                "typesize": values.itemsize, "blocksize": BLOCK}  # fmt: skip
    chain = compressors_v3([{"name": "blosc", "configuration": settings}])
    return DirectChunks(values.dtype, chain, values.shape)


def shared(codec, values):
    made = [share() for share in codec.shares(values)]
    return len(made), b"".join(codec.joined(values, made))


kinds = st.sampled_from(["smooth", "noise", "zeros", "both"])


def make(kind, dtype, count, seed):
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, count * dtype.itemsize, "u1")
    noise = raw.view(dtype)
    if kind == "noise":
        return noise
    if kind == "zeros":
        return np.zeros(count, dtype)
    smooth = np.arange(count).astype(dtype)
    return np.where(np.arange(count) < count // 2, noise, smooth) if kind == "both" else smooth


@given(
    kinds,
    st.sampled_from([np.dtype(name) for name in ("u1", "<i2", ">f4", "f8", "c16")]),
    st.integers(1, 5 * BLOCK),
    st.sampled_from(["shuffle", "bitshuffle", "noshuffle"]),
    st.integers(0, 3),
)
def test_it_is_byte_for_byte_what_one_thread_makes(kind, dtype, count, shuffle, level):
    values = make(kind, dtype, count, count)
    codec_ = codec(values, shuffle, level)
    number, frame = shared(codec_, values)
    assert number == max(1, values.nbytes // BLOCK)
    assert frame == codec_.encode(values)
    assert bytes(Blosc().decode(frame)) == values.tobytes()


@pytest.mark.parametrize(("kind", "gained"), [("smooth", True), ("noise", True), ("both", False)])
def test_only_what_is_small_in_parts_is_encoded_again(kind, gained):
    values = make(kind, np.dtype("i4"), 4 * BLOCK, 0)
    frames = [share()[0] for share in codec(values).shares(values)]
    assert len(frames) == 16
    assert (_blosc_frames.joined(frames) is not None) is gained


@pytest.mark.parametrize("size", [1, 100, 4096, 4097, 8191, 8192, 12288, 50_000])
def test_cuts_cover_everything_in_whole_blocks(size):
    found = _blosc_frames.cuts(size, BLOCK)
    assert [cut.start for cut in found] == [0, *(cut.stop for cut in found[:-1])]
    assert found[-1].stop == size
    assert all(cut.stop - cut.start == BLOCK for cut in found[:-1])
    assert found[-1].stop - found[-1].start < 2 * BLOCK


def test_one_large_chunk_is_saved_as_zarr_saves_it(tmp_path):
    field = np.cumsum(np.random.default_rng(0).normal(size=(721, 1440)), axis=1).astype("f4")
    with ZarrSaver(tmp_path / "out", chunks=(1, 721, 1440)) as saver:
        saver.save(field[None])
    ours = zarr.open_array(tmp_path / "out", path="dataset")
    theirs = zarr.create_array(
        tmp_path / "theirs", name="dataset", shape=ours.shape, chunks=ours.chunks, dtype="f4",
        compressors=ours.compressors,
    )  # fmt: skip
    theirs[:] = field[None]
    np.testing.assert_array_equal(ours[0], field)
    key = "dataset/c/0/0/0"
    assert (tmp_path / "out" / key).read_bytes() == (tmp_path / "theirs" / key).read_bytes()


@pytest.mark.parametrize("shuffle", [Blosc.SHUFFLE, Blosc.BITSHUFFLE, Blosc.AUTOSHUFFLE])
def test_version_2_shuffles_values_not_bytes(tmp_path, shuffle):
    field = np.cumsum(np.random.default_rng(0).normal(size=(4, 4096)), axis=1).astype("f4")
    compressor = Blosc("zstd", 1, shuffle)
    with ZarrSaver(tmp_path / "out", zarr_format=2, chunks=(1, 4096)) as saver:
        saver.save(field, compressor=compressor)
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "out", path="dataset"), field)
    for number, row in enumerate(field):
        stored = (tmp_path / "out" / "dataset" / str(number) / "0").read_bytes()
        assert stored == compressor.encode(row)
