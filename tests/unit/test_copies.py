"""A task may use its buffers again: what was returned is what is saved."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import zarr

from savers import ZarrSaver
from taskmanager import Task, TaskManager
from taskmanager._copies import copied


class Reuses(Task):
    """Returns the same two arrays for every item."""

    def setup(self):
        self.state, self.other = np.zeros(50), np.zeros(3)

    def process_item(self, item):
        self.state[:] = item
        self.other += 1
        return {"state": self.state, "twice": (2 * self.state)[::5]}


@pytest.mark.parametrize("executor", ["serial", "threads", "processes", "foreign"])
def test_a_buffer_that_is_used_again_is_saved_as_it_was_returned(tmp_path, executor):
    path = tmp_path / "a.zarr"
    with ThreadPoolExecutor(2) as foreign, ZarrSaver(path, chunks=16) as saver:
        manager = TaskManager(
            Reuses, executor=foreign if executor == "foreign" else executor, max_workers=2,
            progress=False,
        )  # fmt: skip
        manager.submit_tasks(range(100), saver=saver, save_interval=25)
    group = zarr.open_group(path)
    assert group["state"][:, 7].tolist() == list(range(100))
    assert group["twice"][:, 3].tolist() == [2 * item for item in range(100)]


@dataclass
class Pair:
    left: np.ndarray
    right: list


class Named(NamedTuple):
    values: np.ndarray
    count: int


def test_arrays_are_found_wherever_they_are_nested():
    array = np.arange(4.0)
    value = {"a": array, "b": (array, [array, 3]), "c": Pair(array, [array]), "d": Named(array, 2)}
    twin = copied(value)
    array[:] = -1
    expected = [0.0, 1.0, 2.0, 3.0]
    assert twin["a"].tolist() == expected
    assert twin["b"][0].tolist() == twin["b"][1][0].tolist() == expected
    assert twin["c"].left.tolist() == twin["c"].right[0].tolist() == expected
    assert twin["d"].values.tolist() == expected
    assert isinstance(twin["d"], Named)
    assert value["c"].left is array


def test_tensors_are_copied_too():
    torch = pytest.importorskip("torch")
    tensor = torch.arange(3.0, requires_grad=True)
    twin = copied([tensor])[0]
    with torch.no_grad():
        tensor += 1
    assert twin.tolist() == [0.0, 1.0, 2.0]
    assert not twin.requires_grad
