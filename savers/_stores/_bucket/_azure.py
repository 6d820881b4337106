"""A container of Azure's blob storage: settings as adlfs and Azure's own tools spell them."""

from __future__ import annotations

import base64
import inspect
import os
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from savers._stores._bucket._spellings import FSSPEC, Given, Spelling
from savers.errors import InvalidInputError

__all__ = ["open_azure", "spelled_short"]

ADLFS = Spelling(
    "storage_options",
    same={"anon": "skip_signature", "sas_token": "sas_key"},
    idle=FSSPEC | {"assume_container_exists", "blocksize", "container_name", "socket_timeout"},
    refused={
        "request_session": "give client_options",
        "connection_timeout": "give client_options={'connect_timeout': '5s'}",
        "read_timeout": "give client_options={'timeout': '60s'}",
        "timeout": "give client_options={'timeout': '60s'}",
        "max_single_put_size": "objects go in one PUT each",
    },
)
#: The parts of a connection string that are settings here.
CONNECTION = Spelling(
    "connection_string",
    same={
        "AccountName": "account_name",
        "AccountKey": "account_key",
        "SharedAccessSignature": "sas_key",
        "BlobEndpoint": "endpoint",
    },
    idle=frozenset({"DefaultEndpointsProtocol", "EndpointSuffix", "FileEndpoint", "QueueEndpoint",
                    "TableEndpoint", "DfsEndpoint", "BlobSecondaryEndpoint"}),
    refused={"UseDevelopmentStorage": "give account_name, account_key and endpoint"},
    closed=True,
)  # fmt: skip
#: What says who asks: where one of them is given, the environment is not looked at.
_CREDENTIALS = ("account_key", "sas_key", "token", "client_id", "skip_signature")


def spelled_short(url: str) -> tuple[str, dict[str, Any]]:
    """Return ``az://container/path`` and the account, of whatever way to write a place.

    >>> spelled_short("abfss://runs@lab.dfs.core.windows.net/a/b")
    ('az://runs/a/b', {'account_name': 'lab'})
    >>> spelled_short("az://runs/a/b")
    ('az://runs/a/b', {})
    """
    container, at, host = urlsplit(url).netloc.partition("@")
    if not at:
        return url, {}
    account, _, suffix = host.partition(".")
    settings = {"account_name": account}
    if suffix.partition(".")[2] != "core.windows.net":
        settings["endpoint"] = f"https://{account}.blob.{suffix.partition('.')[2]}"
    return f"az://{container}{urlsplit(url).path}", settings


def open_azure(
    root: str, given: dict[str, Any], client_options: dict[str, Any], **rest: Any
) -> tuple[Any, str]:
    """Return obstore's client of a container, and its account or endpoint.

    Raises
    ------
    InvalidInputError
        A setting is not known, or can't be kept.
    """
    from obstore.store import AzureStore

    provider = given.pop("credential_provider", None) or _provider(given)
    config = _config(given)
    if provider is None and not config.get("skip_signature"):
        provider = _given(config)
    account = config.get("account_name") or os.environ.get("AZURE_STORAGE_ACCOUNT_NAME")
    if not account:
        message = (
            f"{root}: expected the name of an account: give account_name or connection_string, "
            "or set AZURE_STORAGE_ACCOUNT_NAME"
        )
        raise InvalidInputError(message)
    endpoint = config.get("endpoint") or os.environ.get("AZURE_STORAGE_ENDPOINT") or ""
    client_options.setdefault("allow_http", endpoint.startswith("http://"))
    settings: Any = config
    options: Any = client_options
    container = root.partition("://")[2]
    client = AzureStore(
        container, config=settings, client_options=options, credential_provider=provider, **rest
    )
    return client, endpoint or account


def _given(config: dict[str, Any]) -> Given | None:
    """Return the credentials that were given, None where there are none."""
    names = {"token": "token", "account_key": "access_key", "sas_key": "sas_token"}
    for name, theirs in names.items():
        if name in config:
            config.setdefault("skip_signature", False)
            return Given(**{theirs: _checked(name, config.pop(name))})
    return None


def _checked(name: str, text: str) -> str:
    if name == "account_key":
        try:
            base64.b64decode(text, validate=True)
        except ValueError:
            message = "expected the account_key as Azure shows it, got a text that is not base64"
            raise InvalidInputError(message) from None
    return text


def _provider(given: dict[str, Any]) -> Any:
    """Return who fetches credentials where an object of azure-identity was given."""
    credential = given.get("credential")
    if credential is None or isinstance(credential, str):
        return None
    del given["credential"]
    ask = getattr(credential, "get_token", None)
    if ask is None or inspect.iscoroutinefunction(ask):
        kind = f"{type(credential).__module__}.{type(credential).__qualname__}"
        message = (
            "expected storage_options['credential'] as a text or as an object of azure.identity "
            f"(not of azure.identity.aio), got a {kind}"
        )
        raise InvalidInputError(message)
    return _Tokens(credential)


def _config(given: dict[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in given.items() if value is not None}
    text = given.pop("connection_string", None)
    host, credential = given.pop("account_host", None), given.pop("credential", None)
    if given.pop("location_mode", "primary") != "primary":
        message = "storage_options['location_mode'] is not supported: give the endpoint to use"
        raise InvalidInputError(message)
    config = ADLFS.settings(given)
    if credential is not None:  # adlfs takes the signature or the key of an account here
        config["sas_key" if "sig=" in credential else "account_key"] = credential
    if host is not None:
        config["endpoint"] = host if "://" in host else f"https://{host}"
    if text is None and not any(config.get(name) for name in _CREDENTIALS):
        text = os.environ.get("AZURE_STORAGE_CONNECTION_STRING")
    config = _of_connection_string(text or "") | config
    if not config.get("skip_signature", True):
        del config["skip_signature"]
    if "sas_key" in config:
        config["sas_key"] = str(config["sas_key"]).removeprefix("?")
    return config


def _of_connection_string(text: str) -> dict[str, Any]:
    parts = dict(part.split("=", 1) for part in text.strip(";").split(";") if "=" in part)
    config = CONNECTION.settings(parts)
    if "endpoint" not in config and "EndpointSuffix" in parts and "AccountName" in parts:
        protocol = parts.get("DefaultEndpointsProtocol", "https")
        config["endpoint"] = f"{protocol}://{parts['AccountName']}.blob.{parts['EndpointSuffix']}"
    return config


class _Tokens:
    """Tokens of azure-identity for obstore, which asks anew where they end."""

    def __init__(self, credential: Any) -> None:
        self.credential = credential

    def __call__(self) -> dict[str, Any]:
        found = self.credential.get_token("https://storage.azure.com/.default")
        return {"token": found.token, "expires_at": datetime.fromtimestamp(found.expires_on, UTC)}
