"""A bucket of S3: settings as s3fs and boto3 spell them, and as the AWS tools look them up."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from savers._stores._bucket._spellings import FSSPEC, Given, Spelling
from savers.errors import InvalidInputError

__all__ = ["open_s3"]

_KEYS = "give key, secret and token, profile, or credential_provider"
S3FS = Spelling(
    "storage_options",
    same={
        "key": "access_key_id", "username": "access_key_id",
        "secret": "secret_access_key", "password": "secret_access_key",
        "token": "session_token",
        "anon": "skip_signature",
        "endpoint_url": "endpoint",
        "requester_pays": "request_payer",
    },
    idle=FSSPEC | {"bucket", "fixed_upload_size", "local_expiry_check"},
    refused={
        "session": _KEYS,
        "cache_regions": "give client_kwargs={'region_name': ...}",
    },
)  # fmt: skip
CLIENT = Spelling(
    "storage_options['client_kwargs']",
    same={
        "aws_access_key_id": "access_key_id",
        "aws_secret_access_key": "secret_access_key",
        "aws_session_token": "session_token",
        "endpoint_url": "endpoint",
        "region_name": "region",
        "verify": "verify",
        "use_ssl": "use_ssl",
    },
    closed=True,
)
CONFIG = Spelling(
    "storage_options['config_kwargs']",
    same={name: name for name in ("connect_timeout", "read_timeout", "s3", "signature_version")}
    | {"region_name": "region"},
    idle=frozenset({
        "max_pool_connections", "parameter_validation", "request_checksum_calculation",
        "response_checksum_validation", "retries", "tcp_keepalive", "user_agent",
        "user_agent_extra",
    }),
    refused={"proxies": "give client_options={'proxy_url': ...}"},
    closed=True,
)  # fmt: skip
ADDRESSES = Spelling(
    "storage_options['config_kwargs']['s3']",
    same={name: name for name in ("addressing_style", "payload_signing_enabled")},
    closed=True,
)
ADDITIONAL = Spelling(
    "storage_options['s3_additional_kwargs']",
    same={
        "ServerSideEncryption": "server_side_encryption",
        "SSEKMSKeyId": "sse_kms_key_id",
        "BucketKeyEnabled": "sse_bucket_key_enabled",
        "RequestPayer": "request_payer",
    },
    refused={
        "SSECustomerKey": "give server_side_encryption='sse-c' and sse_customer_key_base64",
        "SSECustomerAlgorithm": "give server_side_encryption='sse-c' and sse_customer_key_base64",
    },
    closed=True,
)


def open_s3(
    root: str, given: dict[str, Any], client_options: dict[str, Any], **rest: Any
) -> tuple[Any, str]:
    """Return obstore's client of a bucket, and its endpoint.

    Raises
    ------
    InvalidInputError
        A setting is not known, or can't be kept; a profile has no credentials.
    """
    from obstore.store import S3Store

    provider, profile = given.pop("credential_provider", None), given.pop("profile", None)
    config = _config(given, client_options)
    if provider is None and not config.get("skip_signature"):
        provider = _given(config) or _credentials(profile)
    for name, value in _configured(profile).items():
        config.setdefault(name, value)
    endpoint, bucket = str(config.get("endpoint", "")), root.partition("://")[2]
    if endpoint:
        if config.get("virtual_hosted_style_request"):
            config["endpoint"] = _named_first(bucket, endpoint)
        config["aws_endpoint_url_s3"] = config["endpoint"]  # or a variable would come before it
        client_options.setdefault("allow_http", endpoint.startswith("http://"))
    settings: Any = config
    options: Any = client_options
    client = S3Store(
        bucket, config=settings, client_options=options, credential_provider=provider, **rest
    )
    return client, endpoint


def _given(config: dict[str, Any]) -> Given | None:
    """Return the credentials that were given, None where there are none."""
    if not {"access_key_id", "secret_access_key"} & config.keys():
        return None
    config.setdefault("skip_signature", False)
    names = ("access_key_id", "secret_access_key", "session_token")
    key, secret, token = (config.pop(name, None) for name in names)
    if not (key and secret):
        message = "expected both key and secret in storage_options, got one of them"
        raise InvalidInputError(message)
    return Given(access_key_id=key, secret_access_key=secret, token=token)


def _named_first(bucket: str, endpoint: str) -> str:
    """Return the endpoint with the bucket before its host, as obstore wants it then."""
    scheme, _, host = endpoint.partition("://")
    return endpoint if host.startswith(f"{bucket}.") else f"{scheme}://{bucket}.{host}"


# -- what was given ------------------------------------------------------------------------------


def _config(given: dict[str, Any], client_options: dict[str, Any]) -> dict[str, Any]:
    """Return obstore's settings; those of the connection go into `client_options`."""
    nested = {name: _mapping(given, name)
              for name in ("client_kwargs", "config_kwargs", "s3_additional_kwargs")}  # fmt: skip
    config = S3FS.settings(given)
    client = CLIENT.settings(nested["client_kwargs"])
    _take_certificates(client.pop("verify", os.environ.get("AWS_CA_BUNDLE")), client_options)
    tls = all([config.pop("use_ssl", True), client.pop("use_ssl", True)])
    config = client | _botocore_config(nested["config_kwargs"], client_options) | config
    config |= ADDITIONAL.settings(nested["s3_additional_kwargs"])
    if not tls and "endpoint" not in config:  # as in botocore, an endpoint says it by itself
        message = "use_ssl=False needs an endpoint: give endpoint_url='http://...'"
        raise InvalidInputError(message)
    if not config.get("skip_signature", True):
        del config["skip_signature"]  # anon=False asks for what holds anyway
    return config


