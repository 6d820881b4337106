"""The forecast loop of examples/io_performance.py: output is stored while the model computes."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.arrays import BLOCK
from benchmarks.contender import Contender, Figure, Row
from examples.io_performance import START, STEP, VARIABLES, RossbyWaves

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.contender import Figures, Round, Size

GROUPS = {"raw": False, "compressed": True}


@dataclass(frozen=True)
class Output:
    """What a contender stores: where, with which labels, and whether it is compressed."""

    folder: Path
    coords: OrderedDict[str, Any]
    compressed: bool

    @property
    def parallel(self) -> OrderedDict[str, Any]:
        return OrderedDict((name, self.coords[name]) for name in ("time", "lead_time"))

    @property
    def codec(self) -> Any:
        from zarr.codecs import BloscCodec

        blosc = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=4, blocksize=BLOCK)
        return blosc if self.compressed else None


# -- the loop --------------------------------------------------------------------------------------


def prepare(folder: Path, size: Size) -> None:
    steps = [np.stack(fields) for fields, _ in forecast(size).forecast(size["steps"])]
    np.save(folder / "wanted.npy", np.concatenate(steps, axis=3))  # variable, member, time, lead


@cache
def _model(members: int, nlat: int, nlon: int) -> RossbyWaves:
    return RossbyWaves(members, nlat, nlon)


def forecast(size: Size) -> RossbyWaves:
    return _model(size["members"], size["nlat"], size["nlon"])


def labels(size: Size) -> OrderedDict[str, Any]:
    coords = forecast(size).coords
    return OrderedDict(
        member=coords["member"], time=START, lead_time=np.arange(size["steps"]) * STEP,
        lat=coords["lat"], lon=coords["lon"],
    )  # fmt: skip


def looped(this: Round, way: Any, *, compressed: bool) -> Figures:
    """Run the model to its end; the saver is made and closed within the time."""
    model = forecast(this.size)
    output = Output(this.folder, labels(this.size), compressed)
    began = time.perf_counter()
    write, close = way(output)
    waited = time.perf_counter() - began
    for fields, given in model.forecast(this.size["steps"]):
        asked = time.perf_counter()
        write(fields, given)
        waited += time.perf_counter() - asked
    ended = time.perf_counter()
    close()
    closed = time.perf_counter()
    return {"seconds": closed - began, "waited_s": waited + closed - ended, "write_s": waited}


# -- ours ------------------------------------------------------------------------------------------


def ours(output: Output, **settings: Any) -> Any:
    from savers import AsyncZarrSaver

    saver = AsyncZarrSaver(
        output.folder / "out.zarr", output.parallel, zarr_codecs=output.codec, **settings
    )
    return lambda fields, given: saver.write(fields, given, list(VARIABLES)), saver.close


# -- earth2studio ----------------------------------------------------------------------------------


def theirs(make: Callable[[Output], Any]) -> Any:
    """Write as earth2studio's workflows do: all arrays announced, then a step at a time."""

    def way(output: Output) -> Any:
        import torch
        from loguru import logger

        logger.remove()  # its backends tell every write
        backend = make(output)
        names = np.array(VARIABLES)
        backend.add_array(output.coords, names)

        def write(fields: list[Any], given: Any) -> None:
            backend.write([torch.from_numpy(field) for field in fields], given, names)

        return write, getattr(backend, "close", None) or partial(_commit, backend)

    return way


def _commit(backend: Any) -> None:
    """Close a backend that has no `close`; Icechunk keeps what is committed."""
    if hasattr(backend, "commit"):
        backend.commit("a forecast")


def asynchronous(output: Output, *, blocking: bool) -> Any:
    from earth2studio.io import AsyncZarrBackend

    return AsyncZarrBackend(
        str(output.folder / "out.zarr"), output.parallel, blocking=blocking,
        zarr_codecs=output.codec,
    )  # fmt: skip


def synchronous(output: Output) -> Any:
    from earth2studio.io import ZarrBackend

    chunks = {"time": 1, "lead_time": 1}
    return ZarrBackend(str(output.folder / "out.zarr"), chunks=chunks, zarr_codecs=output.codec)


def netcdf(output: Output) -> Any:
    from earth2studio.io import NetCDF4Backend

    return NetCDF4Backend(str(output.folder / "out.nc"), backend_kwargs={"mode": "w"})


def icechunk(output: Output) -> Any:
    from earth2studio.io import IceChunkBackend

    chunks = {"time": 1, "lead_time": 1}
    where = str(output.folder / "out.icechunk")
    return IceChunkBackend(where, chunks=chunks, zarr_codecs=output.codec, blocking=False)


# -- tensorstore -----------------------------------------------------------------------------------


def tensorstore(output: Output) -> Any:
    import tensorstore as ts

    context = ts.Context({"file_io_sync": False})  # no one else fsyncs here
    arrays = [
        ts.open(_spec(output, name), create=True, context=context).result() for name in VARIABLES
    ]
    leads, waiting = list(output.coords["lead_time"]), []

    def write(fields: list[Any], given: Any) -> None:
        lead = leads.index(given["lead_time"][0])
        for array, field in zip(arrays, fields, strict=True):
            written = array[:, 0, lead].write(field[:, 0, 0])
            written.copy.result()  # from here on the model may change its values
            waiting.append(written)

    return write, lambda: [written.result() for written in waiting]


