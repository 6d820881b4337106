"""Savers killed, refused and cut off at chosen calls (tests/torture.py tries all of them)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.crash.cases import Judge, cases, refusal
from tests.crash.kinds import KINDS, PRELOAD
from tests.faults import (
    ForkServer,
    crash_points,
    double_crashes,
    fail_points,
    power_cuts,
    skip_without_faults,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.crash.cases import Case

#: Points that are tried of each case; single files are put together anew for each of them.
SPREAD = {"zarr": 5, "hdf5": 2, "netcdf": 2}
#: Single files share everything above the file with Zarr, and NetCDF nearly all with HDF5.
SAMPLE = {"hdf5": ("append", "overwrite", "update"), "netcdf": ("overwrite",)}
CASES = [
    case for kind in KINDS for case in cases(kind=kind) if case.name in SAMPLE.get(kind, case.name)
]


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    skip_without_faults()
    with ForkServer(preload=PRELOAD) as server:
        yield server


@pytest.fixture(params=CASES, ids=lambda case: f"{case.kind.name}-{case.name}".replace(" ", "-"))
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture
def start(case: Case, server: ForkServer, tmp_path: Path) -> Path:
    return case.start_state(server, tmp_path / "start-state")


def test_killed_at_any_call(case, server, start, tmp_path):
    judge = Judge(case, server, start, tmp_path)
    wrong = []
    for outcome in crash_points(judge.program, tmp_path, start, spread=SPREAD[case.kind.name]):
        wrong += judge.after(outcome)
    assert wrong == []


def test_refused_at_any_call(case, server, start, tmp_path):
    judge = Judge(case, server, start, tmp_path)
    wrong = []
    for outcome in fail_points(judge.program, tmp_path, start, spread=SPREAD[case.kind.name]):
        wrong += refusal(outcome) + judge.after(outcome)
    assert wrong == []


def test_killed_and_killed_again_while_it_recovers(case, server, start, tmp_path):
    judge = Judge(case, server, start, tmp_path)
    wrong = []
    for outcome in double_crashes(
        judge.program, tmp_path, start, count=max(1, SPREAD[case.kind.name] // 2)
    ):
        wrong += judge.after(outcome)
    assert wrong == []


def test_power_cut_at_any_call(case, server, start, tmp_path):
    judge = Judge(case, server, start, tmp_path, durability="power")
    wrong = []
    for outcome in power_cuts(
        judge.program, tmp_path, start, count=max(1, SPREAD[case.kind.name] // 2)
    ):
        wrong += judge.after(outcome)
    assert wrong == []
