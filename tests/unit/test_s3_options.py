"""How a bucket of S3 is named, and how it is told who asks: as s3fs, boto3 and obstore do it."""

from __future__ import annotations

import asyncio
import datetime
import errno
import json
import sys

import botocore
import obstore
import pytest
import s3fs
import trustme
import zarr

from savers import (
    InvalidInputError,
    StorageError,
    ZarrSaver,
    open_dataset,
    open_dataset_async,
)
from savers._stores._bucket._options import open_bucket
from savers._stores._location import locate
from tests.recorder import Recorder
from tests.s3server import KEY, REGION, SECRET

pytestmark = pytest.mark.may_leak("files", reason="obstore and s3fs keep connections open")


@pytest.fixture
def options(s3_server):
    return s3_server.options()


def group(bucket, server):
    store = zarr.storage.ObjectStore(server.store(bucket, "out.zarr"), read_only=True)
    return zarr.open_group(store, mode="r")


def keys(bucket, server):
    return sorted(entry["path"] for entry in obstore.list(server.store(bucket)).collect())


def test_a_map_of_s3fs_exactly_as_in_the_usage_form(bucket, s3_server, options):
    import s3fs

    s3 = s3fs.S3FileSystem(**options)
    store = s3fs.S3Map(root=f"{bucket}/zarr-data", s3=s3, check=False)
    with ZarrSaver(store) as saver:
        saver.save([1.0, 2.0])
    with ZarrSaver(f"s3://{bucket}/zarr-data", storage_options=options) as saver:
        saver.save([3.0])  # one place, one ledger
    found = zarr.open_group(
        zarr.storage.ObjectStore(s3_server.store(bucket, "zarr-data"), read_only=True), mode="r"
    )
    assert found["dataset"][:].tolist() == [1.0, 2.0, 3.0]


def spellings(server, bucket):
    import fsspec

    url, options = f"s3://{bucket}/out.zarr", server.options()
    yield "s3fs names", url, options
    yield "client_kwargs", url, {"key": KEY, "secret": SECRET, "client_kwargs": {
        "endpoint_url": server.endpoint, "region_name": REGION}}  # fmt: skip
    yield "obstore names", url, {
        "access_key_id": KEY, "secret_access_key": SECRET, "endpoint": server.endpoint,
        "region": REGION}  # fmt: skip
    yield "path style", url, {**options, "config_kwargs": {"s3": {"addressing_style": "path"}}}
    yield "mapper", fsspec.get_mapper(url, **options), None
    yield "zarr FsspecStore", zarr.storage.FsspecStore.from_url(url, storage_options=options), None
    yield "obstore store", server.store(bucket, "out.zarr"), None
    yield "zarr ObjectStore", zarr.storage.ObjectStore(server.store(bucket, "out.zarr")), None


NAMES = ("s3fs names", "client_kwargs", "obstore names", "path style", "mapper",
         "zarr FsspecStore", "obstore store", "zarr ObjectStore")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_spelling_saves_updates_and_replaces(bucket, s3_server, name):
    target, options = next((t, o) for n, t, o in spellings(s3_server, bucket) if n == name)
    with ZarrSaver(target, storage_options=options, chunks=2) as saver:
        saver.save([1.0, 2.0, 3.0])
        saver.save([4.0])
    with ZarrSaver(target, approach="update", storage_options=options) as saver:
        saver.save([20.0, 30.0], indices=[1, 2])
    assert group(bucket, s3_server)["dataset"][:].tolist() == [1.0, 20.0, 30.0, 4.0]
    with ZarrSaver(target, "other", approach="overwrite", storage_options=options) as saver:
        saver.save([5.0])
        saver.save([6.0, 7.0])
    assert group(bucket, s3_server)["other"][:].tolist() == [6.0, 7.0]
    assert not [key for key in keys(bucket, s3_server) if "staged" in key]


