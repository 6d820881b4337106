"""The usage forms of the ZarrSaver document, as its readers type them."""

from __future__ import annotations

import numcodecs
import numpy as np
import pytest
import zarr

from savers import ZarrSaver
from taskmanager import Task, TaskManager


class MyTask(Task):
    """An item and its square."""

    def process_item(self, item, **kwargs):
        return np.array([item, item**2], dtype=float)


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def read(name, store="results.zarr"):
    return zarr.open_group(store, mode="r")[name][...]


def test_form_1_append_with_a_task_manager():
    items = range(250)
    saver = ZarrSaver("results.zarr", dataset_name="experiment_1")
    task_manager = TaskManager(MyTask)
    task_manager.submit_tasks(items, saver=saver, save_interval=100)
    np.testing.assert_array_equal(read("experiment_1"), [[i, i**2] for i in items])
    saver.close()


def test_form_2_overwrite_by_a_direct_save():
    for results in ([1.0, 2.0, 3.0], [4.0, 5.0]):
        saver = ZarrSaver("results.zarr", dataset_name="daily_metrics", approach="overwrite")
        saver.save(results)
        saver.close()
        assert read("daily_metrics").tolist() == results


def test_form_3_update_at_indices():
    with ZarrSaver("results.zarr", dataset_name="time_series") as saver:
        saver.save(np.zeros(24))
    saver = ZarrSaver("results.zarr", dataset_name="time_series", approach="update")
    new_data = [1.0, 2.0, 3.0, 4.0]
    indices = [5, 10, 15, 20]
    saver.save(new_data, indices=indices)
    saver.close()
    wanted = np.zeros(24)
    wanted[indices] = new_data
    np.testing.assert_array_equal(read("time_series"), wanted)


def test_form_4_a_mapping_instead_of_a_path():
    import fsspec

    store = fsspec.filesystem("memory").get_mapper("mybucket/zarr-data")
    saver = ZarrSaver(store, dataset_name="remote_dataset", approach="append")
    TaskManager(MyTask).submit_tasks(range(5), saver=saver, save_interval=2)
    saver.close()
    found = read("remote_dataset", "memory://mybucket/zarr-data")
    np.testing.assert_array_equal(found, [[i, i**2] for i in range(5)])


@pytest.mark.may_leak("files", "threads", reason="obstore and s3fs keep connections open")
def test_form_4_a_mapping_of_s3fs(s3_server, monkeypatch):
    import s3fs

    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    s3_server.make_bucket("mybucket")
    s3 = s3fs.S3FileSystem(anon=False)
    store = s3fs.S3Map(root="mybucket/zarr-data", s3=s3, check=False)
    saver = ZarrSaver(store, dataset_name="remote_dataset", approach="append")
    for count in (3, 5):
        TaskManager(MyTask).submit_tasks(range(count), saver=saver, save_interval=2)
    saver.close()
    by_obstore = zarr.storage.ObjectStore(s3_server.store("mybucket", "zarr-data"), read_only=True)
    options = {"asynchronous": True, "endpoint_url": s3_server.endpoint}
    by_s3fs = zarr.storage.FsspecStore.from_url(
        "s3://mybucket/zarr-data", storage_options=options, read_only=True
    )
    for found in (read("remote_dataset", by_obstore), read("remote_dataset", by_s3fs)):
        np.testing.assert_array_equal(found, [[i, i**2] for i in range(5)])


def test_the_examples_of_save():
    with ZarrSaver("results.zarr") as saver:
        saver.save([1, 2, 3, 4, 5])
        saver.save([6, 7, 8, 9, 10])
    assert read("dataset").tolist() == list(range(1, 11))
    with ZarrSaver("compressed_results.zarr") as saver:
        compressor = numcodecs.Blosc(cname="zstd", clevel=9)
        saver.save(np.arange(3000.0), chunks=(1000,), compressor=compressor)
    array = zarr.open_group("compressed_results.zarr", mode="r")["dataset"]
    assert array.chunks == (1000,)
    assert array.metadata.codecs[1].clevel == 9


def test_its_errors():
    with ZarrSaver("results.zarr", approach="update") as saver:
        with pytest.raises(ValueError, match="needs indices"):
            saver.save([1])
        with pytest.raises(FileNotFoundError, match="to update"):
            saver.save([1], indices=[0])
    with ZarrSaver("results.zarr") as saver, pytest.raises(TypeError, match="got object"):
        saver.save([object()])
