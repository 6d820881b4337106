"""libhdf5 over a file that the disk refuses to write."""

from __future__ import annotations

import os

import h5py
import numpy as np
import pytest

from savers._stores._held_file import HeldFile


@pytest.fixture
def descriptor(tmp_path):
    found = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield found
    os.close(found)


def fill(file):
    for number in range(20):
        file.create_dataset(f"x{number}", data=np.full(1000, float(number)), chunks=(100,))
        file[f"x{number}"].attrs["n"] = number


def test_a_file_is_written_and_read(descriptor, tmp_path):
    with h5py.File(HeldFile(descriptor), "w") as file:
        fill(file)
    with h5py.File(HeldFile(descriptor), "r+") as file:
        file["x3"][...] = -1.0
    with h5py.File(tmp_path / "file") as file:
        assert file["x3"][5] == -1.0
        assert file["x19"][999] == 19.0


def test_an_error_of_any_write_is_held_until_the_handle_is_gone(descriptor, monkeypatch):
    plain, calls = os.write, 0
    for last in range(0, 60, 7):
        calls = 0

        def refused(number, data, last=last):
            nonlocal calls
            calls += 1
            if calls > last:
                raise OSError(28, "No space left on device")
            return plain(number, data)

        os.ftruncate(descriptor, 0)
        held = HeldFile(descriptor)
        with monkeypatch.context() as patched:
            patched.setattr("savers._stores._files.os.write", refused)
            with h5py.File(held, "w") as file:
                fill(file)
                np.testing.assert_array_equal(file["x7"][:], np.full(1000, 7.0))
        assert held.error is not None
        assert held.error.errno == 28


def test_reads_beyond_the_end_are_zeros(descriptor):
    held = HeldFile(descriptor)
    held.write(b"abc")
    held.seek(1)
    buffer = bytearray(b"xxxxxx")
    assert held.readinto(buffer) == 6
    assert buffer == b"bc\0\0\0\0"
    assert held.seek(0, os.SEEK_END) == 3
