"""Rounding of floats to a stated relative error, so that they compress better. Pure functions.

The last bits of the mantissa are rounded away, to nearest and ties to even, as in Klöwer et al.,
"Compressing atmospheric data into its real information content", Nature Computational Science 1
(2021).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["rounded"]


def rounded(block: NDArray[Any], relative: float) -> NDArray[Any]:
    """Return floats of which each differs from the given one by at most `relative` of its size.

    Parameters
    ----------
    block : ndarray of float16, float32, float64 or complex
        Real and imaginary parts are rounded each for itself.
    relative : float
        Between 0 and 1.

    Returns
    -------
    ndarray
        Same shape and dtype; `block` itself where nothing is to be rounded. NaN, infinities, zeros
        and subnormal numbers are as they were, no finite value becomes infinite, and what was
        rounded before stays.

    Examples
    --------
    >>> rounded(np.array([3.14159265]), 1e-2)
    array([3.15625])
    """
    if block.dtype.kind == "c":
        parts = np.ascontiguousarray(block)
        real = parts.reshape(-1).view(parts.real.dtype)
        return rounded(real, relative).view(block.dtype).reshape(block.shape)
    info = np.finfo(block.dtype)
    drop = int(info.nmant) - _kept_bits(relative)
    if drop <= 0 or not block.size:
        return block
    return _rounded(np.ascontiguousarray(block), drop, int(info.nmant))


def _kept_bits(relative: float) -> int:
    """With k bits of the mantissa kept, a value moves by 2**-(k + 1) of its size at most."""
    return max(0, math.ceil(-math.log2(relative)) - 1)


def _rounded(block: NDArray[Any], drop: int, mantissa: int) -> NDArray[Any]:
    kind = np.dtype(f"u{block.dtype.itemsize}")
    one = kind.type(1)
    bits = block.view(kind)
    exponent = kind.type((1 << (8 * kind.itemsize - 1 - mantissa)) - 1 << mantissa)
    last = (bits >> kind.type(drop)) & one
    near = bits + (last + kind.type((1 << (drop - 1)) - 1))
    near &= ~kind.type((1 << drop) - 1)
    found = bits & exponent
    kept = (found == 0) | (found == exponent) | (near & exponent == exponent)
    return np.where(kept, bits, near).view(block.dtype)
