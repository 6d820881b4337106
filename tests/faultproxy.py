"""An HTTP proxy that misbehaves: in front of a server, on a free port of this machine.

Requests are counted by kind (PUT, GET, HEAD, LIST, DELETE, POST), delayed by `delay` seconds, and
hit by a fault with the probability `rate`, or by those that `plan` names one after the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import Counter, deque
from urllib.parse import unquote

__all__ = ["FAULTS", "FaultProxy"]

FAULTS = ("500", "503", "reset before", "reset after", "cut answer", "cut request", "stall",
          "stall after", "duplicate", "late")  # fmt: skip
_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
    "<Message>on purpose</Message></Error>"
)


class Request:
    """One request as it came: its head, its body, and what kind it is."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.head, self.body = head, body
        self.method, target = head.split(b" ", 2)[:2]
        self.target = unquote(target.decode())  # Google's keys come with their slashes quoted

    @property
    def kind(self) -> str:
        asks = "list-type=" in self.target or "comp=list" in self.target
        listing = self.method == b"GET" and asks
        return "LIST" if listing else self.method.decode()


class FaultProxy:
    """Serves in a thread of its own until `close`."""

    def __init__(self, port: int, *, seed: int = 0, rate: float = 0.0, delay: float = 0.0,
                 stall: float = 4.0, latest: float = 2.0,
                 faults: tuple[str, ...] = FAULTS) -> None:  # fmt: skip
        self.upstream = port
        self.rate, self.delay, self.stall, self.faults = rate, delay, stall, faults
        self.latest = latest
        self.random = random.Random(seed)
        self.plan: deque[tuple[str, str]] = deque()  # (part of the target, fault)
        self.counts: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.log: list[tuple[str, str]] = []
        self.busy = self.most = 0  # requests under way, now and at most
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), name="fault-proxy")
        self._thread.start()
        ready.wait()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._client, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.run_until_complete(server.wait_closed())
        self._loop.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _fault(self, request: Request) -> str:
        if self.plan and self.plan[0][0] in request.target:
            return self.plan.popleft()[1]
        return self.random.choice(self.faults) if self.random.random() < self.rate else ""

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while (request := await _read_request(reader, writer)) is not None:
                self.counts[request.kind] += 1
                self.log.append((request.kind, request.target))
                fault = self._fault(request)
                if fault:
                    self.struck[fault] += 1
                self.busy += 1
                self.most = max(self.most, self.busy)
                try:
                    goes_on = await self._delayed(request, fault, writer)
                finally:
                    self.busy -= 1
                if not goes_on:
                    break
            await writer.drain()
            writer.close()
        writer.transport.abort()

    async def _delayed(self, request: Request, fault: str, writer: asyncio.StreamWriter) -> bool:
        if self.delay:
            await asyncio.sleep(self.delay)
        return await self._answer(request, fault, writer)

    async def _answer(self, request: Request, fault: str, writer: asyncio.StreamWriter) -> bool:
        """Deal with a request; return whether the connection goes on."""
        if fault in ("500", "503"):
            code, text = ("InternalError", "500 Error") if fault == "500" else ("SlowDown", "503 S")
            body = _ERROR.format(code=code).encode() if request.method != b"HEAD" else b""
            writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n" % (text.encode(), len(body)))
            writer.write(body)
            await writer.drain()
            return True
        if fault in ("reset before", "late"):
            if fault == "late":
                self._later(request)
            return _reset(writer)
        if fault == "stall":
            await asyncio.sleep(self.stall)
            return _reset(writer)
        if fault == "cut request":
            await self._forward(request, cut=True)
            return _reset(writer)
        answer = await self._forward(request)
        if fault == "duplicate":
            await self._forward(request)
        if fault == "reset after" or not answer:
            return _reset(writer)
        if fault == "stall after":
            await asyncio.sleep(self.stall)
            return _reset(writer)
        writer.write(answer[: len(answer) // 2] if fault == "cut answer" else answer)
        await writer.drain()
        return fault != "cut answer"

    def _later(self, request: Request) -> None:
        """The network keeps a request for a while, and delivers it although nobody waits."""

        async def deliver() -> None:
            await asyncio.sleep(self.random.uniform(0.2, self.latest))
            await self._forward(request)

        task = self._loop.create_task(deliver())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forward(self, request: Request, *, cut: bool = False) -> bytes:
        """Send a request to the server; return its answer, nothing where there was none."""
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        except OSError:
            return b""
        try:
            writer.write(request.head)
            writer.write(request.body[: len(request.body) // 2] if cut else request.body)
            await writer.drain()
            return b"" if cut else await _read_answer(reader, request.method)
        except (OSError, asyncio.IncompleteReadError):
            return b""
        finally:
            writer.transport.abort()


def _reset(writer: asyncio.StreamWriter) -> bool:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    return False


def _headers(head: bytes) -> dict[bytes, bytes]:
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in lines}


async def _read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    headers = _headers(head)
    if headers.get(b"expect", b"").lower() == b"100-continue":  # botocore waits for that
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return Request(head, await _read_body(reader, headers))


async def _read_answer(reader: asyncio.StreamReader, method: bytes) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status == 100:
        return await _read_answer(reader, method)
    if method == b"HEAD" or status in (204, 304):
        return head
    return head + await _read_body(reader, _headers(head))


async def _read_body(reader: asyncio.StreamReader, headers: dict[bytes, bytes]) -> bytes:
    if headers.get(b"transfer-encoding", b"").lower() != b"chunked":
        return await reader.readexactly(int(headers.get(b"content-length", 0)))
    parts = []
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        parts += [line, await reader.readexactly(size + 2)]
        if not size:
            return b"".join(parts)
