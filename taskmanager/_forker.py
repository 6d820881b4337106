"""The process that makes workers: it imports what they need once, then forks them.

The driver itself is never forked: it has threads, and locks that they hold. This process has one
thread and does nothing else, so that forking it is safe. Where an import started threads, it
starts each worker as a new interpreter instead.

It lives no longer than its driver, and its workers live no longer than it.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import selectors
import signal
import socket
import sys
import traceback
import warnings
from contextlib import suppress
from importlib import import_module
from mmap import ACCESS_READ, mmap
from multiprocessing import spawn
from typing import Any, NoReturn

from taskmanager._limits import ignore_interrupts, kill_group
from taskmanager._worker import work

__all__ = ["COMMAND", "main"]

#: Python code that runs this module; its arguments follow.
COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from taskmanager import _forker; _forker.main(*map(int, sys.argv[2:]))"
)

#: Seconds between two looks whether the driver is still there, should its end go unnoticed.
_LOOK_SECONDS = 1.0

#: Descriptors that come with an order to start a worker: its pipe and its arena.
_DESCRIPTORS = 2


def main(sock: int, plan: int, plan_at: int, *worker: int) -> None:
    """Serve the driver at descriptor `sock`; or be the one worker that `worker` describes.

    The file `plan` holds what to import, and from byte `plan_at` on the pickled `TaskPlan`.
    """
    threads = _thread_count()
    ignore_interrupts()
    content = memoryview(mmap(plan, 0, access=ACCESS_READ))
    with socket.socket(fileno=sock) as line:
        if worker:
            _prepare(pickle.loads(content[:plan_at]))
            arena, worker_id, parent = worker
            work(line, arena, content[plan_at:], worker_id, parent)
            return
        try:
            _prepare(pickle.loads(content[:plan_at]))
        except BaseException:
            _tell(line, failed=traceback.format_exc())
            return
        forkable = _thread_count() <= threads  # NumPy's own threads are fit for forking
        _Forker(line, (plan, plan_at), content[plan_at:], forkable=forkable).serve()


def _thread_count() -> int:
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return 1


def _prepare(preparation: dict[str, Any]) -> None:
    """Import the driver's main script, where it is needed, and the modules of the task."""
    spawn.prepare(preparation["main"])
    for name in preparation["modules"]:
        with suppress(Exception):  # the worker that needs it will say what is wrong
            import_module(name)


def _tell(line: socket.socket, **report: object) -> None:
    line.sendall(json.dumps(report).encode() + b"\n")


class _Forker:
    """Orders come as JSON lines, with descriptors beside them; reports go back as JSON lines."""

    def __init__(
        self, line: socket.socket, plan: tuple[int, int], payload: memoryview, *, forkable: bool
    ) -> None:
        self._line = line
        self._plan = plan
        self._payload = payload
        self._forkable = forkable
        self._parent = os.getppid()
        self._keys: dict[int, int] = {}  # process id -> the driver's key of a worker
        self._text = b""
        self._fds: list[int] = []
        self._bell = socket.socketpair()
        for end in self._bell:
            end.setblocking(False)

    def serve(self) -> None:
        """Follow orders until the driver hangs up; then no worker is left."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._bell[1].fileno(), warn_on_full_buffer=False)
        gc.freeze()  # forked workers share these objects' memory
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._line, selectors.EVENT_READ)
        self._selector.register(self._bell[0], selectors.EVENT_READ)
        try:
            while os.getppid() == self._parent and self._step():
                pass
        except ConnectionError:
            pass
        finally:
            signal.set_wakeup_fd(-1)
            for pid in self._keys:
                kill_group(pid)

    def _step(self) -> bool:
        for key, _ in self._selector.select(_LOOK_SECONDS):
            if key.fileobj is self._bell[0]:
                with suppress(BlockingIOError):
                    self._bell[0].recv(4096)
            elif not self._take_orders():
                return False
        self._reap()
        return True

    def _take_orders(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._line, 1 << 16, 64)
        self._fds += fds
        *lines, self._text = (self._text + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if "start" in order:
                self._start(order["start"], order["worker_id"])
            else:
                self._kill(order["kill"])
        return bool(data)

    def _start(self, key: int, worker_id: int) -> None:
        fds, self._fds = self._fds[:_DESCRIPTORS], self._fds[_DESCRIPTORS:]
        pid = self._fork(worker_id, *fds) if self._forkable else self._spawn(worker_id, *fds)
        for fd in fds:
            os.close(fd)
        self._keys[pid] = key
        _tell(self._line, started=key, pid=pid)

    def _fork(self, worker_id: int, pipe: int, arena: int) -> int:
        parent = os.getpid()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # see `forkable`
            pid = os.fork()
        if pid == 0:
            self._become_worker(worker_id, pipe, arena, parent)
        return pid

    def _become_worker(self, worker_id: int, pipe: int, arena: int, parent: int) -> NoReturn:
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for end in (self._line, *self._bell):
                end.close()
            with socket.socket(fileno=pipe) as sock:
                work(sock, arena, self._payload, worker_id, parent)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(Exception):
                    stream.flush()
            os._exit(status)

    def _spawn(self, worker_id: int, pipe: int, arena: int) -> int:
        for fd in (pipe, arena, self._plan[0]):
            os.set_inheritable(fd, True)
        numbers = (pipe, *self._plan, arena, worker_id, os.getpid())
        arguments = [json.dumps(sys.path), *map(str, numbers)]
        command = [sys.executable, "-c", COMMAND, *arguments]
        return os.posix_spawn(sys.executable, command, os.environ)

    def _kill(self, key: int) -> None:
        for pid, own in self._keys.items():  # not reaped yet: the number is still its own
            if own == key:
                kill_group(pid)

    def _reap(self) -> None:
        for pid in list(self._keys):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                kill_group(pid)  # what its task had started
                code = os.waitstatus_to_exitcode(status)
                _tell(self._line, ended=self._keys.pop(pid), code=code)
