"""Savers that know only `save`, as a user would write them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from savers import Saver


class ListSaver(Saver):
    """Keep rows in memory; slow, or failing, where asked to."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.rows: list[Any] = []
        self.batches: list[int] = []
        self.kwargs: list[dict[str, Any]] = []
        self.flushed = 0
        self.closed = False
        self.seconds = seconds
        self.fail: BaseException | None = None
        self.threads: set[str] = set()

    def save(self, data: Any, indices: Any = None, **kwargs: Any) -> None:
        del indices
        self.threads.add(threading.current_thread().name)
        if self.fail is not None:
            raise self.fail
        time.sleep(self.seconds)
        self.rows.extend(data)
        self.batches.append(len(data))
        self.kwargs.append(kwargs)

    def flush(self) -> None:
        self.flushed += 1

    def close(self) -> None:
        self.closed = True


class LinesSaver(Saver):
    """Append one JSON line a result to a file."""

    def __init__(self, file_path: Path) -> None:
        self.file_path = file_path

    def save(self, data: Any, indices: Any = None, **kwargs: Any) -> None:
        del indices, kwargs
        with self.file_path.open("a") as file:
            file.writelines(f"{json.dumps(np.asarray(row).tolist())}\n" for row in data)

    def rows(self) -> list[Any]:
        if not self.file_path.exists():
            return []
        return [json.loads(line) for line in self.file_path.read_text().splitlines()]
