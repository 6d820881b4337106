"""Floats packed into small integers, by ``scale_factor`` and ``add_offset``. Pure functions.

Source: CF conventions 1.11, section 8.1 (packed data).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._codecs._codec import ChunkCodec
from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from savers._codecs._codec import Bytes

__all__ = ["PackedChunks", "Packing"]

_KEYS = ("dtype", "scale_factor", "add_offset")
_DTYPES = ("int8", "int16", "int32", "uint8", "uint16", "uint32")


@dataclass(frozen=True)
class Packing:
    """``value = packed * scale_factor + add_offset``; NaN is the integer that is left over.

    Parameters
    ----------
    dtype : str
        Of the integers.
    scale_factor, add_offset : float
    missing : int, optional
        The integer that stands for missing values; default the one furthest from use.
    """

    dtype: str
    scale_factor: float
    add_offset: float = 0.0
    missing: int | None = None

    @classmethod
    def of(cls, name: str, given: object, values: np.dtype[Any]) -> Packing:
        """Return the packing that was asked for an array with values of a dtype.

        Raises
        ------
        InvalidInputError
            Unknown or missing keys, a dtype that is none of the small integers, a scale of 0, or
            values that would not tell neighbouring integers apart.
        """
        if not isinstance(given, Mapping) or not {"dtype", "scale_factor"} <= given.keys():
            message = (
                f"{name!r}: expected packing as {{'dtype': 'int16', 'scale_factor': 0.01, "
                f"'add_offset': 0.0}}, got {given!r}"
            )
            raise InvalidInputError(message)
        try:
            packing = cls(
                np.dtype(given["dtype"]).name,
                float(given["scale_factor"]),
                float(given.get("add_offset", 0)),
            )
        except (TypeError, ValueError) as error:
            message = f"{name!r}: packing={given!r}: {error}"
            raise InvalidInputError(message) from error
        packing._check(name, given, values)
        return packing

    def _check(self, name: str, given: Mapping[str, Any], values: np.dtype[Any]) -> None:
        complaint = ""
        if unknown := given.keys() - set(_KEYS):
            complaint = f"unknown {min(unknown)!r}, known are {', '.join(_KEYS)}"
        elif self.dtype not in _DTYPES:
            complaint = f"expected a dtype out of {', '.join(_DTYPES)}, got {self.dtype}"
        elif not np.isfinite([self.scale_factor, self.add_offset]).all() or not self.scale_factor:
            complaint = "expected finite numbers, and a scale_factor other than 0"
        elif values.kind != "f":
            complaint = f"packing is for floats, the array holds {values}"
        elif not self._resolved_by(values):
            complaint = (
                f"{values} values don't tell steps of {self.scale_factor} apart over this range; "
                "pass dtype='float64'"
            )
        if complaint:
            message = f"{name!r}: packing: {complaint}"
            raise InvalidInputError(message)

    def _resolved_by(self, values: np.dtype[Any]) -> bool:
        """Whether unpacked values give the same integers when they are packed again."""
        low, high = self.range
        largest = max(abs(low), abs(high), abs(self.add_offset))
        return bool(largest * np.finfo(values).eps < abs(self.scale_factor) / 4)

    @property
    def fill(self) -> int:
        """The integer that stands for missing values."""
        info = np.iinfo(self.dtype)
        furthest = int(info.min if info.min < 0 else info.max)
        return furthest if self.missing is None else self.missing

    @property
    def range(self) -> tuple[float, float]:
        """The values of the least and the greatest integer (without the fill value)."""
        info = np.iinfo(self.dtype)
        ends = (info.min + 1, info.max) if info.min < 0 else (info.min, info.max - 1)
        low, high = (end * self.scale_factor + self.add_offset for end in ends)
        return min(low, high), max(low, high)

    def settings(self) -> dict[str, Any]:
        """Return the parameters, as JSON knows them."""
        return asdict(self)

    def check(self, values: NDArray[Any], name: str) -> None:
        """Refuse what the integers can't hold.

        Raises
        ------
        InvalidInputError
            An infinite value, or one out of the range; the text names the first one.
        """
        low, high = self.range
        half = abs(self.scale_factor) / 2
        held = (values > low - half) & (values < high + half)
        if self.missing is not None:  # among the values, where another program chose it
            held &= self.pack(np.where(held, values, np.nan)) != self.fill
        held |= np.isnan(values)
        if not held.all():
            where = np.unravel_index(int(np.argmin(held)), held.shape)
            message = (
                f"{name!r} is packed into {self.dtype}, which holds {low:g} to {high:g} "
                f"({self.fill} means missing): can't hold {values[where]!s} at "
                f"{[int(i) for i in where]}; choose another scale_factor or add_offset"
            )
            raise InvalidInputError(message)

    def pack(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the nearest integers."""
        steps = np.rint((values.astype("f8") - self.add_offset) / self.scale_factor)
        return np.where(np.isnan(steps), self.fill, steps).astype(self.dtype)

    def unpack(self, packed: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return the values that integers stand for."""
        values = packed * np.float64(self.scale_factor) + self.add_offset
        return np.where(packed == self.fill, np.nan, values).astype(dtype)


class PackedChunks(ChunkCodec):
    """Chunks of packed values, for all but the store's last codecs."""

    def __init__(self, packing: Packing, dtype: np.dtype[Any], inner: ChunkCodec) -> None:
        self.packing = packing
        self.dtype = dtype
        self.inner = inner

    def parts(self, block: NDArray[Any]) -> list[Bytes]:
        return self.inner.parts(self.packing.pack(block))

    def decode(self, data: Bytes) -> NDArray[Any]:
        return self.packing.unpack(self.inner.decode(data), self.dtype)
