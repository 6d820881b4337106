"""Jobs into an AsyncZarrSaver, killed and refused at chosen calls; the same call completes them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr

from savers import ItemStatus, verify
from tests.crash.cases import acknowledged
from tests.crash.kinds import PRELOAD
from tests.crash.labelled_job import ITEMS, MEMBERS, OTHERS, TIMES, opened, value
from tests.faults import ForkServer, crash_points, double_crashes, fail_points, skip_without_faults

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults import Outcome, Program

MODULE = "tests.crash.labelled_job"
ALONE = {ITEMS.index(OTHERS)}


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    skip_without_faults()
    with ForkServer(preload=[*PRELOAD, "savers._labelled._saver"]) as server:
        yield server


@pytest.fixture(params=[1, 2], ids=["a-label-a-chunk", "chunks-of-two"])
def member(request: pytest.FixtureRequest) -> int:
    return request.param


@pytest.fixture
def program(server: ForkServer, member: int) -> Program:
    return server.function(f"{MODULE}:run", member=member)


@pytest.fixture
def start(server: ForkServer, member: int, tmp_path: Path) -> Path:
    root = tmp_path / "start-state"
    root.mkdir()
    assert server.function(f"{MODULE}:begin", member=member).run(root).returncode == 0
    return root


def seen(root: Path) -> dict[int, np.ndarray]:
    """Return the items that plain zarr has values of."""
    values = zarr.open_group(root / "x.zarr", mode="r")["x"][:]
    return {i: values[item] for i, item in enumerate(ITEMS) if np.isfinite(values[item]).any()}


def recorded(root: Path, member: int) -> tuple[set[int], set[int]]:
    """Return the items that are written, and those that are done, as a new saver knows them."""
    with opened(root, member) as saver:
        written = {ITEMS.index((at["time"], at["member"])) for at in saver.written("x")}
        ledger = saver.open_jobs()
        done = [np.flatnonzero(job.status == ItemStatus.DONE) for job in ledger.states]
        ledger.close()
    assert len(done) <= 1
    mine = [i for i in range(len(ITEMS)) if i not in ALONE]
    return written, {mine[k] for k in (done[0] if done else ())}


def check(outcome: Outcome, program: Program, member: int) -> None:
    root, what = outcome.root, str(outcome)
    for i, values in seen(root).items():
        np.testing.assert_array_equal(values, value(ITEMS[i]), what)
    again = root.with_name("recovered")
    shutil.copytree(root, again)
    written, done = recorded(again, member)
    assert written == done | ALONE, what
    assert written >= ALONE | set(seen(root)), what  # nothing is shown that is not recorded
    assert verify(again / "x.zarr") == [], what
    shutil.rmtree(again)
    result = program.run(root)
    assert result.returncode == 0, f"{what}\n{result.stderr}"
    assert not done & set(acknowledged(result.stdout, "run")), what
    ran = [*acknowledged(outcome.result.stdout, "run"), *acknowledged(result.stdout, "run")]
    interruptions = 1 + outcome.result.stdout.count("killed") + outcome.result.stdout.count("refus")
    assert len(ran) <= len(ITEMS) + interruptions * 3 * 3, what
    complete(root, member)


def complete(root: Path, member: int) -> None:
    for i, values in (found := seen(root)).items():
        np.testing.assert_array_equal(values, value(ITEMS[i]))
    assert len(found) == len(ITEMS)
    numbers = zarr.open_group(root / "x.zarr", mode="r")["n"][:]
    expected = np.repeat(TIMES[:, None] + 1.0, len(MEMBERS), 1)
    expected[OTHERS] = np.nan
    np.testing.assert_array_equal(numbers, expected)
    with opened(root, member) as saver:
        assert saver.missing("x") == []
        assert len(saver.written("n")) == len(ITEMS) - 1
    assert verify(root / "x.zarr") == []


def test_killed_at_a_dozen_calls(program, start, member, tmp_path):
    for outcome in crash_points(program, tmp_path, start, spread=12):
        check(outcome, program, member)


def test_refused_at_some_calls(program, start, member, tmp_path):
    for outcome in fail_points(program, tmp_path, start, spread=5):
        check(outcome, program, member)


def test_killed_and_killed_again_while_it_recovers(program, start, member, tmp_path):
    for outcome in double_crashes(program, tmp_path, start, count=3):
        check(outcome, program, member)
