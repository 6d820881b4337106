"""An HTTP server that keeps what it is asked, to look at what a request carries."""

from __future__ import annotations

import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Asked", "Recorder"]


class Asked(NamedTuple):
    """A request: names of headers are in lower case."""

    method: str
    target: str
    headers: dict[str, str]


class Recorder:
    """Answers every request with `status` and `body`, or as `answers` says for its target."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.asked: list[Asked] = []
        self.status, self.body = 200, b""
        self.answers: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        scheme = "http" if certificate is None else "https"
        self.port = self._server.server_port
        self.endpoint = f"{scheme}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        recorder = self

        class Handler(BaseHTTPRequestHandler):  # of HTTP/1.0: every answer ends its connection
            def _serve(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                recorder.asked.append(Asked(self.command, self.path, headers))
                body = recorder.answers.get(self.path, recorder.body)
                self.send_response(recorder.status)
                for name, value in (("ETag", '"1"'), ("x-goog-generation", "1"),
                                    ("Content-Length", str(len(body)))):  # fmt: skip
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _serve  # noqa: N815 -- http.server's

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        return Handler
