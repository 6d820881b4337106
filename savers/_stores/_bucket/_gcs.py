"""A bucket of Google Cloud Storage: settings as gcsfs and Google's own tools spell them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from datetime import UTC
from typing import Any

from savers._stores._bucket._spellings import FSSPEC, Spelling
from savers.errors import InvalidInputError

__all__ = ["open_gcs"]

GCSFS = Spelling(
    "storage_options",
    same={"endpoint_url": "base_url"},
    idle=FSSPEC | {"access", "block_size", "bucket", "cache_timeout", "check_connection",
                   "consistency", "default_location", "project", "secure_serialize"},
    refused={
        "requester_pays": "give client_options={'default_headers': {'x-goog-user-project': ...}}",
        "requests_timeout": "give client_options={'timeout': '60s'}",
        "session_kwargs": "give client_options",
        "timeout": "give client_options={'timeout': '60s'}",
    },
)  # fmt: skip


def open_gcs(
    root: str, given: dict[str, Any], client_options: dict[str, Any], **rest: Any
) -> tuple[Any, str]:
    """Return obstore's client of a bucket, and its endpoint.

    Raises
    ------
    InvalidInputError
        A setting is not known, or can't be kept.
    """
    from obstore.store import GCSStore

    provider, token = given.pop("credential_provider", None), given.pop("token", None)
    if hasattr(token, "refresh"):  # credentials of google.auth
        provider, token = _Tokens(token), None
    config = GCSFS.settings(given) | _of_token(token)
    _require_no_mixture(config)
    endpoint = config.get("base_url") or os.environ.get("GOOGLE_BASE_URL") or ""
    client_options.setdefault("allow_http", endpoint.startswith("http://"))
    settings: Any = config
    options: Any = client_options
    bucket = root.partition("://")[2]
    client = GCSStore(
        bucket, config=settings, client_options=options, credential_provider=provider, **rest
    )
    return client, endpoint


def _require_no_mixture(config: dict[str, Any]) -> None:
    """What was given comes before the environment; obstore takes a token there first of all."""
    files = {"application_credentials", "service_account", "service_account_key"} & config.keys()
    if files and os.environ.get("GOOGLE_BEARER_TOKEN"):
        message = "GOOGLE_BEARER_TOKEN would be used, not the account that was given: unset it"
        raise InvalidInputError(message)
    if files or "bearer_token" in config:
        config.setdefault("skip_signature", False)


def _of_token(token: object) -> dict[str, Any]:
    """Return what the many meanings of gcsfs' `token` are to obstore."""
    if token in (None, "google_default", "cloud"):
        return {}  # where Google's libraries look, too: variables, gcloud's file, the machine's own
    if token == "anon":  # noqa: S105 -- a word of gcsfs
        return {"skip_signature": True}
    if token in ("browser", "cache"):
        message = f"token={token!r} is not supported: run 'gcloud auth application-default login'"
        raise InvalidInputError(message)
    if isinstance(token, Mapping):
        if token.get("type") == "service_account":
            return {"service_account_key": json.dumps(dict(token))}
        message = "a token of this kind is not supported as a mapping: give the path of its file"
        raise InvalidInputError(message)
    if isinstance(token, (str, os.PathLike)):
        path = os.fspath(token)
        return {"application_credentials": path} if os.path.exists(path) else {"bearer_token": path}
    message = f"expected storage_options['token'] as in gcsfs, got {type(token).__name__}"
    raise InvalidInputError(message)


class _Tokens:
    """Tokens of google.auth for obstore, which asks anew where they end."""

    def __init__(self, credentials: Any) -> None:
        self.credentials = credentials

    def __call__(self) -> dict[str, Any]:
        if not self.credentials.valid:
            from google.auth.transport.requests import Request

            self.credentials.refresh(Request())
        expiry = self.credentials.expiry
        return {"token": self.credentials.token,
                "expires_at": expiry and expiry.replace(tzinfo=UTC)}  # fmt: skip
