"""How a container of Azure is named, and how it is told who asks: as adlfs, azure-identity and
obstore do it. Azurite checks keys; what it can't tell is looked at in the requests."""

from __future__ import annotations

import errno
import json
import pickle
import subprocess
import sys
import time
import traceback
from urllib.parse import parse_qs, urlsplit

import fsspec
import numpy as np
import obstore
import pytest
import zarr
from azure.core.credentials import AccessToken

from savers import InvalidInputError, StorageError, ZarrSaver, open_dataset
from savers._stores._bucket._options import open_bucket
from savers._stores._location import locate
from tests.azurite import ACCOUNT, KEY
from tests.recorder import Recorder

pytestmark = pytest.mark.may_leak("files", reason="obstore and adlfs keep connections open")

#: base64, as every key of an account is.
OTHER_KEY = "c2VjcmV0LWNhbmFyeQ=="


@pytest.fixture
def room(azurite):
    azurite.make_bucket("options")
    return azurite


@pytest.fixture
def recorder():
    with Recorder() as made:
        yield made


def asked(recorder, options, url="az://runs/out.zarr"):
    """Return the request that a write sends."""
    where = {"account_name": "lab", "endpoint": f"{recorder.endpoint}/lab", **options}
    bucket = open_bucket(url, where)
    obstore.put(bucket.client, "a", b"x", use_multipart=False)
    return recorder.asked[-1]


# -- names of a place ----------------------------------------------------------------------------


def spellings(azurite, url):
    text = azurite.options()["connection_string"]
    yield "connection string", url, {"connection_string": text}
    yield "account_name", url, {"account_name": ACCOUNT, "account_key": KEY,
                                "endpoint": azurite.endpoint}  # fmt: skip
    yield "credential", url, {"account_name": ACCOUNT, "credential": KEY,
                              "account_host": azurite.endpoint}  # fmt: skip
    yield "abfs", url.replace("az:", "abfs:"), {"connection_string": text}
    yield "mapper", fsspec.get_mapper(url, connection_string=text, skip_instance_cache=True), None


@pytest.mark.parametrize("name", ["connection string", "account_name", "credential", "abfs",
                                  "mapper"])  # fmt: skip
def test_every_spelling_saves_and_reads(room, name, tmp_path):
    url = f"az://options/{tmp_path.name}/out.zarr"
    target, options = next((t, o) for n, t, o in spellings(room, url) if n == name)
    with ZarrSaver(target, storage_options=options, chunks=2) as saver:
        saver.save([1.0, 2.0, 3.0])
    with ZarrSaver(target, approach="update", storage_options=options) as saver:
        saver.save([20.0], indices=[1])
    store = zarr.storage.ObjectStore(room.store("options", f"{tmp_path.name}/out.zarr"))
    assert zarr.open_group(store, mode="r")["dataset"][:].tolist() == [1.0, 20.0, 3.0]
    ledger = obstore.list(room.store("options", f"{tmp_path.name}/out.zarr.ledger")).collect()
    assert ledger  # beside the store, as with every bucket


def test_the_environment_is_looked_at(room, monkeypatch, tmp_path):
    url = f"az://options/{tmp_path.name}/out.zarr"
    for name, value in room.environment().items():
        monkeypatch.setenv(name, value)
    with ZarrSaver(url) as saver:
        saver.save([1.0])
    for name in room.environment():
        monkeypatch.delenv(name)
    text = room.options()["connection_string"]
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", text)
    with ZarrSaver(url) as saver:
        saver.save([2.0])
    assert open_dataset(url)["dataset"].values.tolist() == [1.0, 2.0]


