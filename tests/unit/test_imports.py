"""`import savers` and `import taskmanager` are light: heavy libraries load where they are used."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

import pytest

HEAVY = {
    "cloudpickle",
    "dask",
    "fsspec",
    "h5py",
    "matplotlib",
    "netCDF4",
    "obstore",
    "ray",
    "s3fs",
    "torch",
    "tqdm",
    "xarray",
    "zarr",
}
BOUND = 0.3  # seconds of CPU time, which other programs don't lengthen much; the aim is 0.15

TIMED = """
import time
import numpy
from pydantic import BaseModel, ConfigDict, Field, field_validator  # it loads on first use
begin = time.process_time()
import {package}
seconds = time.process_time() - begin
import json, sys
print(json.dumps([seconds, sorted({{name.partition('.')[0] for name in sys.modules}})]))
"""


def imported(package: str) -> tuple[float, set[str]]:
    """Return the CPU seconds of `import package` beyond NumPy and pydantic, and what is loaded."""
    command = [sys.executable, "-c", TIMED.format(package=package)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    seconds, modules = json.loads(done.stdout)
    return seconds, set(modules)


@pytest.mark.parametrize("package", ["savers", "taskmanager"])
def test_import_loads_nothing_heavy(package):
    assert imported(package)[1] & HEAVY == set()


@pytest.mark.parametrize("package", ["savers", "taskmanager"])
def test_import_is_quick(package):
    seconds = statistics.median(imported(package)[0] for _ in range(5))
    print(f"import {package}: {1000 * seconds:.0f} ms beyond numpy and pydantic")
    assert seconds < BOUND


@pytest.mark.parametrize("package", ["savers", "taskmanager"])
def test_every_public_name_is_there_and_documented(package):
    module = __import__(package)
    undocumented = [name for name in module.__all__ if not getattr(module, name).__doc__]
    assert undocumented == []
    assert module.__all__ == sorted(module.__all__)
