"""What savers wrote, read back: every format, and the cells that nobody wrote."""

from __future__ import annotations

import asyncio
import warnings

import h5py
import numpy as np
import pytest
import xarray
import zarr

import savers
from taskmanager import TaskManager

SAVERS = {
    "zarr v3": (savers.ZarrSaver, "store.zarr", {}),
    "zarr v2": (savers.ZarrSaver, "store.zarr", {"zarr_format": 2}),
    "hdf5": (savers.HDF5Saver, "store.h5", {}),
}


def result(item):
    if item == 3:
        raise ValueError(item)
    return {
        "flag": item % 2 == 0,
        "level": np.uint8(item),
        "count": np.int32(np.iinfo("i4").min if item == 1 else item),
        "speed": item / 2,
        "seen": np.datetime64("2020-01-01", "s") + np.timedelta64(item, "s"),
        "name": "" if item == 4 else f"n{item}",
        "wind": np.full((2, 3), item, "i2"),
    }


def save(path, kind, items, task=result, **more):
    saver, name, options = SAVERS[kind]
    with saver(path / name, **options, **more) as made, TaskManager(task, errors="skip") as manager:
        manager.submit_tasks(items, saver=made)
    return path / name


def both(path, **options):
    """Yield the Dataset of either function, read."""
    with savers.open_dataset(path, **options) as dataset:
        yield dataset.load()

    async def awaited():
        with await savers.open_dataset_async(path, **options) as dataset:
            return await dataset.load_async()

    yield asyncio.run(awaited())


@pytest.fixture(params=SAVERS)
def kind(request):
    return request.param


def test_cells_that_were_never_written_are_missing(tmp_path, kind):
    path = save(tmp_path, kind, range(6))
    for dataset in both(path):
        (dimension,) = dataset.speed.dims
        for name, variable in dataset.variables.items():
            missing = variable.isnull()
            expected = np.arange(6) == 3
            if name == "wind":
                expected = np.broadcast_to(expected[:, None, None], (6, 2, 3))
            np.testing.assert_array_equal(missing, expected, err_msg=name)
        written = dataset.isel({dimension: [0, 1, 2, 4, 5]})
        assert written.flag.to_numpy().tolist() == [True, False, True, True, False]
        assert written.level.to_numpy().tolist() == [0, 1, 2, 4, 5]
        assert written["count"].to_numpy().tolist() == [0, np.iinfo("i4").min, 2, 4, 5]
        assert written.name.to_numpy().tolist() == ["n0", "n1", "n2", "", "n5"]
        assert written.wind[:, 1, 1].to_numpy().tolist() == [0, 1, 2, 4, 5]


def test_missing_cells_are_found_after_any_selection(tmp_path, kind):
    path = save(tmp_path, kind, range(6))
    with savers.open_dataset(path) as whole:
        whole.load()
    (dimension,) = whole.speed.dims
    for choice in (slice(None, None, -2), [3, 3, 0], 3, xarray.DataArray([5, 3], dims="p")):

        async def selected(choice=choice):
            with await savers.open_dataset_async(path) as dataset:
                return await dataset.isel({dimension: choice}).load_async()

        xarray.testing.assert_identical(asyncio.run(selected()), whole.isel({dimension: choice}))


def test_nothing_is_masked_where_nothing_is_missing(tmp_path, kind):
    path = save(tmp_path, kind, [0, 1, 2, 4, 5])
    for dataset in both(path):
        assert dataset.flag.dtype == bool
        assert dataset.level.dtype == np.uint8
        assert dataset["count"].dtype == np.int32
        assert dataset.wind.dtype == np.int16
        assert not dataset.flag.to_numpy()[1]
        assert dataset.name.to_numpy().tolist() == ["n0", "n1", "n2", "", "n5"]


def test_the_state_of_the_run_on_request(tmp_path, kind):
    path = save(tmp_path, kind, range(6))
    for dataset in both(path):
        assert not [name for name in dataset.attrs if name.startswith("run_")]
    for dataset in both(path, run_state=True):
        counts = {"run_items": 6, "run_done": 5, "run_failed": 0, "run_skipped": 1}
        assert dataset.attrs.items() >= {**counts, "run_unfinished": 0}.items()


