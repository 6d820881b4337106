"""NetCDF-4: an HDF5 file with the dimensions and attributes that NetCDF tools and CF expect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from savers._codecs._packing import Packing
from savers._hdf5._datasets import opened
from savers._hdf5._layout import KEYWORDS, library_dtype, pack_fill, planned_filters
from savers._hdf5._saver import HDF5Format, HDF5Saver, HDF5Settings, as_file_store
from savers._netcdf._dimensions import dimensions
from savers._netcdf._link import NetCDFLinker, axes_in, axes_of
from savers._netcdf._rules import check_names, stored_dtype, typed_attributes, values_dtype
from savers._values._fill import default_fill
from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from savers._format import Facts, Format, NewArray
    from savers._hdf5._publish import Linker
    from savers._ledger._state import ArrayLayout
    from savers._stores._store import Store

__all__ = ["NetCDFFormat", "NetCDFSaver"]


@dataclass(frozen=True)
class NetCDFFormat(HDF5Format):
    """NetCDF-4 by way of HDF5."""

    name: str = "netcdf"
    linker: Linker = field(default_factory=NetCDFLinker, compare=False)
    keywords: ClassVar[tuple[str, ...]] = (*KEYWORDS, "packing")

    def create(self, new: NewArray) -> ArrayLayout:
        check_names(new)
        if "_FillValue" in new.attributes:
            message = f"{new.name!r}: give fill_value= instead of the attribute _FillValue"
            raise InvalidInputError(message)
        packing = _packing(new)
        attributes = typed_attributes(new)
        if packing:
            attributes |= {"scale_factor": packing.scale_factor, "add_offset": packing.add_offset}
        layout = super().create(replace(new, dtype=values_dtype(new), attributes=attributes))
        stored = np.dtype(packing.dtype) if packing else stored_dtype(new)
        if stored.kind != "T" and stored != np.dtype(library_dtype(layout.values_dtype)):
            fill = packing.fill if packing else default_fill(stored)
            fill = int(new.fill_value or 0) if new.dtype.kind == "b" else fill
            layout.meta["stored"] = stored.str
            layout.meta["stored_fill"] = pack_fill(fill, stored)
            layout.meta["filters"] = planned_filters(replace(new, dtype=stored))
        if packing:
            layout.meta["packing"] = packing.settings()
        for name, value in attributes.items():
            self.linker.value(name, value, layout)  # refused now or never
        return layout

    def adopt(self, store: Store, name: str) -> tuple[ArrayLayout, tuple[int, ...]] | None:
        found = super().adopt(store, name)
        return found and (_unpacked(found[0]), found[1])

    def facts(self, layout: ArrayLayout) -> Facts:
        facts = super().facts(layout)
        return replace(facts, codecs={**facts.codecs, "packing": layout.meta.get("packing")})

    def check_beside(
        self, store: Store, layout: ArrayLayout, others: Sequence[ArrayLayout]
    ) -> None:
        """Refuse a dimension of another size, and an array that has the name of a dimension."""
        axes = {one.name: axes_of(one, one.shape) for one in (*others, layout)}
        path = as_file_store(store).path
        if path.exists():
            with opened(path) as file:
                axes = dict(axes_in(file)) | axes
        found, paths = dimensions(axes, str(path))
        first = paths[layout.name][0] if layout.growing and layout.meta["dims"] else ""
        if first in axes and first != layout.name and not axes[first].unlimited:
            message = (
                f"can't append {layout.name!r} along {first!r}, which has a fixed length in "
                f"{path}: give it a first dimension of its own with dims=, or place it by labels "
                "(write)"
            )
            raise InvalidInputError(message)
        for dimension in found:
            if dimension.path in axes and not dimension.labelled:
                message = (
                    f"can't save {layout.name!r}: {dimension.path!r} is the name of a dimension "
                    f"and of an array in {path}, which in NetCDF only its labels may have; choose "
                    "another name"
                )
                raise InvalidInputError(message)


def _packing(new: NewArray) -> Packing | None:
    """Return how an array is to be packed, None where it is not."""
    asked = new.codecs.get("packing") or {}
    if not isinstance(asked, Mapping):
        message = f"expected packing as a mapping of array names to settings, got {asked!r}"
        raise InvalidInputError(message)
    if new.name not in asked:
        return None
    if new.fill_value is not None:
        message = f"{new.name!r}: a packed array has a fill value of its own; leave fill_value out"
        raise InvalidInputError(message)
    return Packing.of(new.name, asked[new.name], values_dtype(new))


def _unpacked(layout: ArrayLayout) -> ArrayLayout:
    """Return the layout of an array of another program with its values as they are meant."""
    attributes, stored = layout.meta["attributes"], layout.values_dtype
    if stored.kind not in "iu" or not {"scale_factor", "add_offset"} & attributes.keys():
        return layout
    first = {name: np.ravel(attributes.get(name, [default]))[0] for name, default in _UNPACKED}
    missing = int(first["_FillValue"]) if "_FillValue" in attributes else None
    scale, offset = float(first["scale_factor"]), float(first["add_offset"])
    packing = Packing(stored.name, scale, offset, missing)
    more = {
        "packing": packing.settings(), "stored": stored.str, "stored_fill": layout.meta["fill"],
        "fill": pack_fill(np.nan, np.dtype("f8")),
    }  # fmt: skip
    return replace(layout, dtype="<f8", meta={**layout.meta, **more})


#: What integers mean where these attributes are not there.
_UNPACKED = (("scale_factor", 1.0), ("add_offset", 0.0), ("_FillValue", 0))


# -- the saver -----------------------------------------------------------------------------------


class NetCDFSettings(HDF5Settings):
    """Keywords of `NetCDFSaver`."""

    packing: Mapping[str, Any] | None = None


class NetCDFSaver(HDF5Saver):
    """Save results to variables of one NetCDF-4 file, as the CF conventions ask.

    Parameters, approaches and errors are those of `HDF5Saver`, which see, also for when the file
    is there.

    Parameters
    ----------
    packing : mapping of array name to mapping, optional
        Floats are kept as integers, ``{"t2m": {"dtype": "int16", "scale_factor": 0.01,
        "add_offset": 273.15}}``: rounded to the nearest step. Values out of range are refused.

    Notes
    -----
    Dimensions are those of `dims`, with their labels (`coords`) as coordinate variables; the
    append dimension is unlimited. Labels that are times are int32 (int64, where they don't fit) in
    the coarsest unit that is exact; cftime dates keep their calendar. Truth values are int8 with
    the attribute ``dtype="bool"``, float16 is float32; complex numbers and bytes are refused.
    Floats have a ``_FillValue``, integers where cells are missing or ``fill_value=`` was given.

    Examples
    --------
    >>> import tempfile, xarray
    >>> path = tempfile.mkdtemp() + "/results.nc"
    >>> days = np.array(["2025-01-15", "2025-01-16"], "datetime64[D]")
    >>> with NetCDFSaver(path, "t2m", dims=["time"], coords={"time": days}) as saver:
    ...     saver.save([280.0, 281.5])
    >>> with xarray.open_dataset(path, engine="h5netcdf") as dataset:
    ...     dataset["t2m"].values
    array([280. , 281.5])
    """

    settings_type = NetCDFSettings
    settings: NetCDFSettings

    def make_format(self) -> Format:
        return NetCDFFormat(in_place=self.settings.durability == "none")
