"""Compressed float32 fields, about 4 MiB a chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from benchmarks import arrays
from benchmarks.contender import Figure, Row
from benchmarks.stacks import Stacks

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.contender import Contender, Figures, Round, Size

BATCH = 8  # fields a save
LAT, LON = 721, 1440  # a quarter of a degree
LEADS = 512  # states of the demo's model in a chunk of 4 MiB
INPUTS = {"synthetic": "synthetic.npy", "the demo's model": "model.npy"}


# -- data --------------------------------------------------------------------------------------


def prepare(folder: Path, size: Size) -> None:
    np.save(folder / "synthetic.npy", np.stack([synthetic(i) for i in range(size["fields"])]))
    np.save(folder / "model.npy", np.stack([model(i) for i in range(size["runs"])]))


def synthetic(seed: int) -> NDArray[np.float32]:
    """Return a field like temperature, K: its power falls with the cube of the wavenumber."""
    rng = np.random.default_rng(seed)
    wave = np.hypot(np.fft.fftfreq(LAT, 1 / LAT)[:, None], np.fft.rfftfreq(LON, 1 / LON))
    wave[0, 0] = np.inf
    noise = np.fft.rfft2(rng.normal(size=(LAT, LON)))
    field = np.fft.irfft2(noise * wave**-2, s=(LAT, LON))  # energy k * k**-4
    return (280 + 15 * field / field.std()).astype(np.float32)


def model(seed: int) -> NDArray[np.float32]:
    """Return vorticity of one forecast, s-1, a state every half hour."""
    from taskmanager.demo._model import BarotropicModel
    from taskmanager.demo._states import analysis, perturbation

    flow = BarotropicModel(damping=86400.0)
    start = analysis(flow.transform, np.datetime64("2025-01-15"))
    start = start + perturbation(flow.transform, np.random.default_rng(seed), 1.5)
    leads = np.arange(LEADS).astype("timedelta64[m]") * 30
    return flow.forecast(start, leads)[0].astype(np.float32)


# -- contenders --------------------------------------------------------------------------------


def stack(this: Round, group: str) -> arrays.Stack:
    return arrays.Stack(arrays.load(str(this.inputs / INPUTS[group])), BATCH)


def figures(what: arrays.Stack, blocked: float, total: float) -> Figures:
    return {"mb_per_s": what.values.nbytes / 1e6 / total, "seconds": total, "blocked_s": blocked}


STACKS = Stacks(stack, figures, {"synthetic": "", "the demo's model": " (model)"})


def entries(group: str) -> tuple[Contender, ...]:
    entry, check = STACKS.entry, arrays.check_hdf5
    return (
        *STACKS.zarr(group),
        entry("h5py, blosc", group, arrays.hdf5_blosc, check, "peer", "hdf5plugin"),
        entry("h5py, deflate-1", group, arrays.hdf5_deflate, check),
        entry("netCDF4, deflate-1", group, arrays.netcdf, check, "peer", "netCDF4"),
        STACKS.floor(group),
    )


ROW = Row(
    title="Compressed fields",
    story=f"float32 fields, {BATCH} a save, one chunk each of 4 MiB, lossless, blosc zstd-1 with "
    "shuffle unless named otherwise: synthetic fields of 721 x 1440 points with the spectrum of "
    "large-scale flow, and 512 successive states of the demo's model a chunk. MB/s of raw values "
    "until closed.",
    figures=(
        Figure("mb_per_s", "MB/s", higher_is_better=True),
        Figure("seconds", "seconds"),
        Figure("blocked_s", "caller blocked, s"),
        Figure("stored_mib", "stored, MiB"),
    ),
    contenders=tuple(one for group in INPUTS for one in entries(group)),
    sizes={
        "full": {"fields": 64, "runs": 32},
        "quick": {"fields": 16, "runs": 8},
        "tiny": {"fields": 2, "runs": 1},
    },
    prepare=prepare,
    note="tensorstore, earth2studio and `ours, behind` take a batch and write it behind the "
    "caller's back; the others return when it is written. No one fsyncs.",
)
