"""Jobs of savers that only know `save`: rows in item order, and a ledger that counts them."""

from __future__ import annotations

import dataclasses
import gc
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from savers import (
    ClosedError,
    Failure,
    InvalidInputError,
    ItemStatus,
    JobSpec,
    LedgerCorruptedError,
    StoreInUseError,
)
from savers._sequential import SequentialLedger, _in_memory
from tests.unit.rows import LinesSaver, ListSaver

SPEC = JobSpec("task")


@pytest.fixture
def saver(tmp_path: Path) -> LinesSaver:
    return LinesSaver(tmp_path / "rows")


def log_of(saver: LinesSaver) -> Path:
    return Path(f"{saver.file_path}.ledger") / "sequential.log"


def run_some(saver: LinesSaver, *positions: int) -> None:
    ledger = saver.open_jobs()
    writer = ledger.resume(0) if ledger.states else ledger.begin(SPEC, 7)
    for position in positions:
        writer.stage(position, 100 + position, position)
    writer.commit()
    ledger.close()


def test_results_wait_for_those_of_earlier_items() -> None:
    saver = ListSaver()
    writer = saver.open_jobs().begin(SPEC, 7)
    for position in (3, 1, 4):
        writer.stage(position, 1, position)
    writer.commit()
    assert (saver.rows, writer.pending) == ([], 3)
    writer.stage(0, 1, 0)
    writer.commit()
    assert (saver.rows, writer.pending) == ([0, 1], 2)
    writer.fail(Failure(2, 1, "ValueError", "odd"))
    writer.commit()
    assert (saver.rows, writer.pending) == ([0, 1, 3, 4], 0)
    assert writer.state.status[:5].tolist() == [1, 1, ItemStatus.FAILED, 1, 1]


def test_the_ledger_remembers(saver: LinesSaver) -> None:
    run_some(saver, 0, 1, 2)
    ledger = saver.open_jobs()
    writer = ledger.resume(0)
    writer.fail(Failure(3, 103, "ValueError", "odd", attempts=2))
    writer.stage(4, 104, 4.5)
    writer.commit()
    ledger.close()
    reopened = saver.open_jobs()
    (state,) = reopened.states
    reopened.close()
    assert (state.job_id, state.spec, state.seed, state.finished) == (0, SPEC, 7, False)
    assert state.known() == 5
    assert state.digests[:5].tolist() == [100, 101, 102, 103, 104]
    assert state.status[:5].tolist() == [1, 1, 1, 2, 1]
    assert state.failures == {3: Failure(3, 103, "ValueError", "odd", attempts=2)}
    assert saver.rows() == [0, 1, 2, 4.5]


def test_finish_abandon_and_discard_are_remembered(saver: LinesSaver) -> None:
    ledger = saver.open_jobs()
    ledger.begin(SPEC, 1).finish(0)
    ledger.begin(SPEC, 2)
    ledger.abandon(1)
    ledger.begin(SPEC, 3)
    ledger.discard(2)
    ledger.begin(SPEC, 4)
    ledger.close()
    reopened = saver.open_jobs()
    found = [(state.job_id, state.seed, state.finished) for state in reopened.states]
    reopened.close()
    assert found == [(0, 1, True), (1, 2, True), (2, 4, False)]


def test_an_item_that_failed_is_appended_when_it_succeeds(saver: LinesSaver) -> None:
    ledger = saver.open_jobs()
    writer = ledger.begin(SPEC, 1)
    writer.fail(Failure(0, 1, "ValueError", "odd"))
    writer.stage(1, 1, 1)
    writer.commit()
    writer.stage(0, 1, 0)
    writer.commit()
    ledger.close()
    assert saver.rows() == [1, 0]
    reopened = saver.open_jobs()
    assert reopened.states[0].failures == {}
    reopened.close()


def test_files_are_private(saver: LinesSaver) -> None:
    run_some(saver, 0)
    assert stat.S_IMODE(log_of(saver).stat().st_mode) == 0o600


