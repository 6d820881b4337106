"""The value of cells that were never written."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["default_fill"]


def default_fill(dtype: np.dtype[Any]) -> Any:
    """Return the value of cells never written: missing, where the dtype has a value to spare."""
    if dtype.kind == "f":
        return np.nan
    if dtype.kind == "c":
        return complex(np.nan, np.nan)
    if dtype.kind in "iu" and dtype.itemsize > 1:
        return int(np.iinfo(dtype).min if dtype.kind == "i" else np.iinfo(dtype).max)
    return {"b": False, "T": ""}.get(dtype.kind, 0)
