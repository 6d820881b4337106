"""A store behind a plain web server: read, and never written to."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import numpy as np
import obstore.store
import pytest
import zarr

from savers import (
    AsyncZarrSaver,
    HDF5Saver,
    InvalidInputError,
    NetCDFSaver,
    NotFoundError,
    StorageError,
    ZarrSaver,
    open_dataset,
    open_dataset_async,
    verify,
)
from tests.serverprocess import free_ports
from tests.stores import unchanged

pytestmark = pytest.mark.may_leak("files", reason="obstore keeps connections open")


@pytest.fixture
def web(tmp_path):
    """`python -m http.server` in a folder of stores; returns the folder and its address."""
    (port,) = free_ports(1)
    folder = tmp_path / "www"
    folder.mkdir()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          env={"PYTHONUNBUFFERED": "1"}) as server:  # fmt: skip
        try:
            assert b"Serving HTTP" in server.stdout.readline()
            yield folder, f"http://127.0.0.1:{port}"
        finally:
            server.kill()


def test_what_was_saved_is_read(web):
    folder, address = web
    expected = np.arange(24.0).reshape(4, 6)
    with ZarrSaver(folder / "out.zarr", dims=("time", "x"), chunks=2) as saver:
        saver.save(expected)
    with NetCDFSaver(folder / "out.nc", dims=("time", "x")) as saver:
        saver.save(expected)
    for name in ("out.zarr", "out.nc"):
        found = open_dataset(f"{address}/{name}")
        assert np.array_equal(found["dataset"].values, expected)

    async def read():
        found = await open_dataset_async(f"{address}/out.zarr")
        return (await found["dataset"].isel(time=3).load_async()).values

    assert asyncio.run(read()).tolist() == expected[3].tolist()
    with pytest.raises(StorageError, match="a plain web server is for open_dataset"):
        verify(f"{address}/out.zarr")  # needs the ledger, and that a list
    with pytest.raises(NotFoundError, match=f"{address}/nothing.zarr, found none"):
        open_dataset(f"{address}/nothing.zarr")


def test_nothing_is_written(web):
    folder, address = web
    with unchanged(folder):
        for saver in (ZarrSaver, HDF5Saver, NetCDFSaver):
            with pytest.raises(InvalidInputError, match="can be read, not written to: save to a"):
                saver(f"{address}/out")
        with pytest.raises(InvalidInputError, match="can be read, not written to"):
            AsyncZarrSaver(f"{address}/out", {"time": [0, 1]})
        store = obstore.store.HTTPStore(address, client_options={"allow_http": True})
        for given in (store, zarr.storage.ObjectStore(store)):
            with pytest.raises(InvalidInputError, match="can be read, not written to"):
                ZarrSaver(given)
