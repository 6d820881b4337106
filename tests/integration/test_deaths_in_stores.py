"""A process that dies at each change that it makes in a store: what readers see, what is kept.

For folders see tests/crash: there the kernel counts. Here the store does: from its n-th change on
it answers nothing, and then another process comes.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import warnings
from dataclasses import asdict, replace

import numpy as np
import obstore
import pytest
import zarr
from obstore.exceptions import PermissionDeniedError

from savers import StorageError, ZarrSaver
from savers._ledger._lock import current_holder
from savers._session import _sessions
from savers._stores._bucket._store import ObjectStore
from tests.stores import BUCKET, OwnStore

pytestmark = pytest.mark.may_leak("files", reason="obstore keeps connections open")

ROWS = np.arange(8.0)
UPDATED = [0.0, -1.0, 2.0, -3.0, 4.0, 5.0, 6.0, 7.0]


class Life:
    """Counts changes; the process is dead from the one with number `at` on."""

    def __init__(self, at):
        self.at, self.changes, self.dead = at, itertools.count(), False

    def change(self):
        self.dead = self.dead or next(self.changes) == self.at
        if self.dead:
            raise StorageError(errno.EIO, "this process is dead")


class Mortal(OwnStore):
    """A zarr store of a process that dies."""

    life = Life(-1)

    async def set(self, key, value):
        self.life.change()
        await super().set(key, value)

    async def delete(self, key):
        self.life.change()
        await super().delete(key)


class InAZarrStore:
    """A place of which only zarr's interface is known; each object is a process of its own."""

    def __init__(self, folder, server):
        self.folder = folder

    def read(self):
        return zarr.open_group(self.folder, mode="r")["dataset"][:].tolist()

    def saver(self, **settings):
        return ZarrSaver(OwnStore(self.folder), chunks=2, **settings)

    @contextlib.contextmanager
    def mortal(self, life):
        def saver(**settings):
            store = Mortal(self.folder)
            store.life = life
            return ZarrSaver(store, chunks=2, **settings)

        with contextlib.suppress(StorageError):
            yield saver


class InABucket:
    """A bucket of a real server; a process that died leaves its lock."""

    def __init__(self, folder, server):
        self.key = f"{folder.parent.name}/{folder.name}"
        self.options = {**server.options(), "retry_timeout": 0.01}
        self.url, self.raw = server.url(BUCKET, self.key), server.store(BUCKET)
        self.store = server.store(BUCKET, self.key)

    def read(self):
        store = zarr.storage.ObjectStore(self.store, read_only=True)
        return zarr.open_group(store, mode="r")["dataset"][:].tolist()

    def saver(self, **settings):
        return ZarrSaver(self.url, chunks=2, storage_options=self.options, **settings)

    @contextlib.contextmanager
    def mortal(self, life):
        with pytest.MonkeyPatch.context() as patched:
            for name in ("_put", "_delete"):
                patched.setattr(ObjectStore, name, _mortal(getattr(ObjectStore, name), life))
            with contextlib.suppress(StorageError):
                yield self.saver
        _sessions._sessions.clear()  # as in another process
        lock = f"{self.key}.ledger/dataset.lock"
        dead = replace(current_holder(), started="0")
        if life.dead:
            obstore.put(self.raw, lock, json.dumps(asdict(dead)).encode())


def _mortal(method, life):
    def change(self, *args):
        try:
            life.change()
        except StorageError as error:
            if method.__name__ == "_put":  # this one is not tried again
                raise PermissionDeniedError(str(error)) from None
            raise
        return method(self, *args)

    return change


#: A server takes longer; `tests/torture_kinds.py` leaves nothing out.
STEPS = {InAZarrStore: 1, InABucket: 1 if os.environ.get("TASKSAVERS_ALL_KINDS") else 3}


@pytest.fixture(params=STEPS)
def deaths(request, tmp_path, s3_server):
    """Make a change of eight rows, dying at each of its steps in turn; yield after each death."""
    s3_server.make_bucket(BUCKET)

    def of(change):
        for at in itertools.count(step=STEPS[request.param]):
            place, life = request.param(tmp_path / f"{at}.zarr", s3_server), Life(at)
            with place.saver() as saver:
                saver.save(ROWS)
            with place.mortal(life) as saver:
                change(saver)
            if not life.dead:
                assert at > 3
                return
            yield place

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*without conditional writes", UserWarning)
        yield of


def appended(saver_of):
    with saver_of() as saver:
        saver.save([8.0, 9.0, 10.0])
        saver.save([11.0])


def test_appending(deaths):
    for place in deaths(appended):
        seen = place.read()
        assert seen == list(np.arange(len(seen), dtype=float))
        assert len(seen) >= len(ROWS)
        with place.saver() as saver:
            saver.flush()
        kept = place.read()
        assert len(kept) >= len(seen)
        with place.saver() as saver:
            saver.save([-1.0])
        assert place.read() == [*np.arange(len(kept), dtype=float), -1.0]


def updated(saver_of):
    with saver_of(approach="update") as saver:
        saver.save([-1.0, -3.0], [1, 3])


def test_updating(deaths):
    """Whole or not at all, from the next opening on."""
    found = []
    for place in deaths(updated):
        with place.saver() as saver:
            saver.save([9.0])
        found.append(place.read()[:-1])
        with place.saver(approach="update") as saver:
            saver.save([-2.0, -4.0], [1, 3])
        assert place.read() == [0.0, -2.0, 2.0, -4.0, *range(4, 8), 9.0]
    assert found.count(ROWS.tolist()) > 0
    assert found.count(UPDATED) > 0
    assert found.count(ROWS.tolist()) + found.count(UPDATED) == len(found)
