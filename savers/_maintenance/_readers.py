"""Which programs of this machine open a store: each that is installed is asked."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["try_readers"]


def try_readers(path: Path) -> dict[str, str]:
    """Open a store with every reader there is.

    Returns
    -------
    dict of str to str
        Name and version of the reader -> what it saw, or its error.
    """
    readers: dict[str, Callable[[Any, Path], str]] = {
        "zarr": _zarr, "xarray": _xarray, "tensorstore": _tensorstore,
    }  # fmt: skip
    found = {}
    for name, reader in readers.items():
        if importlib.util.find_spec(name) is not None:
            found[f"{name} {version(name)}"] = _tried(reader, name, path)
    return found


def _tried(reader: Callable[[Any, Path], str], name: str, path: Path) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a warning is no refusal
        try:
            return reader(importlib.import_module(name), path)
        except Exception as error:  # noqa: BLE001 -- whatever a reader says is its answer
            text = str(error).strip().partition("\n")[0]
            return f"refuses: {type(error).__name__}: {text}"


def _zarr(zarr: Any, path: Path) -> str:
    group = zarr.open_group(path, mode="r")
    arrays = [array for _, array in group.members(max_depth=None) if hasattr(array, "shape")]
    for array in arrays:
        array[(slice(0, 1),) * array.ndim]
    return f"reads {len(arrays)} arrays"


def _xarray(xarray: Any, path: Path) -> str:
    with xarray.open_zarr(path, chunks=None) as dataset:
        sizes = ", ".join(f"{name}={size}" for name, size in dataset.sizes.items())
        return f"opens {len(dataset.variables)} variables ({sizes})"


def _tensorstore(tensorstore: Any, path: Path) -> str:
    names = sorted(file.parent for file in path.rglob("zarr.json") if file.parent != path)
    old = sorted(file.parent for file in path.rglob(".zarray"))
    opened = 0
    for driver, folders in (("zarr3", names), ("zarr", old)):
        for folder in folders:
            store = {"driver": "file", "path": str(folder)}
            tensorstore.open({"driver": driver, "kvstore": store}, read=True).result()
            opened += 1
    return f"opens {opened} arrays"
