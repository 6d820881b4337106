"""A stretch of wire: bytes towards a server arrive so many seconds late, those back at once.

``python -m benchmarks.delay PORT SECONDS`` prints the port on which it listens, and ends with its
standard input. A process of its own, because in the one that is measured it would compete for the
interpreter with every contender written in Python, and with no other.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

#: Bytes in a socket's buffer.
READ_BYTES = 1 << 20


class Back(asyncio.Protocol):
    """The server's end: what it answers goes to the client."""

    def __init__(self, client: asyncio.WriteTransport) -> None:
        self.client = client

    def data_received(self, data: bytes) -> None:
        """Pass an answer on."""
        self.client.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the client's connection too."""
        del exc
        self.client.close()


class There(asyncio.Protocol):
    """A client's end: what it asks is kept for a while."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port, self.seconds = port, seconds
        self.loop = asyncio.get_running_loop()
        self.late: deque[tuple[float, bytes]] = deque()
        self.server: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server."""
        assert isinstance(transport, asyncio.WriteTransport)
        self.connecting = self.loop.create_task(self._connect(transport))

    async def _connect(self, client: asyncio.WriteTransport) -> None:
        self.server, _ = await self.loop.create_connection(
            lambda: Back(client), "127.0.0.1", self.port)  # fmt: skip
        self._pass_on()

    def data_received(self, data: bytes) -> None:
        """Keep bytes until they are due."""
        self.late.append((self.loop.time() + self.seconds, data))
        if len(self.late) == 1 and self.server is not None:
            self._pass_on()

    def _pass_on(self) -> None:
        assert self.server is not None
        now = self.loop.time()
        while self.late and self.late[0][0] <= now:
            self.server.write(self.late.popleft()[1])
        if self.late:
            self.loop.call_at(self.late[0][0], self._pass_on)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the server's connection too."""
        del exc
        if self.server is not None:
            self.server.close()


async def _serve(port: int, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: There(port, seconds), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


class Delay:
    """The wire, as a context: ``with Delay(port, 0.02) as endpoint``."""

    def __init__(self, port: int, seconds: float) -> None:
        command = [sys.executable, "-m", "benchmarks.delay", str(port), str(seconds)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> str:
        assert self.process.stdout is not None
        return f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.terminate()
        self.process.communicate()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), float(sys.argv[2])))
