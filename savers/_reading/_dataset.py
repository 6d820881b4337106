"""Reading back what was saved: a lazy xarray Dataset, with and without an event loop."""

from __future__ import annotations

import asyncio
import os
import sys
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from savers._stores._secrets import without_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray

__all__ = ["open_dataset", "open_dataset_async"]

_MODULES = frozenset({"savers._reading._files", "savers._reading._open"})


def open_dataset(
    target: object,
    *,
    group: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    run_state: bool = False,
    **options: Any,
) -> xarray.Dataset:
    """Open what a saver wrote, or another program, as a lazy Dataset.

    Parameters
    ----------
    target : str, Path, mapping, zarr Store or obstore store
        Whatever a saver takes as its ``file_path``.
    group : str, optional
        Path of a group within the store; the root by default.
    storage_options : mapping, optional
        Settings of a remote store.
    run_state : bool
        True: what the ledger knows of the jobs that wrote it, in the Dataset's attributes
        ``run_items``, ``run_done``, ``run_failed``, ``run_skipped``, ``run_unfinished`` (jobs).
    **options
        Keywords of `xarray.open_dataset`: ``chunks`` (dask arrays), ``decode_times``,
        ``mask_and_scale``, ``decode_coords``, ``drop_variables``, ...; and ``consolidated`` (None:
        use consolidated metadata where there is).

    Returns
    -------
    xarray.Dataset
        Coordinates are in memory, other variables are read when their values are asked for.

    Raises
    ------
    NotFoundError
        There is no such store or group.
    FormatError
        What lies there is not a group of arrays.
    StorageError
        A request failed, now or in a later read; the text names the object.

    Examples
    --------
    >>> import tempfile, savers
    >>> path = tempfile.mkdtemp() + "/results.zarr"
    >>> with savers.ZarrSaver(path, dataset_name="energy", dims=("item",)) as saver:
    ...     saver.save([1.0, 2.0, 3.0])
    >>> savers.open_dataset(path).energy.sel(item=slice(1, None)).values
    array([2., 3.])
    """
    from zarr.core.sync import sync

    where = (target, group, storage_options)
    return sync(_open(*where, options, run_state=run_state, blocking=True))


async def open_dataset_async(
    target: object,
    *,
    group: str | None = None,
    storage_options: Mapping[str, Any] | None = None,
    run_state: bool = False,
    **options: Any,
) -> xarray.Dataset:
    """Open what `open_dataset` opens, awaiting every request.

    The Dataset is the same. Its variables are loaded with ``await ds[...].load_async()``, after any
    selection; a synchronous read on a running event loop raises `BlockingReadError`. Requests of
    one step are made side by side: the metadata (three steps where it is not consolidated), then
    all coordinates. Decoding of more than 1 MiB runs in a worker thread. Cancelling a call ends its
    requests.

    Examples
    --------
    >>> import asyncio, tempfile, savers
    >>> path = tempfile.mkdtemp() + "/results.zarr"
    >>> with savers.ZarrSaver(path, dataset_name="energy", dims=("item",)) as saver:
    ...     saver.save([1.0, 2.0, 3.0])
    >>> async def last():
    ...     dataset = await savers.open_dataset_async(path)
    ...     return await dataset.energy[-1].load_async()
    >>> float(asyncio.run(last()))
    3.0
    """
    where = (target, group, storage_options)
    return await _open(*where, options, run_state=run_state, blocking=False)


async def _open(
    target: object,
    group: str | None,
    storage_options: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    run_state: bool,
    blocking: bool,
) -> xarray.Dataset:
    _require_xarray()
    if _MODULES - sys.modules.keys():  # their first import takes a second
        await asyncio.to_thread(lambda: [import_module(name) for name in sorted(_MODULES)])
    from savers._reading._missing import run_state as state_of

    found = await _opened(target, group, storage_options, options, blocking=blocking)
    if run_state:
        found.attrs |= await asyncio.to_thread(state_of, target, storage_options)
    return found


async def _opened(
    target: object,
    group: str | None,
    storage_options: Mapping[str, Any] | None,
    options: Mapping[str, Any],
    *,
    blocking: bool,
) -> xarray.Dataset:
    from savers._reading._files import file_path, one_thread, open_file
    from savers._reading._missing import ask_ledger
    from savers._reading._open import open_group
    from savers._reading._transport import fetch_file, reading_store

    ledger = partial(ask_ledger, target, storage_options)
    path = file_path(target)
    if path is not None:
        content, name = await fetch_file(path, storage_options)
        found: xarray.Dataset = await one_thread(
            open_file, content, group, options, name=name, ledger=ledger, blocking=blocking
        )
        return found
    store = reading_store(target, storage_options)
    await store.wake()
    return await open_group(
        store, group, options, path=_source(target), ledger=ledger, blocking=blocking
    )


def _require_xarray() -> None:
    if find_spec("xarray") is None:
        message = "reading needs xarray 2025.8 or newer: pip install 'tasksavers[xarray]'"
        raise ModuleNotFoundError(message, name="xarray")


def _source(target: object) -> str | None:
    """Return what the Dataset names as its source: paths and URLs, without credentials."""
    if not isinstance(target, (str, os.PathLike)):
        return None
    return without_secrets(os.fsdecode(os.fspath(target)))
