"""What must be true of the forecasts once the job is complete."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from savers import ItemStatus
from taskmanager._task import Context, set_context
from taskmanager.demo._ensemble import FIELDS, MEMBERS, SEED, ForecastTask, items, saver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from xarray import Dataset

    from taskmanager.demo._driver import Ended, Job

__all__ = ["Check", "check_fields", "check_runs", "committed"]

_SAMPLE = 4
_STRONGEST_WIND = 100.0  # m s-1


@dataclass(frozen=True)
class Check:
    """A sentence, and whether it is true."""

    text: str
    passed: bool


def committed(job: Job) -> int:
    """Return how many items the ledger of a store holds as done, after the death of its driver."""
    with saver(job.path, job.count, job.saver) as target:
        ledger = target.open_jobs()
        try:
            return sum(int(np.sum(one.status == ItemStatus.DONE)) for one in ledger.states)
        finally:
            ledger.close()


def check_runs(count: int, found: int, ended: Ended) -> Iterator[Check]:
    """Check that the second driver ran what the ledger did not hold, and nothing else."""
    counts = ended.counts
    resumed, executed = counts.get("resumed", -1), counts.get("executed", -1)
    yield Check(f"{resumed} forecasts were committed and not run again", resumed == found)
    yield Check(f"the other {executed} ran, once each", executed == count - found)


def check_fields(dataset: Dataset, count: int) -> Iterator[Check]:
    """Check that every forecast is there, is what the model gives, and is weather."""
    there = _there(dataset)
    yield Check(f"{there} of {count} forecasts are there, without a missing value", there == count)
    same = sum(_same(dataset, index) for index in _sample(count))
    text = f"{same} of {len(_sample(count))} forecasts computed once more are the same, bit for bit"
    yield Check(text, same == len(_sample(count)))
    wind = float(np.nanmax(np.hypot(dataset["u"], dataset["v"])))
    text = f"the strongest wind, {wind:.0f} m/s, is below {_STRONGEST_WIND:.0f} m/s"
    yield Check(text, wind < _STRONGEST_WIND)


def _there(dataset: Dataset) -> int:
    """Count the forecasts in which no value of any field is missing."""
    missing = dataset.isnull().any(("lead_time", "lat", "lon")).to_array().any("variable")
    return int((~missing).sum())


def _sample(count: int) -> list[int]:
    """Return positions spread over the whole job, the first and the last among them."""
    return sorted({round(k) for k in np.linspace(0, count - 1, _SAMPLE)})


def _same(dataset: Dataset, index: int) -> bool:
    saved = dataset.isel(time=index // MEMBERS, member=index % MEMBERS)
    again = _computed_again(index)
    return all(np.array_equal(saved[name].values, again[name]) for name in FIELDS)


def _computed_again(index: int) -> dict[str, NDArray[np.float32]]:
    """Return the forecast at a position, computed here, without a task manager."""
    task = ForecastTask()
    task.setup()
    set_context(Context(seed=SEED, index=index))
    return task.process_item(items(index + 1)[index])