def test_the_environment_and_profiles_are_looked_at(bucket, s3_server, tmp_path, monkeypatch):
    url = f"s3://{bucket}/out.zarr"
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    with ZarrSaver(url) as saver:
        saver.save([1.0])
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file = tmp_path / "credentials"
    file.write_text(f"[work]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with ZarrSaver(url, storage_options={"profile": "work"}) as saver:
        saver.save([2.0])
    monkeypatch.setenv("AWS_PROFILE", "work")
    with ZarrSaver(url) as saver:
        saver.save([3.0])
    assert group(bucket, s3_server)["dataset"][:].tolist() == [1.0, 2.0, 3.0]
    assert open_dataset(url)["dataset"].values.tolist() == [1.0, 2.0, 3.0]

    async def read():
        return (await (await open_dataset_async(url))["dataset"].load_async()).values

    assert asyncio.run(read()).tolist() == [1.0, 2.0, 3.0]


def test_refusals_name_their_remedy_and_no_secret(bucket, options):
    def refused(url, given):
        saver = ZarrSaver(url, storage_options=given)
        with pytest.raises(StorageError) as caught:
            saver.save([1.0])
        saver.close()
        assert SECRET not in str(caught.value)
        return caught.value

    error = refused("s3://no-such-bucket-here/out.zarr", options)
    assert (error.errno, "make the bucket first" in str(error)) == (errno.ENOENT, True)
    error = refused(f"s3://{bucket}/out.zarr", {**options, "secret": "wrong-secret-canary"})
    assert (error.errno, "check the credentials" in str(error)) == (errno.EACCES, True)
    assert "wrong-secret-canary" not in str(error)
    with pytest.raises(ValueError, match="nonsense"):
        ZarrSaver(f"s3://{bucket}/x", storage_options={**options, "nonsense": 1})
    with pytest.raises(ValueError, match="expected s3://bucket/path"):
        ZarrSaver("s3:///x")


# -- what a request carries ----------------------------------------------------------------------

WHO = {"key": "AKIDEXAMPLE", "secret": "wJalrXUtnFEMI", "client_kwargs": {"region_name": "eu-x-1"}}


@pytest.fixture(autouse=True)
def _no_files_of_the_user(monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))


@pytest.fixture
def recorder():
    with Recorder() as made:
        yield made


def asked(recorder, options, url="s3://runs/out.zarr", **client):
    """Return the request that a write sends."""
    client_options = {"timeout": "20s", **options.get("client_options", {}), **client}
    bucket = open_bucket(url, {**options, "client_options": client_options})
    obstore.put(bucket.client, "a", b"x", use_multipart=False)
    return recorder.asked[-1]


def scope(request):
    """Return key and region of a signature (AWS Signature Version 4)."""
    credential = request.headers["authorization"].partition("Credential=")[2].partition(",")[0]
    key, _, region, *_ = credential.split("/")
    return key, region


@pytest.mark.parametrize(("options", "expected"), [
    (WHO, ("AKIDEXAMPLE", "eu-x-1")),
    ({"username": "A", "password": "b", "region": "r"}, ("A", "r")),
    ({"client_kwargs": {"aws_access_key_id": "A", "aws_secret_access_key": "b"}},
     ("A", "us-east-1")),
    ({"access_key_id": "A", "secret_access_key": "b", "region": "r"}, ("A", "r")),
    ({**WHO, "client_kwargs": None, "config_kwargs": {"region_name": "r"}}, ("AKIDEXAMPLE", "r")),
])  # fmt: skip
def test_who_asks_and_in_which_region(recorder, options, expected):
    request = asked(recorder, {**options, "endpoint_url": recorder.endpoint})
    assert scope(request) == expected
    assert request.target == "/runs/a"


CARRIED = {
    "token": ({"token": "t"}, "x-amz-security-token", "t"),
    "aws_session_token": ({"client_kwargs": {"aws_session_token": "t"}},
                          "x-amz-security-token", "t"),
    "requester_pays": ({"requester_pays": True}, "x-amz-request-payer", "requester"),
    "RequestPayer": ({"s3_additional_kwargs": {"RequestPayer": "requester"}},
                     "x-amz-request-payer", "requester"),
    "encryption": ({"s3_additional_kwargs": {"ServerSideEncryption": "AES256"}},
                   "x-amz-server-side-encryption", "AES256"),
    "kms": ({"s3_additional_kwargs": {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "k",
                                      "BucketKeyEnabled": True}},
            "x-amz-server-side-encryption-aws-kms-key-id", "k"),
    "unsigned": ({"config_kwargs": {"s3": {"payload_signing_enabled": False}}},
                 "x-amz-content-sha256", "UNSIGNED-PAYLOAD"),
    "anon": ({"anon": True}, "authorization", None),
    "signature": ({"config_kwargs": {"signature_version": botocore.UNSIGNED}},
                  "authorization", None),
    "headers": ({"client_options": {"default_headers": {"x-of-mine": "1"}}}, "x-of-mine", "1"),
}  # fmt: skip


