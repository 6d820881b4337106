"""HDF5 files behind URLs: put as a whole, whenever they are published."""

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
import sys

import fsspec
import h5py
import netCDF4
import numpy as np
import pytest

from savers import HDF5Saver, LedgerMismatchError, NetCDFSaver, StorageError, verify
from savers._maintenance._recover import recover
from savers._session import _sessions
from savers.errors import InvalidTypeError

URL = "memory://hdf5-remote/runs/out.h5"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield tmp_path / "state"
    memory = fsspec.filesystem("memory")
    if memory.exists("/hdf5-remote"):
        memory.rm("/hdf5-remote", recursive=True)


def read(name="dataset"):
    data = fsspec.filesystem("memory").cat_file("/hdf5-remote/runs/out.h5")
    with h5py.File(io.BytesIO(data), "r") as file:
        return file[name][...].tolist()


def test_it_is_there_after_each_flush_and_goes_on(state):
    with HDF5Saver(URL, chunks=2) as saver:
        saver.save([1.0, 2.0, 3.0])
        assert not fsspec.filesystem("memory").exists("/hdf5-remote/runs/out.h5")
        saver.flush()
        assert read() == [1.0, 2.0, 3.0]
        saver.save([4.0])
    assert read() == [1.0, 2.0, 3.0, 4.0]
    with HDF5Saver(URL, approach="update") as saver:
        saver.save([-2.0], [1])
    with HDF5Saver(URL, "other", "overwrite") as saver:
        saver.save([7])
    assert read() == [1.0, -2.0, 3.0, 4.0]
    assert read("other") == [7]
    assert fsspec.filesystem("memory").find("/hdf5-remote") == ["/hdf5-remote/runs/out.h5"]
    assert oct(next((state / "tasksavers").iterdir()).stat().st_mode)[-3:] == "700"
    assert verify(URL) == []


def test_a_file_that_could_not_be_put_is_put_later(monkeypatch):
    saver = HDF5Saver(URL)
    saver.save([1.0])
    saver.flush()
    saver.save([2.0])
    with monkeypatch.context() as patched:

        def refused(self, path, value, **settings):
            raise OSError(5, "no answer")

        patched.setattr(type(fsspec.filesystem("memory")), "pipe_file", refused)
        with pytest.raises(StorageError):
            saver.flush()
    assert read() == [1.0]
    saver.flush()
    assert read() == [1.0, 2.0]
    saver.close()


PROGRAM = """
import os, sys, fsspec
from savers import HDF5Saver
saver = HDF5Saver(sys.argv[1])
saver.save([1.0])
saver.flush()
saver.save([2.0])
os._exit(9)
"""


def test_what_a_killed_run_committed_is_put_by_the_next(tmp_path):
    url = f"local-file://{tmp_path}/out.h5"  # a file system that outlives the process
    program = PROGRAM.replace("from savers", SCHEME + "from savers")
    exec(SCHEME, {})
    done = subprocess.run([sys.executable, "-c", program, url], check=False, env=dict(os.environ))
    assert done.returncode == 9
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["dataset"][:].tolist() == [1.0]
    recover(url)
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["dataset"][:].tolist() == [1.0, 2.0]


SCHEME = """
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
class Far(LocalFileSystem):
    protocol = "local-file"
    @classmethod
    def _strip_protocol(cls, path):
        return LocalFileSystem._strip_protocol(str(path).removeprefix("local-file://"))
fsspec = __import__("fsspec")
fsspec.register_implementation("local-file", Far, clobber=True)
"""


def test_another_machine_is_refused(state):
    with HDF5Saver(URL) as saver:
        saver.save([1.0])
    shutil.rmtree(state)
    for approach in ("append", "overwrite"):
        saver = HDF5Saver(URL, approach=approach)
        with saver, pytest.raises(LedgerMismatchError, match="another machine"):
            saver.save([2.0])
    assert read() == [1.0]


