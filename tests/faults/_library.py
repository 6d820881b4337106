"""The C part: built on first use, kept in the user's cache folder."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("faults.c")
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")


def cache_folder() -> Path:
    """Return the folder of built libraries, which only this user may enter."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "tasksavers-faults"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


@functools.cache
def library() -> Path:
    """Return the path of the built library, building it when its source is new.

    Raises
    ------
    subprocess.CalledProcessError
        The compiler refused; its text is on stderr.
    """
    digest = hashlib.sha256(SOURCE.read_bytes() + " ".join(FLAGS).encode()).hexdigest()[:16]
    built = cache_folder() / f"faults-{digest}.so"
    if not built.exists():
        with tempfile.TemporaryDirectory(dir=cache_folder()) as folder:
            fresh = Path(folder) / built.name
            subprocess.run(["gcc", *FLAGS, "-o", fresh, SOURCE], check=True)
            fresh.replace(built)  # complete or not there: others may build it too
    return built


@functools.cache
def unavailable() -> str:
    """Return why faults can't be made on this machine, an empty text where they can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"faults need Linux on x86-64, this is {sys.platform} on {platform.machine()}"
    if shutil.which("gcc") is None:
        return "faults need gcc, and none is on PATH"
    with tempfile.TemporaryDirectory() as root:
        env = {"LD_PRELOAD": str(library()), "FAULTS_ROOT": root}
        tried = subprocess.run(["/bin/true"], env=env, capture_output=True, text=True, check=False)
    return f"faults need seccomp: {tried.stderr.strip()}" if tried.returncode else ""


def skip_without_faults() -> None:
    """Skip the running test, naming the reason, where faults can't be made."""
    import pytest

    if reason := unavailable():
        pytest.skip(reason)
