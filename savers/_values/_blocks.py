"""From whatever a task returns to NumPy arrays that a store can hold.

`as_block` takes lists, arrays and tensors; `fit` puts a block into the dtype of its array, value
by value or not at all; `split_fields` turns results of several parts into one block an array.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._values._tensors import Values, array_values, tensor_values
from savers.errors import InvalidInputError, InvalidTypeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["as_block", "as_result", "as_values", "fit", "own", "split_fields"]

#: Kinds of NumPy dtypes that a store can hold (see numpy.dtype.kind).
STORABLE = frozenset("biufcSUMmT")
_SCALAR_KINDS = {int: "iu", float: "f", bool: "b", complex: "c"}


def as_block(data: object, name: str) -> NDArray[Any]:
    """Return `data` (a list or array of results) as one array, first axis = results.

    Parameters
    ----------
    data : array, tensor or sequence of such
        Shape (n, ...). A single 0-d value counts as one result.
    name : str
        Name of the array, for messages.

    Raises
    ------
    InvalidTypeError
        It can't become an array (objects, None, mixed text and numbers, structured dtypes).
    InvalidInputError
        Results differ in shape; the text names the first odd one.
    """
    if isinstance(data, (list, tuple, range)):
        block = _stack(list(data), name)
    else:
        block = as_result(data, name)
    return block.reshape(1) if block.ndim == 0 else block


def as_result(value: object, name: str) -> NDArray[Any]:
    """Return one result as an array of any shape, 0-d included. Raises as `as_block`."""
    return as_values(value, name).array()


def as_values(value: object, name: str) -> Values:
    """Return one result as values that are not copied yet, where that can be. Raises as `as_block`.

    Every way into a saver begins here: lists, arrays, tensors, scalars.
    """
    if isinstance(value, np.ndarray):
        return _of_array(_plain(value), name)
    found = tensor_values(value, name)
    return _of_array(_array_of(value, name), name) if found is None else found


def _of_array(array: NDArray[Any], name: str) -> Values:
    values = array_values(array, name)
    return values if values.original else Values(_storable(array, name))


def _array_of(value: object, name: str) -> NDArray[Any]:
    if isinstance(value, (list, tuple, range)):
        return _stack(list(value), name)
    if isinstance(value, (Mapping, set, frozenset)) or value is None:
        raise _not_an_array(value, name, "")
    try:
        return np.asarray(value)
    except Exception as error:
        raise _not_an_array(value, name, "") from error


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    if isinstance(array, np.ma.MaskedArray):
        message = "a masked array: its mask would be lost; fill it first (array.filled(value))"
        raise InvalidTypeError(message)
    return np.asarray(array)


def _storable(block: NDArray[Any], name: str) -> NDArray[Any]:
    kind = block.dtype.kind
    if block.dtype.names is not None:
        fields = ", ".join(block.dtype.names)
        message = (
            f"{name!r}: expected a plain dtype, got a structured one with fields {fields}; "
            "save a mapping of one array a field instead"
        )
        raise InvalidTypeError(message)
    if kind == "O":
        return _from_objects(block, name)
    if kind not in STORABLE:
        message = f"{name!r}: an array of dtype {block.dtype} can't be stored"
        raise InvalidTypeError(message)
    if block.dtype == np.longdouble and block.dtype.itemsize > 8:
        message = f"{name!r}: {block.dtype} has no portable form; convert it to float64"
        raise InvalidTypeError(message)
    return block


def _from_objects(block: NDArray[Any], name: str) -> NDArray[Any]:
    """Text kept as Python objects is text; anything else is refused."""
    flat = block.ravel()
    for position, item in enumerate(flat):
        if not isinstance(item, str):
            where = [int(i) for i in np.unravel_index(position, block.shape)]
            raise _not_an_array(item, name, f" at {where}" if where else "")
    return block.astype(np.str_)


def _not_an_array(value: object, name: str, where: str) -> InvalidTypeError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    message = (
        f"{name!r}: expected numbers, text, times, arrays or tensors, "
        f"got {type(value).__name__}{where}: {shown}"
    )
    return InvalidTypeError(message)


def _stack(items: list[Any], name: str) -> NDArray[Any]:
    """Stack results; all must have one shape and one kind of value."""
    if not items:
        return np.zeros(0)
    if {type(item) for item in items} in ({int}, {float}, {bool}, {complex}):
        block = np.asarray(items)
        if block.dtype.kind in _SCALAR_KINDS[type(items[0])]:
            return block
        with contextlib.suppress(OverflowError):  # [2**63, 1] is float64 to NumPy
            return np.array(items, np.uint64)
    blocks = [as_result(item, f"{name}[{position}]") for position, item in enumerate(items)]
    _require_alike(blocks, name)
    return _joined(blocks, name)


def _joined(blocks: Sequence[NDArray[Any]], name: str) -> NDArray[Any]:
    """Stack blocks in the dtype that holds them all; integers must survive among floats."""
    kinds = {block.dtype for block in blocks}
    common = np.result_type(*kinds)
    numbered = enumerate(blocks)
    block = np.stack([fit(block, common, f"{name}[{position}]") for position, block in numbered])
    return block.view(*kinds) if len(kinds) == 1 else block  # with what the dtype says of itself


def _require_alike(blocks: Sequence[NDArray[Any]], name: str) -> None:
    first = blocks[0]
    for position, block in enumerate(blocks):
        if block.shape != first.shape:
            message = (
                f"{name!r}: expected results of shape {first.shape} as the first one, "
                f"got shape {block.shape} at position {position}"
            )
            raise InvalidInputError(message)
        if _family(block) != _family(first):
            message = (
                f"{name!r}: expected {first.dtype} results as the first one, "
                f"got {block.dtype} at position {position}"
            )
            raise InvalidTypeError(message)


def _family(block: NDArray[Any]) -> str:
    kind = block.dtype.kind
    return "number" if kind in "iufc" else kind.replace("T", "U")


def own(block: NDArray[Any]) -> NDArray[Any]:
    """Return a contiguous copy that nobody else holds."""
    return np.array(block, order="C", copy=True)


# -- dtype safety --------------------------------------------------------------------------------


def fit(
    block: NDArray[Any], dtype: np.dtype[Any], name: str, *, rounding: bool = False
) -> NDArray[Any]:
    """Return `block` in `dtype`, with every value kept.

    Parameters
    ----------
    block : ndarray
    dtype : numpy.dtype
        That of the array in the store.
    name : str
        Name of the array, for messages.
    rounding : bool
        True where ``dtype=`` asked for this dtype: floats may lose digits, never their size.

    Raises
    ------
    InvalidInputError
        A value can't be held: fractions or NaN into integers, overflow, complex into real,
        integers beyond a float's exact range, digits lost without `rounding`. The text names the
        first such value and its position.
    """
    if block.dtype == dtype:
        return block
    source, target = block.dtype.kind, dtype.kind
    if target in "UT" and source in "UT":
        return block
    if not _convertible(source, target):
        message = f"{name!r}: expected {dtype} values, got {block.dtype}"
        raise InvalidInputError(message)
    with np.errstate(all="ignore"):
        cast = retimed(block, dtype) if target in "Mm" else block.astype(dtype)
        held = _held(block, cast, rounding=rounding)
    if not held.all():
        raise _not_held(block, held, dtype, name)
    return cast


#: Nanoseconds of the units of time that have a fixed length.
_NANOSECONDS = {
    "W": 604_800_000_000_000,
    "D": 86_400_000_000_000,
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "ns": 1,
}


def retimed(times: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return times in another unit; NaT where one does not fit, cut where it is not a multiple.

    NumPy's own conversion wraps around silently before version 2.5, and raises after it, also for
    some times that fit.
    """
    (unit, count), (other, other_count) = np.datetime_data(times.dtype), np.datetime_data(dtype)
    if unit not in _NANOSECONDS or other not in _NANOSECONDS or times.dtype.kind != dtype.kind:
        return times.astype(dtype)
    missing = np.isnat(times)
    values = times.astype(times.dtype.newbyteorder("=")).view(np.int64)
    length, other_length = _NANOSECONDS[unit] * count, _NANOSECONDS[other] * other_count
    divisor = math.gcd(length, other_length)
    factor = length // divisor
    fits = np.abs(np.where(missing, 0, values)) <= np.iinfo(np.int64).max // factor
    turned = np.where(fits, values, 0) * factor // (other_length // divisor)
    return np.where(fits & ~missing, turned.view(dtype.newbyteorder("=")), np.array("NaT", dtype))