def test_what_was_saved_is_read_by_adlfs(room, tmp_path):
    url, options = f"az://options/{tmp_path.name}/out.zarr", room.options()
    with ZarrSaver(url, storage_options=options, dims=("x", "y")) as saver:
        saver.save(np.arange(6.0).reshape(2, 3))
    program = (  # a process of its own: adlfs complains when it outlives zarr's event loop
        "import json, sys, xarray; url, options = sys.argv[1:]; found = xarray.open_zarr(url, "
        "storage_options=json.loads(options), chunks=None); print(found.dataset.values.tolist())"
    )
    done = subprocess.run([sys.executable, "-c", program, url, json.dumps(options)],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.stdout == "[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]\n", done.stderr


def test_an_account_in_the_url_is_part_of_the_place():
    def place(url, **options):
        return locate(url, {"account_key": KEY, **options})

    one = place("abfss://runs@lab.dfs.core.windows.net/a/out.zarr")
    assert one.identity == place("az://runs/a/out.zarr", account_name="lab").identity
    assert one.identity != place("az://runs/a/out.zarr", account_name="other").identity
    assert one.name == "az://runs/a/out.zarr"
    abroad = "https://lab.blob.core.chinacloudapi.cn"
    assert place("abfs://runs@lab.dfs.core.chinacloudapi.cn/a").identity.startswith(abroad)


def test_a_pickle_keeps_the_container_and_no_secret():
    saver = ZarrSaver("abfss://runs@lab.dfs.core.windows.net/out.zarr",
                      storage_options={"account_key": OTHER_KEY})  # fmt: skip
    pickled = pickle.dumps(saver)
    saver.close()
    assert b"abfss://runs@lab.dfs.core.windows.net/out.zarr" in pickled
    assert OTHER_KEY.encode() not in pickled


# -- what a request carries ----------------------------------------------------------------------


class Credential:
    """Gives tokens as the classes of azure-identity do."""

    def __init__(self) -> None:
        self.scopes: list[str] = []

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        self.scopes += scopes
        return AccessToken(f"token-{len(self.scopes)}", int(time.time()) + 3600)


class Asynchronous(Credential):
    async def get_token(self, *scopes: str, **_: object) -> AccessToken:  # type: ignore[override]
        return super().get_token(*scopes)


def test_a_key_signs_a_token_is_borne_and_nobody_signs_nothing(recorder):
    def who(**options):
        return asked(recorder, options).headers.get("authorization", "")

    assert who(account_key=OTHER_KEY).startswith("SharedKey lab:")
    assert who(credential=OTHER_KEY).startswith("SharedKey lab:")
    assert who(token="t") == "Bearer t"
    assert who(anon=True) == ""
    assert who(account_key=OTHER_KEY, anon=False).startswith("SharedKey lab:")
    credential = Credential()
    assert who(credential=credential) == "Bearer token-1"
    assert credential.scopes == ["https://storage.azure.com/.default"]


@pytest.mark.parametrize("name", ["sas_token", "credential"])
@pytest.mark.parametrize("mark", ["", "?"])
def test_a_shared_access_signature_is_in_the_query(recorder, name, mark):
    given = f"{mark}sv=2022-11-02&sig=a%2Bb%3D"
    request = asked(recorder, {name: given})
    query = parse_qs(urlsplit(request.target).query)
    assert (query["sv"], query["sig"]) == (["2022-11-02"], ["a+b="])
    assert "authorization" not in request.headers
    text = f"AccountName=lab;SharedAccessSignature={given};BlobEndpoint={recorder.endpoint}/lab"
    bucket = open_bucket("az://runs/x", {"connection_string": text})
    obstore.put(bucket.client, "a", b"x", use_multipart=False)
    assert parse_qs(urlsplit(recorder.asked[-1].target).query)["sig"] == ["a+b="]


@pytest.mark.parametrize("name", ["account_key", "sas_token", "token"])
def test_what_was_given_is_not_mixed_with_the_environment(recorder, monkeypatch, name):
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "other")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "b3RoZXI=")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=env")
    monkeypatch.setenv("AZURE_STORAGE_TOKEN", "env")
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AZURE_SKIP_SIGNATURE", "true")
    given = {"account_key": OTHER_KEY, "sas_token": "sv=1&sig=mine", "token": "mine"}[name]
    request = asked(recorder, {name: given})
    signature = parse_qs(urlsplit(request.target).query).get("sig")
    authorization = request.headers.get("authorization", "")
    assert signature == (["mine"] if name == "sas_token" else None)
    assert authorization.startswith({"account_key": "SharedKey lab:", "token": "Bearer mine",
                                     "sas_token": ""}[name])  # fmt: skip
    assert authorization or name == "sas_token"


