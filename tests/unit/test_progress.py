"""Progress: a bar on a terminal, plain lines elsewhere, a function, or nothing; and events."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path

import pytest

from taskmanager import ProgressReport, TaskManager, events_to_file
from taskmanager._progress import Ticker, reporter
from tests.unit.rows import ListSaver, TableSaver


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_eta_leaves_out_what_was_found_done() -> None:
    report = ProgressReport(done=60, total=100, resumed=50, failed=2, nbytes=3_200_000, seconds=5.0)
    assert report.rate == 2.0
    assert report.eta == 20.0
    assert str(report) == (
        "60/100 (60 %) items, 2 items/s, 20 s to go, 50 found done, 2 failed, 3.2 MB"
    )


def test_an_endless_input_has_no_eta() -> None:
    assert ProgressReport(done=10, seconds=1.0).eta is None
    assert str(ProgressReport(done=10, seconds=1.0)) == "10 items, 10 items/s"
    assert ProgressReport(done=5, total=9, resumed=5, seconds=1.0).eta is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.0, "59 s"), (61.0, "1 min 01 s"), (7300.0, "2 h 01 min")]
)
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert f", {text} to go" in str(ProgressReport(done=1, total=2, seconds=seconds))


def shown(setting: bool | None, stream: io.StringIO, ticks: int) -> str:
    """Return what a run with so many reports, one after the other, would print."""
    progress = reporter(setting, stream)
    if progress is None:
        return ""
    ticker = Ticker(progress, lambda: ProgressReport(done=1, total=2, failed=1, seconds=1.0))
    for _ in range(ticks):
        ticker._next = 0.0
        ticker.tick()
    ticker.close()
    return stream.getvalue()


def test_without_a_terminal_lines_are_plain() -> None:
    text = shown(True, io.StringIO(), 2)
    assert text.splitlines() == ["1/2 (50 %) items, 1 items/s, 1 s to go, 1 failed"] * 3


def test_a_short_run_says_nothing_unasked() -> None:
    assert shown(None, io.StringIO(), 0) == ""
    assert len(shown(None, io.StringIO(), 1).splitlines()) == 2
    assert len(shown(True, io.StringIO(), 0).splitlines()) == 1


def test_a_terminal_gets_one_line_that_is_drawn_over() -> None:
    text = shown(None, Terminal(), 3)
    assert text.count("\r") == 4
    assert text.endswith("\n")
    assert "1 failed" in text


def test_false_shows_nothing() -> None:
    assert reporter(False) is None


def test_a_function_gets_reports() -> None:
    reports: list[ProgressReport] = []
    saver = TableSaver()
    saver.refuse = {1}
    manager = TaskManager(abs, errors="collect", progress=reports.append)
    manager.submit_tasks(range(5), saver)
    manager.submit_tasks(range(8), saver)
    first, last = reports[0], reports[-1]
    assert (first.done, first.total, first.failed, first.saved) == (5, 5, 1, 4)
    assert (last.done, last.resumed, last.failed, last.saved) == (8, 4, 1, 3)


def test_the_result_of_a_function_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    TaskManager(abs).submit_tasks(range(5), ListSaver())
    assert capsys.readouterr() == ("", "")
    TaskManager(abs, progress=True).submit_tasks(range(5), ListSaver())
    assert capsys.readouterr().err.startswith("5/5 (100 %) items")


def test_events_are_json_lines(tmp_path: Path) -> None:
    def work(item: int) -> int:
        if item == 1:
            raise ValueError("odd")
        return item

    path = tmp_path / "events.jsonl"
    with events_to_file(path):
        TaskManager(work, errors="skip", retries=1, backoff=0).submit_tasks(range(3), ListSaver())
    events = [json.loads(line) for line in path.read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names[0] == "run_started"
    assert sorted(names[1:-1]) == ["committed", "item_failed", "item_retried"]
    failed = next(event for event in events if event["event"] == "item_failed")
    assert (failed["index"], failed["attempts"], failed["level"]) == (1, 2, "WARNING")
    assert failed["error"] == "ValueError('odd')"
    assert (events[-1]["event"], events[-1]["skipped"]) == ("run_ended", 1)


def test_events_go_to_whoever_listens(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="taskmanager"):
        TaskManager(abs).submit_tasks([1])
    assert caplog.messages[0].startswith("run_started: task=builtins.abs")
