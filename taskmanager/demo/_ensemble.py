"""The job of the demo: which forecasts there are, how one is computed, and where it is saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from savers import AsyncZarrSaver, HDF5Saver, NetCDFSaver, ZarrSaver
from taskmanager._task import Task
from taskmanager.demo._model import BarotropicModel
from taskmanager.demo._states import analysis, perturbation
from taskmanager.demo._transform import SphericalTransform

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Item = tuple[np.datetime64, int]

__all__ = [
    "FIELDS",
    "LEAD_TIMES",
    "MEMBERS",
    "SAVERS",
    "SEED",
    "ForecastTask",
    "items",
    "labels",
    "saver",
]

MEMBERS = 16
SEED = 20250115
LEAD_TIMES = np.arange(0, 121, 6).astype("timedelta64[h]")
FIELDS = ("vorticity", "u", "v", "vorticity_mean")
DIMS = {
    **dict.fromkeys(FIELDS[:3], ("time", "member", "lead_time", "lat", "lon")),
    "vorticity_mean": ("time", "member", "lat", "lon"),  # as many as CDO reads
}
AnySaver = AsyncZarrSaver | ZarrSaver | HDF5Saver | NetCDFSaver
SAVERS: dict[str, type[ZarrSaver | HDF5Saver | NetCDFSaver]]
SAVERS = {"zarr": ZarrSaver, "hdf5": HDF5Saver, "netcdf": NetCDFSaver}

_FIRST = np.datetime64("2025-01-15T00", "h")
_APART = np.timedelta64(91, "D")  # one initial time a season
_STEP = 1800.0  # s
_DAMPING = 86400.0  # s
_NOISE = 1.5  # m s-1


class ForecastTask(Task):
    """Forecasts of five days: an item is an initial time and a member, its noise is its own."""

    version = "1"

    def setup(self) -> None:
        """Lay out the transform's matrices once a worker."""
        self._model = BarotropicModel(step=_STEP, damping=_DAMPING)

    def process_item(self, item: Item) -> dict[str, NDArray[np.float32]]:
        """Return the forecast of an item.

        Parameters
        ----------
        item : tuple of numpy.datetime64 and int
            Initial time and member. Member 0 starts from the unperturbed analysis.

        Returns
        -------
        dict of str to ndarray of float32, shape (lead_time, lat, lon)
            ``vorticity`` (s-1), ``u`` and ``v`` (m s-1), and ``vorticity_mean``, shape
            (lat, lon), over the lead times.
        """
        time, member = item
        start = analysis(self._model.transform, time)
        if member:
            start = start + perturbation(self._model.transform, self.context.rng, _NOISE)
        fields = self._model.forecast(start, LEAD_TIMES).astype(np.float32)
        return dict(zip(FIELDS, [*fields, fields[0].mean(axis=0)], strict=True))


def items(count: int) -> list[Item]:
    """Return the first `count` (initial time, member) pairs, a season's members after another's."""
    return [(_FIRST + i // MEMBERS * _APART, i % MEMBERS) for i in range(count)]


def labels(item: Item) -> dict[str, object]:
    """Return where the forecast of an item belongs."""
    return {"time": item[0], "member": item[1]}


def saver(path: str, count: int, kind: str) -> AnySaver:
    """Return the saver of the first `count` forecasts: four fields with CF coordinates."""
    transform = SphericalTransform()
    coords = {
        "time": _FIRST + np.arange(-(-count // MEMBERS)) * _APART,
        "member": np.arange(min(count, MEMBERS)),
        "lead_time": LEAD_TIMES,
        "lat": transform.lat,
        "lon": transform.lon,
    }
    if kind != "async-zarr":
        return SAVERS[kind](path, dims=DIMS, coords=coords, attrs=ATTRS, dtype="float32")
    parallel = {dim: coords[dim] for dim in ("time", "member")}
    target = AsyncZarrSaver(path, parallel, zarr_codecs="balanced", attrs=ATTRS)
    for name, dims in DIMS.items():
        target.add_array({dim: coords[dim] for dim in dims}, name)
    return target


ATTRS: dict[str, object] = {
    "Conventions": "CF-1.11",
    "title": "Ensemble of barotropic forecasts",
    "source": "spectral barotropic vorticity equation, T21",
    "history": "saved by python -m taskmanager demo",
    "time": {
        "standard_name": "time",
        "long_name": "initial time",
        "units_metadata": "leap_seconds: none",
    },
    "member": {"standard_name": "realization", "long_name": "ensemble member", "units": "1"},
    "lead_time": {"standard_name": "forecast_period", "long_name": "lead time"},
    "lat": {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"},
    "lon": {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"},
    "vorticity": {
        "standard_name": "atmosphere_relative_vorticity",
        "long_name": "relative vorticity",
        "units": "s-1",
    },
    "vorticity_mean": {
        "standard_name": "atmosphere_relative_vorticity",
        "long_name": "relative vorticity, mean over the forecast",
        "units": "s-1",
    },
    "u": {"standard_name": "eastward_wind", "long_name": "eastward wind", "units": "m s-1"},
    "v": {"standard_name": "northward_wind", "long_name": "northward wind", "units": "m s-1"},
}
