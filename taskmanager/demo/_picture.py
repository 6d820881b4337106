"""The picture at the end: where the ensemble agrees, and where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from xarray import DataArray, Dataset

__all__ = ["draw"]


def draw(dataset: Dataset, path: Path) -> None:
    """Write a PNG with maps of ensemble mean and spread of the vorticity.

    Parameters
    ----------
    dataset : xarray.Dataset
        The forecasts; the last lead time of the first initial time is drawn.
    path : pathlib.Path
        Where the PNG goes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    last = dataset.isel(time=0, lead_time=-1).load()
    figure = Figure(figsize=(9, 8.4), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = figure.subplots(2, 1)
    _draw_mean(figure, upper, last)
    _draw_spread(figure, lower, last)
    figure.suptitle(_title(last), fontsize=13)
    figure.savefig(path, dpi=120)


def _title(last: Dataset) -> str:
    started = str(last["time"].values.astype("datetime64[h]")).replace("T", " ")
    hours = int(last["lead_time"].values / np.timedelta64(1, "h"))
    return f"Start {started} UTC, lead time {hours} h, {last.sizes['member']} members"


def _draw_mean(figure: Figure, axes: Axes, last: Dataset) -> None:
    mean = 1e5 * _closed(last["vorticity"].mean("member"))
    bound = float(np.ceil(np.abs(mean).max()))
    levels = np.linspace(-bound, bound, 21)
    filled = axes.contourf(mean.lon, mean.lat, mean, levels, cmap="RdBu_r")
    label = "mean relative vorticity ($10^{-5}$ s$^{-1}$)"
    figure.colorbar(filled, ax=axes, label=label, format="%.1f", shrink=0.8)
    wind = last[["u", "v"]].mean("member").isel(lon=slice(None, None, 2))
    axes.quiver(wind.lon, wind.lat, wind.u, wind.v, scale=900, width=0.0016, color="0.15")
    axes.set_title("Ensemble mean: vorticity (colours) and wind (arrows)")
    _frame(axes)


def _draw_spread(figure: Figure, axes: Axes, last: Dataset) -> None:
    spread = 1e5 * _closed(last["vorticity"].std("member"))
    levels = np.linspace(0, max(0.1, float(spread.max())), 16)
    filled = axes.contourf(spread.lon, spread.lat, spread, levels, cmap="magma_r")
    label = "standard deviation of vorticity ($10^{-5}$ s$^{-1}$)"
    figure.colorbar(filled, ax=axes, label=label, format="%.1f", shrink=0.8)
    axes.set_title("Ensemble spread: where the forecasts part")
    _frame(axes)


def _closed(field: DataArray) -> DataArray:
    """Repeat the first longitude behind the last, so that the map has no gap."""
    wrapped = field.pad(lon=(0, 1), mode="wrap")
    return wrapped.assign_coords(lon=np.append(field["lon"], 360.0))


def _frame(axes: Axes) -> None:
    axes.set_aspect("equal")
    axes.set_xticks(range(0, 361, 60))
    axes.set_yticks(range(-90, 91, 30))
    axes.set_xlim(0, 360)
    axes.set_ylim(-86, 86)  # the grid has no points at the poles
    axes.set_xlabel("longitude (degrees east)")
    axes.set_ylabel("latitude (degrees north)")
    axes.grid(color="0.3", linewidth=0.4, alpha=0.4)
