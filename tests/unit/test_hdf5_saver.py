"""HDF5Saver, read back with plain h5py."""

from __future__ import annotations

import h5py

from savers import HDF5Saver
from savers.testing import SaverTests


def read(path, name="dataset"):
    with h5py.File(path, "r") as file:
        dataset = file[name]
        text = h5py.check_string_dtype(dataset.dtype)
        return dataset.asstr()[...] if text and text.length is None else dataset[...]


class TestHDF5Saver(SaverTests):
    def make_saver(self, path, **settings):
        return HDF5Saver(path, **settings)

    def read(self, path, name="dataset"):
        return read(path, name)
