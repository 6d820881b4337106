"""Opening many stores over a slow line, and what an event loop notices of it."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contender import Contender, Figure, Row

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.contender import Figures, Round


def prepare(folder: Path, size: Any) -> None:
    """Make stores with three variables, three coordinates and consolidated metadata."""
    import xarray

    rng = np.random.default_rng(3)
    for number in range(size["stores"]):
        names = ("t2m", "u10", "v10")
        made = xarray.Dataset(
            {n: (("time", "lat", "lon"), rng.random((8, 32, 64), "f4")) for n in names},
            coords={
                "time": np.arange(8).astype("M8[h]").astype("M8[ns]"),
                "lat": np.linspace(-90, 90, 32), "lon": np.arange(64.0),
            },
            attrs={"number": number},
        )  # fmt: skip
        quietly(made.to_zarr, folder / f"{number}.zarr", consolidated=True)
    cells = rng.random((16, 1000, 62_500 * size["millions"] // 1000))
    pack = {"dtype": "i2", "scale_factor": 1e-4, "add_offset": 0.5, "_FillValue": -1}
    chunks = (4, *cells.shape[1:])
    large = xarray.Dataset({"x": (("a", "b", "c"), cells)})
    quietly(
        large.to_zarr, folder / "large.zarr", consolidated=True,
        encoding={"x": {**pack, "chunks": chunks}},
    )  # fmt: skip


def quietly(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's remark on consolidated metadata
        return call(*args, **options)


@cache
def slow_store(latency: float) -> Any:
    import zarr

    class Slow(zarr.storage.WrapperStore):  # type: ignore[type-arg]
        """A store in memory behind a line with latency."""

        async def get(self, *args: Any, **more: Any) -> Any:
            await asyncio.sleep(latency)
            return await super().get(*args, **more)

    return Slow


def stores(this: Round, delay: float) -> list[Any]:
    import zarr
    from zarr.core.buffer import default_buffer_prototype

    made = []
    for number in range(this.size["stores"]):
        folder = this.inputs / f"{number}.zarr"
        files = [path for path in folder.rglob("*") if path.is_file()]
        from_bytes = default_buffer_prototype().buffer.from_bytes
        objects = {p.relative_to(folder).as_posix(): from_bytes(p.read_bytes()) for p in files}
        made.append(slow_store(delay)(zarr.storage.MemoryStore(objects)))
    return made


def seen(this: Round, datasets: list[Any]) -> None:
    numbers = sorted(dataset.attrs["number"] for dataset in datasets)
    if numbers != list(range(this.size["stores"])):
        raise ValueError(f"got stores {numbers}")
    for dataset in datasets:
        np.testing.assert_array_equal(dataset.lon, np.arange(64.0))


async def _watched(work: Callable[[], Any], delays: list[float]) -> tuple[float, Any]:
    """Run work, and note how much later than asked for the loop wakes up another task."""

    async def watch() -> None:
        while True:
            start = time.perf_counter()
            await asyncio.sleep(0.005)
            delays.append(time.perf_counter() - start - 0.005)

    watching = asyncio.ensure_future(watch())
    await asyncio.sleep(0)
    start = time.perf_counter()
    found = await work()
    taken = time.perf_counter() - start
    await asyncio.sleep(0.01)  # a loop that was held up wakes late now
    watching.cancel()
    return taken, found


def _figures(taken: float, delays: list[float]) -> Figures:
    return {
        "ms": taken * 1e3,
        "p99_ms": float(np.percentile(delays, 99)) * 1e3,
        "max_ms": max(delays) * 1e3,
    }


def ours(this: Round, delay: float) -> Figures:
    import savers

    targets = stores(this, delay)

    async def opened() -> list[Any]:
        many = savers.open_many_async(targets, limit=len(targets))
        return [found async for _, found in many]

    delays: list[float] = []
    taken, found = asyncio.run(_watched(opened, delays))
    seen(this, found)
    return _figures(taken, delays)


def threads(this: Round, delay: float, workers: int) -> Figures:
    import xarray

    targets = stores(this, delay)
    opened = partial(quietly, xarray.open_zarr, chunks=None)

    async def all_opened() -> list[Any]:
        if not workers:
            return [opened(target) for target in targets]
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(workers) as pool:
            calls = (loop.run_in_executor(pool, opened, target) for target in targets)
            return await asyncio.gather(*calls)

    delays: list[float] = []
    taken, found = asyncio.run(_watched(all_opened, delays))
    seen(this, found)
    return _figures(taken, delays)


def large(this: Round) -> Figures:
    """Read sixteen million packed cells while the loop does other things."""
    import savers

    async def loaded() -> Any:
        dataset = await savers.open_dataset_async(this.inputs / "large.zarr")
        return await dataset.load_async()

    delays: list[float] = []
    taken, found = asyncio.run(_watched(loaded, delays))
    (this.folder / "mean").write_text(str(float(found.x.mean())))
    return _figures(taken, delays)


def large_at_once(this: Round) -> Figures:
    import xarray

    def loaded() -> Any:
        return quietly(xarray.open_zarr, this.inputs / "large.zarr", chunks=None).load()

    delays: list[float] = []
    taken, found = asyncio.run(_watched(lambda: asyncio.to_thread(loaded), delays))
    (this.folder / "mean").write_text(str(float(found.x.mean())))
    return _figures(taken, delays)


def nothing_more(this: Round) -> None:
    """What was opened was looked at while the figures were made."""


def mean(this: Round) -> None:
    import xarray

    with quietly(xarray.open_zarr, this.inputs / "large.zarr", chunks=None) as expected:
        np.testing.assert_allclose(
            float((this.folder / "mean").read_text()), expected.x.mean(), rtol=1e-9
        )


def contenders(delay: float) -> list[Contender]:
    group = f"50 stores, {delay * 1e3:.0f} ms a request"
    peers = {"xarray, one after another": 0, "xarray, 8 threads": 8, "xarray, 32 threads": 32}
    return [
        Contender(f"ours, {delay * 1e3:.0f} ms", lambda this: ours(this, delay), nothing_more,
                  "ours", (group,)),
        *(Contender(f"{name}, {delay * 1e3:.0f} ms", partial(_threads, delay, workers),
                    nothing_more, groups=(group,), needs=("xarray",))
          for name, workers in peers.items()),
    ]  # fmt: skip


def _threads(delay: float, workers: int, this: Round) -> Figures:
    return threads(this, delay, workers)


ROW = Row(
    title="Reading many stores",
    story="Open stores of three variables and three coordinates (consolidated Zarr v3, in memory) "
    "where each request takes 30 or 150 ms; and read 16 million packed cells (int16 with scale and "
    "offset, 4 chunks) from disk. Milliseconds in all, and how late an event loop wakes a task "
    "that asked for 5 ms meanwhile.",
    figures=(
        Figure("ms", "ms"),
        Figure("p99_ms", "delay of the loop, 99 %, ms"),
        Figure("max_ms", "delay of the loop, longest, ms"),
    ),
    contenders=(
        *contenders(0.03),
        *contenders(0.15),
        Contender("ours, 16 million cells", large, mean, "ours", ("16 million cells",)),
        Contender(
            "xarray in a thread, 16 million cells",
            large_at_once,
            mean,
            groups=("16 million cells",),
            needs=("xarray",),
        ),
    ),
    sizes={
        "full": {"stores": 50, "millions": 16},
        "quick": {"stores": 50, "millions": 16},
        "tiny": {"stores": 3, "millions": 1},
    },
    prepare=prepare,
)
