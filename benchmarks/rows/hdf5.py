"""Compressed float32 fields in one HDF5 or NetCDF file, closed."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks import arrays, files
from benchmarks.contender import Contender, Figure, Row
from benchmarks.rows import fields

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.contender import Figures, Round


def entry(name: str, group: str, way: Any, role: Any = "peer", *needs: str) -> Contender:
    one = fields.STACKS.entry(name, group, way, arrays.check_hdf5, role, *needs)
    return replace(one, run=partial(with_cpu, run=one.run, group=group))


def with_cpu(this: Round, run: Callable[[Round], Figures], group: str) -> Figures:
    """Add what a second of CPU time stores, which other programs on the machine hardly change."""
    megabytes = fields.stack(this, group).values.nbytes / 1e6
    start = time.process_time()
    figures = run(this)
    return {**figures, "cpu_mb_per_s": megabytes / (time.process_time() - start)}


def entries(group: str) -> tuple[Contender, ...]:
    netcdf4 = partial(files.by_xarray, engine="netcdf4")
    h5netcdf = partial(files.by_xarray, engine="h5netcdf")
    return (
        entry("HDF5Saver", group, files.ours_hdf5, "ours"),
        entry("NetCDFSaver", group, files.ours_netcdf, "ours"),
        entry("HDF5Saver without ISA-L", group, files.without_isal, "ours"),
        entry("h5py", group, arrays.hdf5_deflate),
        entry("netCDF4", group, arrays.netcdf, "peer", "netCDF4"),
        entry("h5netcdf", group, files.h5netcdf_file, "peer", "h5netcdf"),
        entry("xarray, netCDF4", group, netcdf4, "peer", "xarray", "netCDF4"),
        entry("xarray, h5netcdf", group, h5netcdf, "peer", "xarray", "h5netcdf"),
        entry("ISA-L and write_direct_chunk", group, files.by_hand, "floor", "isal"),
    )


ROW = Row(
    title="One file: HDF5 and NetCDF",
    story=f"The fields of the row `fields`, {fields.BATCH} a save, one chunk each of 4 MiB, "
    "deflate-1 with shuffle in one file that plain HDF5 reads, closing included. MB/s of raw "
    "values.",
    figures=(
        Figure("mb_per_s", "MB/s", higher_is_better=True),
        Figure("seconds", "seconds"),
        Figure("blocked_s", "caller blocked, s"),
        Figure("cpu_mb_per_s", "MB a CPU second"),
        Figure("stored_mib", "stored, MiB"),
    ),
    contenders=tuple(one for group in fields.INPUTS for one in entries(group)),
    sizes={
        "full": {"fields": 64, "runs": 16},
        "quick": {"fields": 16, "runs": 8},
        "tiny": {"fields": 2, "runs": 1},
    },
    prepare=fields.prepare,
    note="The stored bytes of ours include the ledger that is left when it is closed. After "
    "SIGKILL every save of ours that returned is there at the next open.",
)
