"""From a URL and storage options to the obstore client behind them.

Options may be spelled as s3fs spells them (`key`, `secret`, `client_kwargs`, ...) or as obstore
does; what neither of them knows is refused. The usual AWS_* variables, the shared configuration
files and profiles are looked at where nothing was given, as botocore does it.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from savers._stores._secrets import masked, secrets_of, without_secrets
from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Bucket", "open_bucket"]

#: Seconds in which a connection stands, and a request ends.
CONNECT_TIMEOUT, TIMEOUT = 5, 60
#: Settings of s3fs that have no meaning here: its caches, its own retries and block sizes.
_WITHOUT_MEANING = (
    "asynchronous", "batch_size", "cache_regions", "default_block_size", "default_cache_type",
    "default_fill_cache", "fixed_upload_size", "loop", "max_concurrency", "protocol",
    "skip_instance_cache", "use_listings_cache", "version_aware", "username", "password",
)  # fmt: skip
_S3FS = {
    "key": "access_key_id",
    "secret": "secret_access_key",
    "token": "session_token",
    "anon": "skip_signature",
    "endpoint_url": "endpoint",
    "endpoint": "endpoint",
    "region": "region",
    "requester_pays": "request_payer",
}
_CLIENT_KWARGS = {
    "aws_access_key_id": "access_key_id",
    "aws_secret_access_key": "secret_access_key",
    "aws_session_token": "session_token",
    "endpoint_url": "endpoint",
    "region_name": "region",
}


class Bucket:
    """A bucket that can be spoken to.

    Attributes
    ----------
    client : obstore store
        Of the whole bucket.
    url, path : str
        Without credentials: of the bucket, and the path within it.
    identity : str
        The same for two ways of writing the same place.
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
        self.identity = f"{endpoint} {url}/{path}".strip()
        self.secrets = secrets
        self.budget = budget


def open_bucket(url: str, options: Mapping[str, Any] | None) -> Bucket:
    """Return the bucket of a URL. Nothing is contacted.

    Raises
    ------
    InvalidInputError
        The URL names no bucket, or an option is not known.
    """
    secrets, shown = secrets_of(url, options), without_secrets(url)
    from obstore.exceptions import BaseError

    given = dict(options or {})
    budget = _budget(given)
    scheme, _, rest = shown.partition("://")
    bucket, _, path = rest.partition("/")
    if not bucket:
        message = f"expected {scheme}://bucket/path, got {shown!r}"
        raise InvalidInputError(message)
    root = f"{scheme}://{bucket}"
    try:
        client, endpoint = _opener(scheme)(_root(url), given, {"retry_config": {"max_retries": 0}})
    except InvalidInputError:
        raise
    except (BaseError, TypeError, ValueError) as error:
        message = f"can't use {shown}: {masked(_first_line(error), secrets)}"
        raise InvalidInputError(message) from None
    return Bucket(client, root, path.strip("/"), endpoint, secrets, budget)


def open_reader(url: str, options: Mapping[str, Any] | None) -> Any:
    """Return an obstore client of a place in a bucket that retries by itself, for readers."""
    given = {name: value for name, value in (options or {}).items() if name != "retry_timeout"}
    scheme, _, rest = without_secrets(url).partition("://")
    prefix = rest.partition("/")[2].strip("/") or None
    return _opener(scheme)(_root(url), given, {"prefix": prefix})[0]


def _root(url: str) -> str:
    """Return the URL of the bucket; that of an HTTP server with user and password."""
    scheme, _, _rest = url.partition("://")
    if scheme in ("http", "https"):
        return f"{scheme}://{urlsplit(url).netloc}"
    return f"{scheme}://{without_secrets(url).partition('://')[2].partition('/')[0]}"


def _opener(scheme: str) -> Callable[[str, dict[str, Any], dict[str, Any]], tuple[Any, str]]:
    return _open_s3 if scheme == "s3" else _open_any


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


# -- S3 ------------------------------------------------------------------------------------------


