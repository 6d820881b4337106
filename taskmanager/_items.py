"""How an item is known again: a 64-bit digest of a canonical encoding of its value.

Values of different types encode differently (``1``, ``1.0``, ``True`` and ``"1"`` are four items);
the order in which a dict or set was filled does not matter. Nothing depends on ``hash()``, pickle
or the process, so the digest of a value is the same in every run.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import os
import struct
from hashlib import blake2b
from pathlib import PurePath
from typing import TYPE_CHECKING, cast

import numpy as np
from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray


__all__ = ["POSITION_ONLY", "NotCanonicalError", "arguments_digest", "digest", "digests", "encode"]

#: Digest of every item that has no canonical encoding: it is known by its position alone.
POSITION_ONLY = 1


class NotCanonicalError(TypeError):
    """A value has no canonical encoding; the text names its type."""


def encode(value: object) -> bytes:
    """Return the canonical encoding of `value`.

    Raises
    ------
    NotCanonicalError
        `value`, or something inside it, is of a type that has no canonical encoding.
    """
    return _ENCODERS.get(type(value), _encode_other)(value)


def digest(value: object) -> int:
    """Return the digest of `value`: 64 bits, never 0.

    Raises
    ------
    NotCanonicalError
        `value` has no canonical encoding.
    """
    return int.from_bytes(blake2b(encode(value), digest_size=8).digest(), "little") or 1


def digests(values: Sequence[object]) -> NDArray[np.uint64]:
    """Return the digest of each value, `POSITION_ONLY` where one has no canonical encoding.

    Returns
    -------
    ndarray of uint64, shape (len(values),)
    """
    try:
        raw = [
            blake2b(_ENCODERS.get(type(value), _encode_other)(value), digest_size=8).digest()
            for value in values
        ]
    except (NotCanonicalError, RecursionError):
        return np.array([_digest_or_position(value) for value in values], np.uint64)
    table = np.frombuffer(b"".join(raw), "<u8").astype(np.uint64)
    table[table == 0] = 1
    return table


def arguments_digest(arguments: Mapping[str, object]) -> str:
    """Return the hexadecimal digest of keyword arguments.

    An argument without canonical encoding (a model, say) counts with its type alone.
    """
    parts = [(name, _encode_or_type(value)) for name, value in sorted(arguments.items())]
    return blake2b(encode(parts), digest_size=8).hexdigest() if parts else ""


def _digest_or_position(value: object) -> int:
    try:
        return digest(value)
    except (NotCanonicalError, RecursionError):
        return POSITION_ONLY


def _encode_or_type(value: object) -> bytes:
    try:
        return encode(value)
    except (NotCanonicalError, RecursionError):
        return b"?" + type(value).__qualname__.encode()


def _join(tag: bytes, parts: Iterable[bytes]) -> bytes:
    return tag + b"".join([b"%d:%b" % (len(part), part) for part in parts])


def _pairs(mapping: Mapping[object, object]) -> list[bytes]:
    pairs = [_join(b"", (encode(key), encode(value))) for key, value in mapping.items()]
    return sorted(pairs)


def _encode_array(array: NDArray[np.generic]) -> bytes:
    layout = b"%b%b" % (str(array.dtype.descr).encode(), str(array.shape).encode())
    if array.dtype.hasobject:
        return _join(b"o", [layout, *map(encode, array.ravel().tolist())])
    return _join(b"a", (layout, array.tobytes()))


def _encode_scalar(scalar: np.generic) -> bytes:
    return b"g%b:%b" % (str(scalar.dtype.descr).encode(), scalar.tobytes())


def _encode_named(tag: bytes, value: object, fields: Mapping[str, object]) -> bytes:
    return _join(
        tag, (type(value).__qualname__.encode(), *_pairs(cast("Mapping[object, object]", fields)))
    )


def _encode_other(value: object) -> bytes:
    """Encode what is known by an ancestor or a protocol instead of its exact type."""
    for kind, encoder in _KINDS:
        if isinstance(value, kind):
            return encoder(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return _encode_named(b"C", value, fields)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return _encode_named(b"N", value, value._asdict())
    for kind in type(value).__mro__[1:]:
        if kind in _ENCODERS:  # a subclass: also its name counts
            return _join(b"S", (type(value).__qualname__.encode(), _ENCODERS[kind](value)))
    message = f"{type(value).__qualname__} has no canonical encoding"
    raise NotCanonicalError(message)


_ENCODERS: dict[type, Callable[..., bytes]] = {
    type(None): lambda _: b"n",
    bool: lambda value: b"t" if value else b"f",
    int: lambda value: b"i%d" % value,
    float: lambda value: b"d" + struct.pack("<d", value),
    complex: lambda value: b"c" + struct.pack("<dd", value.real, value.imag),
    str: lambda value: b"s" + value.encode("utf-8", "surrogatepass"),
    bytes: lambda value: b"b" + value,
    bytearray: lambda value: b"B" + bytes(value),
    dt.date: lambda value: b"D" + value.isoformat().encode(),
    dt.datetime: lambda value: b"T" + value.isoformat().encode(),
    dt.time: lambda value: b"h" + value.isoformat().encode(),
    dt.timedelta: lambda value: b"L%d,%d,%d" % (value.days, value.seconds, value.microseconds),
    list: lambda value: _join(b"l", map(encode, value)),
    tuple: lambda value: _join(b"u", map(encode, value)),
    dict: lambda value: _join(b"m", _pairs(value)),
    set: lambda value: _join(b"e", sorted(map(encode, value))),
    frozenset: lambda value: _join(b"z", sorted(map(encode, value))),
    np.ndarray: _encode_array,
}

#: Families of types, asked in this order before the ancestors of a type.
_KINDS: tuple[tuple[type, Callable[..., bytes]], ...] = (
    (enum.Enum, lambda value: _encode_named(b"E", value, {"name": value.name})),
    (np.generic, _encode_scalar),
    (PurePath, lambda value: b"p" + os.fsencode(value)),
    (BaseModel, lambda value: _encode_named(b"P", value, dict(value))),
)
