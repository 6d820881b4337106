"""The leak check of conftest.py finds what it is there to find."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

LEAKS = {
    "thread": """
        import threading
        threading.Thread(target=threading.Event().wait, name="lost", daemon=True).start()
    """,
    "process": """
        import subprocess
        subprocess.Popen(["sleep", "5"], stderr=subprocess.DEVNULL)
    """,
    "orphan": """
        import subprocess
        subprocess.run("sleep 6 & exit", shell=True)
    """,
    "descriptor": """
        import os
        os.open(__file__, os.O_RDONLY)
    """,
    "shm": """
        from pathlib import Path
        Path("/dev/shm/tasksavers-lost").touch()
    """,
}
SAYS = {
    "thread": "thread 'lost'",
    "process": "(sleep 5)",
    "orphan": "(sleep 6)",
    "descriptor": "file descriptor",
    "shm": "/dev/shm/tasksavers-lost",
}


@pytest.fixture
def project(tmp_path):
    """A project of its own with this conftest, and a shorter grace."""
    conftest = (Path(__file__).parents[1] / "conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(conftest.replace("GRACE = 3.0", "GRACE = 0.2"))
    yield tmp_path
    Path("/dev/shm/tasksavers-lost").unlink(missing_ok=True)


def run(project: Path, body: str) -> subprocess.CompletedProcess[str]:
    test = "def test_it():\n" + textwrap.indent(textwrap.dedent(body), "    ")
    (project / "test_leak.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_leak.py"]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


def test_each_kind_of_leak_fails_its_test_and_is_named(project):
    done = run(project, "".join(LEAKS.values()))
    assert "1 passed, 1 error" in done.stdout
    missing = [kind for kind, text in SAYS.items() if text not in done.stdout]
    assert missing == []


def test_what_ends_within_the_grace_is_no_leak(project):
    done = run(project, "import subprocess\nsubprocess.run('sleep 0.1 & exit', shell=True)")
    assert "1 passed" in done.stdout
    assert "error" not in done.stdout