def test_raw_values_on_request(tmp_path, kind):
    path = save(tmp_path, kind, range(6))
    for dataset in both(path, mask_and_scale=False):
        assert dataset.flag.dtype == bool
        assert dataset.level.to_numpy().tolist() == [0, 1, 2, 0, 4, 5]


def test_complete_version_2_bools_and_texts_are_themselves_in_xarray(tmp_path):
    """xarray takes the fill value of a version 2 array for missing: False, and empty texts."""
    path = save(tmp_path, "zarr v2", [0, 1, 2, 4, 5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = xarray.open_zarr(path, chunks=None).load()
    assert dataset.flag.dtype == bool
    assert dataset.flag.to_numpy().tolist() == [True, False, True, True, False]
    assert dataset.level.to_numpy().tolist() == [0, 1, 2, 4, 5]
    assert dataset.name.to_numpy().tolist() == ["n0", "n1", "n2", "", "n5"]


def test_attributes_of_files_are_those_that_xarray_reads(tmp_path):
    path = tmp_path / "store.h5"
    coords = {"time": np.arange("2020-01", "2020-05", dtype="M8[M]").astype("M8[ns]"),
              "lat": [1.0, 2.0, 3.0]}  # fmt: skip
    with savers.HDF5Saver(path, "t2m", dims=("time", "lat"), coords=coords,
                          attrs={"t2m": {"units": "K"}, "title": "x"}) as saver:  # fmt: skip
        saver.save(np.arange(12.0).reshape(4, 3))
    with xarray.open_dataset(path, engine="h5netcdf", phony_dims="access") as expected:
        for dataset in both(path):
            xarray.testing.assert_identical(dataset, expected.load())
            assert dataset.encoding == expected.encoding
            for name, variable in expected.variables.items():
                assert repr(dataset[name].encoding) == repr(variable.encoding)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "note.nc").write_text("text")
    with pytest.raises(savers.FormatError, match="neither|another file"):
        savers.open_dataset(tmp_path / "note.nc")
    with pytest.raises(savers.NotFoundError, match="none.nc"):
        savers.open_dataset(tmp_path / "none.nc")


def test_damage_in_a_file_names_variable_and_file(tmp_path):
    path = tmp_path / "store.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("t2m", data=np.arange(100.0), chunks=(100,), fletcher32=True)
    with h5py.File(path) as file:
        at = file["t2m"].id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as file:
        file.seek(at)
        file.write(b"\x12" * 8)
    with savers.open_dataset(path) as dataset, pytest.raises(savers.StorageError, match="t2m in"):
        dataset.t2m.load()


def test_groups_of_files(tmp_path):
    path = tmp_path / "store.h5"
    with h5py.File(path, "w") as file:
        file["a/b/t2m"] = np.arange(4.0)
    for dataset in both(path, group="a/b"):
        assert dataset.t2m.to_numpy().tolist() == [0, 1, 2, 3]


def test_files_may_lie_in_a_bucket(tmp_path):
    import fsspec

    path = save(tmp_path, "hdf5", range(3))
    fsspec.filesystem("memory").pipe("/reading/store.h5", path.read_bytes())
    for dataset in both("memory://reading/store.h5"):
        assert dataset.speed.to_numpy().tolist() == [0, 0.5, 1]


def test_what_is_being_written_reads_as_far_as_it_is_published(tmp_path):
    with savers.ZarrSaver(tmp_path / "store.zarr", "flag") as saver:
        saver.save([True, False, True])
        saver.flush()
        for dataset in both(tmp_path / "store.zarr"):
            assert dataset.flag.to_numpy().tolist() == [True, False, True]
        saver.save([True])


def test_an_adopted_array_keeps_its_values(tmp_path):
    path = tmp_path / "store.zarr"
    made = zarr.create_group(path).create_array("flag", shape=3, dtype=bool, dimension_names=["x"])
    made[:] = [True, False, True]
    with savers.ZarrSaver(path, "flag") as saver:
        saver.save([False])
    for dataset in both(path):
        assert dataset.flag.to_numpy().tolist() == [True, False, True, False]
