"""The contract of savers, kept in a bucket of a real server."""

from __future__ import annotations

import uuid

import pytest
import zarr

from savers import ZarrSaver
from savers.testing import SaverTests


@pytest.mark.may_leak("files", reason="obstore keeps connections open")
class TestZarrInABucket(SaverTests):
    @pytest.fixture(autouse=True)
    def _bucket(self, s3_server, monkeypatch):
        for name, value in s3_server.environment().items():  # credentials don't travel in pickles
            monkeypatch.setenv(name, value)
        s3_server.make_bucket("contract")
        self.server, self.prefix = s3_server, uuid.uuid4().hex

    def make_saver(self, path, **settings):
        return ZarrSaver(f"s3://contract/{self.prefix}/{path.name}", **settings)

    def read(self, path, name="dataset"):
        store = self.server.store("contract", f"{self.prefix}/{path.name}")
        return zarr.open_group(zarr.storage.ObjectStore(store, read_only=True), mode="r")[name][...]
