"""Chunks are encoded as zarr-python encodes them, for whatever an array was created with."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, GzipCodec, TransposeCodec, ZstdCodec
from zarr.core.buffer import default_buffer_prototype

from savers._codecs._choice import DirectChunks, ZarrChunks, chunk_codec
from savers._codecs._settings import preset
from savers._codecs._shards import ShardChunks
from tests.properties import EXAMPLES
from tests.stores import without_warnings

BUFFER = default_buffer_prototype().buffer
DTYPES = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"]
BLOSC = st.builds(
    BloscCodec,
    cname=st.sampled_from(["zstd", "lz4", "lz4hc", "zlib", "blosclz"]),
    clevel=st.integers(0, 9),
    shuffle=st.sampled_from(["noshuffle", "shuffle", "bitshuffle"]),
    typesize=st.integers(1, 8),
    blocksize=st.sampled_from([0, 64]),
)
BYTES_CODECS = st.lists(
    BLOSC
    | st.builds(ZstdCodec, level=st.integers(-1, 9), checksum=st.booleans())
    | st.builds(GzipCodec, level=st.integers(0, 9))
    | st.just(Crc32cCodec()),
    max_size=2,
)


@st.composite
def version_3(draw):
    """Settings of a zarr v3 array and the values of one of its stored objects."""
    block = draw(blocks())
    options = {"compressors": draw(BYTES_CODECS) or None}
    options["serializer"] = BytesCodec(endian=draw(st.sampled_from(["little", "big"])))
    if block.ndim > 1 and draw(st.booleans()):
        order = draw(st.permutations(range(block.ndim)))
        options["filters"] = [TransposeCodec(order=tuple(order))]
    options["chunks"] = block.shape
    if draw(st.booleans()):
        options["shards"] = block.shape
        options["chunks"] = tuple(draw(st.sampled_from(_divisors(n))) for n in block.shape)
    options["fill_value"] = draw(st.sampled_from([block.ravel()[0], np.zeros((), block.dtype)[()]]))
    return block, options


@st.composite
def version_2(draw):
    block = draw(blocks())
    compressors = [None, numcodecs.Blosc("lz4", 3), numcodecs.Zstd(2), numcodecs.GZip(1),
                   numcodecs.LZ4(), numcodecs.BZ2(1)]  # fmt: skip
    options = {"compressors": draw(st.sampled_from(compressors)), "chunks": block.shape}
    options["order"] = draw(st.sampled_from("CF"))
    if block.dtype.kind in "iu" and draw(st.booleans()):
        options["filters"] = [numcodecs.Delta(dtype=block.dtype.str)]
    return block, options


def blocks():
    codes = st.sampled_from(DTYPES).flatmap(lambda c: st.sampled_from([c, np.dtype(c)]))
    orders = st.sampled_from("<>")
    dtypes = st.builds(lambda code, order: np.dtype(code).newbyteorder(order), codes, orders)
    return hnp.arrays(dtypes, hnp.array_shapes(min_dims=1, max_dims=3, max_side=4))


def _divisors(size):
    return [n for n in range(1, size + 1) if size % n == 0]


def made(block, version, options):
    """An array of one stored object in memory, its objects and its metadata."""
    memory = {}
    store = zarr.storage.MemoryStore(memory)
    with without_warnings():
        array = zarr.create_array(
            store, shape=block.shape, dtype=block.dtype, zarr_format=version, **options
        )
    name = "zarr.json" if version == 3 else ".zarray"
    return array, memory, json.loads(memory[name].to_bytes())


def key(block, version):
    return ("c/" if version == 3 else "") + ("/" if version == 3 else ".").join("0" * block.ndim)


def check(block, version, options):
    array, memory, metadata = made(block, version, options)
    codec = chunk_codec(metadata, block.shape)
    ours = codec.encode(block)
    memory[key(block, version)] = BUFFER.from_bytes(ours)
    np.testing.assert_array_equal(np.asarray(array[...]), block)
    array.with_config({"write_empty_chunks": True})[...] = block
    theirs = memory[key(block, version)].to_bytes()
    np.testing.assert_array_equal(codec.decode(theirs), block)
    np.testing.assert_array_equal(codec.decode(ours), block)
    return codec


@settings(max_examples=2 * EXAMPLES)
@given(version_3())
def test_zarr_reads_what_is_encoded_and_back_in_version_3(case):
    check(case[0], 3, case[1])


@given(version_2())
def test_zarr_reads_what_is_encoded_and_back_in_version_2(case):
    check(case[0], 2, case[1])


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({}, DirectChunks),
        ({"compressors": [BloscCodec(), Crc32cCodec()]}, DirectChunks),
        ({"filters": [TransposeCodec(order=(1, 0))]}, ZarrChunks),
        ({"shards": (4, 4), "chunks": (2, 2)}, ShardChunks),
    ],
    ids=["default", "blosc-checksum", "transpose", "shards"],
)
def test_common_codecs_are_called_directly(options, kind):
    block = np.arange(16.0).reshape(4, 4)
    assert type(check(block, 3, {"chunks": (4, 4), **options})) is kind


@pytest.mark.parametrize("version", [3, 2])
@pytest.mark.parametrize("dtype", ["str", "M8[s]", "S3"])
def test_other_dtypes(version, dtype):
    block = np.array(["1", "22", "333"], "T") if dtype == "str" else np.arange(3).astype(dtype)
    memory = {}
    with without_warnings():
        array = zarr.create_array(zarr.storage.MemoryStore(memory), shape=3, chunks=3,
                                  dtype=dtype, zarr_format=version)  # fmt: skip
        metadata = json.loads(memory["zarr.json" if version == 3 else ".zarray"].to_bytes())
        codec = chunk_codec(metadata, (3,))
        memory[key(block, version)] = BUFFER.from_bytes(codec.encode(block))
        assert np.asarray(array[...]).tolist() == block.tolist()
        assert codec.decode(memory[key(block, version)].to_bytes()).tolist() == block.tolist()


def test_a_chunk_without_axes():
    for version in (3, 2):
        for options in ({}, {"compressors": None}):
            array, memory, metadata = made(np.array(5.0), version, {"chunks": (), **options})
            array[...] = 5.0
            data = memory["c" if version == 3 else "0"].to_bytes()
            assert chunk_codec(metadata, ()).decode(data) == 5.0


def test_a_damaged_checksum_is_refused():
    options = {"chunks": (8,), "compressors": [Crc32cCodec()]}
    block = np.arange(8.0)
    _, _, metadata = made(block, 3, options)
    codec = chunk_codec(metadata, (8,))
    data = bytearray(codec.encode(block))
    for position in range(len(data)):
        data[position] ^= 1
        with pytest.raises(ValueError, match="does not match its checksum"):
            codec.decode(bytes(data))
        data[position] ^= 1


@pytest.mark.parametrize("options", [{}, {"shards": (64, 64)}], ids=["direct", "by zarr"])
def test_a_codec_is_safe_to_share_between_threads(options):
    block = np.arange(4096.0).reshape(64, 64)
    _, _, metadata = made(block, 3, {"chunks": (32, 32) if options else (64, 64), **options})
    codec = chunk_codec(metadata, (64, 64))
    with ThreadPoolExecutor(4) as threads:
        data = list(threads.map(lambda n: codec.encode(block + n), range(24)))
        backs = list(threads.map(codec.decode, data))
    assert [(back - block)[3, 7] for back in backs] == list(range(24))


def test_names_of_codecs():
    names = ("balanced", "fast", "small", "blosc", "lz4", "zstd", "gzip")
    assert all(len(preset(name, np.dtype("f4"))) == 1 for name in names)
    assert preset(None, np.dtype("f4")) == ()
    assert preset("fast", np.dtype("f4"))[0].typesize == 4
    document = preset("fast", np.dtype("u1"))[0].to_dict()
    assert document["configuration"]["shuffle"] == "bitshuffle"
    with pytest.raises(KeyError):
        preset("best", np.dtype("f4"))
