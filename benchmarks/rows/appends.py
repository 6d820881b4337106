"""Many small appends: does the last cost what the first did?"""

from __future__ import annotations

import time
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contender import Contender, Figure, Round, Row
from benchmarks.timing import each_us, per_call

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benchmarks.contender import Figures

ROWS, COLUMNS = 100, 8
MEBIBYTE = 2**20 // (COLUMNS * 8)  # rows in a chunk of 1 MiB


@cache
def noise() -> NDArray[np.float64]:
    return np.random.default_rng(1).normal(size=(ROWS, COLUMNS))


def block(number: int) -> NDArray[np.float64]:
    """Return what append `number` adds, shape (100, 8); no two are alike."""
    return noise() + number


def timed(this: Round, append: Callable[[int], object], close: Callable[[], object]) -> Figures:
    start = time.perf_counter()
    figures = per_call(each_us(append, this.size["saves"]))
    close()
    total = (time.perf_counter() - start) * 1e6 / this.size["saves"]
    return {**figures, "total_us": total}


def equal(found: Any, this: Round) -> None:
    """Raise unless `found` is every block, in order."""
    count = this.size["saves"]
    expected = noise()[None] + np.arange(count, dtype=np.float64)[:, None, None]
    np.testing.assert_array_equal(np.asarray(found), expected.reshape(-1, COLUMNS))


# -- ours --------------------------------------------------------------------------------------


def ours(this: Round, codecs: Any, kind: str = "ZarrSaver") -> Figures:
    import savers

    saver = getattr(savers, kind)(this.folder / "out", codecs=codecs)
    return timed(this, lambda i: saver.save(block(i)), saver.close)


def read_ours(this: Round) -> None:
    import zarr

    equal(zarr.open_array(this.folder / "out", path="dataset", mode="r")[:], this)


# -- peers -------------------------------------------------------------------------------------


def hdf5(this: Round) -> Figures:
    import h5py

    file = h5py.File(this.folder / "out", "w")
    array = file.create_dataset(
        "dataset", (0, COLUMNS), "f8", chunks=(ROWS, COLUMNS), maxshape=(None, COLUMNS)
    )

    def append(number: int) -> None:
        array.resize((number + 1) * ROWS, axis=0)
        array[number * ROWS :] = block(number)
        file.flush()

    return timed(this, append, file.close)


def read_hdf5(this: Round) -> None:
    import h5py

    with h5py.File(this.folder / "out", "r") as file:
        equal(file["dataset"][:], this)


def netcdf(this: Round) -> Figures:
    import netCDF4

    file = netCDF4.Dataset(this.folder / "out", "w")
    file.createDimension("row", None)
    file.createDimension("column", COLUMNS)
    array = file.createVariable(
        "dataset", "f8", ("row", "column"), chunksizes=(ROWS, COLUMNS), fill_value=False
    )

    def append(number: int) -> None:
        array[number * ROWS : (number + 1) * ROWS] = block(number)
        file.sync()

    return timed(this, append, file.close)


def tensors(this: Round, rows: int) -> Figures:
    import tensorstore

    array = tensorstore.open(
        {"driver": "zarr3", "kvstore": f"file://{this.folder}/out"}, context=unsynced(),
        create=True, dtype="float64", shape=(0, COLUMNS), chunk_layout=_layout(rows),
    ).result()  # fmt: skip

    def append(number: int) -> None:
        nonlocal array
        array = array.resize(exclusive_max=((number + 1) * ROWS, COLUMNS)).result()
        array[number * ROWS : (number + 1) * ROWS] = block(number)

    return timed(this, append, lambda: None)


def unsynced() -> Any:
    """By default tensorstore fsyncs every object, which none of the others does here."""
    import tensorstore

    return tensorstore.Context({"file_io_sync": False})


def _layout(rows: int) -> Any:
    import tensorstore

    return tensorstore.ChunkLayout(chunk_shape=(rows, COLUMNS))


def zarr_append(this: Round) -> Figures:
    import zarr

    array = zarr.create_array(
        this.folder / "out", shape=(0, COLUMNS), dtype="f8", chunks=(ROWS, COLUMNS),
        compressors=None,
    )  # fmt: skip
    return timed(this, lambda i: array.append(block(i)), lambda: None)


def read_array(this: Round) -> None:
    import zarr

    equal(zarr.open_array(this.folder / "out", mode="r")[:], this)


# -- floor -------------------------------------------------------------------------------------


def by_hand(this: Round) -> Figures:
    """Append each block to one open file with one write."""
    file = (this.folder / "out").open("wb", buffering=0)
    return timed(this, lambda i: file.write(block(i)), file.close)


def read_bytes(this: Round) -> None:
    equal(np.fromfile(this.folder / "out").reshape(-1, COLUMNS), this)


def tensor_entry(name: str, rows: int) -> Contender:
    return Contender(name, lambda this: tensors(this, rows), read_array, needs=("tensorstore",))


ROW = Row(
    title="Small appends",
    story="Saves of 100 x 8 float64 (6.4 kB), one after the other, each in the hands of the "
    "operating system before the next (flush, sync, or a finished write). Microseconds a save.",
    figures=(
        Figure("us", "us each (median)"),
        Figure("first_us", "mean of the first tenth, us"),
        Figure("last_us", "mean of the last tenth, us"),
        Figure("total_us", "us each with close"),
        Figure("stored_mib", "stored, MiB"),
    ),
    contenders=(
        Contender("ours, raw", lambda this: ours(this, None), read_ours, "ours"),
        Contender("ours, balanced", lambda this: ours(this, "balanced"), read_ours, "ours"),
        Contender(
            "HDF5Saver, raw", partial(ours, codecs=None, kind="HDF5Saver"), read_hdf5, "ours"
        ),
        Contender(
            "NetCDFSaver, raw", partial(ours, codecs=None, kind="NetCDFSaver"), read_hdf5, "ours"
        ),
        Contender("h5py, flush", hdf5, read_hdf5, needs=("h5py",)),
        Contender("netCDF4, sync", netcdf, read_hdf5, needs=("netCDF4",)),
        tensor_entry("tensorstore, a chunk a save", ROWS),
        tensor_entry("tensorstore, chunks of 1 MiB", MEBIBYTE),
        Contender("zarr.append, a chunk a save", zarr_append, read_array),
        Contender("one write", by_hand, read_bytes, "floor"),
    ),
    sizes={"full": {"saves": 10_000}, "quick": {"saves": 1_000}, "tiny": {"saves": 30}},
    note="Peers store raw values in the chunks that suit them best: with a chunk a save they leave "
    "a file a save, where they are Zarr. Ours chooses chunks of about 1 MiB. A save of ours "
    "survives SIGKILL at any instruction; HDF5Saver and NetCDFSaver show it in the file at the "
    "next flush or close. Killed at each of its writes after the first six appends, netCDF4 with "
    "sync left a file that can't be opened at 25 of 60 points, and wrong values at 10; h5py "
    "with flush left none of either at 33 points.",
)
