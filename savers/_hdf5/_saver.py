"""HDF5: all arrays of a store in one file, which any HDF5 library reads without plugins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from savers._chunked._saver import ChunkedSaver
from savers._config import SaverSettings
from savers._format import Facts
from savers._hdf5._chunks import codec_of, read_object
from savers._hdf5._datasets import (
    chunk_index,
    chunk_key,
    chunk_prefix,
    is_dataset,
    opened,
    shown_shape,
)
from savers._hdf5._layout import (
    KEYWORDS,
    filter_names,
    filters_of,
    generation_of,
    pack_fill,
    plain_attributes_of,
    planned_filters,
    text_of,
    unpack_fill,
    values_dtype_of,
)
from savers._hdf5._publish import ID, Assembly, Linker, of_root
from savers._hdf5._scales import is_bare
from savers._ledger._state import ArrayLayout
from savers._session._sessions import close_all_before
from savers._stores._remote_file import working_copy
from savers._stores._single_file import FileStore
from savers._values._chunking import plan_chunks
from savers._values._coordinates import time_attributes
from savers._values._fill import default_fill
from savers.errors import FormatError, LedgerMismatchError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    import h5py

    from savers._codecs._codec import ChunkCodec
    from savers._format import Format, NewArray
    from savers._ledger._state import State
    from savers._stores._location import Location
    from savers._stores._store import Store

__all__ = ["HDF5Format", "HDF5Saver", "file_kind"]

Index = tuple[int, ...]

ELSEWHERE = (
    "this file was saved from another machine (or by another user), which has its ledger: go on "
    "there, or copy it to a local path and save to that"
)


@dataclass(frozen=True)
class HDF5Format:
    """HDF5 as h5py writes it.

    Parameters
    ----------
    linker : Linker
        What is added to datasets: attributes and dimensions.
    in_place : bool
        Write into the file that readers see, and promise nothing.
    """

    name: str = "hdf5"
    in_place: bool = False
    linker: Linker = field(default_factory=Linker, compare=False)
    keywords: ClassVar[tuple[str, ...]] = KEYWORDS
    timed: ClassVar[bool] = False

    def documents(self, names: Collection[str]) -> Sequence[str]:
        return ()  # the file is here

    def open_store(self, location: Location, dataset: str) -> Store:
        close_all_before("h5py")
        return FileStore(location, dataset, in_place=self.in_place)

    # -- layouts -----------------------------------------------------------------------------------

    def create(self, new: NewArray) -> ArrayLayout:
        attributes = dict(new.attributes)
        if new.dtype.kind in "Mm":
            attributes = {**time_attributes(new.dtype), **attributes}
        fill = default_fill(new.dtype) if new.fill_value is None else new.fill_value
        if new.dtype.kind in "Mm":
            fill = np.asarray(fill or "NaT", new.dtype)
        missing_times = new.dtype.kind in "Mm" and new.dims != (new.name,)
        meta = {
            "format": self.name, "dims": list(new.dims), "along": new.along,
            "attributes": attributes,
            "filters": planned_filters(new), "fill": pack_fill(fill, new.dtype),
            "asked_fill": new.fill_value is not None or missing_times,
        }  # fmt: skip
        dtype = "T" if new.dtype.kind == "T" else new.dtype.str
        layout = ArrayLayout(
            new.name, dtype, new.shape, new.chunks, new.growing, new.cells, new.rounding,
            new.generation, meta,
        )  # fmt: skip
        for key, value in attributes.items():
            self.linker.value(key, value, layout)  # refused now or never
        return layout

    def adopt(self, store: Store, name: str) -> tuple[ArrayLayout, Index] | None:
        files = as_file_store(store)
        if not files.path.exists():
            return None
        with opened(files.path) as file:
            if ID in file.attrs and files.written_elsewhere():
                raise LedgerMismatchError(ELSEWHERE)
            node = file.get(name)
            if node is None:
                return None
            if not is_dataset(node):
                message = f"expected an array at {name!r}, found a group"
                raise FormatError(message)
            return _adopted(node, name, self.name), tuple(node.shape)

    def facts(self, layout: ArrayLayout) -> Facts:
        meta = layout.meta
        codecs = {"filters": [[code, given] for code, _, given in meta["filters"]]}
        names = filter_names(meta["filters"])
        return Facts(layout.chunks, None, meta["attributes"], codecs, names, meta["fill"])

    def check_replaceable(self, layout: ArrayLayout, new: ArrayLayout | None = None) -> None:
        """Every array can be replaced: chunks of each generation have keys of their own."""

    def check_beside(
        self, store: Store, layout: ArrayLayout, others: Sequence[ArrayLayout]
    ) -> None:
        """Arrays share nothing that could differ."""

    def codec(self, layout: ArrayLayout) -> ChunkCodec:
        return codec_of(layout)

    def fill_value(self, layout: ArrayLayout) -> Any:
        return unpack_fill(layout.meta["fill"], layout.values_dtype)

    # -- chunks ------------------------------------------------------------------------------------

    def chunk_key(self, layout: ArrayLayout, chunk: Index) -> str:
        return chunk_key(layout, chunk)

    def read_chunk(self, store: Store, layout: ArrayLayout, chunk: Index) -> bytes | None:
        waiting = store.get(self.chunk_key(layout, chunk))
        path = as_file_store(store).path
        if waiting is not None or not path.exists():
            return waiting
        with opened(path) as file:
            if shown_shape(file, layout) is None:
                return None
            return read_object(file[layout.name], layout, chunk)

    def chunks_in(self, store: Store, layout: ArrayLayout) -> Iterator[tuple[Index, str]]:
        found = {chunk_index(key) for key in store.list(f"{chunk_prefix(layout)}/")}
        path = as_file_store(store).path
        if path.exists():
            with opened(path) as file:
                if shown_shape(file, layout) is not None:
                    found |= set(_stored_chunks(file[layout.name], layout))
        for index in sorted(found):
            yield index, self.chunk_key(layout, index)

    def remove_chunks(self, store: Store, layout: ArrayLayout) -> None:
        for key in list(store.list(f"{chunk_prefix(layout)}/")):
            store.delete(key)

    # -- what readers see --------------------------------------------------------------------------

    def store_id(self, store: Store) -> tuple[bool, str]:
        files = as_file_store(store)
        noted = files.birth()
        if not files.path.exists():
            return bool(noted), noted
        with opened(files.path) as file:
            return True, text_of(file.attrs.get(ID, noted))

    def root_attributes(self, store: Store) -> Mapping[str, Any]:
        path = as_file_store(store).path
        if not path.exists():
            return {}
        with opened(path) as file:
            return plain_attributes_of(file)

    def array_names(self, store: Store) -> Sequence[str]:
        path = as_file_store(store).path
        if not path.exists():
            return []
        found: dict[str, Any] = {}
        with opened(path) as file:
            file.visititems(lambda name, node: found.update({name: node}))
            return sorted(n for n, node in found.items() if is_dataset(node) and not is_bare(node))

    def create_root(self, store: Store, store_id: str, attrs: Mapping[str, Any]) -> None:
        for name, value in of_root(attrs).items():
            self.linker.value(name, value)  # refused now or never
        as_file_store(store).note_birth(store_id, self.name)

    def published(self, store: Store, layout: ArrayLayout) -> Index | None:
        path = as_file_store(store).path
        if not path.exists():
            return None
        with opened(path) as file:
            return shown_shape(file, layout)

    def publish(
        self,
        store: Store,
        state: State,
        shapes: Mapping[str, Index],
        attrs: Mapping[str, Any],
        gone: Sequence[str] = (),
    ) -> None:
        Assembly(as_file_store(store), state, shapes, attrs, gone, self.linker).publish()


def file_kind(path: Path) -> str:
    """Return the name of the format of a file, "" where it is no HDF5 file."""
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return ""
    with opened(path) as file:
        return "netcdf" if "_NCProperties" in file.attrs else "hdf5"


def as_file_store(store: Store) -> FileStore:
    """Return the store as what it is for every single-file format."""
    if not isinstance(store, FileStore):
        message = f"expected the store of a single file, got {type(store).__name__}"
        raise FormatError(message)
    return store


def _adopted(dataset: h5py.Dataset, name: str, kind: str) -> ArrayLayout:
    """Return the layout of a dataset that another program made."""
    dtype = values_dtype_of(dataset)
    if not dataset.shape:
        message = f"{name!r} is a single value, which can't be extended or changed here"
        raise FormatError(message)
    shape, text = tuple(dataset.shape), dtype.kind == "T"
    itemsize = 64 if text else dtype.itemsize
    meta = {
        "format": kind, "dims": _dims(dataset), "along": "",
        "attributes": plain_attributes_of(dataset), "filters": filters_of(dataset),
        "fill": "" if text else pack_fill(dataset.fillvalue, dtype), "asked_fill": True,
        "whole": dataset.chunks is None,
    }  # fmt: skip
    return ArrayLayout(
        name, "T" if text else dtype.str, (0, *shape[1:]),
        dataset.chunks or plan_chunks((None, *shape[1:]), itemsize),
        generation=generation_of(dataset), meta=meta,
    )  # fmt: skip


def _dims(dataset: h5py.Dataset) -> list[str]:
    """Return the names of the dimensions, none unless all have one."""
    names = []
    for dimension in dataset.dims:
        scales = [scale.name.rpartition("/")[2] for scale in dimension.values()]
        names.append((scales or [dimension.label])[0])
    own = dataset.name.rpartition("/")[2]
    if dataset.is_scale and dataset.ndim == 1:
        return [own]
    return names if all(names) else []


def _stored_chunks(dataset: h5py.Dataset, layout: ArrayLayout) -> Iterator[Index]:
    found: list[Index] = []
    if dataset.chunks is None:
        return iter(())
    dataset.id.chunk_iter(lambda info: found.append(info.chunk_offset))
    return (tuple(a // n for a, n in zip(at, layout.chunks, strict=True)) for at in found)


# -- the saver -----------------------------------------------------------------------------------


class HDF5Settings(SaverSettings):
    """Keywords of `HDF5Saver`."""

    compression: Any = None
    compression_opts: Any = None
    shuffle: bool | None = None
    fletcher32: bool | None = None


class HDF5Saver(ChunkedSaver):
    """Save results to datasets of one HDF5 file.

    Parameters, approaches and errors are those of `ChunkedSaver`; see there. What is saved is in
    the ledger at once; the file shows it after `flush` and `close`, which put the next file
    together beside the old one and move it into its place. So there is no file before the first of
    them, and disk is needed for the old file, the new one and what was saved since. With
    ``durability="none"`` a file that is there is written to instead: readers must not have it open,
    and a crash may leave it unreadable.

    Parameters
    ----------
    compression, compression_opts, shuffle, fletcher32 : optional
        As in ``h5py.Group.create_dataset``; they come before `codecs`. Default: deflate with
        shuffle, which every HDF5 library reads.

    Examples
    --------
    >>> import h5py, tempfile
    >>> path = tempfile.mkdtemp() + "/results.h5"
    >>> with HDF5Saver(path, dataset_name="energy") as saver:
    ...     saver.save([1.0, 2.0, 3.0])
    ...     saver.save([4.0])
    >>> with h5py.File(path) as file:
    ...     file["energy"][:]
    array([1., 2., 3., 4.])
    """

    settings_type = HDF5Settings
    settings: HDF5Settings

    def locate(self, file_path: object) -> Location:
        location = super().locate(file_path)
        if location.path is not None:
            return location
        return working_copy(location, synced=self._synced)

    def make_format(self) -> Format:
        return HDF5Format(in_place=self.settings.durability == "none")