def test_a_file_that_others_replaced_is_not_replaced_in_turn(server, container):
    obstore = pytest.importorskip("obstore")
    objects = server.store(container)
    url, options = server.url(container, "runs/out.h5"), server.options()
    with HDF5Saver(url, storage_options=options) as saver:
        saver.save([1.0])
    saver = HDF5Saver(url, storage_options=options)
    saver.save([2.0])
    obstore.put(objects, "runs/out.h5", b"theirs")
    for _ in range(2):
        with pytest.raises(LedgerMismatchError, match="replaced by another program"):
            saver.flush()
    with pytest.raises(LedgerMismatchError):
        saver.close()
    with pytest.raises(LedgerMismatchError):
        HDF5Saver(url, storage_options=options).save([3.0])
    assert bytes(obstore.get(objects, "runs/out.h5").bytes()) == b"theirs"


def test_a_machine_whose_file_another_one_made_meanwhile_is_told_so(
    server, container, tmp_path, monkeypatch
):
    """Before the first flush there is no file, so that the other machine can't know."""
    url, options = server.url(container, "runs/out.h5"), server.options()
    here = HDF5Saver(url, storage_options=options)
    here.save([1.0])
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("XDG_STATE_HOME", str(tmp_path / "another machine"))
        mine = dict(_sessions._sessions)
        _sessions._sessions.clear()
        with HDF5Saver(url, storage_options=options) as there:
            there.save([2.0])
        _sessions._sessions.update(mine)
    for _ in range(2):
        with pytest.raises(LedgerMismatchError, match="replaced by another program"):
            here.flush()
    with pytest.raises(LedgerMismatchError):
        here.close()
    found = io.BytesIO(server.store(container).get("runs/out.h5").bytes().to_bytes())
    with h5py.File(found) as file:
        assert file["dataset"][:].tolist() == [2.0]


def test_a_file_of_others_is_taken_over():
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        file.create_dataset("x", data=np.arange(3.0), maxshape=(None,), chunks=(2,))
    fsspec.filesystem("memory").pipe_file("/hdf5-remote/runs/out.h5", memory.getvalue())
    with HDF5Saver(URL, "x") as saver:
        saver.save([3.0])
    assert read("x") == [0.0, 1.0, 2.0, 3.0]


def test_a_file_that_is_gone_is_begun_anew():
    with HDF5Saver(URL) as saver:
        saver.save([1.0])
    fsspec.filesystem("memory").rm("/hdf5-remote/runs/out.h5")
    with pytest.warns(UserWarning, match="is gone"), HDF5Saver(URL) as saver:
        saver.save([2.0])
    assert read() == [2.0]


def test_a_store_holds_no_single_file():
    for place in ({}, fsspec.get_mapper("memory://")):
        with pytest.raises(InvalidTypeError, match="path or URL of a file"):
            HDF5Saver(place)


def appended_updated_and_reopened(saver_of, s3_server, bucket, key):
    """Return the bytes of a file in a bucket of a server, after all that may happen to it."""
    obstore = pytest.importorskip("obstore")
    with saver_of() as saver:
        saver.save([1.0, 2.0, 3.0])
        saver.flush()
        saver.save([4.0])
    with saver_of(approach="update") as saver:
        saver.save([-2.0], [1])
    with saver_of() as saver:
        saver.save([5.0])
    found = [entry["path"] for entry in obstore.list(s3_server.store(bucket)).collect()]
    assert found == [key]
    return io.BytesIO(obstore.get(s3_server.store(bucket), key).bytes())


@pytest.mark.parametrize("kind", [HDF5Saver, NetCDFSaver])
def test_a_file_in_a_bucket_is_appended_to_updated_and_reopened(kind, server, container):
    suffix = "h5" if kind is HDF5Saver else "nc"
    saver_of = functools.partial(
        kind, server.url(container, f"runs/out.{suffix}"), storage_options=server.options()
    )
    found = appended_updated_and_reopened(saver_of, server, container, f"runs/out.{suffix}")
    with h5py.File(found) as file:
        assert file["dataset"][:].tolist() == [1.0, -2.0, 3.0, 4.0, 5.0]
    if kind is NetCDFSaver:
        with netCDF4.Dataset("memory", memory=found.getvalue()) as file:
            assert file["dataset"][:].tolist() == [1.0, -2.0, 3.0, 4.0, 5.0]
