"""How a bucket of Google is named, and how it is told who asks: as gcsfs, google-auth and obstore.

Looked at in the requests; no server of Google's was asked (tests/gcsmodel.py says what is known).
"""

from __future__ import annotations

import base64
import datetime
import errno
import json

import obstore
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from savers import InvalidInputError, StorageError, ZarrSaver, open_dataset
from savers._stores._bucket._options import open_bucket
from tests.recorder import Recorder

pytestmark = pytest.mark.may_leak("files", reason="obstore keeps connections open")


@pytest.fixture
def recorder():
    with Recorder() as made:
        yield made


def asked(recorder, options, mode="overwrite"):
    """Return the request that a write sends."""
    bucket = open_bucket("gs://runs/out.zarr", {"endpoint_url": recorder.endpoint, **options})
    obstore.put(bucket.client, "a", b"x", mode=mode, use_multipart=False)
    return recorder.asked[-1]


@pytest.fixture(scope="module")
def account():
    """The key of a service account, as Google's console gives it."""
    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {"type": "service_account", "client_email": "me@lab.example", "private_key_id": "1",
            "private_key": key.decode(), "token_uri": "https://oauth2.example"}  # fmt: skip


def issuer(request):
    """Return who signed the token of a request (RFC 7519)."""
    payload = request.headers["authorization"].removeprefix("Bearer ").split(".")[1]
    return json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["iss"]


class Credentials:
    """Gives tokens as the classes of google.auth do."""

    token, valid = "of-google-auth", True
    expiry = datetime.datetime(2100, 1, 1)  # noqa: DTZ001 -- theirs are naive

    def refresh(self, request: object) -> None:
        """Not asked: it is valid."""


# -- what a request carries ----------------------------------------------------------------------


def test_a_write_is_conditional_on_the_generation(recorder):
    who = {"token": "t"}
    request = asked(recorder, who, "create")
    assert request.headers["x-goog-if-generation-match"] == "0"
    assert (request.method, request.target) == ("PUT", "/runs/a")
    request = asked(recorder, who, {"e_tag": '"x"', "version": "17"})
    assert request.headers["x-goog-if-generation-match"] == "17"
    assert "x-goog-if-generation-match" not in asked(recorder, who).headers


def test_a_token_is_borne(recorder, monkeypatch):
    def who(**options):
        return asked(recorder, options).headers.get("authorization")

    assert who(token="t") == "Bearer t"
    assert who(bearer_token="t") == "Bearer t"
    assert who(token=Credentials()) == "Bearer of-google-auth"
    assert who(credential_provider=lambda: {"token": "own", "expires_at": None}) == "Bearer own"
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "of-env")
    assert who() == "Bearer of-env"


def test_the_key_of_a_service_account_signs(recorder, account, tmp_path, monkeypatch):
    path = tmp_path / "account.json"
    path.write_text(json.dumps(account))
    for options in ({"token": account}, {"token": str(path)}, {"token": path},
                    {"service_account": str(path)}):  # fmt: skip
        assert issuer(asked(recorder, options)) == "me@lab.example"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    for options in ({}, {"token": "google_default"}, {"project": "mine", "token": None}):
        assert issuer(asked(recorder, options)) == "me@lab.example"


def test_what_was_given_is_not_mixed_with_the_environment(recorder, account, monkeypatch):
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    assert issuer(asked(recorder, {"token": account})) == "me@lab.example"
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "of-env")
    assert asked(recorder, {"token": "t"}).headers["authorization"] == "Bearer t"
    with pytest.raises(InvalidInputError, match="GOOGLE_BEARER_TOKEN would be used.* unset it"):
        asked(recorder, {"token": account})


def test_nobody_may_read(gcs_model):
    gcs_model.make_bucket("public")
    with ZarrSaver("gs://public/out.zarr", storage_options=gcs_model.options()) as saver:
        saver.save([1.0, 2.0])
    anonymous = {"token": "anon", "endpoint_url": gcs_model.endpoint}
    found = open_dataset("gs://public/out.zarr", storage_options=anonymous)
    assert found["dataset"].values.tolist() == [1.0, 2.0]


REFUSED = {
    "browser": ({"token": "browser"}, "token='browser' is not supported: run 'gcloud auth"),
    "cache": ({"token": "cache"}, "token='cache' is not supported: run 'gcloud auth"),
    "mapping": ({"token": {"type": "authorized_user"}}, "give the path of its file"),
    "kind": ({"token": 5}, "expected storage_options\\['token'\\] as in gcsfs, got int"),
    "payer": ({"requester_pays": True}, "'requester_pays'.*x-goog-user-project"),
    "session": ({"session_kwargs": {"trust_env": True}}, "'session_kwargs'.*client_options"),
    "timeout": ({"requests_timeout": 3}, "'requests_timeout'.*client_options"),
    "unknown": ({"nonsense": 1}, "nonsense"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_kept_is_refused_by_name(name):
    options, words = REFUSED[name]
    with pytest.raises(InvalidInputError, match=words):
        ZarrSaver("gs://runs/out.zarr", storage_options=options)


# -- answers that are refusals -------------------------------------------------------------------


def test_refusals_name_their_remedy_and_no_secret(gcs_model):
    gcs_model.make_bucket("private")

    def refused(url, **options):
        saver = ZarrSaver(url, storage_options={**gcs_model.options(), **options})
        with pytest.raises(StorageError) as caught:
            saver.save([1.0])
        saver.close()
        return caught.value

    error = refused("gs://not-there/out.zarr")
    assert (error.errno, "make the bucket first" in str(error)) == (errno.ENOENT, True)
    error = refused("gs://private/out.zarr", token="wrong-token-canary")
    assert (error.errno, "check the credentials" in str(error)) == (errno.EACCES, True)
    assert "wrong-token-canary" not in str(error)
