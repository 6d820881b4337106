"""Results in memory of their own, so that a task may use its buffers again for the next item."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np

__all__ = ["copied"]

#: Values that nobody can change.
_CONSTANT = frozenset([int, float, bool, complex, str, bytes, type(None)])


def copied(value: Any) -> Any:
    """Return a result whose arrays and tensors are copies, wherever they are nested in it.

    Arrays in dicts, lists, tuples and dataclasses are found; any other object is returned as it is.
    """
    if type(value) in _CONSTANT or isinstance(value, np.generic):
        return value
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {name: copied(part) for name, part in value.items()}
    if isinstance(value, tuple):
        parts = [copied(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    if isinstance(value, list):
        return [copied(part) for part in value]
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "clone"):
        return value.detach().clone()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        twin = copy.copy(value)
        for field in dataclasses.fields(value):
            object.__setattr__(twin, field.name, copied(getattr(value, field.name)))
        return twin
    return value
