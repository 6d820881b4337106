"""The part of Google Cloud Storage's XML API that savers use, as its documentation describes it.

This is a model made for these tests, not Google's server and not an emulator by others: none of
those that can be installed here looks at `x-goog-if-generation-match` in an XML request. What it
shows is that our requests are those of the documentation and that its answers are understood.

Source: cloud.google.com/storage/docs, "XML API" (request headers, status codes, list objects).
"""

from __future__ import annotations

import hashlib
import sys
import threading
import urllib.request
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.serverprocess import ServerProcess, free_ports

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


class Buckets:
    """What it holds, and what it answers."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, Object]] = {}
        self._generation = 1_700_000_000_000_000
        self._mutex = threading.Lock()

    def answer(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Return the answer to a request; names of headers are in lower case."""
        parts = urlsplit(target)
        bucket, _, key = map(unquote, parts.path.lstrip("/").partition("/"))
        given = headers.get("authorization")
        if given != f"Bearer {TOKEN}" and (given or method != "GET"):  # anybody may read
            return _error(401, "AuthenticationRequired")
        with self._mutex:
            if method == "PUT" and not key:
                self.buckets.setdefault(bucket, {})
                return Answer(200)
            objects = self.buckets.get(bucket)
            if objects is None:
                return _error(404, "NoSuchBucket")
            if not key:
                return _listing(objects, {name: v[0] for name, v in parse_qs(parts.query).items()})
            return self._of_object(method, objects, key, headers, body)

    def _of_object(
        self, method: str, objects: dict[str, Object], key: str, headers: Mapping[str, str],
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


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    buckets: Buckets

    def _serve(self) -> None:
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if len(body) < size:  # cut on its way: nothing of it counts
            self.close_connection = True
            return
        given = {name.lower(): value for name, value in self.headers.items()}
        status, data, headers = self.buckets.answer(self.command, self.path, given, body)
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


class GcsModel(ServerProcess):
    """The model in a process of its own; what it holds goes when it ends."""

    secret = TOKEN
    scheme = "gs"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.cwd = Path(__file__).parents[1]
        (self.port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.gcsmodel", str(self.port)]

    def url(self, bucket: str, path: str = "") -> str:
        """Return what names a place there."""
        return f"gs://{bucket}/{path}"

    def environment(self) -> dict[str, str]:
        """Return the variables that obstore looks at."""
        return {"GOOGLE_BASE_URL": self.endpoint, "GOOGLE_BEARER_TOKEN": TOKEN}

    def options(self, endpoint: str | None = None) -> dict[str, object]:
        """Return storage options in the spelling of gcsfs."""
        return {"token": TOKEN, "endpoint_url": endpoint or self.endpoint}

    def store(self, bucket: str, prefix: str = "") -> object:
        """Return an obstore store that gives up soon."""
        from obstore.store import GCSStore

        return GCSStore(
            bucket, prefix=prefix or None, base_url=self.endpoint, bearer_token=TOKEN,
            client_options={"allow_http": True}, retry_config={"max_retries": 0},
        )  # fmt: skip

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket; no error where it is."""
        headers = {"Authorization": f"Bearer {TOKEN}"}
        request = urllib.request.Request(f"{self.endpoint}/{bucket}", method="PUT", headers=headers)
        urllib.request.urlopen(request, timeout=10).close()


def main() -> None:
    """Serve until the end."""
    Handler.buckets = Buckets()
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main()