def _convertible(source: str, target: str) -> bool:
    numbers = "biuf"
    if target == "c":
        return source in numbers + "c"
    if target in "iuf":
        return source in numbers
    return source == target  # bool, bytes, times


def _held(block: NDArray[Any], cast: NDArray[Any], *, rounding: bool) -> NDArray[np.bool_]:
    source, target = block.dtype.kind, cast.dtype.kind
    if source in "iu" and target in "iu":
        info = np.iinfo(cast.dtype)
        return np.asarray((block >= info.min) & (block <= info.max))
    if source == "f" and target in "iu":
        return _exact_floats(block, cast)
    if source in "iu" and target == "f":
        return _exact_integers(block, cast)
    if target == "c":
        real = _held(block.real, cast.real, rounding=rounding)
        return np.asarray(real & _held(block.imag, cast.imag, rounding=rounding))
    if source == target == "f":
        finite = np.isfinite(cast) | ~np.isfinite(block)
        same = (cast.astype(block.dtype) == block) | np.isnan(block)
        return np.asarray(finite if rounding else finite & same)
    if source in "Mm":
        return np.asarray((retimed(cast, block.dtype) == block) | np.isnat(block))
    if source == "S":
        return np.asarray(cast == block)
    return np.ones(block.shape, bool)


def _exact_floats(block: NDArray[Any], cast: NDArray[Any]) -> NDArray[np.bool_]:
    """Floats that are integers within the range of the dtype."""
    low, high = float(np.iinfo(cast.dtype).min), float(np.iinfo(cast.dtype).max) + 1.0
    inside = np.isfinite(block) & (block >= low) & (block < high)
    return np.asarray(inside & (np.floor(block) == block))


