"""Credentials in URLs and storage options: found, and kept out of every text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

__all__ = ["harmless", "masked", "secrets_of", "shows", "without_secrets"]

#: Texts shorter than this would mask half of every message.
SHORTEST_SECRET = 4
#: Storage options that messages may show.
HARMLESS = (
    "account_host",
    "account_name",
    "addressing_style",
    "asynchronous",
    "base_url",
    "bucket",
    "endpoint",
    "endpoint_url",
    "profile",
    "project",
    "protocol",
    "region",
    "region_name",
    "signature_version",
)


def without_secrets(url: str) -> str:
    """Return a URL without user, password, query and fragment.

    >>> without_secrets("https://me:secret@host/x?sig=1")
    'https://host/x'
    >>> without_secrets("abfss://container@account.dfs.core.windows.net/x")
    'abfss://container@account.dfs.core.windows.net/x'
    """
    place = re.split(r"[?#]", url, maxsplit=1)[0]
    return place if re.match(r"(abfss?|az)://[^/:@]+@", place) else re.sub(r"//[^/]*@", "//", place)


def secrets_of(url: str, options: Mapping[str, Any] | None) -> frozenset[str]:
    """Return the texts of a URL and of storage options that nobody else may read."""
    parts, texts = urlsplit(url), [*_texts(options)]
    found = [parts.password, *(value for _, value in parse_qsl(parts.query)), *texts]
    for text in texts:  # connection strings and signatures of Azure
        found += re.findall(r"(?:AccountKey|SharedAccessSignature|sig)=([^;&]+)", text)
    return frozenset(text for text in found if text and len(text) >= SHORTEST_SECRET)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            if name not in HARMLESS:
                yield from _texts(part)


def harmless(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the storage options that anybody may see.

    >>> harmless({"key": "me", "anon": False, "client_kwargs": {"endpoint_url": "http://here"}})
    {'anon': False, 'client_kwargs': {'endpoint_url': 'http://here'}}
    """
    kept: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            kept[name] = harmless(value)
        elif name in HARMLESS or isinstance(value, (int, float, type(None))):
            kept[name] = value
    return kept


def masked(text: str, secrets: Collection[str]) -> str:
    """Return a text with every secret replaced by asterisks."""
    for secret in secrets:
        text = text.replace(secret, "***").replace(quote(secret, safe=""), "***")
    return text


def shows(error: BaseException | None, secrets: Collection[str]) -> bool:
    """Return whether an error, or one behind it, shows a secret."""
    while error is not None:
        text = f"{error}{error!r}"
        if masked(text, secrets) != text:
            return True
        error = error.__cause__ or error.__context__
    return False