@pytest.mark.parametrize("name", CARRIED)
def test_a_setting_is_carried_by_the_request(recorder, name):
    options, header, value = CARRIED[name]
    request = asked(recorder, {**WHO, **options, "endpoint_url": recorder.endpoint})
    assert request.headers.get(header) == value


@pytest.mark.parametrize("options", [
    {"config_kwargs": {"s3": {"addressing_style": "virtual"}}},
    {"virtual_hosted_style_request": True},
])  # fmt: skip
def test_addresses_name_the_bucket_first_where_that_is_asked_for(recorder, options):
    where = {"endpoint_url": "http://objects.example", **options}
    request = asked(recorder, {**WHO, **where}, proxy_url=recorder.endpoint)
    assert request.target == "http://runs.objects.example/a"


def test_variables_are_looked_at_as_the_aws_tools_do(recorder, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-default-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", recorder.endpoint)
    request = asked(recorder, {})
    assert scope(request) == ("FROMENV", "eu-default-1")
    assert request.headers["x-amz-security-token"] == "t"
    monkeypatch.setenv("AWS_REGION", "eu-named-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", recorder.endpoint)
    assert scope(asked(recorder, {})) == ("FROMENV", "eu-named-1")
    assert scope(asked(recorder, WHO)) == ("AKIDEXAMPLE", "eu-x-1")  # what was given comes first


def test_what_was_given_is_not_mixed_with_the_environment(recorder, monkeypatch):
    """The endpoint above all: results would go to another server."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENV")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "t")
    monkeypatch.setenv("AWS_REGION", "eu-env-1")
    request = asked(recorder, {**WHO, "endpoint_url": recorder.endpoint})
    assert scope(request) == ("AKIDEXAMPLE", "eu-x-1")
    assert "x-amz-security-token" not in request.headers
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    assert scope(asked(recorder, {**WHO, "endpoint_url": recorder.endpoint}))[0] == "AKIDEXAMPLE"
    request = asked(recorder, {"anon": True, "endpoint_url": recorder.endpoint})
    assert "authorization" not in request.headers


@pytest.fixture
def profiles(recorder, tmp_path):
    (tmp_path / "credentials").write_text(
        "[default]\naws_access_key_id=DEFAULT\naws_secret_access_key=s\n"
        "[work]\naws_access_key_id=WORK\naws_secret_access_key=s\naws_session_token=t\n"
    )
    (tmp_path / "config").write_text(
        f"[default]\nregion=eu-default-1\nendpoint_url={recorder.endpoint}\n"
        f"[profile work]\nregion=eu-work-1\nservices=local\nendpoint_url=http://127.0.0.1:9\n"
        f"[services local]\ns3 =\n  endpoint_url={recorder.endpoint}\n"
        f"[profile bare]\nregion=eu-bare-1\nendpoint_url={recorder.endpoint}\n"
    )


def test_profiles_give_credentials_region_and_endpoint(recorder, profiles, monkeypatch):
    request = asked(recorder, {"profile": "work"})
    assert scope(request) == ("WORK", "eu-work-1")
    assert request.headers["x-amz-security-token"] == "t"
    assert scope(asked(recorder, {})) == ("DEFAULT", "eu-default-1")
    assert scope(asked(recorder, {"key": "A", "secret": "b"})) == ("A", "eu-default-1")
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert scope(asked(recorder, {})) == ("WORK", "eu-work-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "FROMENV")  # comes before a profile that was not given
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert scope(asked(recorder, {})) == ("FROMENV", "eu-work-1")
    assert scope(asked(recorder, {"profile": "work"})) == ("WORK", "eu-work-1")


def test_a_profile_that_is_not_there_or_has_no_credentials_is_named(recorder, profiles):
    with pytest.raises(InvalidInputError, match="profile .*nobody"):
        asked(recorder, {"profile": "nobody"})
    with pytest.raises(InvalidInputError, match="no credentials in the profile 'bare'"):
        asked(recorder, {"profile": "bare"})


def test_a_profile_without_botocore_is_refused_with_the_extra_to_install(profiles, monkeypatch):
    monkeypatch.setitem(sys.modules, "botocore.session", None)
    with pytest.raises(InvalidInputError, match=r"pip install 'tasksavers\[s3\]', or give key"):
        open_bucket("s3://runs/x", {"profile": "work"})
    assert open_bucket("s3://runs/x", WHO).client.config["region"] == "eu-x-1"


def test_credentials_that_end_are_asked_for_anew(recorder, tmp_path):
    """A profile with a program that gives credentials for a minute."""
    program = tmp_path / "give.py"
    program.write_text(
        "import datetime, json, pathlib\n"
        f"count = pathlib.Path({str(tmp_path / 'count')!r})\n"
        "number = int(count.read_text()) + 1 if count.exists() else 1\n"
        "count.write_text(str(number))\n"
        "end = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=1)\n"
        "print(json.dumps({'Version': 1, 'AccessKeyId': f'KEY{number}', 'SecretAccessKey': 's',\n"
        "    'SessionToken': 't', 'Expiration': end.isoformat()}))\n"
    )
    (tmp_path / "config").write_text(
        f"[profile turning]\ncredential_process={sys.executable} {program}\n"
    )
    bucket = open_bucket("s3://runs/x", {"profile": "turning", "endpoint_url": recorder.endpoint})
    provider = bucket.client.credential_provider
    first, second = provider(), provider()
    assert first["access_key_id"] != second["access_key_id"]
    assert first["token"] == "t"
    obstore.put(bucket.client, "a", b"x", use_multipart=False)
    assert scope(recorder.asked[-1])[0] == f"KEY{(tmp_path / 'count').read_text()}"


def test_an_own_provider_of_credentials_is_asked(recorder):
    def give():
        return {"access_key_id": "OWN", "secret_access_key": "s", "token": None, "expires_at": None}

    request = asked(recorder, {"credential_provider": give, "endpoint_url": recorder.endpoint})
    assert scope(request)[0] == "OWN"


def test_credentials_that_can_not_be_renewed_for_a_moment_are_asked_for_again(recorder):
    answers = iter([None, RuntimeError("the network is away"), None])

    def give():
        trouble = next(answers, None)
        if trouble is not None:
            raise trouble
        soon = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
        return {"access_key_id": "A", "secret_access_key": "s", "token": None, "expires_at": soon}

    options = {"credential_provider": give, "endpoint_url": recorder.endpoint}
    store = locate("s3://runs/x", options).store
    assert store.get("a") == store.get("a") == b""

    def refuse():
        message = "log in first"
        raise RuntimeError(message)

    store = locate("s3://runs/x", {**options, "credential_provider": refuse}).store
    with pytest.raises(StorageError, match="log in first"):  # where they never were there, at once
        store.get("a")


def test_credentials_of_a_container_are_fetched(recorder, monkeypatch, tmp_path):
    given = {"AccessKeyId": "TASK", "SecretAccessKey": "s", "Token": "t",
             "Expiration": "2100-01-01T00:00:00Z"}  # fmt: skip
    recorder.answers["/task"] = json.dumps(given).encode()
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{recorder.endpoint}/task")
    (tmp_path / "token").write_text("of the container")
    monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
    request = asked(recorder, {"endpoint_url": recorder.endpoint})
    assert scope(request)[0] == "TASK"
    assert recorder.asked[0].headers["authorization"] == "of the container"


def test_a_map_of_s3fs_takes_its_settings_along(recorder):
    given = {"anon": False, "key": "A", "secret": "b", "endpoint_url": recorder.endpoint,
             "config_kwargs": {"retries": {"max_attempts": 1}, "max_pool_connections": 3},
             "s3_additional_kwargs": {"ServerSideEncryption": "AES256"},
             "default_fill_cache": False, "use_listings_cache": False}  # fmt: skip
    store = s3fs.S3Map("runs/x", s3=s3fs.S3FileSystem(**given), check=False)
    place = locate(store).store
    obstore.put(place.client, "a", b"x", use_multipart=False)
    assert recorder.asked[-1].headers["x-amz-server-side-encryption"] == "AES256"


def test_certificates_are_checked_unless_told_otherwise(tmp_path, monkeypatch):
    authority = trustme.CA()
    (served, trusted) = (tmp_path / "server.pem", tmp_path / "authority.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(served)
    authority.cert_pem.write_to_path(trusted)
    with Recorder(certificate=served) as recorder:
        where = {**WHO, "endpoint_url": recorder.endpoint, "retry_timeout": 0}
        with pytest.raises(StorageError, match="not trusted: give that of its authority"):
            locate("s3://runs/out.zarr", where).store.get("a")
        for options in (
            {"client_kwargs": {"verify": str(trusted)}},
            {"client_kwargs": {"verify": False}},
            {"client_options": {"root_certificate": trusted.read_bytes()}},
        ):
            assert asked(recorder, {**where, **options}).method == "PUT"
        monkeypatch.setenv("AWS_CA_BUNDLE", str(trusted))
        assert asked(recorder, where).method == "PUT"
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "nowhere.pem"))
        with pytest.raises(InvalidInputError, match="can't read the certificates"):
            asked(recorder, where)


REFUSED = {
    "session": ({"session": object()}, "'session'.*give key, secret and token"),
    "cache_regions": ({"cache_regions": True}, "'cache_regions'.*region_name"),
    "client": ({"client_kwargs": {"api_version": "1"}}, "client_kwargs.* has no 'api_version'"),
    "config": ({"config_kwargs": {"inject_host_prefix": 1}},
               "config_kwargs.* has no 'inject_host_prefix'"),
    "proxies": ({"config_kwargs": {"proxies": {"http": "x"}}}, "'proxies'.*proxy_url"),
    "addresses": ({"config_kwargs": {"s3": {"use_accelerate_endpoint": True}}},
                  "has no 'use_accelerate_endpoint'"),
    "signature": ({"config_kwargs": {"signature_version": "s3"}}, "signature_version 's3'"),
    "acl": ({"s3_additional_kwargs": {"ACL": "public-read"}}, "has no 'ACL'"),
    "customer key": ({"s3_additional_kwargs": {"SSECustomerKey": "k"}}, "sse_customer_key_base64"),
    "plain": ({"use_ssl": False}, "use_ssl=False needs an endpoint"),
    "half": ({"secret": None}, "expected both key and secret"),
    "not a mapping": ({"client_kwargs": "x"}, "expected a mapping as storage_options"),
    "unknown": ({"nonsense": 1}, "nonsense"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_kept_is_refused_by_name(name):
    options, words = REFUSED[name]
    with pytest.raises(InvalidInputError, match=words) as caught:
        ZarrSaver("s3://runs/out.zarr", storage_options={**WHO, **options})
    assert WHO["secret"] not in str(caught.value)


# -- answers that are refusals -------------------------------------------------------------------

ANSWERS = {
    "permission": (403, "AccessDenied", errno.EACCES, "the credentials, or their absence"),
    "region": (400, "AuthorizationHeaderMalformed", errno.EIO, "give the region of the bucket"),
    "expired": (400, "ExpiredToken", errno.EIO, "get new credentials"),
    "clock": (403, "RequestTimeTooSkewed", errno.EACCES, "set the clock"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_refusal_is_told_in_a_line_with_its_remedy(recorder, name):
    recorder.status, code, number, words = ANSWERS[name]
    recorder.body = f"<Error><Code>{code}</Code><Message>In words.</Message></Error>".encode()
    store = locate("s3://runs/x", {**WHO, "endpoint_url": recorder.endpoint}).store
    with pytest.raises(StorageError, match=rf"{code}: In words\.; .*{words}") as caught:
        store.get("a")
    assert (caught.value.errno, len(recorder.asked)) == (number, 1)  # not tried again
    assert "\n" not in str(caught.value)


def test_a_wrong_endpoint_is_told_from_a_wrong_name_and_from_missing_tls(recorder):
    def error(endpoint):
        options = {**WHO, "endpoint_url": endpoint, "retry_timeout": 0}
        with pytest.raises(StorageError, match="check the endpoint") as caught:
            locate("s3://runs/x", options).store.get("a")
        return str(caught.value)

    assert "nobody answers there" in error("http://127.0.0.1:9")
    assert "no host of that name" in error("http://no-such-host.invalid")
    assert "no TLS is spoken there" in error(recorder.endpoint.replace("http:", "https:"))


def test_a_redirect_is_a_wrong_region(recorder):
    recorder.status = 301
    store = locate("s3://runs/x", {**WHO, "endpoint_url": recorder.endpoint}).store
    with pytest.raises(StorageError, match="give the region of the bucket"):
        store.get("a")
    assert len(recorder.asked) == 1
