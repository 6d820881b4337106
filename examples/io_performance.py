"""Write one ensemble forecast in every way, to see which saver suits a run.

A model makes a few fields a step, and something has to store them. How long that keeps the model
waiting depends on where the output goes, whether it is compressed, and whether the model waits for
it at all. This script runs the same forecast through each way, times it, and draws the result.

Run it with::

    python examples/io_performance.py --out io-performance

and, for a bucket as well (the usual ``AWS_*`` variables say who you are)::

    python examples/io_performance.py --s3 s3://my-bucket/forecasts

Reading the script from the top to the bottom is a tour of the savers; only `WAYS` differs between
one kind of output and another, the forecast loop never does.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from savers import AsyncZarrSaver, HDF5Saver, NetCDFSaver, ZarrSaver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

VARIABLES = ("u", "v")
START = np.array(["2025-01-15"], "M8[ns]")
STEP = np.timedelta64(6, "h")


# -- the model -------------------------------------------------------------------------------------


class RossbyWaves:
    """An ensemble of Rossby waves on a jet, with drag: a step of output is six of the model.

    Each zonal wave moves with the wind at its latitude, less what the rotation of the planet takes
    from it (Rossby's formula). Drag grows with the square of the field, so every step of an
    hour goes to the grid and back. The members begin with different random waves.

    Parameters
    ----------
    members, nlat, nlon : int
        Size of the ensemble and of its grid.
    """

    substeps = 6

    def __init__(self, members: int, nlat: int, nlon: int) -> None:
        self.coords = OrderedDict(
            member=np.arange(members),
            lat=np.linspace(90, -90, nlat),
            lon=np.linspace(0, 360, nlon, endpoint=False),
        )
        rng = np.random.default_rng(2025)
        wave = np.hypot(np.fft.fftfreq(nlat, 1 / nlat)[:, None], np.arange(nlon // 2 + 1))
        noise = rng.normal(size=(members, len(VARIABLES), *wave.shape, 2)).view(complex)[..., 0]
        spectrum = noise / np.maximum(wave, 1) ** 2  # energy falls with the cube of the wavenumber
        fields = np.fft.irfft(np.fft.ifft(spectrum, axis=-2), nlon)
        self._start = (10 * fields / fields.std()).astype(np.float32)
        self._turn = self._phase(STEP / np.timedelta64(1, "s") / self.substeps)

    def _phase(self, seconds: float) -> NDArray[np.complex64]:
        """Return by which factor each wave at each latitude turns in so many seconds."""
        radius, beta = 6.371e6, 1.6e-11  # m, s-1 m-1
        lat = np.radians(self.coords["lat"])[:, None]
        number = np.arange(self.coords["lon"].size // 2 + 1)
        wavenumber = number / (radius * np.maximum(np.cos(lat), 0.05))
        speed = 30 * np.cos(2 * lat) ** 2 - beta / np.maximum(wavenumber, 1e-6) ** 2
        turned: NDArray[np.complex64] = np.exp(
            -1j * wavenumber * np.clip(speed, -60, 60) * seconds
        ).astype(np.complex64)
        return turned

    def forecast(self, steps: int) -> Iterator[tuple[list[NDArray[np.float32]], Mapping[str, Any]]]:
        """Yield the fields of each step, shape (member, 1, 1, lat, lon), with their labels."""
        fields = self._start
        for step in range(steps):
            labels = OrderedDict(
                member=self.coords["member"], time=START, lead_time=np.array([step * STEP]),
                lat=self.coords["lat"], lon=self.coords["lon"],
            )  # fmt: skip
            yield [fields[:, number, None, None] for number in range(len(VARIABLES))], labels
            for _ in range(self.substeps):
                fields = self._advance(fields)

    def _advance(self, fields: NDArray[np.float32]) -> NDArray[np.float32]:
        waves = np.fft.rfft(fields * (1 - 1e-4 * np.abs(fields))) * self._turn
        return np.fft.irfft(waves, fields.shape[-1]).astype(np.float32)


# -- the forecast loop: the same for every saver ---------------------------------------------------


@dataclass(frozen=True)
class Timing:
    """What one way of writing cost: seconds in all, in `write`, and in `close`; MB stored."""

    total: float
    writing: float
    closing: float
    stored: float


def run(model: RossbyWaves, steps: int, saver: Any) -> tuple[float, float, float]:
    """Forecast `steps` steps into a saver; return seconds in all, in `write`, and in `close`."""
    writing = 0.0
    began = time.perf_counter()
    for fields, labels in model.forecast(steps):
        asked = time.perf_counter()
        saver.write(fields, labels, list(VARIABLES))
        writing += time.perf_counter() - asked
    ended = time.perf_counter()
    saver.close()
    closed = time.perf_counter()
    return closed - began, writing, closed - ended


class Nowhere:
    """A saver that forgets: what the model costs by itself."""

    def write(self, x: object, coords: object, array_name: object) -> None:
        """Forget it."""

    def close(self) -> None:
        """Nothing to close."""


# -- the ways of writing ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """Where a way may write, and what it must know before the first step."""

    folder: Path
    coords: Mapping[str, Any]  # every label that there will be

    @property
    def steps(self) -> Mapping[str, Any]:
        """The labels along which the forecast proceeds: each write brings others."""
        return OrderedDict((name, self.coords[name]) for name in ("time", "lead_time"))

    @property
    def whole(self) -> dict[str, Any]:
        """Dimensions and labels, for the savers that want them all from the beginning."""
        return {"dims": tuple(self.coords), "coords": dict(self.coords)}


def zarr_blocking(place: Place) -> Any:
    """Each step is in its files when `write` returns: the simplest to reason about."""
    return AsyncZarrSaver(place.folder / "out.zarr", place.steps)


def zarr_behind(place: Place) -> Any:
    """`write` copies the fields and returns; threads store them while the model goes on."""
    return AsyncZarrSaver(place.folder / "out.zarr", place.steps, blocking=False)


def zarr_blocking_compressed(place: Place) -> Any:
    """As the first, compressed: the model waits for the compressor as well."""
    return AsyncZarrSaver(place.folder / "out.zarr", place.steps, zarr_codecs=blosc())


def zarr_behind_compressed(place: Place) -> Any:
    """Smaller files, and the model does not wait for the compressor: a good first choice."""
    return AsyncZarrSaver(
        place.folder / "out.zarr", place.steps, blocking=False, zarr_codecs=blosc()
    )


def zarr_behind_sharded(place: Place) -> Any:
    """Eight steps a file: far fewer files, and each step can still be read by itself."""
    return AsyncZarrSaver(
        place.folder / "out.zarr", place.steps, blocking=False, zarr_codecs=blosc(),
        shard_coords={"lead_time": 8},
    )  # fmt: skip


def zarr_in_memory(place: Place) -> Any:
    """For what is looked at and thrown away: no file is made."""
    import zarr

    return AsyncZarrSaver("", place.steps, store=zarr.storage.MemoryStore())


def zarr_saver(place: Place) -> Any:
    """The saver of `TaskManager`, written to by label: compressed, and safe against a crash."""
    return ZarrSaver(place.folder / "out.zarr", **place.whole, chunks=chunks(place))


def hdf5(place: Place) -> Any:
    """One HDF5 file, which h5py and every HDF5 tool opens."""
    return HDF5Saver(place.folder / "out.h5", **place.whole, chunks=chunks(place))


def netcdf(place: Place) -> Any:
    """One NetCDF-4 file, which the tools of the weather services open."""
    return NetCDFSaver(place.folder / "out.nc", **place.whole, chunks=chunks(place))


def chunks(place: Place) -> tuple[int, ...]:
    """Return chunks of one step, as the asynchronous saver makes them."""
    steps = place.steps
    return tuple(1 if name in steps else len(labels) for name, labels in place.coords.items())


def blosc() -> Any:
    """Return the compressor that is used here: fast, and about half the size."""
    import zarr

    return zarr.codecs.BloscCodec(cname="zstd", clevel=1, shuffle="shuffle")


WAYS: dict[str, Callable[[Place], Any]] = {
    "Zarr": zarr_blocking,
    "Zarr, behind": zarr_behind,
    "Zarr, compressed": zarr_blocking_compressed,
    "Zarr, compressed, behind": zarr_behind_compressed,
    "Zarr, sharded, behind": zarr_behind_sharded,
    "Zarr in memory": zarr_in_memory,
    "ZarrSaver": zarr_saver,
    "HDF5": hdf5,
    "NetCDF": netcdf,
}


def s3(url: str, *, behind: bool) -> Callable[[Place], Any]:
    """Return the way into a bucket, where every file is a request and waiting costs most."""

    def bucket(place: Place) -> Any:
        target = f"{url.rstrip('/')}/{place.folder.name}.zarr"
        return AsyncZarrSaver(target, place.steps, blocking=not behind, zarr_codecs=blosc())

    return bucket


# -- timing and drawing ----------------------------------------------------------------------------


def measure(asked: argparse.Namespace, way: Callable[[Place], Any] | None, name: str) -> Timing:
    """Run the forecast once, through one way."""
    model = RossbyWaves(asked.members, asked.nlat, asked.nlon)
    coords = OrderedDict(
        member=model.coords["member"], time=START, lead_time=np.arange(asked.steps) * STEP,
        lat=model.coords["lat"], lon=model.coords["lon"],
    )  # fmt: skip
    folder = asked.out / name.replace(", ", "-").replace(" ", "-").lower()
    folder.mkdir(parents=True)
    saver = way(Place(folder, coords)) if way else Nowhere()
    total, writing, closing = run(model, asked.steps, saver)
    files = [file.stat().st_size for file in folder.rglob("*") if file.is_file()]
    return Timing(total, writing, closing, sum(files) / 1e6)


def draw(timings: Mapping[str, Timing], path: Path) -> None:
    """Draw what each way cost, as bars: the model, `write`, and `close`."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    names = list(timings)[::-1]
    parts = {
        "model": [timings[n].total - timings[n].writing - timings[n].closing for n in names],
        "in write": [timings[n].writing for n in names],
        "in close": [timings[n].closing for n in names],
    }
    figure, axes = plt.subplots(figsize=(8, 0.5 * len(names) + 1.2), layout="constrained")
    left = np.zeros(len(names))
    for part, seconds in parts.items():
        axes.barh(names, seconds, left=left, label=part)
        left += seconds
    axes.set_xlabel("seconds of the forecast, until everything is stored")
    axes.legend()
    figure.savefig(path)
    plt.close(figure)


def table(timings: Mapping[str, Timing]) -> str:
    """Return the figures as a table in Markdown."""
    model = timings["no output"].total
    lines = ["| way | total, s | in write, s | in close, s | share of output | stored, MB |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for name, one in timings.items():
        share = (one.total - model) / one.total
        lines.append(
            f"| {name} | {one.total:.2f} | {one.writing:.2f} | {one.closing:.2f} "
            f"| {share:.0%} | {one.stored:.1f} |"
        )
    return "\n".join(lines)


def median(runs: list[dict[str, Timing]], name: str) -> Timing:
    """Return the run whose total is in the middle."""
    return sorted((one[name] for one in runs), key=lambda timing: timing.total)[len(runs) // 2]


def main(arguments: list[str] | None = None) -> dict[str, Timing]:
    """Time every way, print and draw the figures; return them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("io-performance"), help="a new folder")
    parser.add_argument("--s3", default="", help="s3://bucket/prefix: measure a bucket as well")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--nlat", type=int, default=361)
    parser.add_argument("--nlon", type=int, default=720)
    parser.add_argument("--rounds", type=int, default=3, help="the median of them is shown")
    asked = parser.parse_args(arguments)
    ways = {"no output": None, **WAYS}
    if asked.s3:
        ways |= {"S3": s3(asked.s3, behind=False), "S3, behind": s3(asked.s3, behind=True)}
    out, runs = asked.out, []
    for number in range(asked.rounds):
        asked.out = out / str(number)
        runs.append({name: measure(asked, way, name) for name, way in ways.items()})
    timings = {name: median(runs, name) for name in ways}
    print(table(timings))
    (out / "timings.json").write_text(json.dumps({n: vars(t) for n, t in timings.items()}))
    draw(timings, out / "io_performance.svg")
    return timings


if __name__ == "__main__":
    main()
