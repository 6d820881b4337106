"""What a worker process gets of the machine: cores, and a life no longer than its driver's."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import FrameType

__all__ = ["die_with_parent", "ignore_interrupts", "numeric_threads", "usable_cores"]

_PR_SET_PDEATHSIG = 1

_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def numeric_threads(workers: int) -> dict[str, str]:
    """Return the environment that shares the cores among the workers' numeric libraries.

    The libraries read it when they are loaded. What the user has set stays.
    """
    share = str(max(1, usable_cores() // workers))
    return {name: os.environ.get(name, share) for name in _THREAD_VARIABLES}


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, whatever it is doing then."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def ignore_interrupts() -> None:
    """Leave Ctrl-C and a batch system's SIGTERM to the driver, which decides what they mean.

    A handler that does nothing, not SIG_IGN: programs that a task starts would inherit that.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _nothing)
        signal.siginterrupt(number, False)  # system calls of C libraries are not cut short


def _nothing(number: int, frame: FrameType | None) -> None:
    del number, frame


def kill_group(pid: int) -> None:
    """Kill a worker and what it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with suppress(ProcessLookupError):  # before it had made its group
        os.kill(pid, signal.SIGKILL)
