"""From settings and the first result to the array that will hold it. Pure functions.

What a call asks for (`chunks`, `dtype`, a compressor, ...) is honoured when an array is created
and compared with it ever after.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._format import NewArray
from savers._values._blocks import STORABLE
from savers._values._chunking import check_chunks, plan_chunks
from savers._values._coordinates import Labels, stored_dtype
from savers.errors import InvalidInputError, InvalidTypeError

if TYPE_CHECKING:
    from collections.abc import Collection

    from savers._config import SaverSettings
    from savers._format import Facts, Format
    from savers._ledger._state import ArrayLayout

__all__ = ["Planner", "check_options", "plain_attributes"]

#: Keywords that `save` takes for the creation of arrays, beside the codecs of the format.
OPTIONS = ("chunks", "shards", "dtype", "fill_value", "attributes")


def check_options(options: Mapping[str, Any], owner: str, codecs: Sequence[str]) -> None:
    """Refuse keywords that no array can be created with; `codecs` are those of the format.

    Raises
    ------
    InvalidTypeError
        An unknown keyword (also a TypeError and a ValueError).
    """
    known = (*OPTIONS, *codecs)
    for name in options:
        if name not in known:
            message = f"{owner}.save has no keyword {name!r}; known are {', '.join(known)}"
            raise InvalidTypeError(message)
    attributes = options.get("attributes")
    if attributes is not None and not isinstance(attributes, dict):
        message = f"{owner}.save: expected attributes as a dict, got {attributes!r}"
        raise InvalidInputError(message)


@dataclass(frozen=True)
class Planner:
    """Plans the arrays of one saver, for one set of per-call options.

    Parameters
    ----------
    settings : SaverSettings
    options : mapping
        Keywords of the call; they come before the settings.
    labels : mapping of dimension to Labels
    fmt : Format
    where : str
        The store, for messages.
    rows_name : str
        Name of the first dimension where `dims` gives none: the fields of a job share it.
    """

    settings: SaverSettings
    options: Mapping[str, Any]
    labels: Mapping[str, Labels]
    fmt: Format
    where: str
    rows_name: str = ""

    def asked(self, keyword: str, name: str) -> Any:
        """Return what was asked for by a keyword for an array, None where nothing was."""
        if keyword in self.options:
            return self.options[keyword]
        value = getattr(self.settings, keyword, None)
        return (
            value.get(name)
            if keyword in ("chunks", "shards") and isinstance(value, dict)
            else value
        )

    def dims(self, name: str, ndim: int) -> tuple[str, ...]:
        """Return the dimensions of an array.

        Raises
        ------
        InvalidInputError
            `dims` names another number of them.
        """
        given = self.settings.dims
        if given is not None and not isinstance(given, (list, tuple)):
            given = given.get(name)  # type: ignore[union-attr]
        if given is None:
            leaf = name.rpartition("/")[2]
            own = [f"{leaf}_dim_{axis}" for axis in range(ndim)]
            return tuple([self.rows_name, *own[1:]] if self.rows_name and own else own)
        if len(given) != ndim:
            message = (
                f"expected dimensions ({', '.join(given)}) for {name!r} in {self.where}, "
                f"got data with {ndim}"
            )
            raise InvalidInputError(message)
        return tuple(given)

    def dtype(self, name: str, found: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype in which results of dtype `found` are kept.

        Raises
        ------
        InvalidInputError
            ``dtype=`` names no dtype.
        """
        asked = self.asked("dtype", name)
        if asked is None:
            return stored_dtype(found.newbyteorder("="), name)
        try:
            chosen = np.dtype(asked)
        except TypeError as error:
            message = f"{name!r}: dtype={asked!r} is no dtype"
            raise InvalidInputError(message) from error
        if chosen.kind not in STORABLE:
            message = f"{name!r}: dtype={asked!r}: expected numbers, text, bytes or times"
            raise InvalidInputError(message)
        return stored_dtype(chosen, name)

    def rows(
        self, name: str, row: tuple[int, ...], dtype: np.dtype[Any], *, generation: int = 0
    ) -> ArrayLayout:
        """Return the layout of an array that grows by rows of a shape."""
        shape = (0, *row)
        dims = self.dims(name, len(shape))
        self._check_sizes(name, dims, shape, growing=True)
        planned = (None, *row)
        known = self.labels.get(dims[0])
        if known is not None and len(known.values):
            planned = (len(known.values), *row)
        return self._create(name, dtype, shape, planned, dims, (0,), generation, growing=True)

    def fixed(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], cells: tuple[int, ...],
        *, generation: int = 0,
    ) -> ArrayLayout:  # fmt: skip
        """Return the layout of an array of known extents, told apart along the axes `cells`."""
        dims = self.dims(name, len(shape))
        self._check_sizes(name, dims, shape, growing=False)
        return self._create(name, dtype, shape, shape, dims, cells, generation, growing=False)

    def _create(
        self,
        name: str,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        planned: tuple[int | None, ...],
        dims: tuple[str, ...],
        cells: Collection[int],
        generation: int,
        *,
        growing: bool,
    ) -> ArrayLayout:
        kept = self.dtype(name, dtype)
        itemsize = kept.itemsize if kept.kind != "T" else 64
        chunks = self.asked("chunks", name)
        shards = self.asked("shards", name)
        share = self.keep_relative(name)
        if share is not None and kept.kind not in "fc":
            message = (
                f"keep_relative is for floats, {name!r} holds {kept}; give it for the arrays it is "
                "meant for: keep_relative={name: 1e-4}"
            )
            raise InvalidInputError(message)
        settled = (
            plan_chunks(planned, itemsize, cells) if chunks is None
            else check_chunks(chunks, planned, name)
        )  # fmt: skip
        layout = self.fmt.create(
            NewArray(
                name, kept, shape, settled,
                None if shards is None else check_chunks(shards, planned, name),
                dims, self.asked("fill_value", name),
                {**dict(dtype.metadata or {}), **self.attributes(name)}, self._codecs(),
                growing, tuple(cells), self.asked("dtype", name) is not None, generation,
            )
        )  # fmt: skip
        if share is not None:
            layout.meta["keep_relative"] = share
        return layout

    def keep_relative(self, name: str) -> float | None:
        """Return the relative error that an array may have, None for none."""
        given = self.settings.keep_relative
        return given.get(name) if isinstance(given, Mapping) else given

    def _codecs(self) -> dict[str, Any]:
        return {"codecs": self.settings.codecs, **self._asked_codecs()}

    def _asked_codecs(self) -> dict[str, Any]:
        """What was asked of the codecs: by the call, else by the settings."""
        known = self.fmt.keywords
        own = {n: getattr(self.settings, n) for n in known if n in self.settings.model_fields_set}
        return {**own, **{name: self.options[name] for name in known if name in self.options}}

    def attributes(self, name: str) -> dict[str, Any]:
        """Return the attributes that were asked for an array, as JSON knows them."""
        given = self.settings.attrs.get(name)
        named = dict(given) if isinstance(given, dict) else {}
        share = self.keep_relative(name)
        if share is not None:  # readers are to know
            named["keep_relative"] = share
        return plain_attributes({**named, **(self.options.get("attributes") or {})}, name)

    def coordinate(self, labels: Labels, along: str, *, generation: int = 0) -> ArrayLayout:
        """Return the layout of a coordinate array; `along` is the growing dimension, if it is."""
        name, size = labels.dimension, len(labels.values)
        dtype = stored_dtype(labels.values.dtype.newbyteorder("="), name)
        given = self.settings.attrs.get(name)
        attributes = plain_attributes(given if isinstance(given, dict) else {}, name)
        if labels.calendar:
            attributes["calendar"] = labels.calendar
        new = NewArray(
            name, dtype, (size,), (max(1, size),), None, (name,), None, attributes,
            {"codecs": "balanced"}, growing=False, cells=(0,), generation=generation,
            along=name if name == along else "", labels=labels.values,
        )  # fmt: skip
        layout = self.fmt.create(new)
        layout.meta["calendar"] = labels.calendar
        return layout

    def _check_sizes(
        self, name: str, dims: tuple[str, ...], shape: tuple[int, ...], *, growing: bool
    ) -> None:
        for axis, (dimension, size) in enumerate(zip(dims, shape, strict=True)):
            labels = self.labels.get(dimension)
            if labels is None or (growing and axis == 0):
                continue
            if len(labels.values) != size:
                message = (
                    f"expected {len(labels.values)} entries along {dimension!r} (the labels of "
                    f"coords), got {size} for {name!r} of shape {shape} in {self.where}"
                )
                raise InvalidInputError(message)

    def check_extents(self, layout: ArrayLayout) -> None:
        """Compare the labels with the extents of an array that is there.

        Raises
        ------
        InvalidInputError
            An axis has another number of labels.
        """
        dims = tuple(layout.meta["dims"])
        if len(dims) == len(layout.shape):
            self._check_sizes(layout.name, dims, layout.shape, growing=layout.growing)

    # -- afterwards --------------------------------------------------------------------------------

    def check_existing(self, layout: ArrayLayout) -> None:
        """Compare what is asked for with an array that is there.

        Raises
        ------
        InvalidInputError
            They differ; the text names keyword, expected and got.
        """
        name, facts = layout.name, self.fmt.facts(layout)
        size = [n or 1 for n in layout.shape]
        for keyword, found in (("chunks", facts.chunks), ("shards", facts.shards)):
            asked = self.asked(keyword, name)
            if asked is not None and check_chunks(asked, size, name) != found:
                raise self._differs(name, keyword, found, asked)
        asked_dtype = self.asked("dtype", name)
        if asked_dtype is not None and self.dtype(name, np.dtype("f8")) != layout.values_dtype:
            raise self._differs(name, "dtype", layout.dtype, asked_dtype)
        share = self.keep_relative(name)
        if share is not None and share != layout.meta.get("keep_relative"):
            raise self._differs(name, "keep_relative", layout.meta.get("keep_relative"), share)
        dims = self.settings.dims
        if dims is not None and layout.meta["dims"] not in (
            [],
            list(self.dims(name, len(layout.shape))),
        ):
            raise self._differs(name, "dims", layout.meta["dims"], list(dims))
        self._check_made(layout, facts)

    def _check_made(self, layout: ArrayLayout, facts: Facts) -> None:
        """What only the format can compare: made again with these options, and held against it."""
        for key, value in self.attributes(layout.name).items():
            there = facts.attributes.get(key)
            if there != value:
                raise self._differs(layout.name, f"attributes[{key!r}]", there, value)
        codecs = self._asked_codecs()
        fill = self.asked("fill_value", layout.name)
        if not codecs and fill is None:
            return
        made = self._made_again(layout, facts, codecs, fill)
        for key in made.codecs if codecs else ():
            if made.codecs[key] != facts.codecs.get(key):
                raise self._differs(layout.name, key, facts.codecs.get(key), made.codecs[key])
        if fill is not None and made.fill_value != facts.fill_value:
            raise self._differs(layout.name, "fill_value", facts.fill_value, made.fill_value)

    def _made_again(
        self, layout: ArrayLayout, facts: Facts, codecs: Mapping[str, Any], fill: object
    ) -> Facts:
        new = NewArray(
            layout.name, layout.values_dtype, layout.shape, facts.chunks, facts.shards,
            tuple(layout.meta["dims"]), fill, codecs=codecs,
        )  # fmt: skip
        return self.fmt.facts(self.fmt.create(new))

    def _differs(self, name: str, keyword: str, there: object, asked: object) -> InvalidInputError:
        message = (
            f"{name!r} in {self.where} was created with {keyword}={there!r}, got {asked!r}; leave "
            f"it out, or replace the array with approach='overwrite'"
        )
        return InvalidInputError(message)


def plain_attributes(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return attributes as JSON knows them.

    Raises
    ------
    InvalidInputError
        A value that JSON (and so a Zarr document) can't hold.
    """
    return {str(key): _plain(value, f"{where}.{key}") for key, value in given.items()}


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, np.ndarray):
        return _plain(value.tolist(), where)
    if isinstance(value, np.generic) and value.dtype.kind not in "Mm":
        return _plain(value.item(), where)
    if isinstance(value, (list, tuple)):
        return [_plain(one, where) for one in value]
    if isinstance(value, dict):
        return plain_attributes(value, where)
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float) and np.isfinite(value):
        return value
    message = f"attribute {where}: expected text, numbers, lists or mappings, got {value!r}"
    raise InvalidInputError(message)