def _open_s3(root: str, given: dict[str, Any], rest: dict[str, Any]) -> tuple[Any, str]:
    from obstore.store import S3Store

    client_options: Any = _client_options(given)
    config = _s3_config(given)
    endpoint = config.get("endpoint") or _endpoint_of_environment()
    if endpoint:
        config["endpoint"] = endpoint
        client_options.setdefault("allow_http", endpoint.startswith("http://"))
    provider = given.pop("credential_provider", None) or _provider(config, given)
    settings: Any = config
    client = S3Store(
        root.partition("://")[2], config=settings, client_options=client_options,
        credential_provider=provider, **rest,
    )  # fmt: skip
    return client, str(endpoint or "")


def _s3_config(given: dict[str, Any]) -> dict[str, Any]:
    """Return obstore's settings; what is left of `given` afterwards is no setting of the bucket."""
    for name in _WITHOUT_MEANING:
        given.pop(name, None)
    config = {new: given.pop(old) for old, new in _S3FS.items() if given.get(old) is not None}
    for old in _S3FS:
        given.pop(old, None)
    _take_client_kwargs(config, dict(given.pop("client_kwargs", None) or {}))
    _take_config_kwargs(config, dict(given.pop("config_kwargs", None) or {}))
    if given.pop("use_ssl", True) is False and config.get("endpoint", "").startswith("https://"):
        config["endpoint"] = "http://" + config["endpoint"].removeprefix("https://")
    for name in [name for name in given if name not in ("profile", "session")]:
        config[name] = given.pop(name)  # obstore's own spelling; it refuses what it doesn't know
    config.pop("bucket", None)
    return config


def _take_client_kwargs(config: dict[str, Any], given: dict[str, Any]) -> None:
    given.pop("verify", None)
    for old, new in _CLIENT_KWARGS.items():
        if given.get(old) is not None:
            config.setdefault(new, given[old])
        given.pop(old, None)
    if given:
        message = f"storage_options['client_kwargs'] has no {min(given)!r} here"
        raise InvalidInputError(message)


def _take_config_kwargs(config: dict[str, Any], given: dict[str, Any]) -> None:
    """Settings of botocore: only the style of addresses has a meaning here."""
    style = (given.get("s3") or {}).get("addressing_style")
    if style is not None:
        config.setdefault("virtual_hosted_style_request", style == "virtual")


def _endpoint_of_environment() -> str | None:
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _provider(config: dict[str, Any], given: dict[str, Any]) -> Any:
    """Return who fetches credentials where none were given: a profile, or the shared files."""
    profile = given.pop("profile", None)
    given.pop("session", None)
    if "access_key_id" in config or config.get("skip_signature"):
        return None
    asked = profile or os.environ.get("AWS_PROFILE")
    shared = os.environ.get("AWS_SHARED_CREDENTIALS_FILE", os.path.expanduser("~/.aws/credentials"))
    if not asked and (os.environ.get("AWS_ACCESS_KEY_ID") or not os.path.exists(shared)):
        return None
    return _botocore_provider(asked, config)


def _botocore_provider(profile: str | None, config: dict[str, Any]) -> Any:
    try:
        from botocore.exceptions import BotoCoreError
        from botocore.session import Session
    except ImportError:
        message = "profiles need botocore: pip install 'tasksavers[s3]', or give key and secret"
        raise InvalidInputError(message) from None
    session = Session(profile=profile)
    try:
        region, credentials = session.get_config_variable("region"), session.get_credentials()
    except BotoCoreError as error:
        raise InvalidInputError(str(error)) from None
    if region:
        config.setdefault("region", region)
    if credentials is None:
        message = f"found no credentials in the profile {profile or 'default'!r}"
        raise InvalidInputError(message)
    return _Frozen(credentials)


class _Frozen:
    """Credentials of botocore, which renews them where they end, for obstore."""

    def __init__(self, credentials: Any) -> None:
        self.credentials = credentials

    def __call__(self) -> dict[str, Any]:
        from datetime import UTC, datetime

        now = self.credentials.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=10),
        }


# -- the others ----------------------------------------------------------------------------------


def _open_any(root: str, given: dict[str, Any], rest: dict[str, Any]) -> tuple[Any, str]:
    from obstore.store import from_url

    client_options: Any = _client_options(given)
    client_options.setdefault("allow_http", root.startswith("http://"))
    prefix = rest.pop("prefix", None)
    url = f"{root}/{prefix}" if prefix else root
    settings: Any = given or None
    return from_url(url, config=settings, client_options=client_options, **rest), ""
