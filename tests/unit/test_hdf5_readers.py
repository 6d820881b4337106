"""Other processes open the file with plain libraries, again and again, while it is being saved."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from savers import HDF5Saver

READERS = {
    "h5py": """
import h5py
def rows(path):
    with h5py.File(path, "r") as file:
        return file["x"][...]
""",
    "netCDF4": """
import netCDF4
def rows(path):
    with netCDF4.Dataset(path) as file:
        return file["x"][...].data
""",
}
LOOP = """
import sys, time
import numpy as np
seen = []
for _ in range(int(sys.argv[2])):
    found = rows(sys.argv[1])
    assert np.array_equal(found, np.repeat(np.arange(len(found) // 3), 3).reshape(-1, 1)), found
    seen.append(len(found))
assert seen == sorted(seen)
print(len(set(seen)))
"""


@pytest.mark.parametrize("reader", READERS)
def test_500_opens_while_it_is_saved(tmp_path, reader):
    path = tmp_path / "out.h5"
    program = [sys.executable, "-c", READERS[reader] + LOOP, str(path), "500"]
    with HDF5Saver(path, "x", chunks=4) as saver:
        saver.save(np.zeros((3, 1)))
        saver.flush()
        with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
            number = 1
            while child.poll() is None:
                saver.save(np.full((3, 1), float(number)))
                saver.flush()
                number += 1
            out, errors = child.communicate()
    assert child.returncode == 0, errors.decode()
    assert int(out) >= 1
