"""Chunks filtered by us are those that plain HDF5 reads and writes."""

from __future__ import annotations

import contextlib

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from savers._codecs import _deflate
from savers._codecs._deflate import DEFLATE, filtered_chunks
from tests.properties import EXAMPLES

DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16",
          "S1", "S5"]  # fmt: skip
SETTINGS = st.fixed_dictionaries(
    {"shuffle": st.booleans(), "fletcher32": st.booleans()},
    optional={"compression": st.integers(0, 9)},
)


@st.composite
def blocks(draw):
    """The values of one chunk: noise, or a few values that repeat."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES))).newbyteorder(draw(st.sampled_from("<>")))
    shape = draw(hnp.array_shapes(max_dims=3, max_side=40))
    few = draw(st.integers(1, 256))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    size = int(np.prod(shape)) * dtype.itemsize
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    return rng.integers(0, few, size, np.uint8).view(dtype).reshape(shape)


@contextlib.contextmanager
def one_chunk(block, how):
    """A dataset of one chunk in memory, and its pipeline of filters."""
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        array = file.create_dataset(
            "a", block.shape, block.dtype, chunks=block.shape, fillvalue=block.ravel()[-1],
            **how,
        )  # fmt: skip
        plist = array.id.get_create_plist()
        yield array, [plist.get_filter(n)[:3:2] for n in range(plist.get_nfilters())]


@settings(max_examples=2 * EXAMPLES)
@given(blocks(), SETTINGS)
def test_plain_hdf5_reads_what_we_write(block, how):
    with one_chunk(block, how) as (array, filters):
        encoded = filtered_chunks(block.dtype, block.shape, filters).encode(block)
        array.id.write_direct_chunk((0,) * block.ndim, encoded)
        assert array[...].tobytes() == block.tobytes()


@settings(max_examples=2 * EXAMPLES)
@given(blocks(), SETTINGS)
def test_what_plain_hdf5_writes_is_decoded(block, how):
    with one_chunk(block, how) as (array, filters):
        array[...] = block
        array.flush()
        mask, stored = array.id.read_direct_chunk((0,) * block.ndim)
        used = [one for n, one in enumerate(filters) if not mask >> n & 1]
        found = filtered_chunks(block.dtype, block.shape, used).decode(stored)
        assert found.tobytes() == block.tobytes()
        assert found.dtype == block.dtype


@pytest.mark.parametrize("isal", [True, False])
def test_zlib_and_isa_l_read_each_other(monkeypatch, isal):
    if isal:
        pytest.importorskip("isal")
    block = np.arange(1000, dtype="f4")
    there = filtered_chunks(block.dtype, block.shape, [(DEFLATE, (1,))])
    monkeypatch.setattr(_deflate, "_isal", lambda: None)
    zlib = filtered_chunks(block.dtype, block.shape, [(DEFLATE, (1,))])
    one, other = (there, zlib) if isal else (zlib, there)
    np.testing.assert_array_equal(one.decode(other.encode(block)), block)


def test_edges_are_whole_chunks_filled_up():
    """HDF5 reads a chunk at the edge of an array as a whole one."""
    with h5py.File("memory", "w", driver="core", backing_store=False) as file:
        array = file.create_dataset(
            "a", (5,), "i4", maxshape=(None,), chunks=(3,), fillvalue=-1, compression=1
        )
        codec = filtered_chunks(array.dtype, (3,), [(DEFLATE, (1,))])
        for number, chunk in enumerate(([0, 1, 2], [3, 4, -1])):
            array.id.write_direct_chunk((3 * number,), codec.encode(np.array(chunk, "i4")))
        assert array[:].tolist() == [0, 1, 2, 3, 4]
        array.resize((6,))
        assert array[:].tolist() == [0, 1, 2, 3, 4, -1]


def test_damage_is_found_by_the_checksum():
    block = np.arange(9, dtype="u2")
    codec = filtered_chunks(block.dtype, block.shape, [(3, ())])
    data = bytearray(codec.encode(block))
    data[4] ^= 1
    with pytest.raises((RuntimeError, ValueError)):
        codec.decode(bytes(data))


def test_other_filters_are_not_ours():
    assert filtered_chunks(np.dtype("f4"), (3,), [(2, (4,)), (32000, (4,))]) is None
