"""The leak check of conftest.py finds what it is there to find."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SHARED = f"/dev/shm/tasksavers-lost-{os.getpid()}"
LEAKS = {
    "thread 'lost'": """
        import threading
        threading.Thread(target=threading.Event().wait, name="lost", daemon=True).start()
    """,
    "(sleep 5)": """
        import subprocess
        subprocess.Popen(["sleep", "5"], stderr=subprocess.DEVNULL)
    """,
    "(sleep 6)": """
        import subprocess
        subprocess.run("sleep 6 & exit", shell=True)  # an orphan
    """,
    "file descriptor": """
        import os
        os.open(__file__, os.O_RDONLY)
    """,
    SHARED: f"""
        import os
        os.open("{SHARED}", os.O_CREAT)  # held, so that other runs see whose it is
    """,
}


@pytest.fixture
def project(tmp_path):
    """A project of its own with this conftest, and a shorter grace."""
    conftest = (Path(__file__).parents[1] / "conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(conftest.replace("GRACE = 10.0", "GRACE = 0.2"))
    yield tmp_path
    Path(SHARED).unlink(missing_ok=True)


def run(project: Path, body: str) -> subprocess.CompletedProcess[str]:
    test = "def test_it():\n" + textwrap.indent(textwrap.dedent(body), "    ")
    (project / "test_leak.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_leak.py"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_each_kind_of_leak_fails_its_test_and_is_named(project):
    done = run(project, "".join(LEAKS.values()))
    assert "1 passed, 1 error" in done.stdout
    assert [text for text in LEAKS if text not in done.stdout] == []


def test_what_ends_within_the_grace_is_no_leak(project):
    done = run(project, "import subprocess\nsubprocess.run('sleep 0.1 & exit', shell=True)")
    assert "1 passed" in done.stdout
    assert "error" not in done.stdout
