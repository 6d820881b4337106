"""From a gathered Zarr group to the Dataset that users get."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import xarray
from xarray.backends import BackendEntrypoint, StoreBackendEntrypoint, ZarrStore
from xarray.core.indexing import LazilyIndexedArray

from savers._reading._lazy import LazyArray, NeededError
from savers._reading._loop import paced, side_by_side
from savers._reading._zarr import (
    VARIABLE_COST,
    GatheredStore,
    gather,
    note_missing,
    prefetch,
    undecided,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from savers._reading._missing import Missing
    from savers._reading._store import ReadStore

__all__ = ["open_group"]


async def open_group(
    store: ReadStore,
    group: str | None,
    options: Mapping[str, Any],
    *,
    path: str | None,
    ledger: Callable[[], Mapping[str, Missing]],
    blocking: bool,
) -> xarray.Dataset:
    """Return a group of a Zarr store as a Dataset.

    Parameters
    ----------
    store : ReadStore
    group : str or None
    options : mapping
        Keywords of `xarray.open_dataset`, and ``consolidated``.
    path : str or None
        What the Dataset's ``encoding["source"]`` says.
    ledger : callable
        Asks the ledger which cells are missing; called where values alone can't tell.
    blocking : bool
        True where a synchronous read may hold up the event loop that runs.
    """
    options = dict(options)
    consolidated = options.pop("consolidated", None)
    found = await gather(store, group or "", consolidated=consolidated)

    async def loaded() -> GatheredStore:
        made = GatheredStore(found)
        ZarrStore.load(made)
        return made

    gathered = await paced(VARIABLE_COST // 4 * len(found.members or ()), loaded)
    steps = [prefetch(gathered, options)]
    if options.get("mask_and_scale", True) and options.get("decode_cf", True):
        steps.append(_mask(gathered, ledger))
    await side_by_side(steps)
    opening = _Opening(gathered, path, blocking=blocking)
    return await opening.dataset(options)


async def _mask(store: GatheredStore, ledger: Callable[[], Mapping[str, Missing]]) -> None:
    if undecided(store):
        note_missing(store, await asyncio.to_thread(ledger))


@dataclass
class _Opening:
    """What `xarray.open_dataset` is called with."""

    store: GatheredStore
    path: str | None
    blocking: bool
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    async def dataset(self, options: Mapping[str, Any]) -> xarray.Dataset:
        arrays = self.store.stored.values()
        cells = sum(box.values.nbytes for array in arrays for box in array.boxes)

        async def opened() -> xarray.Dataset:
            given: Any = self
            return xarray.open_dataset(given, engine=_Engine, **options)

        while True:
            try:
                found = await paced(cells + VARIABLE_COST * len(arrays), opened)
            except NeededError as needed:  # more than was foreseen
                await needed.array.keep_all()
            else:
                for array in arrays:
                    array.boxes.clear()
                return found

    def lazy(self, name: str, chain: Any) -> LazyArray:
        """Return a decoded variable that is read one selection at a time."""
        store = self.store
        return LazyArray(chain, store.stored[name], store.missing.get(name), blocking=self.blocking)

    def __dask_tokenize__(self) -> str:
        return self.token


class _Engine(BackendEntrypoint):
    """Decodes as xarray does, and reads as `LazyArray` does."""

    open_dataset_parameters = (
        "filename_or_obj", "mask_and_scale", "decode_times", "concat_characters",
        "decode_coords", "drop_variables", "use_cftime", "decode_timedelta",
    )  # fmt: skip

    def open_dataset(
        self, filename_or_obj: Any, *, drop_variables: Any = None, **decoders: Any
    ) -> xarray.Dataset:
        opening: _Opening = filename_or_obj
        found = StoreBackendEntrypoint().open_dataset(
            opening.store, drop_variables=drop_variables, **decoders
        )
        for name, variable in found.variables.items():
            if name in found.coords:
                variable.load()
            else:
                lazy = opening.lazy(str(name), variable._data)  # noqa: SLF001
                variable._data = LazilyIndexedArray(lazy)  # type: ignore[assignment] # noqa: SLF001
        return found
