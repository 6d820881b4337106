"""Ways to save a stack of arrays into one HDF5 or NetCDF file: ours, peers and by hand.

All store deflate-1 with shuffle, one chunk an array, so that every HDF5 tool reads the file. They
take and return what those of `benchmarks.arrays` do; closing is included.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.arrays import clocked

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.arrays import Floats, Seconds, Stack


# -- ours --------------------------------------------------------------------------------------


def ours_hdf5(stack: Stack, path: Path) -> Seconds:
    from savers import HDF5Saver

    return _ours(HDF5Saver(path, chunks=stack.chunks), stack)


def ours_netcdf(stack: Stack, path: Path) -> Seconds:
    from savers import NetCDFSaver

    return _ours(NetCDFSaver(path, chunks=stack.chunks), stack)


def without_isal(stack: Stack, path: Path) -> Seconds:
    """As in an installation without the extra `fast`."""
    sys.modules["isal"] = None
    return ours_hdf5(stack, path)


def _ours(saver: Any, stack: Stack) -> Seconds:
    return clocked(stack, lambda _, values: saver.save(values), saver.close)


# -- peers -------------------------------------------------------------------------------------


def h5netcdf_file(stack: Stack, path: Path) -> Seconds:
    import h5netcdf

    file = h5netcdf.File(path, "w")
    names = [f"axis{axis}" for axis in range(stack.values.ndim)]
    file.dimensions = dict(zip(names, stack.values.shape, strict=True))
    array = file.create_variable(
        "dataset", names, "f4", chunks=stack.chunks, compression="gzip", compression_opts=1,
        shuffle=True,
    )  # fmt: skip

    def save(start: int, values: Floats) -> None:
        array[start : start + len(values)] = values

    return clocked(stack, save, file.close)


def by_xarray(stack: Stack, path: Path, engine: str) -> Seconds:
    """All at once: `to_netcdf` takes no batches."""
    import xarray

    start = time.perf_counter()
    names = [f"axis{axis}" for axis in range(stack.values.ndim)]
    how = {"zlib": True, "complevel": 1, "shuffle": True, "chunksizes": stack.chunks}
    dataset = xarray.Dataset({"dataset": (names, stack.values)})
    encoding = {"dataset": {**how, "_FillValue": None}}
    dataset.to_netcdf(path, engine=engine, encoding=encoding)
    total = time.perf_counter() - start
    return total, total


# -- by hand -----------------------------------------------------------------------------------


def by_hand(stack: Stack, path: Path) -> Seconds:
    """Shuffle and compress in as many threads as there are cores, write whole chunks with h5py."""
    import h5py

    start = time.perf_counter()
    with (
        h5py.File(path, "w") as file,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads,
    ):
        array = file.create_dataset(
            "dataset", stack.values.shape, "f4", chunks=stack.chunks, compression=1, shuffle=True
        )
        waiting = deque(threads.submit(_encode, value) for value in stack.values)
        for number in range(len(waiting)):
            offset = (number, *(0 for _ in stack.chunks[1:]))
            array.id.write_direct_chunk(offset, waiting.popleft().result())
    total = time.perf_counter() - start
    return total, total


def _encode(values: Floats) -> bytes:
    shuffled = np.ascontiguousarray(values.reshape(-1).view(np.uint8).reshape(-1, 4).T)
    try:
        from isal.isal_zlib import compress
    except ImportError:
        from zlib import compress
    return compress(shuffled, zlib.Z_BEST_SPEED)
