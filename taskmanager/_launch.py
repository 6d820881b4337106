"""The driver's side of `_forker`: start workers, kill them, hear of their end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import suppress
from socket import MSG_DONTWAIT
from typing import TYPE_CHECKING, Any

from taskmanager._arena import ARENA_BYTES, anonymous_file, map_arena
from taskmanager._forker import COMMAND
from taskmanager._limits import numeric_threads

if TYPE_CHECKING:
    from mmap import mmap

    from taskmanager._pickling import Parcel

__all__ = ["Launcher"]

_END_SECONDS = 5.0


class Launcher:
    """Make worker processes of one plan.

    Parameters
    ----------
    parcel : Parcel
        The pickled plan and what to import for it.
    workers : int
        How many share the cores.
    """

    def __init__(self, parcel: Parcel, workers: int) -> None:
        self._line, theirs = socket.socketpair()
        self._text = b""
        plan = _file_with(parcel.preparation + parcel.payload)
        with theirs:
            numbers = (theirs.fileno(), plan, len(parcel.preparation))
            self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                [sys.executable, "-c", COMMAND, json.dumps(sys.path), *map(str, numbers)],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **numeric_threads(workers)},
                pass_fds=(theirs.fileno(), plan),
                process_group=0,  # Ctrl-C in the terminal is for the driver
            )
        os.close(plan)

    @property
    def code(self) -> int | None:
        """How the forker ended, negative for a signal; None while it runs."""
        return self._process.returncode

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there are reports."""
        return self._line.fileno()

    def start(self, key: int, worker_id: int) -> tuple[socket.socket, mmap]:
        """Order a worker; return our end of its pipe and the memory shared with it."""
        ours, theirs = socket.socketpair()
        arena = anonymous_file(ARENA_BYTES)
        memory = map_arena(arena)
        order = json.dumps({"start": key, "worker_id": worker_id}).encode() + b"\n"
        with theirs, suppress(ConnectionError):  # `reports` tells of a forker that is gone
            socket.send_fds(self._line, [order], [theirs.fileno(), arena])
        os.close(arena)
        return ours, memory

    def kill(self, key: int) -> None:
        """Kill a worker and what it started; its end is reported."""
        with suppress(ConnectionError):
            self._line.sendall(json.dumps({"kill": key}).encode() + b"\n")

    def reports(self) -> list[dict[str, Any]]:
        """Return what there is to say, without waiting.

        Each is ``{"started": key, "pid": ...}``, ``{"ended": key, "code": ...}`` or
        ``{"failed": traceback}``.

        Raises
        ------
        EOFError
            The forker is gone, and all workers with it.
        """
        try:
            data = self._line.recv(1 << 16, MSG_DONTWAIT)
        except BlockingIOError:
            return []
        except ConnectionError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        *lines, self._text = (self._text + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def close(self) -> None:
        """Hang up, which kills all workers that are left, and wait until they are gone."""
        with suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)  # also where a fork of the driver holds a copy
        self._line.close()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _file_with(content: bytes) -> int:
    fd = anonymous_file(0)
    with open(fd, "wb", closefd=False) as file:
        file.write(content)
    return fd
