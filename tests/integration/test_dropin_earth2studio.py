"""A script written for earth2studio's asynchronous backend runs with its import changed."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

pytest.importorskip("torch")

#: Model, workflow and calls in the manner of earth2studio's ensemble run: coordinates are ordered
#: dictionaries, arrays are announced as a whole, every step writes what the model gave.
SCRIPT = '''
import sys
from collections import OrderedDict

import numpy as np
import torch


def split_coords(x, coords, dim="variable"):
    axis = list(coords).index(dim)
    rest = OrderedDict((name, labels) for name, labels in coords.items() if name != dim)
    return list(x.unbind(axis)), rest, coords[dim]


class Rotation:
    """Turns its fields by one longitude a step of six hours."""

    step = np.timedelta64(6, "h")

    def output_coords(self):
        return OrderedDict(
            variable=np.array(["t2m", "tcwv"]),
            lat=np.linspace(90, -90, 9),
            lon=np.linspace(0, 360, 16, endpoint=False),
        )

    def create_iterator(self, x, coords):
        while True:
            yield x, coords.copy()
            x = x.roll(1, -1)
            coords["lead_time"] = coords["lead_time"] + self.step


def ensemble(times, nsteps, model, io, nensemble):
    total_coords = model.output_coords()
    total_coords["time"] = times
    total_coords["lead_time"] = np.asarray([model.step * i for i in range(nsteps + 1)])
    total_coords.move_to_end("lead_time", last=False)
    total_coords.move_to_end("time", last=False)
    total_coords = OrderedDict({"ensemble": np.arange(nensemble)} | total_coords)
    variables = total_coords.pop("variable")
    io.add_array(total_coords, variables)

    shape = (nensemble, times.size, 1, variables.size, 9, 16)
    x = torch.arange(np.prod(shape), dtype=torch.float32).reshape(shape)
    coords = OrderedDict(
        ensemble=np.arange(nensemble), time=times, lead_time=np.array([np.timedelta64(0, "h")]),
        **model.output_coords(),
    )
    for step, (x, coords) in enumerate(model.create_iterator(x, coords)):
        io.write(*split_coords(x, coords))
        if step == nsteps:
            break


times = np.array(["2022-12-20", "2022-12-21"], dtype="datetime64[ns]")
lead_times = np.asarray([Rotation.step * i for i in range(5)])
io = Backend(
    sys.argv[1],
    parallel_coords=OrderedDict(time=times, lead_time=lead_times),
    blocking=sys.argv[2] == "blocking",
    pool_size=4,
    async_timeout=600,
    zarr_kwargs={"mode": "a"},
    zarr_codecs=CODECS,
)
ensemble(times, 4, Rotation(), io, nensemble=3)
io.close()
'''
OURS = "from savers import AsyncZarrSaver as Backend"
THEIRS = "from earth2studio.io import AsyncZarrBackend as Backend"
CODECS = {
    "raw": "CODECS = None",
    "blosc": "import zarr\nCODECS = zarr.codecs.BloscCodec(cname='zstd', clevel=1)",
}


def run(backend, codecs, *arguments):
    """Run the script; return what it says on stderr."""
    program = f"{backend}\n{CODECS[codecs]}\n{SCRIPT}"
    command = [sys.executable, "-W", "default", "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


def wanted():
    first = np.arange(3 * 2 * 2 * 9 * 16, dtype="f4").reshape(3, 2, 1, 2, 9, 16)
    steps = np.concatenate([np.roll(first, step, -1) for step in range(5)], axis=2)
    return {"t2m": steps[:, :, :, 0], "tcwv": steps[:, :, :, 1]}


@pytest.mark.parametrize(("mode", "codecs"), [("blocking", "raw"), ("behind", "blosc")])
def test_the_script_runs_with_only_its_import_changed(tmp_path, mode, codecs):
    path = tmp_path / "out.zarr"
    assert run(OURS, codecs, path, mode) == ""
    with xr.open_zarr(path) as dataset:
        assert sorted(dataset.data_vars) == ["t2m", "tcwv"]
        for name, values in wanted().items():
            assert dataset[name].dims == ("ensemble", "time", "lead_time", "lat", "lon")
            assert dataset[name].dtype == np.float32
            np.testing.assert_array_equal(dataset[name], values)
        np.testing.assert_array_equal(dataset.lead_time, np.arange(5) * np.timedelta64(6, "h"))


@pytest.mark.skipif(
    importlib.util.find_spec("earth2studio") is None, reason="earth2studio is not installed"
)
def test_both_write_the_same_values_into_chunks_of_the_same_shape(tmp_path):
    import zarr

    run(OURS, "raw", tmp_path / "ours.zarr", "blocking")
    run(THEIRS, "raw", tmp_path / "theirs.zarr", "blocking")
    ours = zarr.open_group(tmp_path / "ours.zarr", mode="r")
    theirs = zarr.open_group(tmp_path / "theirs.zarr", mode="r")
    assert {"lat", "lon", "ensemble", "lead_time", "t2m", "tcwv", "time"} == set(ours.array_keys())
    for name in ("t2m", "tcwv", "lat", "lon", "ensemble"):
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name][...], theirs[name][...])
    assert ours["t2m"].chunks == theirs["t2m"].chunks
