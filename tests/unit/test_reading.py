from __future__ import annotations

import asyncio
import sys
import warnings
from pathlib import Path

import pytest
import xarray

sys.path.insert(0, str(Path(__file__).parent))
import reading_stores

import savers


def peer(path, **options):
    """What xarray makes of the same store."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return xarray.open_zarr(path, chunks=None, **options)


def read(path, **options):
    """The Dataset of the asynchronous function, all of it in memory."""

    async def opened():
        return await (await savers.open_dataset_async(path, **options)).load_async()

    return asyncio.run(opened())


def assert_same(found, expected):
    assert found.encoding == expected.encoding
    for name, variable in expected.variables.items():
        mine = found.variables[name]
        assert mine.dtype == variable.dtype
        assert repr(sorted(mine.encoding.items())) == repr(sorted(variable.encoding.items()))
    assert list(found.coords) == list(expected.coords) or set(found.coords) == set(expected.coords)
    xarray.testing.assert_identical(found, expected)


@pytest.mark.parametrize("kind", reading_stores.KINDS, ids=lambda kind: kind.__name__)
def test_both_functions_give_what_xarray_gives(tmp_path, kind):
    path = kind(tmp_path / "store.zarr")
    assert_same(savers.open_dataset(path), peer(path))
    assert_same(read(path), peer(path))