def test_a_signature_of_the_environment_is_used(recorder, monkeypatch):
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "sv=2022-11-02&sig=env")
    assert parse_qs(urlsplit(asked(recorder, {}).target).query)["sig"] == ["env"]


REFUSED = {
    "no account": ({"account_key": KEY}, "expected the name of an account: give account_name"),
    "location": ({"location_mode": "secondary"}, "'location_mode'.*give the endpoint"),
    "session": ({"request_session": object()}, "'request_session'.*client_options"),
    "timeout": ({"read_timeout": 5}, "'read_timeout'.*client_options"),
    "string": ({"connection_string": "UseDevelopmentStorage=true"}, "'UseDevelopmentStorage'"),
    "aio": ({"account_name": "lab", "credential": Asynchronous()},
            "as an object of azure.identity .not of azure.identity.aio., got a .*Asynchronous"),
    "no credential": ({"account_name": "lab", "credential": 5}, "got a builtins.int"),
    "bad key": ({"account_name": "lab", "account_key": "not base 64!"}, "is not base64"),
    "unknown": ({"account_name": "lab", "nonsense": 1}, "nonsense"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_kept_is_refused_by_name(name):
    options, words = REFUSED[name]
    with pytest.raises(InvalidInputError, match=words):
        ZarrSaver("az://runs/out.zarr", storage_options=options)


# -- answers that are refusals -------------------------------------------------------------------


def refused(url, options):
    saver = ZarrSaver(url, storage_options=options)
    with pytest.raises(StorageError) as caught:
        saver.save([1.0])
    saver.close()
    assert "\n" not in str(caught.value)
    return caught.value


def test_refusals_name_their_remedy_and_no_secret(room):
    error = refused("az://not-there/out.zarr", room.options())
    assert (error.errno, "make the bucket first" in str(error)) == (errno.ENOENT, True)
    wrong = {"account_name": ACCOUNT, "account_key": OTHER_KEY, "endpoint": room.endpoint}
    error = refused("az://options/out.zarr", wrong)
    assert (error.errno, "check the credentials" in str(error)) == (errno.EACCES, True)
    assert OTHER_KEY not in "".join(traceback.format_exception(error))
    error = refused("az://options/out.zarr", {**wrong, "account_key": None, "anon": True})
    assert (error.errno, "check the credentials" in str(error)) == (errno.EACCES, True)


@pytest.mark.parametrize("answers", [True, False])
def test_a_signature_enters_no_text(room, answers):
    """Also where it is not refused with words, but not answered at all."""
    endpoint = room.endpoint if answers else "http://127.0.0.1:9/lab"
    for given in (
        {"sas_token": "sv=2022-11-02&sig=CANARY%2B7f3a9b"},
        {"connection_string": "SharedAccessSignature=sv=2022-11-02&sig=CANARY%2B7f3a9b"},
    ):
        options = {"account_name": ACCOUNT, "endpoint": endpoint, **given, "retry_timeout": 0}
        error = refused("az://options/out.zarr", options)
        assert "CANARY" not in "".join(traceback.format_exception(error))
        with pytest.raises(OSError) as caught:  # noqa: PT011 -- of whatever kind
            open_dataset("az://options/out.zarr", storage_options={
                **options, "client_options": {"timeout": "2s"}})  # fmt: skip
        assert "CANARY" not in "".join(traceback.format_exception(caught.value))
