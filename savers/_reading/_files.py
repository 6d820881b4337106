"""NetCDF and HDF5 files: xarray reads them, in one worker thread where an event loop waits.

The HDF5 library does one thing at a time in a process, so a second thread would only wait.
"""

from __future__ import annotations

import asyncio
import io
import os
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
import xarray
from xarray import backends
from xarray.core.indexing import LazilyIndexedArray

from savers._hdf5._publish import ID
from savers._reading._decoded import DecodedArray, decoding, selected
from savers.errors import FormatError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xarray.core.indexing import ExplicitIndexer

    from savers._reading._missing import Missing

__all__ = ["file_path", "one_thread", "open_file"]

HDF5, CLASSIC = b"\x89HDF\r\n\x1a\n", b"CDF"
ENDINGS = (".nc", ".nc4", ".cdf", ".netcdf", ".h5", ".hdf5", ".hdf", ".he5")

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()


async def one_thread(task: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Run what reads files in the one worker thread that may."""
    async with _turns.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
        return await asyncio.to_thread(task, *args, **options)


def file_path(target: object) -> str | None:
    """Return the path or URL of a single file, by what is there or by its ending, else None."""
    if not isinstance(target, (str, os.PathLike)):
        return None
    text = os.fsdecode(os.fspath(target)).removeprefix("file://")
    if "://" not in text:
        text = os.path.abspath(os.path.expanduser(text))
    single = text.lower().endswith(ENDINGS) and not os.path.isdir(text)
    return text if single or os.path.isfile(text) else None


@dataclass(frozen=True)
class _File:
    """What `xarray.open_dataset` is called with."""

    content: str | io.BytesIO
    name: str
    group: str | None
    missing: Mapping[str, Missing]
    blocking: bool
    path: str | None


def open_file(
    content: str | bytes,
    group: str | None,
    options: Mapping[str, Any],
    *,
    name: str,
    ledger: Callable[[], Mapping[str, Missing]],
    blocking: bool,
) -> xarray.Dataset:
    """Return a NetCDF or HDF5 file as a Dataset.

    Parameters
    ----------
    content : str or bytes
        Its local path, or all of it.
    group : str or None
    options : mapping
        Keywords of `xarray.open_dataset`.
    name : str
        For messages and as the Dataset's source.
    ledger : callable
        Asks the ledger which cells are missing; called for files of a saver.
    blocking : bool
        True where a synchronous read may hold up the event loop that runs.

    Raises
    ------
    NotFoundError
        There is no such file or group.
    FormatError
        It is neither NetCDF nor HDF5.
    """
    engine = _engine(_start(content, name), name)
    source = io.BytesIO(content) if isinstance(content, bytes) else content
    masked = options.get("mask_and_scale", True) and options.get("decode_cf", True)
    missing = ledger() if masked and isinstance(content, str) else {}
    given: Any = _File(source, name, group, missing, blocking, name)
    with decoding(f"can't open {name}"):
        return xarray.open_dataset(given, engine=engine, **options)


def _start(content: str | bytes, name: str) -> bytes:
    if isinstance(content, bytes):
        return content[: len(HDF5)]
    try:
        with open(content, "rb") as file:
            return file.read(len(HDF5))
    except FileNotFoundError:
        message = f"expected a file at {name}, found none"
        raise NotFoundError(message) from None


def _engine(start: bytes, name: str) -> type[_HDF5Engine]:
    if start == HDF5:
        return _HDF5Engine
    if start.startswith(CLASSIC):
        return _ClassicEngine
    message = f"expected a Zarr store, a NetCDF or an HDF5 file at {name}, found another file"
    raise FormatError(message)


class FileArray(DecodedArray):
    """A decoded variable of a file."""

    def read(self, key: ExplicitIndexer) -> Any:
        with decoding(f"can't read {self.name}"):
            return self.masked(np.asarray(selected(self.chain, key)), key)

    async def async_getitem(self, key: ExplicitIndexer) -> Any:
        return await one_thread(self.read, key)


class _HDF5Engine(backends.BackendEntrypoint):
    """Decodes as xarray does, and reads as `FileArray` does."""

    open_dataset_parameters = (
        "filename_or_obj", "mask_and_scale", "decode_times", "concat_characters",
        "decode_coords", "drop_variables", "use_cftime", "decode_timedelta",
    )  # fmt: skip

    def open_dataset(
        self, filename_or_obj: Any, *, drop_variables: Any = None, **decoders: Any
    ) -> xarray.Dataset:
        file: _File = filename_or_obj
        found = self._decoded(file, drop_variables=drop_variables, **decoders)
        missing = file.missing if ID in found.attrs else {}
        for name, variable in found.variables.items():
            if name in found.coords:
                variable.load()
            else:
                path = f"{(file.group or '').strip('/')}/{name}".lstrip("/")
                cells = missing.get(path)
                fits = cells is not None and cells.fits(variable.shape)
                lazy = FileArray(
                    variable._data, f"{path} in {file.name}", cells if fits else None,  # noqa: SLF001
                    blocking=file.blocking,
                )  # fmt: skip
                variable._data = LazilyIndexedArray(lazy)  # type: ignore[assignment] # noqa: SLF001
        return found

    def _decoded(self, file: _File, **options: Any) -> xarray.Dataset:
        return backends.H5netcdfBackendEntrypoint().open_dataset(
            file.content, group=file.group, phony_dims="access", **options
        )


class _ClassicEngine(_HDF5Engine):
    """NetCDF 3, by whichever library there is."""

    def _decoded(self, file: _File, **options: Any) -> xarray.Dataset:
        if find_spec("scipy") is not None:
            return backends.ScipyBackendEntrypoint().open_dataset(
                file.content, group=file.group, **options
            )
        content: Any = file.content
        return backends.NetCDF4BackendEntrypoint().open_dataset(
            content, group=file.group, **options
        )
