"""A task for tests: it writes down every call, and fails, dies or waits where it is told to."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from taskmanager._task import Task

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

__all__ = ["RecordingTask"]


class RecordingTask(Task):
    """Return ``[item, item squared]`` and write the call down, from whatever process it runs in.

    Parameters
    ----------
    log : path
        A file that gets a line a call; `calls` reads it.
    fails : mapping of item to int, optional
        How often the calls of an item fail with `ValueError` before they succeed.
    kills : mapping of item to int, optional
        How often the calls of an item kill their process with SIGKILL before they succeed.
    seconds : float or mapping of item to float
        How long a call takes.

    Examples
    --------
    >>> import tempfile
    >>> from taskmanager import TaskManager
    >>> task = RecordingTask(tempfile.mkdtemp() + "/calls", fails={3: 1})
    >>> run = TaskManager(task, retries=1, backoff=0).submit_tasks([2, 3])
    >>> [result.tolist() for result in run.results()]
    [[2.0, 4.0], [3.0, 9.0]]
    >>> task.calls()
    Counter({3: 2, 2: 1})
    """

    def __init__(
        self,
        log: str | os.PathLike[str],
        *,
        fails: Mapping[int, int] | None = None,
        kills: Mapping[int, int] | None = None,
        seconds: float | Mapping[int, float] = 0.0,
    ) -> None:
        self.log = os.fspath(log)
        self.fails = dict(fails or {})
        self.kills = dict(kills or {})
        self.seconds = seconds

    def process_item(self, item: int, **kwargs: Any) -> NDArray[np.float64]:
        """Run one item."""
        del kwargs
        calls = self._write_down(item)
        if self.seconds:
            wait = self.seconds
            time.sleep(wait if isinstance(wait, (int, float)) else wait.get(item, 0.0))
        if calls <= self.kills.get(item, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if calls <= self.fails.get(item, 0):
            raise ValueError(f"call {calls} of item {item} fails, as it was told to")
        return np.array([item, item * item], np.float64)

    def calls(self) -> Counter[int]:
        """Return how often each item was called, by any process."""
        path = Path(self.log)
        return (
            Counter(int(line) for line in path.read_text().split()) if path.exists() else Counter()
        )

    def _write_down(self, item: int) -> int:
        """Note the call in one write; return how many calls of this item there are."""
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, b"%d\n" % item)
        finally:
            os.close(descriptor)
        return self.calls()[item] if self.fails or self.kills else 1
