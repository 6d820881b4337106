"""The code of docs/reading.md runs, and the example service answers."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray
from aiohttp.test_utils import TestClient, TestServer

import savers

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "examples"))
import web_service  # noqa: E402


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reading.md").read_text(), re.DOTALL)
    names: dict = {}
    exec("\n".join(blocks), names)
    expected = xarray.open_zarr("forecast.zarr", chunks=None)
    np.testing.assert_array_equal(expected.t2m, names["fields"])
    xarray.testing.assert_identical(
        names["series"], expected.t2m.sel(lat=48.1, lon=11.6, method="nearest").load()
    )
    assert names["warmest"].shape == (3, 36)
    assert isinstance(names["found"]["not-there.zarr"], savers.NotFoundError)
    xarray.testing.assert_identical(names["found"]["forecast.zarr"].lat, expected.lat)


@pytest.fixture
def forecasts(tmp_path):
    coords = {"time": np.arange(3), "lat": np.linspace(-90, 90, 19), "lon": np.arange(36) * 10.0}
    for n, name in enumerate(("monday", "tuesday")):
        with savers.ZarrSaver(
            tmp_path / f"{name}.zarr", "t2m", dims=("time", "lat", "lon"), coords=coords
        ) as saver:
            saver.save(np.arange(3 * 19 * 36).reshape(3, 19, 36) + 0.5 + n)
    return tmp_path


def test_the_service_answers(forecasts):
    async def asked(*paths):
        async with TestClient(
            TestServer(web_service.make_app(web_service.Stores(str(forecasts))))
        ) as client:
            answers = await asyncio.gather(*(client.get(path) for path in paths))
            return [(a.status, await a.text()) for a in answers]

    paths = [
        "/monday/t2m/point?lat=31&lon=99",
        "/tuesday/t2m/point?lat=31&lon=99",
        "/monday/t2m/area?south=0&north=20&west=0&east=30",
        "/sunday/t2m/point?lat=31&lon=99",
        "/monday/wind/point?lat=31&lon=99",
        "/monday/t2m/point?lat=here",
    ]
    answers = asyncio.run(asked(*paths))
    assert [status for status, _ in answers] == [200, 200, 200, 404, 404, 400]
    with xarray.open_zarr(forecasts / "monday.zarr", chunks=None) as monday:
        point = monday.t2m.sel(lat=31, lon=99, method="nearest").values.tolist()
        area = monday.t2m.sel(lat=slice(0, 20), lon=slice(0, 30)).mean(("lat", "lon")).values
    assert answers[0][1] == f'{{"values": {point}}}'
    assert answers[1][1] == f'{{"values": {[value + 1 for value in point]}}}'
    assert answers[2][1] == f'{{"values": {area.tolist()}}}'
