"""The fork server: ``python -m tests.faults._server [MODULE ...]``, one JSON line a request.

It stays single-threaded, so that a forked child is whole. Each child leads a group of its own; what
it leaves behind is killed when it has ended.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._program import end_group

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Answer requests until stdin ends."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    faults = _install()
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing but answers may reach the asker
    for line in requests:
        answers.write(json.dumps(_answer(faults, json.loads(line))) + "\n")
        answers.flush()


def _install() -> ctypes.CDLL:
    faults = ctypes.CDLL(os.environ["LD_PRELOAD"])
    if error := faults.faults_install():
        raise OSError(error, f"can't install the filter: {os.strerror(error)}")
    os.environ["FAULTS_PID"] = str(os.getpid())  # for programs that a child starts
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    return faults


def _answer(faults: ctypes.CDLL, request: Mapping[str, Any]) -> dict[str, object]:
    try:
        function = _find(request["function"])
    except (ImportError, AttributeError):
        return {"problem": traceback.format_exc()}
    if len(os.listdir("/proc/self/task")) > 1:
        return {"problem": f"importing {request['function']} started a thread: can't fork safely"}
    pid = os.fork()
    if pid == 0:
        _child(faults, function, request)
    late = end_group(pid, request["timeout"])
    _, status = os.waitpid(pid, 0)
    _reap(pid)
    return {"returncode": os.waitstatus_to_exitcode(status), "late": late}


@functools.cache
def _find(name: str) -> Callable[..., object]:
    module, _, function = name.partition(":")
    found = getattr(importlib.import_module(module), function)
    gc.collect()
    gc.freeze()  # children share the pages of what is there
    return found  # type: ignore[no-any-return]


def _reap(group: int) -> None:
    """Collect the dead of a group; this process inherited them."""
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-group, 0)


def _child(
    faults: ctypes.CDLL, function: Callable[..., object], request: Mapping[str, Any]
) -> None:
    code = 1
    try:
        _settle(Path(request["folder"]))
        _arm(faults, request)
        function(Path(request["root"]), **request["kwargs"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - a child must never return into the server
        traceback.print_exc()
    finally:
        _end(code)


def _settle(folder: Path) -> None:
    """Lead a group, read nothing, and write to files outside the root."""
    os.setpgid(0, 0)
    for fd, path, flags in (
        (0, Path(os.devnull), os.O_RDONLY),
        (1, folder / "stdout", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, fd)
        os.close(opened)


def _arm(faults: ctypes.CDLL, request: Mapping[str, Any]) -> None:
    names = ["log", "data"] if request["record"] else ["log"]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    files = [os.open(Path(request["folder"]) / name, flags, 0o600) for name in names]
    error = faults.faults_arm(
        request["root"].encode(),
        request["action"],
        request["mode"],
        ctypes.c_long(request["n"]),
        request["error"],
        int(request["lasting"]),
        request["until"].encode(),
        files[0],
        files[1] if len(files) > 1 else -1,
    )
    for fd in files:
        os.close(fd)
    if error:
        raise OSError(error, os.strerror(error), request["root"])


def _end(code: int) -> None:
    """End as an interpreter does: threads joined, exit functions run, under the fault too."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - a child must never return into the server
        traceback.print_exc()
        code = code or 1
    finally:
        os._exit(code)


if __name__ == "__main__":
    main()
