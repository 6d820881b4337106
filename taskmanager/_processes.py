"""Work in processes. First form: the standard pool behind the interface of ours."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING

from taskmanager._foreign import ForeignPool

if TYPE_CHECKING:
    from taskmanager._pool import TaskPlan

__all__ = ["ProcessPool"]


class ProcessPool(ForeignPool):
    """Run chunks in `max_workers` processes."""

    def __init__(self, plan: TaskPlan, max_workers: int) -> None:
        context = multiprocessing.get_context("forkserver")
        self._own = ProcessPoolExecutor(max_workers, mp_context=context)
        super().__init__(self._own, plan, max_workers)

    def close(self, *, grace: float | None = None) -> None:
        """End the workers after their current chunk."""
        super().close(grace=grace)
        self._own.shutdown(wait=grace is None, cancel_futures=True)
