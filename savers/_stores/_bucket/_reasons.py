"""What an error of obstore says: whether it may pass, in which words, and what helps."""

from __future__ import annotations

import errno
import re

__all__ = ["asks_for_less", "error_number", "may_pass", "no_bucket", "reason", "unreachable"]

#: Refusals that another attempt may not meet: time-outs, bodies that were cut, too many requests.
_PASSING = ("RequestTimeout", "IncompleteBody", "BadDigest", "SlowDown", "Timeout", "Conflict",
            "XAmzContentSHA256Mismatch")  # fmt: skip

_BUCKET = "make the bucket first, or correct its name"
_KEYS = "check the credentials (storage_options, environment, profile)"
_CLOCK = "set the clock of this machine"
_REGION = "give the region of the bucket (client_kwargs={'region_name': ...} or AWS_REGION)"
_REMEDIES = {
    "AccessDenied": "the credentials, or their absence, don't allow it",
    "AuthenticationFailed": _KEYS,
    "AuthenticationRequired": _KEYS,
    "AuthorizationFailure": _KEYS,
    "AuthorizationHeaderMalformed": _REGION,
    "AuthorizationPermissionMismatch": "the credentials don't allow it",
    "ContainerNotFound": _BUCKET,
    "ExpiredToken": "get new credentials",
    "InvalidAccessKeyId": f"{_KEYS}: the key",
    "InvalidToken": _KEYS,
    "NoAuthenticationInformation": _KEYS,
    "NoSuchBucket": _BUCKET,
    "PermanentRedirect": _REGION,
    "PublicAccessNotPermitted": _KEYS,
    "RequestTimeTooSkewed": _CLOCK,
    "ResourceNotFound": "check the account and its endpoint",
    "SignatureDoesNotMatch": f"{_KEYS}: key and secret",
}
#: Parts of obstore's debugging text, which alone tells why there was no answer; once there was
#: one, the endpoint is right.
_WRONG_ENDPOINT = {
    "dns error": "no host of that name is known: check the endpoint",
    "InvalidContentType": "no TLS is spoken there: check the endpoint, is it http://?",
    "kind: Connect": "nobody answers there: check the endpoint",
}
#: The same for what no other attempt will change.
_TROUBLES = {
    "InvalidCertificate": "its certificate is not trusted: give that of its authority "
    "(client_options={'root_certificate': ...}, for S3 also AWS_CA_BUNDLE)",
    "Received redirect without LOCATION": _REGION,
    "501 Not Implemented": "this server can't do that; a plain web server is for open_dataset",
}
#: Where credentials are asked for that belong to a machine of the cloud.
_MACHINES_OWN = ("169.254.169.254", "metadata.google.internal", "TokenRequest")


def status(error: Exception) -> int:
    """Return the status of an answer, 0 where there was none."""
    found = re.search(r"status code: (\d{3})", str(error))
    return int(found.group(1)) if found else 0


def may_pass(error: Exception, *, reached: bool = False) -> bool:
    """Return whether another attempt may go well; `reached` says that an earlier request did."""
    from obstore.exceptions import (
        InvalidPathError,
        NotSupportedError,
        PermissionDeniedError,
        UnauthenticatedError,
    )

    never = (InvalidPathError, NotSupportedError, PermissionDeniedError, UnauthenticatedError)
    text = str(error)
    if reached and "credential provider" in text:  # it could not renew them at this moment
        return True
    if isinstance(error, (*never, FileNotFoundError)) or any(part in text for part in _TROUBLES):
        return False
    if 400 <= status(error) < 500:
        passing = any(word in text for word in _PASSING)
        return passing or status(error) in (408, 409, 425, 429)
    return True


def unreachable(error: Exception) -> bool:
    """Return whether no connection was made, or not even asked for."""
    return any(part in str(error) for part in ("kind: Connect", "credential provider"))


def asks_for_less(error: Exception) -> bool:
    """Return whether the store is asked too much of."""
    return status(error) in (429, 503) or "SlowDown" in str(error)


def no_bucket(error: Exception) -> bool:
    """Return whether it is the bucket that does not exist."""
    return any(code in str(error) for code in ("NoSuchBucket", "ContainerNotFound"))


def reason(error: Exception, *, reached: bool = False) -> str:
    """Return what a store answered and what helps, in a line."""
    text = str(error)
    code = re.search(r"<Code>(.*?)</Code>", text)
    words = re.search(r"<Message>([^<\\\n]*)", text)
    if any(place in text for place in _MACHINES_OWN):
        return (
            "found no credentials: give them (storage_options, environment), or ask as nobody "
            "(anon=True, for Google token='anon')"
        )
    if code:
        said = f"{code.group(1)}: {words.group(1).strip()}" if words else code.group(1)
        remedy = _REMEDIES.get(code.group(1))
    else:
        said = text.split("\n\nDebug source", maxsplit=1)[0].strip().split("\n", maxsplit=1)[0]
        said = said.partition(": <")[0]  # a page for people
        troubles = _TROUBLES if reached else _TROUBLES | _WRONG_ENDPOINT
        remedy = next((troubles[part] for part in troubles if part in text), None)
    return f"{said}; {remedy}" if remedy else said


def error_number(error: Exception) -> int:
    """Return the number by which the operating system would call it."""
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    refused = isinstance(error, (PermissionDeniedError, UnauthenticatedError))
    if refused or status(error) in (401, 403):
        return errno.EACCES
    missing = isinstance(error, FileNotFoundError) or status(error) == 404
    return errno.ENOENT if missing else errno.EIO
