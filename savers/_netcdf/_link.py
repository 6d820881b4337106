"""The NetCDF-4 side of an HDF5 file: dimensions, and attributes as NetCDF tools expect them.

Source: NetCDF-4 file format specification (NetCDF User's Guide, appendix C): dimensions are HDF5
dimension scales, and where one has no labels, a dataset without values stands for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from savers._hdf5._datasets import is_dataset
from savers._hdf5._layout import stored_dtype, stored_fill
from savers._hdf5._publish import Linker
from savers._hdf5._scales import is_bare, make_bare
from savers._jobs import ItemStatus
from savers._netcdf._dimensions import Axes, dimensions
from savers._netcdf._rules import attribute_value
from savers._version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import h5py

    from savers._ledger._state import ArrayLayout, ArrayState
    from savers._netcdf._dimensions import Dimension

__all__ = ["CONVENTIONS", "NetCDFLinker", "axes_in", "axes_of"]

CONVENTIONS = "CF-1.11"
DIMID = "_Netcdf4Dimid"

Index = tuple[int, ...]


class NetCDFLinker(Linker):
    """Attributes and dimensions of NetCDF-4 files."""

    settings = {"track_order": True}  # noqa: RUF012 -- without it NetCDF opens files to read only

    # -- attributes --------------------------------------------------------------------------------

    def begin(self, file: h5py.File) -> None:
        """Say what the file is, and what made it."""
        import h5py

        made = f"version=2,tasksavers={__version__},hdf5={h5py.version.hdf5_version}"
        for name, text in (("_NCProperties", made), ("Conventions", CONVENTIONS)):
            file.attrs[name] = self.value(name, text)

    def attributes(self, array: ArrayState, shape: Index) -> dict[str, Any]:
        attributes = super().attributes(array, shape)
        if _masked(array, shape):
            attributes["_FillValue"] = stored_fill(array.layout)
        return attributes

    def value(self, name: str, value: Any, layout: ArrayLayout | None = None) -> Any:
        if layout is None:
            return attribute_value(name, value, np.dtype("f8"), "the root")
        dtype = np.dtype(stored_dtype(layout))
        if name == "_FillValue":
            return np.array([value], dtype)
        return attribute_value(name, value, dtype, repr(layout.name))

    # -- dimensions --------------------------------------------------------------------------------

    def link(self, file: h5py.File, arrays: Mapping[str, ArrayState]) -> None:
        """Give every dimension its scale, and every array the scales of its dimensions."""
        own = _own(file, arrays)
        others = {name: axes for name, axes in axes_in(file) if name not in own}
        found, paths = dimensions(own | others, file.filename)
        for dimension in found:
            _make_scale(file, dimension)
        for name in arrays:
            for axis, path in enumerate(paths.get(name, ())):
                _attach(file[name], axis, file[path])
        _number(file, found)


def _masked(array: ArrayState, shape: Index) -> bool:
    """Return whether readers are told the fill value: not of labels, and not of plain integers.

    A fill value turns integers into floats in xarray, so they have one where cells are missing, or
    where it was asked for.
    """
    layout, kind = array.layout, array.layout.values_dtype.kind
    if kind in "bT" or layout.meta["dims"] == [layout.name.rpartition("/")[2]]:
        return False
    if kind == "f" or layout.meta["asked_fill"]:
        return True
    settled = array.status[: shape[0]] if layout.growing else array.status
    return layout.values_dtype.itemsize > 1 and bool((settled != ItemStatus.DONE).any())


# -- dimensions that are there ---------------------------------------------------------------------


def axes_of(layout: ArrayLayout, shape: Index) -> Axes:
    """Return the dimensions of an array in a shape."""
    unlimited = layout.growing or bool(layout.meta.get("along"))
    return Axes(tuple(layout.meta["dims"]), shape, unlimited)


def _own(file: h5py.File, arrays: Mapping[str, ArrayState]) -> dict[str, Axes]:
    each = ((name, axes_of(array.layout, file[name].shape)) for name, array in arrays.items())
    return {name: axes for name, axes in each if len(axes.dims) == len(axes.shape)}


def axes_in(file: h5py.File) -> Iterator[tuple[str, Axes]]:
    """Yield path and dimensions of every dataset that has them."""
    for dataset in _datasets(file):
        dims = tuple(_dims(dataset))
        if len(dims) == dataset.ndim and not is_bare(dataset):
            unlimited = bool(dataset.ndim) and dataset.maxshape[0] is None
            yield dataset.name[1:], Axes(dims, tuple(dataset.shape), unlimited)


def _datasets(file: h5py.File) -> list[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    file.visititems(lambda _, node: found.append(node) if is_dataset(node) else None)
    return found


def _dims(dataset: h5py.Dataset) -> Iterator[str]:
    if dataset.is_scale and dataset.ndim == 1:
        yield _leaf(dataset)
        return
    for dimension in dataset.dims:
        for scale in dimension.values()[:1]:
            yield _leaf(scale)


def _leaf(dataset: h5py.Dataset) -> str:
    return str(dataset.name).rpartition("/")[2]


# -- scales --------------------------------------------------------------------------------------


def _make_scale(file: h5py.File, dimension: Dimension) -> None:
    """Make what stands for a dimension what it has to be."""
    scale = file.get(dimension.path)
    if scale is None:
        _make_bare(file, dimension)
    elif not scale.is_scale:
        scale.make_scale(_leaf(scale))
    elif is_bare(scale) and dimension.unlimited and scale.maxshape == (None,):
        scale.resize((dimension.size,))
    elif is_bare(scale) and (dimension.unlimited or scale.shape != (dimension.size,)):
        _remake(file, scale, dimension)


def _make_bare(file: h5py.File, dimension: Dimension) -> h5py.Dataset:
    return make_bare(file, dimension.path, dimension.size, unlimited=dimension.unlimited)


def _remake(file: h5py.File, scale: h5py.Dataset, dimension: Dimension) -> None:
    """Replace the scale of a dimension that was of fixed length, for all who use it."""
    users: list[tuple[h5py.Dataset, int]] = []
    for dataset in _datasets(file):
        users += [(dataset, n) for n, each in enumerate(dataset.dims) if scale in each.values()]
    number = scale.attrs.get(DIMID)
    for dataset, axis in users:
        dataset.dims[axis].detach_scale(scale)
    del file[dimension.path]
    made = _make_bare(file, dimension)
    if number is not None:
        made.attrs.create(DIMID, number, dtype="<i4")
    for dataset, axis in users:
        dataset.dims[axis].attach_scale(made)


def _attach(dataset: h5py.Dataset, axis: int, scale: h5py.Dataset) -> None:
    if scale == dataset or scale in dataset.dims[axis].values():
        return
    for other in dataset.dims[axis].values():
        dataset.dims[axis].detach_scale(other)
    dataset.dims[axis].attach_scale(scale)


def _number(file: h5py.File, found: list[Dimension]) -> None:
    """Give scales the numbers by which NetCDF orders dimensions, the least that are free."""
    scales = [file[dimension.path] for dimension in found]
    taken = {int(scale.attrs[DIMID]) for scale in scales if DIMID in scale.attrs}
    free = (number for number in range(len(scales) + len(taken)) if number not in taken)
    for scale in scales:
        if DIMID not in scale.attrs:
            scale.attrs.create(DIMID, next(free), dtype="<i4")