def test_a_symlink_in_place_of_the_log_is_refused(saver: LinesSaver, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    log_of(saver).parent.mkdir()
    log_of(saver).symlink_to(victim)
    with pytest.raises(OSError, match="sequential.log"):
        saver.open_jobs()
    assert victim.read_text() == "precious"
    assert os.listdir(log_of(saver).parent) == ["sequential.log"]


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_record_is_dropped(saver: LinesSaver, cut: int) -> None:
    run_some(saver, 0)
    whole = log_of(saver).read_bytes()
    run_some(saver, 1)
    log_of(saver).write_bytes(log_of(saver).read_bytes()[:-cut])
    ledger = saver.open_jobs()
    assert ledger.states[0].known() == 1
    ledger.close()
    assert log_of(saver).read_bytes() == whole
    run_some(saver, 1)
    assert len(log_of(saver).read_bytes()) > len(whole)


def test_a_damaged_record_is_refused_and_nothing_changes(saver: LinesSaver) -> None:
    run_some(saver, 0)
    run_some(saver, 1)
    data = bytearray(log_of(saver).read_bytes())
    data[50] ^= 1
    log_of(saver).write_bytes(data)
    for _ in range(2):  # the lock is free again after the refusal
        with pytest.raises(LedgerCorruptedError, match=r"sequential.log is damaged"):
            saver.open_jobs()
    assert log_of(saver).read_bytes() == data


def test_one_driver_at_a_time(saver: LinesSaver) -> None:
    ledger = saver.open_jobs()
    with pytest.raises(StoreInUseError, match=str(os.getpid())):
        saver.open_jobs()
    ledger.close()
    ledger.close()
    saver.open_jobs().close()


def test_a_failed_save_is_tried_again_by_the_next_commit() -> None:
    saver = ListSaver()
    writer = saver.open_jobs().begin(SPEC, 1)
    writer.stage(0, 1, "a")
    saver.fail = OSError("full")
    with pytest.raises(OSError, match="full"):
        writer.commit()
    assert writer.state.known() == 0
    saver.fail = None
    writer.commit()
    assert (saver.rows, writer.state.known()) == (["a"], 1)


def test_staged_arrays_are_the_writers_own() -> None:
    saver = ListSaver()
    writer = saver.open_jobs().begin(SPEC, 1)
    array = np.zeros(4)
    assert writer.stage(0, 1, {"a": array, "b": (array, [array])}) == 96
    assert writer.stage(1, 1, array, copy=False) == 32
    array[:] = 1
    writer.commit()
    assert saver.rows[0]["a"].tolist() == [0, 0, 0, 0]
    assert saver.rows[0]["b"][1][0].tolist() == [0, 0, 0, 0]
    assert saver.rows[1] is array


def test_a_saver_without_a_path_remembers_while_it_lives() -> None:
    saver = ListSaver()
    saver.open_jobs().begin(SPEC, 1)
    assert len(saver.open_jobs().states) == 1
    assert len(ListSaver().open_jobs().states) == 0


def test_a_saver_need_not_be_hashable() -> None:
    @dataclasses.dataclass
    class Rows(ListSaver):
        name: str = "x"

        def __post_init__(self) -> None:
            super().__init__()

    saver = Rows()
    key = id(saver)
    saver.open_jobs().begin(SPEC, 1)
    assert len(saver.open_jobs().states) == 1
    assert key in _in_memory
    del saver
    gc.collect()
    assert key not in _in_memory


def test_a_ledger_whose_file_is_gone_is_set_aside(saver: LinesSaver) -> None:
    run_some(saver, 0, 1)
    before = log_of(saver).read_bytes()
    saver.file_path.unlink()
    with pytest.warns(UserWarning, match="rows is gone: its ledger was set aside"):
        ledger = saver.open_jobs()
    assert list(ledger.states) == []
    ledger.close()
    (aside,) = log_of(saver).parent.glob("*.old")
    assert aside.read_bytes() == before
    run_some(saver, 0)
    assert saver.rows() == [0]


def test_a_saver_that_never_makes_its_path_keeps_its_ledger(tmp_path: Path) -> None:
    class Elsewhere(ListSaver):
        file_path = tmp_path / "prefix"

    ledger = Elsewhere().open_jobs()
    writer = ledger.begin(SPEC, 1)
    writer.stage(0, 1, "a")
    writer.commit()
    ledger.close()
    reopened = Elsewhere().open_jobs()
    assert reopened.states[0].known() == 1
    reopened.close()


def test_labels_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="does not place results by label"):
        ListSaver().open_jobs().begin(JobSpec("task", identity="labels"), 1)
    writer = ListSaver().open_jobs().begin(JobSpec("task", identity="key"), 1)
    with pytest.raises(InvalidInputError, match="does not place results by label"):
        writer.stage(0, 1, 1.0, {"x": 1})


def test_a_closed_ledger_takes_no_record(saver: LinesSaver) -> None:
    ledger = SequentialLedger(saver, {})
    ledger.close()
    with pytest.raises(ClosedError):
        ledger.begin(SPEC, 1)
