"""The table of promises by kind of store: each cell names a test that is there and is run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/stores.md").read_text()
SECTION = PAGE.partition("## What is promised where")[2].partition("\n## ")[0]
NOTES = dict(re.findall(r"^(\d+)\. (.+)$", SECTION, flags=re.MULTILINE))
CELLS = [
    (row.split("|")[1].strip(), cell.strip())
    for row in re.findall(r"^\|.*\|$", SECTION, flags=re.MULTILINE)[2:]
    for cell in row.strip("|").split("|")[1:]
]


def named(text):
    return [number for group in re.findall(r"\[([\d, ]+)\]", text) for number in group.split(", ")]


def test_every_cell_names_a_test_or_promises_nothing():
    assert len(CELLS) > 40
    for row, cell in CELLS:
        numbers = named(cell)
        assert numbers, f"{row}: {cell!r} names no test"
        assert set(numbers) <= NOTES.keys(), f"{row}: {cell!r}"
        nothing = [NOTES[number] for number in numbers] == ["Nothing to promise."]
        assert nothing == bool(re.fullmatch(r"(-|it ends with the process) \[\d+\]", cell)), cell


def test_every_test_is_named_somewhere():
    table = SECTION.partition("\n1. ")[0]
    assert set(named(table)) == NOTES.keys()


def test_every_named_test_is_there_and_is_run():
    tests = re.findall(r"`(tests/.+?)`", "\n".join(NOTES.values()))
    assert len(tests) == len(NOTES) - 1
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *tests], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    for test in tests:
        file, _, name = test.partition("::")
        source = (ROOT / file).read_text()
        body = source.partition(f"def {name.partition('[')[0]}(")[0] if name else ""
        assert not re.search(r"@pytest.mark.(skip|xfail|gpu|slow)[^@]*$", body), test
