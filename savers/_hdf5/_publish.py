"""Putting the next HDF5 file together: a copy of the last one, and what the ledger adds to it.

Encoded chunks are copied as they are. Nothing happens to the file that readers see until the next
one is whole and takes its place.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crc32c import crc32c

from savers._hdf5._chunks import read_object, write_object
from savers._hdf5._datasets import (
    begins_inside,
    chunk_index,
    chunk_key,
    chunk_prefix,
    create,
    ends_inside,
    is_dataset,
    opened,
    remove,
    resized,
    shown_shape,
)
from savers._hdf5._layout import (
    attribute_value,
    text_of,
)
from savers._hdf5._scales import complete, is_bare
from savers._stores._held_file import HeldFile
from savers.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import h5py

    from savers._ledger._state import ArrayLayout, ArrayState, State, Stored
    from savers._stores._single_file import FileStore

__all__ = ["ID", "Assembly", "Linker", "of_root"]

ID = "tasksavers_store"  # root attribute that ties a file to its ledger

#: A file remembers the space of replaced chunks, so that the next publication uses it again.
SPACE: Mapping[str, Any] = {"fs_strategy": "fsm", "fs_persist": True, "fs_threshold": 1}

Index = tuple[int, ...]


class Linker:
    """What a format adds to the datasets of a file: attributes and dimensions."""

    #: How new files, groups and datasets are made.
    settings: Mapping[str, Any] = {}

    def attributes(self, array: ArrayState, shape: Index) -> dict[str, Any]:
        """Return the attributes of an array as readers of this shape are to see them."""
        return dict(array.layout.meta["attributes"])

    def begin(self, file: h5py.File) -> None:
        """Give a new file what every file of the format has."""

    def value(self, name: str, value: Any, layout: ArrayLayout | None = None) -> Any:
        """Return the value of an attribute (of the root without a layout) as h5py takes it.

        Raises
        ------
        InvalidInputError
            What no attribute can hold.
        """
        return attribute_value(value, f"{layout.name}.{name}" if layout else name)

    def link(self, file: h5py.File, arrays: Mapping[str, ArrayState]) -> None:
        """Give the dimensions of datasets their names, and scales where there are some."""
        for array in arrays.values():
            for axis, dimension in enumerate(array.layout.meta["dims"]):
                self._dimension(file, file[array.layout.name], axis, dimension)
            if array.layout.meta["dims"]:
                complete(file, file[array.layout.name], array.layout.meta["dims"])

    def _dimension(self, file: h5py.File, dataset: h5py.Dataset, axis: int, name: str) -> None:
        if not name or name == f"{dataset.name.rpartition('/')[2]}_dim_{axis}":
            return  # nobody named it
        if dataset.dims[axis].label != name:
            dataset.dims[axis].label = name
        scale = file.get(name)
        if not is_dataset(scale) or scale == dataset or scale.ndim != 1 or is_bare(scale):
            return
        if not scale.is_scale:
            scale.make_scale(name)
        if scale not in dataset.dims[axis].values():
            dataset.dims[axis].attach_scale(scale)


@dataclass(frozen=True)
class Assembly:
    """One publication.

    Parameters
    ----------
    store : FileStore
    state : State
    shapes : mapping of array name to tuple of int
    attrs : mapping
        Attributes of the root.
    gone : sequence of str
        Arrays that readers no longer see.
    linker : Linker
    """

    store: FileStore
    state: State
    shapes: Mapping[str, Index]
    attrs: Mapping[str, Any]
    gone: Sequence[str]
    linker: Linker

    def publish(self) -> None:
        """Replace the file where it does not show everything yet."""
        self.store.remove_leftovers()
        self._rescue()
        waiting = {name: self._waiting(name) for name in self.shapes}
        if any(waiting.values()) or not self._is_current():
            self._replace(waiting)
        self.store.send()
        self.store.keep(self._still_needed())

    def _rescue(self) -> None:
        """Keep the chunks of datasets that get shorter: libhdf5 clears what lies beyond."""
        if not self.store.path.exists():
            return
        with opened(self.store.path) as file:
            for name, shape in self.shapes.items():
                array = self.state.arrays[name]
                there = shown_shape(file, array.layout)
                if there is not None and shape and there[0] > shape[0]:
                    self._keep_beyond(file[name], array, shape)

    def _keep_beyond(self, dataset: h5py.Dataset, array: ArrayState, shape: Index) -> None:
        layout = array.layout
        for index in array.chunks:
            key = chunk_key(layout, index)
            if ends_inside(layout, index, shape) or self.store.get(key) is not None:
                continue
            data = read_object(dataset, layout, index)
            if data is not None:
                self.store.put(key, data)

    # -- what is to be done ------------------------------------------------------------------------

    def _waiting(self, name: str) -> dict[Index, str]:
        """Return index and key of the chunks in the segment that the file is to show."""
        layout, shape = self.state.arrays[name].layout, self.shapes[name]
        start = f"{chunk_prefix(layout)}/"
        found = {chunk_index(key): key for key in self.store.list(start)}
        known = self.state.arrays[name].chunks
        return {
            i: key for i, key in found.items() if i in known and begins_inside(layout, i, shape)
        }

    def _still_needed(self) -> list[str]:
        """Return the keys of chunks that the file does not hold, or not all of."""
        done = set()
        for name, shape in self.shapes.items():
            layout = self.state.arrays[name].layout
            text = layout.values_dtype.kind == "T"
            for index, key in self._waiting(name).items():
                if not text or ends_inside(layout, index, shape):
                    done.add(key)
        return [key for key in self.store.list("") if key not in done]

    def _is_current(self) -> bool:
        if not self.store.path.exists():
            return False
        with opened(self.store.path) as file:
            root = text_of(file.attrs.get(ID)) == self.state.store_id and all(
                name in file.attrs for name in self._root_attributes()
            )
            shown = all(
                shown_shape(file, self.state.arrays[n].layout) == s for n, s in self.shapes.items()
            )
            return bool(root and shown and not any(name in file for name in self.gone))

    def _root_attributes(self) -> dict[str, Any]:
        """Return the attributes of the root; those under the name of an array are its own."""
        return {n: v for n, v in of_root(self.attrs).items() if n not in self.state.arrays}

    # -- the next file -----------------------------------------------------------------------------

    def _replace(self, waiting: Mapping[str, Mapping[Index, str]]) -> None:
        self.store.require_room([key for found in waiting.values() for key in found.values()])
        with self.store.next_file() as (descriptor, old):
            held = HeldFile(descriptor)
            try:
                with self._opened(held, old=old) as file:
                    self._fill(file, held, waiting)
            finally:  # what the disk refused is raised when libhdf5 has let go of the file
                if held.error is not None:
                    raise held.error

    @contextlib.contextmanager
    def _opened(self, held: HeldFile, *, old: bool) -> Iterator[h5py.File]:
        import h5py

        if old:
            with h5py.File(held, "r+") as file:
                yield file
            return
        with h5py.File(held, "w", **SPACE, **self.linker.settings) as file:
            self.linker.begin(file)
            yield file

    def _fill(
        self, file: h5py.File, held: HeldFile, waiting: Mapping[str, Mapping[Index, str]]
    ) -> None:
        for name in self.gone:
            remove(file, name)
        for name, shape in self.shapes.items():
            array = self.state.arrays[name]
            dataset = self._dataset(file, array.layout, shape)
            for index, key in waiting[name].items():
                if held.error is not None:
                    return
                write_object(dataset, array.layout, index, self._object(key, array.chunks[index]))
            if not array.adopted:
                self._attributes(dataset, array, shape)
        self.linker.link(file, {name: self.state.arrays[name] for name in self.shapes})
        for name, value in {**self._root_attributes(), ID: self.state.store_id}.items():
            file.attrs[name] = self.linker.value(name, value)

    def _object(self, key: str, expected: Stored) -> bytes:
        data = self.store.get(key)
        if data is None or (len(data), crc32c(data)) != expected:
            message = f"{key} in the segment of {self.store.path} is damaged: run verify"
            raise FormatError(message)
        return data

    def _dataset(self, file: h5py.File, layout: ArrayLayout, shape: Index) -> h5py.Dataset:
        """Return the dataset of an array in its shape, made anew for another generation."""
        if shown_shape(file, layout) is None:
            return create(file, layout, shape, self.linker.settings)
        return resized(file, layout, shape, self.linker.settings)

    def _attributes(self, dataset: h5py.Dataset, array: ArrayState, shape: Index) -> None:
        for name, value in self.linker.attributes(array, shape).items():
            dataset.attrs[name] = self.linker.value(name, value, array.layout)


def of_root(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of the root: a mapping is for an array, which may be yet to come."""
    return {name: value for name, value in attrs.items() if not isinstance(value, dict)}
