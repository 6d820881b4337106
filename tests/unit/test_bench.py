"""The bench itself: rounds, what is read back, ratios, and the pages it writes. Tiny sizes."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from importlib import import_module

import pytest

from benchmarks import machine, report, run
from benchmarks.contender import Contender, Figure, Row
from benchmarks.rounds import Process, Results, RoundError, run_row
from benchmarks.summary import Spread, as_json, best_peer, lines

ROOT = run.DOCS.parent.parent
LIAR = """
from pathlib import Path

from benchmarks.contender import Contender, Figure, Row


def write(this, text):
    (this.folder / "out").write_text(text)
    print("what a library prints is not an answer")
    return {"us": 1.0 + this.number}


def check(this):
    found = (this.folder / "out").read_text()
    if found != (this.inputs / "text").read_text():
        raise ValueError(f"got {found!r} back")


ROW = Row(
    title="Liars", story="", figures=(Figure("us", "us"), Figure("stored_mib", "MiB")),
    contenders=(
        Contender("honest", lambda this: write(this, "data"), check, "ours"),
        Contender("liar", lambda this: write(this, "dat"), check),
        Contender("dies", lambda this: __import__("os")._exit(3), check),
        Contender("absent", lambda this: {}, check, needs=("no_such_module",)),
    ),
    sizes={"tiny": {}},
    prepare=lambda folder, size: (folder / "text").write_text("data"),
)
"""


@pytest.fixture
def liars(tmp_path, monkeypatch):
    (tmp_path / "bench_liars.py").write_text(LIAR)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    return "bench_liars"


def test_a_contender_that_gives_back_something_else_is_failed_and_the_others_go_on(liars):
    results = run_row(liars, "tiny", 3, verbose=False)
    assert [figures["us"] for figures in results.figures["honest"]] == [1.0, 2.0, 3.0]
    assert results.figures["honest"][0]["stored_mib"] == 4 / 2**20
    assert list(results.figures) == ["honest"]
    assert "got 'dat' back" in results.failed["liar"]
    assert "exit status 3" in results.failed["dies"]
    assert results.left_out == {"absent": "needs no_such_module"}


def test_a_round_that_takes_too_long_is_ended():
    with Process("benchmarks.rows.commit", "one write") as process, pytest.raises(RoundError):
        process.ask({"folder": "/nowhere", "inputs": "", "size": {}, "number": 0}, limit=0.0)


def test_a_row_runs_from_the_command_line_and_writes_figures_and_plot(tmp_path):
    asked = ["--rows", "commit", "--size", "tiny", "--rounds", "2", "--docs", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.run", *asked, "--only", "save,write"]
    subprocess.run(command, check=True, cwd=ROOT)
    data = json.loads((tmp_path / "commit.json").read_text())
    assert not data["failed"]
    assert {line["role"] for line in data["summary"]} == {"ours", "floor"}
    assert all(len(each) == 2 for each in data["rounds"].values())
    assert data["machine"]["cores"] >= 1
    assert (tmp_path / "commit.svg").read_text().startswith("<?xml")
    assert "| one write (floor) |" in (tmp_path / "commit.md").read_text()


OURS = {
    "appends": "ours, raw",
    "fields": "ours (model)",
    "small": "ours (sharded)",
    "ensemble": "ours, behind, compressed",
    "tasks": "ours, threads, map",
    "transfer": "ours, processes, map",
    "kept": "ours, 100 a commit",
    "resume": "ours",
    "reading": "ours, 30 ms",
    "service": "ours, 30 ms",
}


@pytest.mark.parametrize(("name", "ours"), OURS.items())
def test_ours_in_every_other_row(name, ours):
    row = import_module(f"benchmarks.rows.{name}").ROW
    results = run_row(f"benchmarks.rows.{name}", "tiny", 1, (ours,), verbose=False)
    assert not results.failed
    (figures,) = results.figures[ours]
    assert all(math.isfinite(figures[figure.name]) for figure in row.figures)


def test_names_of_contenders_are_unique_and_each_group_has_ours_first():
    for name in run.ROWS:
        row = import_module(f"benchmarks.rows.{name}").ROW
        names = [one.name for one in row.contenders]
        assert len(set(names)) == len(names)
        for group in {group for one in row.contenders for group in one.groups}:
            inside = [one.role for one in row.contenders if group in one.groups]
            assert inside[0] == "ours"
            assert "peer" in inside
        assert set(row.sizes) == {"full", "quick", "tiny"}


def _row(*, higher: bool) -> Row:
    def entry(name, role):
        return Contender(name, lambda this: {}, lambda this: None, role)

    return Row(
        "Row", "Story.", (Figure("us", "us", higher_is_better=higher),),
        (entry("ours", "ours"), entry("slow", "peer"), entry("fast", "peer"),
         entry("hand", "floor")),
        {"tiny": {}},
    )  # fmt: skip


def _results() -> Results:
    def rounds(*values):
        return [{"us": value} for value in values]

    return Results({
        "ours": rounds(10.0, 20.0, 10.0), "slow": rounds(30.0, 20.0, 40.0),
        "fast": rounds(20.0, 20.0, 20.0), "hand": rounds(5.0, 5.0, 5.0),
    })  # fmt: skip


def test_ratios_are_taken_round_by_round():
    made = {line.contender: line for line in lines(_row(higher=False), _results())}
    assert list(made) == ["hand", "ours", "fast", "slow"]
    assert made["ours"].ahead is None
    assert made["slow"].ahead == Spread(3.0, 1.0, 4.0)
    assert made["fast"].ahead == Spread(2.0, 1.0, 2.0)
    assert made["hand"].ahead == Spread(0.5, 0.25, 0.5)


def test_the_best_peer_is_the_one_to_beat_also_where_more_is_better():
    slow = lines(_row(higher=False), _results())
    assert best_peer(slow, "").contender == "fast"
    rates = lines(_row(higher=True), _results())
    assert best_peer(rates, "").contender == "slow"
    assert best_peer(rates, "").ahead == Spread(1 / 3, 0.25, 1.0)


def test_the_page_says_who_failed_and_names_the_machine():
    here = {**machine.describe(), "load_after": 1.5}
    results = _results()
    results.failed["broken"] = "Traceback\nValueError: got something else back"
    row = _row(higher=False)
    text = report.page("row", row, results, as_json(row, results, here, "tiny"))
    assert "Against the best peer (fast): 2x (1..2)." in text
    assert "| **ours** | 10 (10..20) | - |" in text
    assert "Failed: broken: ValueError: got something else back." in text
    assert f"{here['cores']} cores" in text
    assert "and 1.5 after it" in text


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(SystemExit):
        run.main(["--rows", "nonsense"])
    assert "got 'nonsense'" in capsys.readouterr().err
