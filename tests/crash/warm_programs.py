"""Saves to an array that is there, for counting what each of them asks of the system."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from savers import ZarrSaver
from savers._session import _session

if TYPE_CHECKING:
    from pathlib import Path


def save(root: Path, count: int, rows: list[int], **settings: Any) -> None:
    """Save `count` blocks of a shape, and publish only at the end, however slow the machine is."""
    _session.PUBLISH_AFTER = 1e9
    settings = {name: tuple(value) for name, value in settings.items()}
    with ZarrSaver(root / "out", codecs=None, **settings) as saver:
        for number in range(count):
            saver.save(np.full(rows, float(number)))
