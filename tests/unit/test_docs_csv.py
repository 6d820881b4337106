"""The CSV saver of docs/custom-savers.md: at most ten lines, and it resumes."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/custom-savers.md").read_text(), re.DOTALL)


def run_page(folder: Path, *, crash_at: int | None = None) -> subprocess.CompletedProcess[str]:
    saver, use = BLOCKS
    if crash_at is not None:
        use = use.replace(
            "return [item", f"item == {crash_at} and __import__('os')._exit(9)\n    return [item"
        )
    return subprocess.run(
        [sys.executable, "-c", saver + use],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def rows(folder: Path) -> list[list[str]]:
    with (folder / "measurements.csv").open() as file:
        return list(csv.reader(file))


EXPECTED = [[str(item), str(item / 2)] for item in range(1000)]


def test_the_saver_has_at_most_ten_lines() -> None:
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 10


def test_the_page_does_what_it_says(tmp_path: Path) -> None:
    first, second = run_page(tmp_path), run_page(tmp_path)
    assert (first.stdout, first.stderr) == ("1000 0\n", "")
    assert (second.stdout, second.stderr) == ("0 1000\n", "")
    assert rows(tmp_path) == EXPECTED


def test_after_a_crash_the_same_call_computes_the_rest(tmp_path: Path) -> None:
    assert run_page(tmp_path, crash_at=777).returncode == 9
    saved = rows(tmp_path)
    assert saved == EXPECTED[: len(saved)]
    assert 400 <= len(saved) <= 777
    assert run_page(tmp_path).stdout == f"{1000 - len(saved)} {len(saved)}\n"
    assert rows(tmp_path) == EXPECTED
