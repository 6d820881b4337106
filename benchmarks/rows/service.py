"""A web service that reads from many stores over a slow line: the example, and it on threads."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contender import Contender, Figure, Row
from benchmarks.rows.reading import nothing_more, prepare, quietly, stores

if TYPE_CHECKING:
    from types import ModuleType

    from benchmarks.contender import Figures, Round

CLIENTS = 64
EXAMPLE = Path(__file__).parents[2] / "examples/web_service.py"


def example() -> ModuleType:
    spec = spec_from_file_location("web_service", EXAMPLE)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(EXAMPLE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


async def served(this: Round, app: Any) -> Figures:
    """Let clients ask one after the other, each for a point or an area of some store."""
    from aiohttp.test_utils import TestClient, TestServer

    count, rng = this.size["requests"], np.random.default_rng(5)
    picks = [(rng.integers(this.size["stores"]), *rng.uniform(0, 60, 2)) for _ in range(count)]
    waiting, latencies = iter(enumerate(picks)), []

    async def ask(client: Any) -> None:
        for number, (store, lat, lon) in waiting:
            where = (f"point?lat={lat}&lon={lon}" if number % 4 else
                     f"area?south={lat}&north={lat + 20}&west={lon}&east={lon + 20}")  # fmt: skip
            start = time.perf_counter()
            async with client.get(f"/{store}/t2m/{where}") as answer:
                values = (await answer.json())["values"]
            latencies.append(time.perf_counter() - start)
            if len(values) != 8:
                raise ValueError(f"expected 8 values, got {values}")

    async with TestClient(TestServer(app)) as client:
        start = time.perf_counter()
        await asyncio.gather(*(ask(client) for _ in range(CLIENTS)))
        taken = time.perf_counter() - start
    milliseconds = np.array(latencies) * 1e3
    return {
        "per_s": count / taken,
        "p50_ms": float(np.median(milliseconds)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
    }


def ours(delay: float, this: Round) -> Figures:
    import savers

    service, targets = example(), stores(this, delay)

    async def opened(path: str) -> Any:
        return await savers.open_dataset_async(targets[int(Path(path).stem)])

    return asyncio.run(served(this, service.make_app(service.Stores("", opened))))


def threads(delay: float, workers: int, this: Round) -> Figures:
    import xarray

    service, targets = example(), stores(this, delay)
    with ThreadPoolExecutor(workers) as pool:

        async def opened(path: str) -> Any:
            call = partial(quietly, xarray.open_zarr, targets[int(Path(path).stem)], chunks=None)
            return await asyncio.get_running_loop().run_in_executor(pool, call)

        async def load(chosen: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(pool, chosen.load)

        return asyncio.run(served(this, service.make_app(service.Stores("", opened, load))))


def contenders(delay: float) -> list[Contender]:
    line = f"{delay * 1e3:.0f} ms"
    group = (f"{line} a request to the store",)
    needs = ("xarray", "aiohttp")
    return [
        Contender(f"ours, {line}", partial(ours, delay), nothing_more, "ours", group, needs),
        *(
            Contender(
                f"the same handler on {workers} threads, {line}",
                partial(threads, delay, workers),
                nothing_more, groups=group, needs=needs,
            )
            for workers in (8, 32)
        ),
    ]  # fmt: skip


ROW = Row(
    title="A web service",
    story=f"{CLIENTS} clients ask the example service (examples/web_service.py, aiohttp, clients "
    "in the same process) for points and areas of 50 stores, which answer each request for an "
    "object after 30 or 150 ms. The peer is the same handler with xarray.open_zarr and load on "
    "threads.",
    figures=(
        Figure("per_s", "requests a second", higher_is_better=True),
        Figure("p50_ms", "half of them within, ms"),
        Figure("p99_ms", "99 % of them within, ms"),
    ),
    contenders=(*contenders(0.03), *contenders(0.15)),
    sizes={
        "full": {"stores": 50, "requests": 2000, "millions": 1},
        "quick": {"stores": 50, "requests": 500, "millions": 1},
        "tiny": {"stores": 2, "requests": 8, "millions": 1},
    },
    prepare=prepare,
)
