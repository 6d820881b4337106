"""The formats that the crash tests run on: how to save, and how to read back without our reader."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import savers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Kind:
    """A format.

    Parameters
    ----------
    name : str
    store : str
        Name of the store below the root of a run.
    saver : str
        Name of its class in `savers`.
    views : callable (path, array name)
        Yields how it was opened and all rows of an array, for each plain reader that finds it.
    readers : int
        How many there are.
    tree : callable (path)
        Returns everything outside the ledger that must be the same after an undisturbed run.
    """

    name: str
    store: str
    saver: str
    views: Callable[[Path, str], Iterator[tuple[str, Array]]]
    readers: int
    tree: Callable[[Path], dict[str, object]]

    def open(self, root: Path, approach: str, **settings: Any) -> savers.ChunkedSaver:
        made: type[savers.ChunkedSaver] = getattr(savers, self.saver)
        return made(root / self.store, "x", approach, codecs=None, **settings)

    def read(self, root: Path, name: str) -> Array | None:
        """Return an array as the first of the plain readers sees it, None where there is none."""
        return next((rows for _, rows in self.views(root / self.store, name)), None)

    def rows(self, root: Path, name: str = "x") -> int:
        """Return how many rows that reader sees."""
        found = self.read(root, name)
        return 0 if found is None else len(found)


# ---- Zarr ----


def zarr_views(path: Path, name: str) -> Iterator[tuple[str, Array]]:
    """With and without consolidated metadata, and through xarray."""
    import xarray
    import zarr

    if not (path / "zarr.json").exists():
        return
    for title, consolidated in (("consolidated", None), ("plain", False)):
        group = zarr.open_group(path, mode="r", use_consolidated=consolidated)
        if name in group:
            yield title, np.asarray(group[name][:])
    # a RuntimeWarning here says that the consolidated metadata are not there
    with warnings.catch_warnings(action="error"), xarray.open_zarr(path) as dataset:
        if name in dataset:
            yield "xarray", dataset[name].to_numpy()


def zarr_tree(path: Path) -> dict[str, object]:
    """Every file: bytes, or metadata without what differs by design."""
    found: dict[str, object] = {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            content = file.read_bytes()
            # overwrites take turns with c/0/0 and c.0.0
            name = str(file.relative_to(path)).replace("/c.", "/c/").replace(".", "/")
            found[name] = _as_made(json.loads(content)) if file.suffix == ".json" else content
    return found


def _as_made(document: Any) -> Any:
    """Return metadata without the id of the store and the turn of its last overwrite."""
    if isinstance(document, dict):
        own = ("tasksavers_store", "separator")
        return {k: _as_made(v) for k, v in document.items() if k not in own}
    return document


# ---- HDF5 ----


def hdf5_views(path: Path, name: str) -> Iterator[tuple[str, Array]]:
    """With h5py, and through xarray."""
    import h5py
    import xarray

    if not path.exists():
        return
    with h5py.File(path, "r") as file:
        if name in file:
            yield "h5py", file[name][...]
    options = {"engine": "h5netcdf", "phony_dims": "access"}
    with xarray.open_dataset(path, **options) as dataset:
        if name in dataset:
            yield "xarray", dataset[name].to_numpy()


def netcdf_views(path: Path, name: str) -> Iterator[tuple[str, Array]]:
    """With h5py, and through xarray, which wants every dimension to have its scale."""
    import h5py
    import xarray

    if not path.exists():
        return
    with h5py.File(path, "r") as file:
        if name in file:
            yield "h5py", file[name][...]
    with xarray.open_dataset(path, engine="h5netcdf") as dataset:
        if name in dataset:
            yield "xarray", dataset[name].to_numpy()


def hdf5_tree(path: Path) -> dict[str, object]:
    """Every dataset: layout, attributes and the bytes of its chunks."""
    import h5py

    found: dict[str, object] = {}
    if not path.exists():
        return found

    def note(name: str, node: Any) -> None:
        own = ("tasksavers_generation",)
        attributes = {key: str(value) for key, value in node.attrs.items() if key not in own}
        found[f"{name} attributes"] = attributes
        if isinstance(node, h5py.Dataset):
            found[name] = (node.shape, node.dtype, node.chunks, str(node.fillvalue))
            count = node.id.get_num_chunks() if node.chunks else 0
            places = [node.id.get_chunk_info(number) for number in range(count)]
            for place in places:
                chunk = node.id.read_direct_chunk(place.chunk_offset)
                found[f"{name}{place.chunk_offset}"] = chunk
            found[f"{name} values"] = node[...].tobytes()

    with h5py.File(path, "r") as file:
        file.visititems(note)
    return found


#: What a fork server has imported before it runs programs on any format.
PRELOAD = [
    "numpy.ma", "h5py", "zarr", "savers", "savers._netcdf._saver", "savers._zarr._saver",
    "taskmanager",
]  # fmt: skip

KINDS = {
    kind.name: kind
    for kind in (
        Kind("zarr", "x.zarr", "ZarrSaver", zarr_views, 3, zarr_tree),
        Kind("hdf5", "x.h5", "HDF5Saver", hdf5_views, 2, hdf5_tree),
        Kind("netcdf", "x.nc", "NetCDFSaver", netcdf_views, 2, hdf5_tree),
    )
}
