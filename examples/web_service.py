"""A web service on top of many forecasts: values at a point, and means over an area.

    python examples/web_service.py FOLDER          # serves FOLDER/*.zarr on port 8080
    curl 'localhost:8080/monday/t2m/point?lat=48.1&lon=11.6'
    curl 'localhost:8080/monday/t2m/area?south=45&north=50&west=5&east=15'

One event loop answers everything: opening and loading are awaited, a Dataset stays open in a cache,
and requests that want the same store while it is being opened wait for one opening.
"""

from __future__ import annotations

import asyncio
import sys
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import web

import savers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import xarray

STORES = web.AppKey("STORES", "Stores")


async def load(chosen: xarray.DataArray) -> xarray.DataArray:
    """Read what was chosen."""
    return await chosen.load_async()


class Stores:
    """Datasets by name, the most recently used ones open.

    Parameters
    ----------
    folder : str or URL
        Where the stores lie.
    opened, load : coroutine functions
        How a store is opened, and how a choice of it is read.
    keep : int
        How many stay open.
    """

    def __init__(
        self,
        folder: str,
        opened: Callable[[str], Awaitable[xarray.Dataset]] = savers.open_dataset_async,
        load: Callable[[xarray.DataArray], Awaitable[xarray.DataArray]] = load,
        keep: int = 100,
    ) -> None:
        self.folder = folder.rstrip("/")
        self.opened = opened
        self.load = load
        self.keep = keep
        self._opening: OrderedDict[str, asyncio.Future[xarray.Dataset]] = OrderedDict()

    async def get(self, name: str) -> xarray.Dataset:
        """Return a Dataset; a name that could not be opened is tried again next time."""
        if name not in self._opening:
            opening = self.opened(f"{self.folder}/{name}.zarr")
            self._opening[name] = asyncio.ensure_future(opening)
            if len(self._opening) > self.keep:
                self._opening.popitem(last=False)
        self._opening.move_to_end(name)
        try:
            return await asyncio.shield(self._opening[name])  # others may wait for it, too
        except savers.SaverError:
            self._opening.pop(name, None)
            raise


async def variable(request: web.Request) -> xarray.DataArray:
    """Return the variable that a request names."""
    store, name = request.match_info["store"], request.match_info["variable"]
    try:
        dataset = await request.app[STORES].get(store)
    except savers.NotFoundError as error:
        raise web.HTTPNotFound(text=f"no forecast {store!r}") from error
    if name not in dataset:
        raise web.HTTPNotFound(text=f"no {name!r} in forecast {store!r}")
    return dataset[name]


def numbers(request: web.Request, *names: str) -> list[float]:
    """Return parameters of a request as numbers."""
    try:
        return [float(request.query[name]) for name in names]
    except (KeyError, ValueError) as error:
        raise web.HTTPBadRequest(text=f"expected the numbers {', '.join(names)}") from error


async def point(request: web.Request) -> web.Response:
    """Answer with the values at the grid point that is nearest."""
    lat, lon = numbers(request, "lat", "lon")
    chosen = (await variable(request)).sel(lat=lat, lon=lon, method="nearest")
    return answer((await request.app[STORES].load(chosen)).to_numpy())


async def area(request: web.Request) -> web.Response:
    """Answer with the mean over a box of latitudes and longitudes."""
    south, north, west, east = numbers(request, "south", "north", "west", "east")
    chosen = (await variable(request)).sel(lat=slice(south, north), lon=slice(west, east))
    return answer((await request.app[STORES].load(chosen)).mean(("lat", "lon")).to_numpy())


def answer(values: Any) -> web.Response:
    """Return values as JSON."""
    return web.json_response({"values": values.tolist()})


def make_app(stores: Stores) -> web.Application:
    """Return the service for some stores."""
    app = web.Application()
    app[STORES] = stores
    app.router.add_get("/{store}/{variable}/point", point)
    app.router.add_get("/{store}/{variable}/area", area)
    return app


if __name__ == "__main__":
    web.run_app(make_app(Stores(sys.argv[1] if len(sys.argv) > 1 else str(Path.cwd()))))
