"""Stores of every kind that readers meet, made by zarr and xarray."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray
import zarr


def write(dataset: xarray.Dataset, path: Path, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's and xarray's remarks on formats
        dataset.to_zarr(path, **options)
    return path


def fields(**more: Any) -> xarray.Dataset:
    rng = np.random.default_rng(7)
    return xarray.Dataset(
        {
            "t2m": (("time", "lat", "lon"), rng.normal(size=(6, 5, 8)).astype("f4")),
            "count": (("time",), np.arange(6, dtype="i2")),
            "wet": (("lat", "lon"), rng.random((5, 8)) > 0.5),
        },
        coords={
            "time": np.arange("2020-01-01", "2020-01-07", dtype="M8[D]").astype("M8[ns]"),
            "lat": ("lat", np.linspace(-60, 60, 5), {"units": "degrees_north"}),
            "lon": ("lon", np.arange(8) * 45.0),
            **more,
        },
        attrs={"title": "a forecast", "levels": [1, 2, 3]},
    )


def v3(path: Path) -> Path:
    return write(fields(), path, zarr_format=3, consolidated=True)


def v3_unconsolidated(path: Path) -> Path:
    return write(fields(), path, zarr_format=3, consolidated=False)


def v2(path: Path) -> Path:
    return write(fields(), path, zarr_format=2, consolidated=True)


def v2_unconsolidated(path: Path) -> Path:
    return write(fields(), path, zarr_format=2, consolidated=False)


def sharded(path: Path) -> Path:
    encoding = {
        "t2m": {"chunks": (2, 5, 2), "shards": (4, 5, 8)},
        "lon": {"chunks": (2,), "shards": (6,)},
    }
    return write(fields(), path, zarr_format=3, encoding=encoding)


def big_endian(path: Path) -> Path:
    made = fields(station=("lat", np.arange(5, dtype=">i4")))
    made["t2m"] = made.t2m.astype(">f4")
    return write(made, path, zarr_format=2)


def big_endian_v3(path: Path) -> Path:
    made = fields()
    serializer = zarr.codecs.BytesCodec(endian="big")
    return write(made, path, zarr_format=3, encoding={"t2m": {"serializer": serializer}})


def text(path: Path) -> Path:
    made = fields(
        name=("lat", np.array(["a", "bb", "ä", "", "eeeee"], dtype=object)),
        code=("lat", np.array([b"a", b"bb", b"c", b"", b"eee"])),
    )
    made["note"] = ("lon", np.array(list("abcdefgh"), dtype="U1"))
    return write(made, path, zarr_format=2)


def text_v3(path: Path) -> Path:
    made = fields(name=("lat", np.array(["a", "bb", "ä", "", "eeeee"], dtype=object)))
    made["note"] = ("lon", np.array(list("abcdefgh"), dtype="U1"))
    return write(made, path, zarr_format=3)


def characters(path: Path) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    array = group.create_array("name", shape=(3, 4), chunks=(2, 4), dtype="S1")
    array[:] = np.array([b"anna", b"bert", b"carl"]).view("S1").reshape(3, 4)
    array.attrs["_ARRAY_DIMENSIONS"] = ["who", "letter"]
    return path


def calendar(path: Path, name: str) -> Path:
    made = fields()
    times = xarray.date_range("2000-02-25", periods=6, calendar=name, use_cftime=True)
    return write(made.assign_coords(time=times), path, zarr_format=3)


def days_360(path: Path) -> Path:
    return calendar(path, "360_day")


def noleap(path: Path) -> Path:
    return calendar(path, "noleap")


def no_times(path: Path) -> Path:
    made = fields()
    times = made.time.to_numpy().copy()
    times[[1, 4]] = np.datetime64("NaT", "ns")
    made["observed"] = ("time", times)
    made["lead"] = ("time", np.arange(6).astype("m8[h]").astype("m8[ns]"))
    return write(made, path, zarr_format=3)


def empty_time(path: Path) -> Path:
    return write(fields().isel(time=slice(0, 0)), path, zarr_format=3)


def times_2d(path: Path) -> Path:
    made = fields()
    made["valid"] = (("time", "lat"), made.time.to_numpy()[:, None] + np.arange(5).astype("m8[D]"))
    encoding = {"valid": {"chunks": (2, 5)}}
    return write(made, path, zarr_format=3, encoding=encoding)


def scalars(path: Path) -> Path:
    made = fields(height=2.0, start=np.datetime64("2020-01-01", "ns"), model="m1")
    return write(made, path, zarr_format=3)


def packed(path: Path, zarr_format: int = 3) -> Path:
    made = fields()
    made["t2m"][1, 2] = np.nan
    pack = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 1.0, "_FillValue": -999}
    return write(made, path, zarr_format=zarr_format, encoding={"t2m": pack})


def packed_v2(path: Path) -> Path:
    return packed(path, 2)


def named_coordinates(path: Path) -> Path:
    made = fields(area=(("lat", "lon"), np.ones((5, 8))), label=("lat", np.arange(5)))
    made["crs"] = ((), 0)
    made["t2m"].attrs["grid_mapping"] = "crs"
    return write(made, path, zarr_format=3)


def both_formats(path: Path) -> Path:
    v3(path)
    for name in ("", "t2m", "time"):
        folder = path / name
        meta = {"zarr_format": 2} if not name else {"zarr_format": 2, "shape": [1]}
        (folder / (".zarray" if name else ".zgroup")).write_text(json.dumps(meta))
    return path


def many(path: Path) -> Path:
    made = xarray.Dataset({f"v{n:03d}": ("x", np.full(3, n)) for n in range(120)})
    return write(made.assign_coords(x=[1, 2, 3]), path, zarr_format=3)


KINDS = [
    v3, v3_unconsolidated, v2, v2_unconsolidated, sharded, big_endian, big_endian_v3, text, text_v3,
    characters, days_360, noleap, no_times, empty_time, times_2d, scalars, packed, packed_v2,
    named_coordinates, both_formats, many,
]  # fmt: skip
