"""Faults at chosen system calls: kill, fail, cut the power. See README.md beside this file."""

from __future__ import annotations

from ._fault import Call, Fault, Result, fail, kill
from ._library import skip_without_faults, unavailable
from ._points import Outcome, crash_points, double_crashes, fail_points, power_cuts
from ._program import Command, ForkServer, Program

__all__ = [
    "Call",
    "Command",
    "Fault",
    "ForkServer",
    "Outcome",
    "Program",
    "Result",
    "crash_points",
    "double_crashes",
    "fail",
    "fail_points",
    "kill",
    "power_cuts",
    "skip_without_faults",
    "unavailable",
]
