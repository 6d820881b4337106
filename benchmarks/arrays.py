"""Ways to save a stack of arrays, batch by batch, one chunk an array: ours, peers and by hand.

Each takes a `Stack` and a path, and returns seconds: those that the caller was blocked in saves,
and all of them until everything is with the operating system. Lossless. Every Zarr array has the
codec of ours, blocks of 1 MiB included, so that the stored bytes are the same and only the way to
them differs.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import starmap
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    Seconds = tuple[float, float]
    Floats = NDArray[np.float32]


BLOCK = 1 << 20  # bytes that Blosc compresses at a time; its own choice takes twice as long


@dataclass(frozen=True)
class Stack:
    """What is saved: arrays along the first axis, `batch` of them a save."""

    values: Floats
    batch: int
    shard: int = 0  # arrays in a shard; 0 for none

    def batches(self) -> Iterator[tuple[int, Floats]]:
        for start in range(0, len(self.values), self.batch):
            yield start, self.values[start : start + self.batch]

    @property
    def chunks(self) -> tuple[int, ...]:
        return (1, *self.values.shape[1:])

    @property
    def shards(self) -> tuple[int, ...] | None:
        return (self.shard, *self.values.shape[1:]) if self.shard else None


@cache
def load(path: str) -> Floats:
    """Return an input, read once a process."""
    return np.load(path)


def clocked(
    stack: Stack, save: Callable[[int, Floats], object], close: Callable[[], object]
) -> Seconds:
    """Save all batches and close."""
    start = time.perf_counter()
    for _ in starmap(save, stack.batches()):
        pass
    blocked = time.perf_counter() - start
    close()
    return blocked, time.perf_counter() - start


def nothing() -> None:
    """Some have nothing to close."""


# -- Zarr --------------------------------------------------------------------------------------


def ours(stack: Stack, path: Path, **settings: Any) -> Seconds:
    from savers import ZarrSaver

    options = {"shards": stack.shards} if stack.shard else {}
    saver = ZarrSaver(path, chunks=stack.chunks, **options, **settings)
    return clocked(stack, lambda _, values: saver.save(values), saver.close)


def ours_with_zarrs(stack: Stack, path: Path) -> Seconds:
    return ours(stack, path, pipeline="zarrs")


def tensors(stack: Stack, path: Path) -> Seconds:
    """Hand over every batch at once, then wait for all of them."""
    import tensorstore

    context = tensorstore.Context({"file_io_sync": False})  # no one else fsyncs here
    spec = {"driver": "zarr3", "kvstore": f"file://{path}/dataset", "metadata": _metadata(stack)}
    array = tensorstore.open(spec, create=True, context=context).result()
    waiting = []

    def save(start: int, values: Floats) -> None:
        written = array[start : start + len(values)].write(values)
        written.copy.result()  # from here on the caller may change its values
        waiting.append(written)

    return clocked(stack, save, lambda: [written.result() for written in waiting])


def _metadata(stack: Stack) -> dict[str, Any]:
    grid = {"chunk_shape": stack.shards or stack.chunks}
    return {
        "shape": stack.values.shape,
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": grid},
        "codecs": _codecs(stack),
    }


def _codecs(stack: Stack) -> list[dict[str, Any]]:
    little = {"name": "bytes", "configuration": {"endian": "little"}}
    settings = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "typesize": 4,
                "blocksize": BLOCK}  # fmt: skip
    inner = [little, {"name": "blosc", "configuration": settings}]
    if not stack.shard:
        return inner
    index = [little, {"name": "crc32c"}]
    inside = {"chunk_shape": stack.chunks, "codecs": inner, "index_codecs": index}
    return [{"name": "sharding_indexed", "configuration": inside}]


def zarr_python(stack: Stack, path: Path) -> Seconds:
    array = make_zarr(stack, path)
    return clocked(stack, lambda start, values: _put(array, start, values), nothing)


def zarrs(stack: Stack, path: Path) -> Seconds:
    import zarr

    with zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return zarr_python(stack, path)


def make_zarr(stack: Stack, path: Path) -> Any:
    import zarr
    from zarr.codecs import BloscCodec

    codec = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=4, blocksize=BLOCK)
    return zarr.create_array(
        path, name="dataset", shape=stack.values.shape, dtype="f4", chunks=stack.chunks,
        shards=stack.shards, compressors=codec,
    )  # fmt: skip


def _put(array: Any, start: int, values: Floats) -> None:
    array[start : start + len(values)] = values


def check_zarr(stack: Stack, path: Path) -> None:
    import zarr

    _compare(zarr.open_array(path, path="dataset", mode="r"), stack)


# -- HDF5 --------------------------------------------------------------------------------------


def hdf5_deflate(stack: Stack, path: Path) -> Seconds:
    return _hdf5(stack, path, {"compression": "gzip", "compression_opts": 1, "shuffle": True})


def hdf5_blosc(stack: Stack, path: Path) -> Seconds:
    import hdf5plugin

    return _hdf5(stack, path, dict(hdf5plugin.Blosc(cname="zstd", clevel=1, shuffle=1)))


def _hdf5(stack: Stack, path: Path, options: dict[str, Any]) -> Seconds:
    import h5py

    file = h5py.File(path, "w")
    array = file.create_dataset("dataset", stack.values.shape, "f4", chunks=stack.chunks, **options)
    return clocked(stack, lambda start, values: _put(array, start, values), file.close)


def netcdf(stack: Stack, path: Path) -> Seconds:
    import netCDF4

    file = netCDF4.Dataset(path, "w")
    names = [f"axis{axis}" for axis in range(stack.values.ndim)]
    for name, length in zip(names, stack.values.shape, strict=True):
        file.createDimension(name, length)
    array = file.createVariable(
        "dataset", "f4", names, chunksizes=stack.chunks, compression="zlib", complevel=1,
        shuffle=True, fill_value=False,
    )  # fmt: skip
    return clocked(stack, lambda start, values: _put(array, start, values), file.close)


def check_hdf5(stack: Stack, path: Path) -> None:
    import h5py

    with contextlib.suppress(ImportError):  # plain deflate is read without it
        import hdf5plugin  # noqa: F401
    with h5py.File(path, "r") as file:
        _compare(file["dataset"], stack)


def _compare(found: Any, stack: Stack) -> None:
    if found.shape != stack.values.shape:
        raise ValueError(f"expected shape {stack.values.shape}, got {found.shape}")
    for start, values in stack.batches():
        np.testing.assert_array_equal(found[start : start + len(values)], values)


# -- by hand -----------------------------------------------------------------------------------


def by_hand(stack: Stack, path: Path) -> Seconds:
    """Compress with numcodecs and write whole objects, in as many threads as there are cores."""
    make_zarr(stack, path)  # metadata is not what is measured
    folder = path / "dataset" / "c"
    folder.mkdir()
    one = _shard if stack.shard else _chunk
    step = stack.shard or 1
    numbers = range(0, len(stack.values), step)
    start = time.perf_counter()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        for _ in threads.map(lambda n: one(stack.values[n : n + step], folder, n // step), numbers):
            pass
    total = time.perf_counter() - start
    return total, total


def _chunk(values: Floats, folder: Path, number: int) -> None:
    _write(_object(folder, number, values.ndim), [_encode(values[0])])


def _shard(values: Floats, folder: Path, number: int) -> None:
    import crc32c

    chunks = [_encode(value) for value in values]
    sizes = np.array([len(chunk) for chunk in chunks], "<u8")
    index = np.stack([np.cumsum(sizes) - sizes, sizes], axis=1).astype("<u8").tobytes()
    check = np.uint32(crc32c.crc32c(index)).tobytes()
    _write(_object(folder, number, values.ndim), [b"".join(chunks), index, check])


def _object(folder: Path, number: int, ndim: int) -> str:
    inner = folder / str(number) / "/".join(["0"] * (ndim - 1))
    inner.parent.mkdir(parents=True)
    return str(inner)


def _encode(values: Floats) -> bytes:
    if not hasattr(_own, "codec"):
        import numcodecs

        _own.codec = numcodecs.Blosc("zstd", 1, numcodecs.Blosc.SHUFFLE, BLOCK)
    return _own.codec.encode(values)


def _write(path: str, parts: list[bytes]) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.writev(fd, parts)
    finally:
        os.close(fd)


_own = threading.local()
