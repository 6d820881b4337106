"""The part of Google Cloud Storage's XML API that savers use, as its documentation describes it.

This is a model made for these tests, not Google's server and not an emulator by others: none of
those that can be installed here looks at `x-goog-if-generation-match` in an XML request. What it
shows is that our requests are those of the documentation and that its answers are understood.

Source: cloud.google.com/storage/docs, "XML API" (request headers, status codes, list objects).
"""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

__all__ = ["TOKEN", "GcsModel"]

TOKEN = "tasksavers-gcs-token"
#: Answers of a listing come in pages; the real ones hold 1000 objects.
PAGE = 25


class Object(NamedTuple):
    data: bytes
    generation: int

    @property
    def headers(self) -> dict[str, str]:
        e_tag = hashlib.md5(self.data).hexdigest()
        return {"ETag": f'"{e_tag}"', "x-goog-generation": str(self.generation),
                "Last-Modified": "Sat, 01 Nov 2025 00:00:00 GMT"}  # fmt: skip


class Answer(NamedTuple):
    status: int
    body: bytes = b""
    headers: dict[str, str] = {}  # noqa: RUF012 -- never changed


def _error(status: int, code: str) -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())


class GcsModel:
    """Serves in threads of this process, from `start` to `close`."""

    scheme = "gs"

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Object]] = {}
        self.headers: list[tuple[str, str, dict[str, str]]] = []  # method, path, headers
        self._generation = 1_700_000_000_000_000
        self._mutex = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __getstate__(self) -> dict[str, object]:
        """What another process needs to speak to it."""
        return {"endpoint": self.endpoint, "port": self.port, "buckets": {}}

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    # -- ways to speak to it -----------------------------------------------------------------------

    def url(self, bucket: str, path: str = "") -> str:
        return f"gs://{bucket}/{path}"

    def environment(self) -> dict[str, str]:
        return {"GOOGLE_BASE_URL": self.endpoint, "GOOGLE_BEARER_TOKEN": TOKEN}

    def options(self, endpoint: str | None = None) -> dict[str, object]:
        """Return storage options in the spelling of gcsfs."""
        return {"token": TOKEN, "endpoint_url": endpoint or self.endpoint}

    def store(self, bucket: str, prefix: str = "") -> object:
        from obstore.store import GCSStore

        return GCSStore(
            bucket, prefix=prefix or None, base_url=self.endpoint, bearer_token=TOKEN,
            client_options={"allow_http": True}, retry_config={"max_retries": 0},
        )  # fmt: skip

    def make_bucket(self, bucket: str) -> None:
        self.buckets.setdefault(bucket, {})

    # -- what it answers ---------------------------------------------------------------------------

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        parts = urlsplit(target)
        bucket, _, key = parts.path.lstrip("/").partition("/")
        with self._mutex:
            self.headers.append((method, unquote(parts.path), headers))
            objects = self.buckets.get(bucket)
            asked = headers.get("authorization", f"Bearer {TOKEN}" if method == "GET" else "")
            if asked != f"Bearer {TOKEN}":
                return _error(401, "AuthenticationRequired")
            if objects is None:
                return _error(404, "NoSuchBucket")
            if not key:
                return _listing(objects, {name: v[0] for name, v in parse_qs(parts.query).items()})
            return self._of_object(method, objects, unquote(key), headers, body)

    def _of_object(
        self, method: str, objects: dict[str, Object], key: str, headers: dict[str, str],
        body: bytes,
    ) -> Answer:  # fmt: skip
        found = objects.get(key)
        if method == "PUT":
            asked = headers.get("x-goog-if-generation-match")
            if asked is not None and int(asked) != (found.generation if found else 0):
                return _error(412, "PreconditionFailed")
            self._generation += 1
            objects[key] = Object(body, self._generation)
            return Answer(200, b"", objects[key].headers)
        if found is None:
            return _error(404, "NoSuchKey")
        if method == "DELETE":
            del objects[key]
            return Answer(204)
        return _part(found, headers.get("range", ""))

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                given = {name.lower(): value for name, value in self.headers.items()}
                status, data, headers = model.answer(self.command, self.path, given, body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_PUT = do_DELETE = do_HEAD = _serve  # noqa: N815 -- names of http.server

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        return Handler


def _part(found: Object, asked: str) -> Answer:
    if not asked:
        return Answer(200, found.data, found.headers)
    first, _, last = asked.removeprefix("bytes=").partition("-")
    size = len(found.data)
    start = int(first) if first else max(0, size - int(last))
    stop = min(int(last) + 1, size) if first and last else size
    if start >= size:
        return _error(416, "InvalidRange")
    place = {"Content-Range": f"bytes {start}-{stop - 1}/{size}"}
    return Answer(206, found.data[start:stop], found.headers | place)


def _listing(objects: dict[str, Object], asked: dict[str, str]) -> Answer:
    prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
    keys = [key for key in sorted(objects) if key.startswith(prefix)]
    if delimiter:
        ends = {key: key.find(delimiter, len(prefix)) for key in keys}
        folders = sorted({key[: end + 1] for key, end in ends.items() if end >= 0})
        keys = [key for key in keys if ends[key] < 0]
    else:
        folders = []
    names = [
        name for name in sorted([*keys, *folders]) if name > asked.get("continuation-token", "")
    ]
    page = names[:PAGE]
    more = len(names) > PAGE
    lines = [_entry(name, objects[name]) if name in objects and name not in folders
             else f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
             for name in page]  # fmt: skip
    token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
    text = f"<ListBucketResult>{token}{''.join(lines)}</ListBucketResult>"
    return Answer(200, text.encode(), {"Content-Type": "application/xml"})


def _entry(key: str, found: Object) -> str:
    return (
        f"<Contents><Key>{escape(key)}</Key><Size>{len(found.data)}</Size>"
        f"<LastModified>2025-11-01T00:00:00.000Z</LastModified>"
        f"<ETag>{escape(found.headers['ETag'])}</ETag></Contents>"
    )