def _mapping(given: dict[str, Any], name: str) -> Mapping[str, Any]:
    found = given.pop(name, None) or {}
    if not isinstance(found, Mapping):
        message = f"expected a mapping as storage_options[{name!r}], got {type(found).__name__}"
        raise InvalidInputError(message)
    return found


def _take_certificates(verify: object, client_options: dict[str, Any]) -> None:
    if verify is False:
        client_options.setdefault("allow_invalid_certificates", True)
    elif isinstance(verify, (str, os.PathLike)):
        try:
            client_options.setdefault("root_certificate", Path(verify).read_bytes())
        except OSError as error:
            message = f"can't read the certificates of verify or AWS_CA_BUNDLE: {error}"
            raise InvalidInputError(message) from None


def _botocore_config(given: Mapping[str, Any], client_options: dict[str, Any]) -> dict[str, Any]:
    config = CONFIG.settings(given)
    addresses = ADDRESSES.settings(_mapping(config, "s3"))
    for name, ours in (("connect_timeout", "connect_timeout"), ("read_timeout", "timeout")):
        if name in config:
            client_options[ours] = timedelta(seconds=config.pop(name))
    if "signature_version" in config:
        config |= _signature(config.pop("signature_version"))
    style = addresses.get("addressing_style", "auto")
    if style != "auto":
        config["virtual_hosted_style_request"] = style == "virtual"
    if "payload_signing_enabled" in addresses:
        config["unsigned_payload"] = not addresses["payload_signing_enabled"]
    return config


def _signature(asked: object) -> dict[str, Any]:
    if asked in ("s3v4", "v4"):
        return {}
    if type(asked).__module__ == "botocore" or str(asked).lower() == "unsigned":
        return {"skip_signature": True}  # the constant botocore.UNSIGNED
    message = f"storage_options['config_kwargs'] has no signature_version {asked!r} here"
    raise InvalidInputError(message)


# -- what the AWS tools look up ------------------------------------------------------------------


def _shared_file(variable: str, usual: str) -> bool:
    return os.path.exists(os.environ.get(variable) or os.path.expanduser(usual))


def _session(profile: str | None) -> Any:
    """Return botocore's view of environment and shared files.

    None where nothing asks for it; False where something does, and it is not installed.
    """
    files = {
        "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials",
        "AWS_CONFIG_FILE": "~/.aws/config",
    }
    if not _named(profile) and not any(_shared_file(*file) for file in files.items()):
        return None
    try:
        from botocore.session import Session
    except ImportError:
        return False
    return Session(profile=profile)


def _named(profile: str | None) -> str | None:
    return profile or _variable("AWS_PROFILE", "AWS_DEFAULT_PROFILE")


def _credentials(profile: str | None) -> Any:
    """Return who fetches credentials, None where obstore finds them by itself.

    Variables come before profiles, except before one that was given (as in boto3).
    """
    if not profile and os.environ.get("AWS_ACCESS_KEY_ID"):
        return None
    session = _session(profile)
    if not session:
        keys = _shared_file("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")
        if session is False and (_named(profile) or keys):
            message = "profiles need botocore: pip install 'tasksavers[s3]', or give key and secret"
            raise InvalidInputError(message)
        return None
    from botocore.exceptions import BotoCoreError

    try:
        found = session.get_credentials()
    except BotoCoreError as error:
        raise InvalidInputError(str(error)) from None
    if found is None and (profile or session.profile):
        message = f"found no credentials in the profile {profile or session.profile!r}"
        raise InvalidInputError(message)
    return found and _Frozen(found)


def _configured(profile: str | None) -> dict[str, Any]:
    """Return endpoint and region of the environment, else of the shared files."""
    shared = _shared(profile)
    found = {
        "endpoint": shared.get("endpoint")
        or _variable("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
        "region": _variable("AWS_REGION", "AWS_DEFAULT_REGION") or shared.get("region"),
    }
    return {name: value for name, value in found.items() if value}


def _variable(*names: str) -> str | None:
    return next((os.environ[name] for name in names if os.environ.get(name)), None)


def _shared(profile: str | None) -> dict[str, Any]:
    """Return endpoint and region of a profile; an endpoint for S3 alone comes first of all."""
    session = _session(profile)
    if not session:
        return {}
    from botocore.configprovider import ConfiguredEndpointProvider
    from botocore.exceptions import BotoCoreError

    try:
        scoped = session.get_scoped_config()
    except BotoCoreError as error:
        raise InvalidInputError(str(error)) from None
    endpoint = ConfiguredEndpointProvider(session.full_config, scoped, "s3").provide()
    return {"endpoint": endpoint, "region": scoped.get("region")}


class _Frozen:
    """Credentials of botocore, which renews them where they end, for obstore."""

    def __init__(self, credentials: Any) -> None:
        self.credentials = credentials

    def __call__(self) -> dict[str, Any]:
        now = self.credentials.get_frozen_credentials()
        return {
            "access_key_id": now.access_key,
            "secret_access_key": now.secret_key,
            "token": now.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=10),
        }
