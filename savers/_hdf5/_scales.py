"""Dimension scales without values: what stands for a dimension that nobody labelled.

Source: NetCDF-4 file format specification (NetCDF User's Guide, appendix C). Readers of plain HDF5
expect the same: where one dimension of a dataset has a scale, all others have one too. xarray
knows the name of a dimension by its scale alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from savers._hdf5._datasets import is_dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    import h5py

__all__ = ["complete", "is_bare", "make_bare"]

#: How NetCDF names such a scale, with the length it was made with (0: it grows).
BARE = "This is a netCDF dimension but not a netCDF variable. {:9d}"


def is_bare(dataset: h5py.Dataset) -> bool:
    """Return whether a dataset only stands for a dimension."""
    name = dataset.attrs.get("NAME", b"") if dataset.is_scale else b""
    return bytes(name).startswith(BARE[:40].encode()) if isinstance(name, bytes) else False


def make_bare(file: h5py.File, path: str, size: int, *, unlimited: bool) -> h5py.Dataset:
    """Make the scale of a dimension."""
    more = {"maxshape": (None,), "chunks": (1024,)} if unlimited else {}
    scale = file.create_dataset(path, (size,), ">f4", track_order=True, **more)
    scale.make_scale(BARE.format(0 if unlimited else size))
    return scale


def complete(file: h5py.File, dataset: h5py.Dataset, names: Sequence[str]) -> None:
    """Give all dimensions of a dataset a scale, where all have a label or some have a scale."""
    if not all(d.label for d in dataset.dims) and not any(len(d) for d in dataset.dims):
        return
    axes = enumerate(zip(dataset.dims, names, dataset.shape, strict=True))
    for axis, (dimension, name, size) in axes:
        if not len(dimension) and name and not dataset.is_scale:
            scale = file.get(name)
            if scale is None:
                scale = make_bare(file, name, size, unlimited=True)
            if is_dataset(scale) and is_bare(scale) and _fits(dataset, axis, scale):
                dimension.attach_scale(scale)
        if len(dimension) and is_bare(dimension[0]) and len(dimension[0]) < size:
            dimension[0].resize((size,))


def _fits(dataset: h5py.Dataset, axis: int, scale: h5py.Dataset) -> bool:
    """Two arrays may give one name to dimensions of two sizes; readers would pad the shorter."""
    return dataset.maxshape[axis] is None or dataset.shape[axis] == len(scale)
