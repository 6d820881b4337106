"""Shards of our own are those that zarr-python reads, and the other way round."""

from __future__ import annotations

import json

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    TransposeCodec,
    ZstdCodec,
)
from zarr.core.buffer import default_buffer_prototype

from savers import ZarrSaver
from savers._codecs._choice import ZarrChunks, chunk_codec
from savers._codecs._shards import ShardChunks
from tests.properties import EXAMPLES  # noqa: F401 -- sets how hard the property tests try

BUFFER = default_buffer_prototype().buffer
DTYPES = ["?", "i1", "u2", "<i4", "i8", "f2", "f4", "f8", "c8", "c16"]
CHAINS = [[], [BloscCodec()], [BloscCodec(cname="lz4", shuffle="bitshuffle")], [ZstdCodec()],
          [GzipCodec(level=1)], [Crc32cCodec()], [ZstdCodec(), Crc32cCodec()]]  # fmt: skip


def sharded(dtype, shape, inner, *, fill=0, endian="little", chain=(), **options):
    """An array of one shard in memory, its objects and our codec of it."""
    memory = {}
    serializer = ShardingCodec(
        chunk_shape=inner, codecs=[BytesCodec(endian=endian), *chain], **options
    )
    array = zarr.create_array(
        zarr.storage.MemoryStore(memory), shape=shape, chunks=shape, dtype=dtype,
        serializer=serializer, compressors=None, fill_value=fill,
    )  # fmt: skip
    return array, memory, chunk_codec(json.loads(memory["zarr.json"].to_bytes()), shape)


def key(shape):
    return "/".join(["c", *("0" for _ in shape)])


@st.composite
def cases(draw):
    axes = draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=3))
    inner, grid = zip(*axes, strict=True)
    shape = tuple(n * g for n, g in axes)
    seed = draw(st.integers(0, 2**32))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    block = np.random.default_rng(seed).integers(0, 3, shape).astype(dtype)
    made = sharded(
        dtype, shape, inner, endian=draw(st.sampled_from(["little", "big"])),
        chain=draw(st.sampled_from(CHAINS)), fill=draw(st.sampled_from([0, 1])),
    )  # fmt: skip
    return block, grid, made


@given(cases(), st.booleans())
def test_zarr_reads_our_shards_and_we_read_those_of_zarr(case, everything):
    block, _, (array, memory, codec) = case
    assert type(codec) is ShardChunks
    memory[key(block.shape)] = BUFFER.from_bytes(codec.encode(block))
    np.testing.assert_array_equal(array[...], block)
    array.with_config({"write_empty_chunks": everything})[...] = block
    stored = memory.get(key(block.shape))
    if stored is not None:  # chunks that hold only fill values may be missing
        np.testing.assert_array_equal(codec.decode(stored.to_bytes()), block)
    np.testing.assert_array_equal(codec.decode(codec.encode(block)), block)


@given(cases(), st.data())
def test_zarr_reads_parts_of_our_shards(case, data):
    block, _, (array, memory, codec) = case
    memory[key(block.shape)] = BUFFER.from_bytes(codec.encode(block))
    cut = tuple(slice(*sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2)))) for n in block.shape)
    np.testing.assert_array_equal(array[cut], block[cut])


@pytest.mark.parametrize(
    ("options", "chain"),
    [
        ({"index_location": "start"}, []),
        ({"index_codecs": [BytesCodec()]}, []),
        ({}, [ZstdCodec(), Crc32cCodec(), GzipCodec()]),
    ],
)
def test_unusual_shards_are_read_and_written(options, chain):
    block = np.arange(16.0).reshape(4, 4)
    array, memory, codec = sharded("f8", (4, 4), (2, 2), chain=chain, **options)
    assert type(codec) is (ZarrChunks if options else ShardChunks)
    memory["c/0/0"] = BUFFER.from_bytes(codec.encode(block))
    np.testing.assert_array_equal(array[...], block)
    np.testing.assert_array_equal(codec.decode(codec.encode(block)), block)


def test_transposed_inner_chunks_go_through_zarr():
    memory = {}
    serializer = ShardingCodec(
        chunk_shape=(2, 2), codecs=[TransposeCodec(order=(1, 0)), BytesCodec()]
    )
    array = zarr.create_array(
        zarr.storage.MemoryStore(memory), shape=(4, 4), chunks=(4, 4), dtype="i4",
        serializer=serializer, compressors=None,
    )  # fmt: skip
    codec = chunk_codec(json.loads(memory["zarr.json"].to_bytes()), (4, 4))
    block = np.arange(16, dtype="i4").reshape(4, 4)
    memory["c/0/0"] = BUFFER.from_bytes(codec.encode(block))
    np.testing.assert_array_equal(array[...], block)


def test_missing_chunks_hold_the_fill_value():
    block = np.full((4, 4), np.nan)
    block[:2, :2] = 7
    array, memory, codec = sharded("f8", (4, 4), (2, 2), fill=np.nan, chain=[BloscCodec()])
    array[...] = block
    stored = memory["c/0/0"].to_bytes()
    assert len(stored) < len(codec.encode(block))
    np.testing.assert_array_equal(codec.decode(stored), block)


def test_a_damaged_index_and_a_short_shard_are_refused():
    _, _, codec = sharded("i4", (4,), (2,))
    data = codec.encode(np.arange(4, dtype="i4"))
    for position in range(16, len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 1
        with pytest.raises(ValueError, match="does not match its index's checksum"):
            codec.decode(bytes(damaged))
    with pytest.raises(ValueError, match="a stored shard of 30 bytes"):
        codec.decode(data[:30])


def test_raw_shards_are_written_without_a_copy():
    block = np.arange(64.0).reshape(16, 4)
    _, _, codec = sharded("<f8", (16, 4), (2, 4))
    *chunks, _ = codec.parts(block)
    assert all(np.shares_memory(np.frombuffer(part), block) for part in chunks)


@pytest.mark.parametrize("codecs", [None, "balanced"])
def test_a_shard_of_more_parts_than_one_call_takes(tmp_path, codecs):
    rows = np.arange(2 * 3000.0).reshape(3000, 2)
    with ZarrSaver(tmp_path / "out", chunks=(1, 2), shards=(1500, 2), codecs=codecs) as saver:
        saver.save(rows)
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "out", mode="r")["dataset"][:], rows)
