"""Bad input: refused before anything changes, saying what was expected, what came, and where."""

from __future__ import annotations

import re
import threading
from pathlib import Path
from typing import Any

import pytest

from taskmanager import TaskManager
from tests.unit.rows import LinesSaver, ListSaver


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"executor": "thread"}, ValueError, "'serial', 'threads', 'processes'"),
        ({"executor": "dask"}, ValueError, "executor='dask' is not available yet"),
        ({"executor": "ray"}, ValueError, "executor='ray' is not available yet"),
        ({"executor": 3}, ValueError, "concurrent.futures.Executor, got 3"),
        ({"max_workers": 0}, ValueError, "max_workers: expected at least 1, got 0"),
        ({"max_workers": 1.5}, TypeError, "max_workers: expected a whole number, got 1.5"),
        ({"retries": -1}, ValueError, "retries: expected at least 0, got -1"),
        ({"retries": True}, TypeError, "retries: expected a whole number, got True"),
        ({"retry_on": 3}, TypeError, "retry_on: expected an exception type"),
        ({"backoff": float("nan")}, ValueError, "backoff: expected at least 0, got nan"),
        ({"timeout": 0}, ValueError, "timeout: expected more than 0, got 0"),
        ({"errors": "ignore"}, ValueError, "'raise', 'skip', 'collect', got 'ignore'"),
        ({"progress": 3}, TypeError, "progress: expected a function, got 3"),
        ({"deadline": -1}, ValueError, "deadline: expected more than 0, got -1"),
        ({"max_failures": -1}, ValueError, "max_failures: expected at least 0"),
        ({"grace": "x"}, TypeError, "grace: expected a number, got 'x'"),
        ({"max_inflight_bytes": 0}, ValueError, "max_inflight_bytes: expected more than 0"),
    ],
)
def test_settings(given: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        TaskManager(abs, **given)


def test_an_unknown_setting_is_not_ignored() -> None:
    with pytest.raises(TypeError, match="retry"):
        TaskManager(abs, retry=3)  # type: ignore[call-arg]


@pytest.mark.parametrize("task", [3, int, None])
def test_tasks(task: object) -> None:
    with pytest.raises(TypeError, match="expected a Task class, a Task or a function"):
        TaskManager(task)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"items": 3}, TypeError, "items: expected an iterable, got 3"),
        ({"items": "abc"}, TypeError, "items: expected an iterable of items, got 'abc'"),
        ({"saver": "x.zarr"}, TypeError, "saver: expected a savers.Saver or None, got 'x.zarr'"),
        ({"save_interval": 0}, ValueError, "save_interval: expected more than 0, got 0"),
        ({"save_interval": -5}, ValueError, "save_interval: expected more than 0, got -5"),
        ({"save_interval": 1.5}, TypeError, "save_interval: expected a whole number, got 1.5"),
        ({"chunk_size": 0}, ValueError, "chunk_size (or 'auto'): expected at least 1, got 0"),
        ({"chunk_size": "big"}, TypeError, "got 'big'"),
        ({"kwargs_task": 3}, TypeError, "kwargs_task: expected a mapping"),
        ({"kwargs_task": {1: 2}}, TypeError, "kwargs_task: expected a mapping of names"),
        ({"save_kwargs": [1]}, TypeError, "save_kwargs: expected a mapping"),
        ({"resume": "again"}, ValueError, "resume: expected one of True, 'new', 'restart'"),
        ({"resume": 1}, ValueError, "got 1"),
        ({"seed": -1}, ValueError, "seed: expected at least 0, got -1"),
        ({"seed": 1.0}, TypeError, "seed: expected a whole number"),
        ({"write": "both"}, ValueError, "'auto', 'driver', 'worker', got 'both'"),
        ({"write": "worker"}, ValueError, "write='worker' is not available yet"),
        ({"key": 3}, TypeError, "key: expected a function, got 3"),
        ({"labels": {}}, TypeError, "labels: expected a function, got {}"),
    ],
)
def test_arguments(
    given: dict[str, Any], error: type[Exception], text: str, tmp_path: Path
) -> None:
    called: list[Any] = []
    saver = LinesSaver(tmp_path / "rows")
    arguments: dict[str, Any] = {"items": [1, 2], "saver": saver, **given}
    with pytest.raises(error, match=re.escape(text)):
        TaskManager(called.append).submit_tasks(**arguments)
    assert called == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [{"labels": lambda item: {"x": item}}, {"save_kwargs": {"a": 1}}])
def test_what_needs_a_saver(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected a saver, got None"):
        TaskManager(abs).submit_tasks([1], **given)


def test_labels_must_be_a_mapping() -> None:
    with pytest.raises(ValueError, match=r"labels\(item\) of item 0: expected a mapping"):
        TaskManager(abs).submit_tasks([1], ListSaver(), key=str, labels=lambda item: item)


def test_keys_must_have_a_digest() -> None:
    with pytest.raises(ValueError, match=r"key of item 0: expected .*got <object.*no canonical"):
        TaskManager(abs).submit_tasks([1], ListSaver(), key=lambda _: object())


class Unpicklable:
    """A task with something in it that can't travel."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, item: int) -> int:
        return item


def test_a_task_that_cannot_travel_changes_nothing(tmp_path: Path) -> None:
    task, saver = Unpicklable(), LinesSaver(tmp_path / "rows")
    with pytest.raises(TypeError, match="lock"):
        TaskManager(task, executor="processes").submit_tasks([1], saver)
    assert saver.rows() == []
    ledger = saver.open_jobs()
    assert list(ledger.states) == []
    ledger.close()
