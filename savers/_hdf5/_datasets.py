"""Datasets in a file: found, made, made anew, removed; and under which keys their chunks lie."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from savers._hdf5._chunks import create_like
from savers._hdf5._layout import (
    GENERATION,
    SYSTEM,
    filters_of,
    generation_of,
    settled_shape,
    stored_dtype,
    stored_fill,
)
from savers._stores._files import storage_errors
from savers.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    import h5py

    from savers._ledger._state import ArrayLayout

__all__ = [
    "begins_inside",
    "chunk_index",
    "chunk_key",
    "chunk_prefix",
    "create",
    "ends_inside",
    "is_dataset",
    "opened",
    "remove",
    "resized",
    "shown_shape",
]

Index = tuple[int, ...]
Users = list[tuple[str, int]]  # datasets and axes that have a scale


@contextlib.contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file to read.

    Raises
    ------
    FormatError
        Something else lies there.
    StorageError
        It can't be read.
    """
    import h5py

    with storage_errors("read", path):
        if not h5py.is_hdf5(path):
            message = f"expected an HDF5 file at {path}, found something else"
            raise FormatError(message)
        try:
            with h5py.File(path, "r") as file:
                yield file
        except (KeyError, RuntimeError) as error:  # h5py's for objects that can't be read
            message = f"{path} is damaged: {error}"
            raise FormatError(message) from error


def is_dataset(node: object) -> bool:
    """Return whether something in a file is a dataset."""
    import h5py

    return isinstance(node, h5py.Dataset)


def shown_shape(file: h5py.File, layout: ArrayLayout) -> Index | None:
    """Return the shape in which a file shows an array; None where it has another or nothing."""
    dataset = file.get(layout.name)
    if not is_dataset(dataset):
        return None
    chunks = dataset.chunks or (layout.chunks if layout.meta.get("whole") else None)
    same = (
        chunks == layout.chunks
        and dataset.dtype == stored_dtype(layout)
        and filters_of(dataset) == layout.meta["filters"]
        and generation_of(dataset) == layout.generation
    )
    return tuple(dataset.shape) if same else None


def make_groups(file: h5py.File, name: str, settings: Mapping[str, Any]) -> None:
    """Make the groups above a name that are not there."""
    parts = name.split("/")[:-1]
    for depth in range(len(parts)):
        group = "/".join(parts[: depth + 1])
        if group not in file:
            file.create_group(group, **settings)


def create(
    file: h5py.File, layout: ArrayLayout, shape: Index, settings: Mapping[str, Any]
) -> h5py.Dataset:
    """Make the dataset of an array, in the place of whatever has its name."""
    remove(file, layout.name)
    make_groups(file, layout.name, settings)
    dataset = create_like(
        file, layout.name, layout, shape, settled_shape(layout), fillvalue=stored_fill(layout),
        **settings,
    )  # fmt: skip
    if layout.generation:
        dataset.attrs[GENERATION] = layout.generation
    return dataset


def resized(
    file: h5py.File, layout: ArrayLayout, shape: Index, settings: Mapping[str, Any]
) -> h5py.Dataset:
    """Return the dataset of an array in its shape.

    One of another program that lies in one piece, or can't grow so far, is made anew.
    """
    dataset = file[layout.name]
    limits = zip(shape, dataset.maxshape, strict=True)
    if dataset.chunks is None or any(most is not None and n > most for n, most in limits):
        dataset = _remade(file, dataset, layout, settings)
    if dataset.shape != shape:
        dataset.resize(shape)
    return dataset


def _remade(
    file: h5py.File, dataset: h5py.Dataset, layout: ArrayLayout, settings: Mapping[str, Any]
) -> h5py.Dataset:
    """Return a dataset with the values, attributes and dimensions of another, and room to grow."""
    aside = f"{layout.name}@remade"
    new = create_like(
        file, aside, layout, dataset.shape, settled_shape(layout), fillvalue=dataset.fillvalue,
        **settings,
    )  # fmt: skip
    _copy_values(dataset, new)
    for name in dataset.attrs:
        if name not in SYSTEM:
            new.attrs[name] = dataset.attrs[name]
    dimensions = [(one.label, list(one.values())) for one in dataset.dims]
    scale = dataset.attrs["NAME"] if dataset.is_scale else None
    users = remove(file, layout.name)
    file.move(aside, layout.name)
    if scale is not None:
        new.make_scale(scale)
    for user, axis in users:
        file[user].dims[axis].attach_scale(new)
    for dimension, (label, scales) in zip(new.dims, dimensions, strict=True):
        dimension.label = label
        for one in scales:
            dimension.attach_scale(one)
    return new


def _copy_values(dataset: h5py.Dataset, new: h5py.Dataset) -> None:
    """Copy values; chunks that are stored alike as they are, so that their checksums stay."""
    if dataset.chunks != new.chunks or _stored_as(dataset) != _stored_as(new):
        for region in new.iter_chunks():
            new[region] = dataset[region]
        return
    for number in range(dataset.id.get_num_chunks()):
        offset = dataset.id.get_chunk_info(number).chunk_offset
        mask, data = dataset.id.read_direct_chunk(offset)
        new.id.write_direct_chunk(offset, data, mask)


def _stored_as(dataset: h5py.Dataset) -> list[object]:
    """Return dtype and filters; text of varying length lies outside its chunks."""
    if dataset.dtype.kind == "O":
        return [object()]
    settings = dataset.id.get_create_plist()
    return [dataset.dtype, *map(settings.get_filter, range(settings.get_nfilters()))]


def remove(file: h5py.File, name: str) -> Users:
    """Remove a dataset; return what it was a scale of."""
    dataset = file.get(name)
    if dataset is None:
        return []
    users = _detach(file, dataset) if is_dataset(dataset) and dataset.is_scale else []
    for dimension in dataset.dims if is_dataset(dataset) else ():
        for scale in dimension.values():
            dimension.detach_scale(scale)
    del file[name]
    return users


def _detach(file: h5py.File, scale: h5py.Dataset) -> Users:
    users: Users = []

    def visit(name: str, node: object) -> None:
        for axis, dimension in enumerate(node.dims if is_dataset(node) else ()):  # type: ignore[attr-defined]
            if scale in dimension.values():
                dimension.detach_scale(scale)
                users.append((name, axis))

    file.visititems(visit)
    return users


# -- where chunks lie ----------------------------------------------------------------------------


def chunk_prefix(layout: ArrayLayout) -> str:
    """Return how the keys of an array's chunks begin."""
    return f"{layout.name}@{layout.generation}"


def chunk_key(layout: ArrayLayout, index: Index) -> str:
    """Return the key of a chunk."""
    return f"{chunk_prefix(layout)}/{'.'.join(map(str, index))}"


def chunk_index(key: str) -> Index:
    """Return the index of the chunk with a key."""
    last = key.rpartition("/")[2]
    return tuple(int(part) for part in last.split(".")) if last else ()


def begins_inside(layout: ArrayLayout, index: Index, shape: Index) -> bool:
    """Return whether something of a chunk lies within a shape."""
    return all(i * n < size for i, n, size in zip(index, layout.chunks, shape, strict=True))


def ends_inside(layout: ArrayLayout, index: Index, shape: Index) -> bool:
    """Return whether a chunk lies within a shape as far as its array's rows can reach."""
    first = (index[0] + 1) * layout.chunks[0] <= shape[0] if index else True
    return first or not (layout.growing or layout.meta.get("along"))
