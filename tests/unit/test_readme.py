"""The README is true: its code runs, its links lead somewhere, its promises name real tests."""

from __future__ import annotations

import ast
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


NOISE, LOOP = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(folder: Path, code: str = NOISE) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(code)
    command = [sys.executable, "program.py"]
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)


def noise(folder: Path) -> np.ndarray:
    return zarr.open_group(folder / "noise.zarr", mode="r")["noise"][:]


def test_the_code_is_killed_and_resumes_to_the_same_bytes(tmp_path):
    crashed, calm = tmp_path / "crashed", tmp_path / "calm"
    crashed.mkdir()
    calm.mkdir()
    (calm / "killed").touch()

    first = run(crashed)
    assert first.returncode == -signal.SIGKILL, first.stderr
    second = run(crashed)
    assert second.returncode == 0, second.stderr
    counts = ast.literal_eval(second.stdout)
    assert counts["items"] == counts["executed"] + counts["resumed"] == 100
    assert counts["resumed"] >= 40  # what was being saved when the signal came may be lost
    assert counts["saved"] == counts["executed"]

    assert run(calm).returncode == 0
    assert noise(crashed).shape == (100, 32, 64)
    np.testing.assert_array_equal(noise(crashed), noise(calm))


def test_the_loop_writes_every_step_once(tmp_path):
    pytest.importorskip("xarray")
    for _ in range(2):  # the second finds nothing missing
        done = run(tmp_path, LOOP)
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["[[280.", "280.", "280.", "280.]]"]
    assert zarr.open_group(tmp_path / "forecast.zarr", mode="r")["t2m"].shape == (1, 4, 19, 36)


def links() -> list[str]:
    found = re.findall(r"\]\(([^)#]+)", README)
    return [link for link in found if "://" not in link]


@pytest.mark.parametrize("link", links())
def test_links_lead_to_files(link):
    assert (ROOT / link).exists()


def promised() -> list[str]:
    return re.findall(r"`(tests/\S+::\w+)`", README)


@pytest.mark.parametrize("name", promised())
def test_promises_name_tests_that_exist(name):
    path, _, function = name.partition("::")
    names = {n.name for n in ast.walk(ast.parse((ROOT / path).read_text())) if hasattr(n, "name")}
    assert function in names


def test_every_promise_names_a_test():
    table = README.partition("| Shown by |\n")[2].partition("\n\n")[0]
    rows = table.splitlines()[1:]
    assert rows
    unproven = [row for row in rows if not re.search(r"`tests/\S+::\w+`", row)]
    assert unproven == []


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`make (\w+)`", README))
    assert {"demo", "test"} <= named
    assert {name for name in named if not re.search(rf"^{name}:", makefile, re.MULTILINE)} == set()
