"""A server in a process of its own, for tests: started once, ended by its id."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["ServerProcess", "free_ports"]

STARTS_WITHIN = 90.0


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on, whose gRPC twins (10000 above) are free as well."""
    found: list[int] = []
    with ExitStack() as stack:
        while len(found) < count:
            one = stack.enter_context(socket.socket())
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            if port < 55_000 and _is_free(port + 10_000):
                found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


class ServerProcess:
    """The server process; `kill` and `start` again keep its data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cwd = folder
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir(parents=True, exist_ok=True)

    def command(self) -> list[str]:
        """Return what starts it; an error where it is not installed."""
        raise NotImplementedError

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket; no error where it is."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it does what it is asked for."""
        try:
            self.make_bucket("ready")
        except OSError:
            return False
        return True

    def start(self) -> None:
        """Start, and return once requests are answered."""
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.cwd
            )
        deadline = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < deadline and self._process.poll() is None:
            if self.answers():
                return
            time.sleep(0.1)
        self.kill()
        log_end = (self.folder / "log.txt").read_text()[-3000:]
        raise RuntimeError(f"{self.command()[0]} did not start:\n{log_end}")

    def kill(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the process, at once by default; its files stay."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def close(self) -> None:
        """End the process and remove its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextmanager
    def running(self) -> Iterator[Self]:
        """Start it; end it and remove its files in any case."""
        try:
            self.start()
            yield self
        finally:
            self.close()

    def __getstate__(self) -> dict[str, object]:
        """What another process needs to speak to it; ending it is not among that."""
        return {**self.__dict__, "_process": None}

    @property
    def pid(self) -> int:
        """The process of the server, 0 while there is none."""
        return self._process.pid if self._process is not None else 0
