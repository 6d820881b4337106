"""What runs under a fault: a command line, or a function in a child of a fork server."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ._fault import ACTIONS, MODES, Fault, Result, parse_log
from ._library import library

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REPOSITORY = Path(__file__).resolve().parents[2]
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLOSC_NTHREADS"), "1"
)
NO_FAULT = Fault(0, "record")


class Program(ABC):
    """Something that changes files below a root folder, and can be run again and again."""

    def run(self, root: Path, fault: Fault | None = None, *, record: bool = False) -> Result:
        """Run once under `fault` (None: only count) and return what became of it.

        Parameters
        ----------
        root : Path
            Existing folder whose calls count.
        record : bool
            Keep the written bytes too.

        Raises
        ------
        TimeoutError
            It ran longer than its timeout and was killed.
        """
        with tempfile.TemporaryDirectory(prefix="faults-") as name:
            folder = Path(name)
            code = self._execute(root, fault or NO_FAULT, folder, record=record)
            log, data = folder / "log", folder / "data"
            return Result(
                returncode=code,
                stdout=(folder / "stdout").read_text(),
                stderr=(folder / "stderr").read_text(),
                calls=parse_log(log.read_text()) if log.exists() else (),
                data=data.read_bytes() if data.exists() else b"",
            )

    @abstractmethod
    def _execute(self, root: Path, fault: Fault, folder: Path, *, record: bool) -> int:
        """Run, with stdout, stderr, log and data as files in `folder`; return the exit code."""


class Command(Program):
    """A command line; ``{root}`` in it stands for the root folder.

    Only the process itself is counted and struck, what it starts passes through.
    """

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None, timeout: float = 60
    ) -> None:
        self.argv = list(argv)
        self.env = dict(env or {})
        self.timeout = timeout

    def _execute(self, root: Path, fault: Fault, folder: Path, *, record: bool) -> int:
        argv = [part.replace("{root}", str(root)) for part in self.argv]
        env = {**os.environ, **self.env, **_environment(root, fault, folder, record=record)}
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(argv, env=env, stdout=out, stderr=err, process_group=0)
        late = end_group(process.pid, self.timeout)
        code = process.wait()
        if late:
            raise _too_long(self.argv, self.timeout, fault)
        return code


def end_group(pid: int, timeout: float) -> bool:
    """Wait for a child that leads a process group, then kill all of the group that is left.

    Returns whether it was late. The child itself is still to be reaped: until then nobody else
    can have its number.
    """
    watch = os.pidfd_open(pid)
    late = not select.select([watch], [], [], timeout)[0]
    os.close(watch)
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:  # late, and not yet leading its group
        os.kill(pid, signal.SIGKILL)
    return late


def _environment(root: Path, fault: Fault, folder: Path, *, record: bool) -> dict[str, str]:
    values: dict[str, object] = {
        "LD_PRELOAD": library(),
        "FAULTS_ROOT": root,
        "FAULTS_ACTION": ACTIONS.index(fault.action),
        "FAULTS_MODE": MODES.index(fault.when),
        "FAULTS_N": fault.n,
        "FAULTS_ERRNO": fault.error,
        "FAULTS_LASTING": int(fault.lasting),
        "FAULTS_UNTIL": fault.until or "",
        "FAULTS_LOG": folder / "log",
    }
    if record:
        values["FAULTS_DATA"] = folder / "data"
    return {name: str(value) for name, value in values.items()}


def _too_long(what: object, timeout: float, fault: Fault) -> TimeoutError:
    return TimeoutError(f"{what} did not end within {timeout} s ({fault})")


class ForkServer:
    """A process that has its imports behind it, and forks a child for every run.

    A run costs the fork and the work (about 10 ms with numpy and zarr), not a new interpreter.

    Parameters
    ----------
    preload : sequence of str
        Modules to import before the first fork. None of them may start a thread.
    """

    def __init__(self, preload: Sequence[str] = ()) -> None:
        paths = [str(REPOSITORY), *(path for path in sys.path if path)]
        env = {**os.environ, **ONE_THREAD, "LD_PRELOAD": str(library())}
        env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults._server", *preload],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def function(self, name: str, timeout: float = 60, **kwargs: Any) -> Program:
        """Return the program that calls ``module:function(root, **kwargs)`` in a child.

        `root` is a Path; the keyword arguments must survive JSON. What the function prints is
        `Result.stdout`, and an exception ends it with status 1 and its traceback on stderr.
        """
        return _Function(self, name, kwargs, timeout)

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Send one request and return the answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the fork server has ended; its stderr says why")
        return dict(json.loads(answer))

    def close(self) -> None:
        """End the server. Idempotent."""
        self._process.communicate() if self._process.poll() is None else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Function(Program):
    def __init__(
        self, server: ForkServer, name: str, kwargs: Mapping[str, object], timeout: float
    ) -> None:
        self.server = server
        self.name = name
        self.kwargs = dict(kwargs)
        self.timeout = timeout

    def _execute(self, root: Path, fault: Fault, folder: Path, *, record: bool) -> int:
        answer = self.server.ask(
            {
                "function": self.name,
                "kwargs": self.kwargs,
                "root": str(root),
                "folder": str(folder),
                "record": record,
                "timeout": self.timeout,
                "action": ACTIONS.index(fault.action),
                "mode": MODES.index(fault.when),
                "n": fault.n,
                "error": fault.error,
                "lasting": fault.lasting,
                "until": str(fault.until or ""),
            }
        )
        if "problem" in answer:
            raise RuntimeError(answer["problem"])
        if answer["late"]:
            raise _too_long(self.name, self.timeout, fault)
        return int(answer["returncode"])
