"""The machine that a table was measured on, in words."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import tempfile
from pathlib import Path

PACKAGES = (
    "tasksavers", "numpy", "zarr", "numcodecs", "zarrs", "tensorstore", "h5py", "hdf5plugin",
    "netCDF4", "joblib", "mpire", "pipefunc",
)  # fmt: skip


def describe() -> dict[str, object]:
    """Return processor, cores, memory, file system of the temporary folder, and versions."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "file_system": file_system(tempfile.gettempdir()),
        "python": platform.python_version(),
        "sqlite": __import__("sqlite3").sqlite_version,
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "load": round(os.getloadavg()[0], 1),
    }


def file_system(folder: str) -> str:
    """Return the type of the file system that a folder is on."""
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    here = Path(folder).resolve()
    above = [(mount, kind) for mount, kind in mounts if here.is_relative_to(mount)]
    return max(above, key=lambda found: len(found[0]))[1]


def _field(path: str, name: str) -> str:
    lines = Path(path).read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""
