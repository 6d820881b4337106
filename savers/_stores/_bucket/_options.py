"""From a URL and storage options to the obstore client behind them.

Options may be spelled as s3fs, adlfs and gcsfs spell them (`key`, `secret`, `client_kwargs`, ...)
or as obstore does; what neither of them knows is refused.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from savers._stores._bucket._azure import open_azure, spelled_short
from savers._stores._bucket._gcs import open_gcs
from savers._stores._bucket._s3 import open_s3
from savers._stores._bucket._spellings import FSSPEC, Spelling
from savers._stores._secrets import masked, secrets_of, without_secrets
from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Bucket", "open_bucket", "open_reader"]

#: Seconds in which a connection stands, and a request ends.
CONNECT_TIMEOUT, TIMEOUT = 5, 60


class Bucket:
    """A bucket that can be spoken to.

    Attributes
    ----------
    client : obstore store
        Of the whole bucket.
    url, path : str
        Without credentials: of the bucket, and the path within it.
    where, identity : str
        The bucket, and the place in it: the same for two ways of writing the same.
    secrets : frozenset of str
    budget : float or None
        Seconds in which a request is tried again, where the options say so.
    """

    def __init__(
        self, client: Any, url: str, path: str, endpoint: str, secrets: frozenset[str],
        budget: float | None,
    ) -> None:  # fmt: skip
        self.client = client
        self.url = url
        self.path = path
        self.where = f"{endpoint} {url}".strip()
        self.identity = f"{self.where}/{path}"
        self.secrets = secrets
        self.budget = budget


def open_bucket(url: str, options: Mapping[str, Any] | None) -> Bucket:
    """Return the bucket of a URL. Nothing is contacted.

    Raises
    ------
    InvalidInputError
        The URL names no bucket, or an option is not known.
    """
    from obstore.exceptions import BaseError

    secrets = secrets_of(url, options)
    url, given = _spelled_short(url, options)
    shown = without_secrets(url)
    budget = _budget(given)
    scheme, _, rest = shown.partition("://")
    bucket, _, path = rest.partition("/")
    if not bucket:
        message = f"expected {scheme}://bucket/path, got {shown!r}"
        raise InvalidInputError(message)
    try:
        client, endpoint = _open(url, given, retry_config={"max_retries": 0})
    except InvalidInputError:
        raise
    except (BaseError, TypeError, ValueError) as error:
        message = f"can't use {shown}: {masked(_first_line(error), secrets)}"
        raise InvalidInputError(message) from None
    return Bucket(client, f"{scheme}://{bucket}", path.strip("/"), endpoint, secrets, budget)


def open_reader(url: str, options: Mapping[str, Any] | None) -> Any:
    """Return an obstore client of a place in a bucket that retries by itself, for readers."""
    url, given = _spelled_short(url, options)
    given.pop("retry_timeout", None)
    prefix = without_secrets(url).partition("://")[2].partition("/")[2].strip("/") or None
    return _open(url, given, prefix=prefix)[0]


def _spelled_short(url: str, options: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Return ``scheme://bucket/path`` and all settings: an URL of Azure may name the account."""
    if not url.startswith("az://"):
        return url, dict(options or {})
    short, settings = spelled_short(url)
    return short, settings | dict(options or {})


def _open(url: str, given: dict[str, Any], **rest: Any) -> tuple[Any, str]:
    scheme = url.partition("://")[0]
    client_options = _client_options(given)
    if scheme in ("http", "https"):
        return _open_http(url, given, client_options, **rest)
    bucket = without_secrets(url).partition("://")[2].partition("/")[0]
    return _OPENERS[scheme](f"{scheme}://{bucket}", given, client_options, **rest)


_OPENERS = {"s3": open_s3, "gs": open_gcs, "az": open_azure}


def _open_http(
    url: str, given: dict[str, Any], client_options: dict[str, Any], prefix: str | None = None,
    **rest: Any,
) -> tuple[Any, str]:  # fmt: skip
    """Return obstore's client of a server that is read from; user and password go with it."""
    from obstore.store import HTTPStore

    Spelling("storage_options", {}, idle=FSSPEC, closed=True).settings(given)
    scheme = url.partition("://")[0]
    client_options.setdefault("allow_http", scheme == "http")
    root = f"{scheme}://{urlsplit(url).netloc}"
    options: Any = client_options
    client = HTTPStore(f"{root}/{prefix}" if prefix else root, client_options=options, **rest)
    return client, ""


def _first_line(error: Exception) -> str:
    return str(error).split("\n", maxsplit=1)[0]


def _budget(given: dict[str, Any]) -> float | None:
    """Take the one option that is ours: for how many seconds a request is tried again."""
    asked = given.pop("retry_timeout", None)
    if isinstance(asked, timedelta):
        return asked.total_seconds()
    if asked is None or (isinstance(asked, (int, float)) and asked >= 0):
        return asked
    message = f"expected storage_options['retry_timeout'] in seconds, got {asked!r}"
    raise InvalidInputError(message)


def _client_options(given: dict[str, Any]) -> dict[str, Any]:
    """Return settings of the connection: it gives up on a stall."""
    client_options = dict(given.pop("client_options", None) or {})
    client_options.setdefault("connect_timeout", timedelta(seconds=CONNECT_TIMEOUT))
    client_options.setdefault("timeout", timedelta(seconds=TIMEOUT))
    return client_options
