"""Settings of a saver, checked at construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from savers._values._names import check_array_name
from savers.errors import InvalidInputError, InvalidTypeError

__all__ = ["SaverSettings", "make_settings"]

Approach = Literal["append", "overwrite", "update"]
APPROACHES = ("append", "overwrite", "update")


class SaverSettings(BaseModel):
    """Keywords that all chunked savers share (see `savers.ChunkedSaver`)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, strict=True
    )

    dataset_name: str = "dataset"
    approach: Approach = "append"
    dims: Sequence[str] | Mapping[str, Sequence[str]] | None = None
    coords: Mapping[str, Any] = Field(default_factory=dict)
    attrs: Mapping[str, Any] = Field(default_factory=dict)
    chunks: int | tuple[int, ...] | Mapping[str, Any] | None = None
    shards: int | tuple[int, ...] | Mapping[str, Any] | None = None
    codecs: Any = "balanced"
    dtype: Any = None
    fill_value: Any = None
    keep_relative: float | Mapping[str, float] | None = None
    durability: Literal["none", "process", "power"] = "process"
    storage_options: Mapping[str, Any] | None = Field(default=None, repr=False)
    max_inflight_bytes: int = Field(default=256 << 20, gt=0)

    @field_validator("dataset_name")
    @classmethod
    def _known_name(cls, value: str) -> str:
        return check_array_name(value)

    @field_validator("coords")
    @classmethod
    def _known_coordinates(cls, value: Mapping[str, Any]) -> Mapping[str, Any]:
        for name in value:
            check_array_name(name)  # a coordinate is an array of the store, too
        return value

    @field_validator("approach", mode="before")
    @classmethod
    def _forgiven(cls, value: object) -> object:
        return value.strip().lower() if isinstance(value, str) else value

    @field_validator("keep_relative")
    @classmethod
    def _share(
        cls, value: float | Mapping[str, float] | None
    ) -> float | Mapping[str, float] | None:
        shares = [*value.values()] if isinstance(value, Mapping) else [value]
        if not all(share is None or 0 < share < 1 for share in shares):
            message = "expected the largest relative error, between 0 and 1"
            raise ValueError(message)
        return value

    @field_validator("chunks", "shards", mode="before")
    @classmethod
    def _as_tuple(cls, value: object) -> object:
        return tuple(value) if isinstance(value, list) else value


def make_settings(owner: str, kind: type[SaverSettings], given: Mapping[str, Any]) -> SaverSettings:
    """Return checked settings of the saver `owner`.

    Raises
    ------
    InvalidInputError
        A value that does not fit; the text names the keyword, what was expected and what came.
    InvalidTypeError
        An unknown keyword.
    """
    unknown = [name for name in given if name not in kind.model_fields]
    if unknown:
        known = ", ".join(kind.model_fields)
        message = f"{owner} has no keyword {unknown[0]!r}; known are file_path, {known}"
        raise InvalidTypeError(message)
    try:
        return kind(**given)
    except ValidationError as error:
        message = _explain(owner, error, given)
    raise InvalidInputError(message)


def _explain(owner: str, error: ValidationError, given: Mapping[str, Any]) -> str:
    first = error.errors()[0]
    keyword = ".".join(str(part) for part in first["loc"][:1])
    if keyword == "approach":
        return f"{owner}: expected approach one of {APPROACHES}, got {given['approach']!r}"
    if keyword == "storage_options":  # never shown: it may hold credentials
        return f"{owner}: expected storage_options as a mapping of names to settings"
    return f"{owner}: {keyword}={first['input']!r}: {first['msg']}"
