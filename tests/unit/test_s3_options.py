"""How a bucket of S3 is named, and how it is told who asks: as s3fs, boto3 and obstore do it."""

from __future__ import annotations

import errno

import obstore
import pytest
import zarr

from savers import StorageError, ZarrSaver
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