def _exact_integers(block: NDArray[Any], cast: NDArray[Any]) -> NDArray[np.bool_]:
    """Integers that a float holds exactly; the float is compared without overflowing back."""
    info = np.iinfo(block.dtype)
    inside = np.isfinite(cast) & (cast >= float(info.min)) & (cast < float(info.max) + 1.0)
    back = np.where(inside, cast, 0).astype(block.dtype)
    return np.asarray(inside & (back == block))


def _not_held(
    block: NDArray[Any], held: NDArray[np.bool_], dtype: np.dtype[Any], name: str
) -> InvalidInputError:
    where = np.unravel_index(int(np.argmin(held)), held.shape)
    position = [int(i) for i in where]
    hint = f"; pass dtype={str(dtype)!r} to round" if dtype.kind == block.dtype.kind == "f" else ""
    message = (
        f"{name!r} holds {dtype}, which can't hold the {block.dtype} value "
        f"{block[where]!s} at {position}{hint}"
    )
    return InvalidInputError(message)


# -- results of several parts --------------------------------------------------------------------


def split_fields(result: object, dataset_name: str) -> dict[str, Any]:
    """Return the parts of one task result by array name.

    A dict, dataclass or named tuple gives one part a field, named after it; a tuple gives
    ``<dataset_name>_0``, ``_1``, ...; anything else is the one part `dataset_name`.

    Examples
    --------
    >>> split_fields({"u": 1.0, "v": 2.0}, "wind")
    {'u': 1.0, 'v': 2.0}
    >>> split_fields((1.0, 2.0), "wind")
    {'wind_0': 1.0, 'wind_1': 2.0}
    """
    named = named_fields(result)
    if named is not None:
        return named
    if isinstance(result, tuple):
        return {f"{dataset_name}_{position}": part for position, part in enumerate(result)}
    return {dataset_name: result}


def named_fields(result: object) -> dict[str, Any] | None:
    """Return the fields of a mapping, dataclass or named tuple; None for anything else."""
    if isinstance(result, np.ndarray):
        return None  # what most results are; the questions below take their time
    if isinstance(result, Mapping):
        return {str(name): part for name, part in result.items()}
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        return {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return dict(zip(result._fields, result, strict=True))
    return None
