"""Clocks that rows share."""

from __future__ import annotations

import time
from statistics import fmean, median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.contender import Figures


def each_us(call: Callable[[int], object], count: int) -> list[float]:
    """Return how long `call(i)` took for each i, us."""
    now = time.perf_counter
    taken = []
    for number in range(count):
        start = now()
        call(number)
        taken.append((now() - start) * 1e6)
    return taken


def per_call(taken: list[float]) -> Figures:
    """Return median, 99th percentile, and the means of the first and the last tenth, us."""
    tenth = max(1, len(taken) // 10)
    return {
        "us": median(taken),
        "mean_us": fmean(taken),
        "p99_us": sorted(taken)[int(len(taken) * 0.99)],
        "first_us": fmean(taken[:tenth]),
        "last_us": fmean(taken[-tenth:]),
    }