def _spec(output: Output, name: str) -> dict[str, Any]:
    shape = [len(values) for values in output.coords.values()]
    blosc = {"cname": "zstd", "clevel": 1, "shuffle": "shuffle", "typesize": 4, "blocksize": BLOCK}
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    codecs += [{"name": "blosc", "configuration": blosc}] if output.compressed else []
    grid = {"chunk_shape": [shape[0], 1, 1, *shape[3:]]}
    metadata = {
        "shape": shape, "data_type": "float32", "codecs": codecs,
        "chunk_grid": {"name": "regular", "configuration": grid},
    }  # fmt: skip
    kvstore = f"file://{output.folder}/out.zarr/{name}"
    return {"driver": "zarr3", "kvstore": kvstore, "metadata": metadata}


def nowhere(_: Output) -> Any:
    return lambda *_: None, lambda: None


# -- checks ----------------------------------------------------------------------------------------


def check_zarr(this: Round) -> None:
    import zarr

    for name, wanted in _wanted(this):
        found = zarr.open_array(this.folder / "out.zarr", path=name, mode="r")
        np.testing.assert_array_equal(found[...], wanted)


def check_netcdf(this: Round) -> None:
    import netCDF4

    with netCDF4.Dataset(this.folder / "out.nc") as file:
        for name, wanted in _wanted(this):
            np.testing.assert_array_equal(file[name][...], wanted)


def check_icechunk(this: Round) -> None:
    import icechunk as ice
    import zarr

    repo = ice.Repository.open(ice.local_filesystem_storage(str(this.folder / "out.icechunk")))
    store = repo.readonly_session("main").store
    for name, wanted in _wanted(this):
        np.testing.assert_array_equal(zarr.open_array(store, path=name, mode="r")[...], wanted)


def _wanted(this: Round) -> Any:
    return zip(VARIABLES, np.load(this.inputs / "wanted.npy"), strict=True)


def nothing(this: Round) -> None:
    """There is nothing to read back."""


# -- the row ---------------------------------------------------------------------------------------


def entry(name: str, group: str, way: Any, check: Any, role: Any = "peer", *needs: str) -> Any:
    compressed = GROUPS[group]
    run = partial(looped, way=way, compressed=compressed)
    shown = f"{name}, compressed" if compressed else name
    return Contender(shown, run, check, role, (group,), needs)


def entries(group: str) -> tuple[Contender, ...]:
    behind, waiting = (theirs(partial(asynchronous, blocking=one)) for one in (False, True))
    studio = ("earth2studio", "torch", "loguru")
    e2s = "earth2studio"
    shared = (
        entry("ours, behind", group, partial(ours, blocking=False), check_zarr, "ours"),
        entry("ours, blocking", group, ours, check_zarr, "ours"),
        entry("tensorstore", group, tensorstore, check_zarr, "peer", "tensorstore"),
        entry(f"{e2s} async, behind", group, behind, check_zarr, "peer", *studio),
        entry(f"{e2s} async, blocking", group, waiting, check_zarr, "peer", *studio),
        entry(f"{e2s} zarr", group, theirs(synchronous), check_zarr, "peer", *studio),
        entry(f"{e2s} icechunk", group, theirs(icechunk), check_icechunk, "peer", *studio,
              "icechunk"),
        entry("the model alone", group, nowhere, nothing, "floor"),
    )  # fmt: skip
    if GROUPS[group]:
        return shared
    return (
        *shared,
        entry(f"{e2s} netcdf", group, theirs(netcdf), check_netcdf, "peer", *studio, "netCDF4"),
    )


ROW = Row(
    title="An ensemble forecast",
    story="A forecast of 8 members, 2 fields of 361 x 720 float32 points each, 16.6 MB a step, by "
    "the model of examples/io_performance.py, written step by step while it runs: raw, and with "
    "blosc zstd-1. Seconds from the first step until everything is stored and closed; what the "
    "model was kept waiting in the calls that make, write and close.",
    figures=(
        Figure("seconds", "seconds"),
        Figure("waited_s", "model kept waiting, s"),
        Figure("write_s", "of it in write, s"),
        Figure("stored_mib", "stored, MiB"),
    ),
    contenders=tuple(one for group in GROUPS for one in entries(group)),
    sizes={
        "full": {"members": 8, "steps": 20, "nlat": 361, "nlon": 720},
        "quick": {"members": 4, "steps": 8, "nlat": 181, "nlon": 360},
        "tiny": {"members": 2, "steps": 2, "nlat": 19, "nlon": 36},
    },
    prepare=prepare,
    note="No one fsyncs. earth2studio is installed by hand, with `pip install --no-deps "
    "earth2studio loguru`: its own requirements are for whole models.",
)
