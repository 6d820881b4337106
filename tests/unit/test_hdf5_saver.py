"""HDF5Saver, read back with plain h5py."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from savers import (
    FormatError,
    HDF5Saver,
    InvalidInputError,
    StorageError,
    verify,
)
from savers.__main__ import main
from savers.errors import InvalidTypeError
from savers.testing import SaverTests


def read(path, name="dataset"):
    with h5py.File(path, "r") as file:
        dataset = file[name]
        text = h5py.check_string_dtype(dataset.dtype)
        return dataset.asstr()[...] if text and text.length is None else dataset[...]


def attributes(path, name="/"):
    with h5py.File(path, "r") as file:
        return dict(file[name].attrs)


class TestHDF5Saver(SaverTests):
    def make_saver(self, path, **settings):
        return HDF5Saver(path, **settings)

    def read(self, path, name="dataset"):
        return read(path, name)


# ---- what lies in the file ----


@pytest.mark.parametrize(
    "values",
    [
        np.array([True, False, True]),
        np.array([1 + 2j, 3 - 4j], "c8"),
        np.array([1 + 2j, 3 - 4j], "c16"),
        np.array([0.5, np.nan], "f2"),
        np.array([b"ab", b"c"]),
        np.array([[1, 2], [3, 4]], ">i4"),
    ],
    ids=lambda values: values.dtype.str,
)
def test_values_come_back_in_their_dtype(tmp_path, values):
    with HDF5Saver(tmp_path / "out.h5", chunks=2) as saver:
        saver.save(values)
        saver.save(values)
    found = read(tmp_path / "out.h5")
    np.testing.assert_array_equal(found, np.concatenate([values, values]))
    assert found.dtype.newbyteorder("=") == values.dtype.newbyteorder("=")


def test_bool_is_the_enum_of_h5py(tmp_path):
    with HDF5Saver(tmp_path / "out.h5") as saver:
        saver.save(np.array([True, False]))
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["dataset"].id.get_type().get_class() == h5py.h5t.ENUM


def test_text_is_of_variable_length_in_utf8(tmp_path):
    path = tmp_path / "out.h5"
    for part in (["", "ä"], ["long" * 100], ["日本", "x"]):
        with HDF5Saver(path, chunks=2) as saver:
            saver.save(part)
    assert read(path).tolist() == ["", "ä", "long" * 100, "日本", "x"]
    with HDF5Saver(path, approach="update") as saver:
        saver.save(["new", "last"], [1, 4])
    assert read(path).tolist() == ["", "new", "long" * 100, "日本", "last"]
    with h5py.File(path) as file:
        assert h5py.check_string_dtype(file["dataset"].dtype).encoding == "utf-8"
    assert verify(path) == []


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (np.array(["2000-01-02", "NaT"], "M8[D]"), {"units": "days since 1970-01-01"}),
        (np.array(["2000-01-01T00:30"], "M8[m]"), {"units": "minutes since 1970-01-01"}),
        (np.array([6, 12], "m8[h]"), {"units": "hours", "dtype": "timedelta64[ns]"}),
    ],
)
def test_times_are_integers_with_units(tmp_path, values, wanted):
    with HDF5Saver(tmp_path / "out.h5") as saver:
        saver.save(values)
    assert read(tmp_path / "out.h5").dtype == "<i8"
    assert read(tmp_path / "out.h5").view(values.dtype).tolist() == values.tolist()
    assert wanted.items() <= attributes(tmp_path / "out.h5", "dataset").items()


def test_attributes_of_the_root_and_of_arrays(tmp_path):
    attrs = {"title": "T", "levels": [1, 2], "names": ["a", "b"], "x": {"units": "m", "n": 1.5}}
    with HDF5Saver(tmp_path / "out.h5", "x", attrs=attrs) as saver:
        saver.save([1.0], attributes={"long_name": "height", "known": True})
    root, own = attributes(tmp_path / "out.h5"), attributes(tmp_path / "out.h5", "x")
    assert root["title"] == "T"
    assert root["levels"].tolist() == [1, 2]
    assert list(root["names"]) == ["a", "b"]
    assert own == {"units": "m", "n": 1.5, "long_name": "height", "known": np.True_}


@pytest.mark.parametrize("value", [[{"a": 1}], [1, "a"], [[1], [2, 3]]])
def test_attributes_that_hdf5_cannot_hold_are_refused(tmp_path, value):
    for attrs in ({"odd": value}, {"dataset": {"odd": value}}):
        saver = HDF5Saver(tmp_path / "out.h5", attrs=attrs)
        with saver, pytest.raises(InvalidInputError, match="odd"):
            saver.save([1.0])
    assert not (tmp_path / "out.h5").exists()


def test_dimensions_are_labels_and_scales(tmp_path):
    path = tmp_path / "out.h5"
    days = np.arange("2000-01-01", "2000-01-11", dtype="M8[D]")
    coords = {"time": days, "level": [1000.0, 500.0]}
    with HDF5Saver(path, "t", dims=["time", "level"], coords=coords) as saver:
        saver.save(np.zeros((3, 2)))
        saver.flush()
        saver.save(np.ones((1, 2)))
    with h5py.File(path) as file:
        dataset = file["t"]
        assert [dimension.label for dimension in dataset.dims] == ["time", "level"]
        assert [list(dimension.keys()) for dimension in dataset.dims] == [["time"], ["level"]]
        assert file["time"].is_scale
        assert file["time"][:].tolist() == [10957, 10958, 10959, 10960]
        assert file["level"][:].tolist() == [1000.0, 500.0]


def test_a_dimension_without_labels_has_a_scale_where_others_have_one(tmp_path):
    xarray = pytest.importorskip("xarray")
    path = tmp_path / "out.h5"
    for rows in (3, 2):  # the dimension that grows has no labels
        with HDF5Saver(path, "t", dims=["item", "level"], coords={"level": [1.0, 5.0]}) as saver:
            saver.save(np.zeros((rows, 2)))
    with HDF5Saver(path, "u", dims=["item", "x"]) as saver:
        saver.save(np.ones((4, 3)))
    with HDF5Saver(path, "v") as saver:
        saver.save(np.ones((4, 3)))
    with xarray.open_dataset(path, engine="h5netcdf", phony_dims="access") as dataset:
        assert dataset["t"].dims == ("item", "level")
        assert dict(dataset["t"].sizes) == {"item": 5, "level": 2}
        assert set(dataset.data_vars) == {"t", "u", "v"}
        assert dataset["u"].dims == ("item", "x")
    with HDF5Saver(path, "item") as saver, pytest.raises(InvalidInputError):
        saver.save([[1.0]])
    assert read(path, "t").shape == (5, 2)


def test_a_coordinate_gets_shorter_and_longer_without_loss(tmp_path):
    path = tmp_path / "out.h5"
    coords = {"n": np.arange(6), "name": ["a", "b", "c"]}
    settings = {"dims": ["n", "name"], "coords": coords}
    for count in (5, 2, 6):
        with HDF5Saver(path, "x", "overwrite", **settings) as saver:
            saver.save(np.full((count, 3), float(count)))
        assert read(path, "n").tolist() == list(range(count))
        assert verify(path) == []
    with h5py.File(path) as file:
        assert file["x"].dims[0].keys() == ["n"]
        assert file["x"].dims[1].keys() == ["name"]


def test_groups_and_several_arrays_in_one_file(tmp_path):
    path = tmp_path / "out.h5"
    with HDF5Saver(path, "run/loss") as one, HDF5Saver(path, "run/error") as other:
        for step in range(3):
            one.save([float(step)])
            other.save([step])
        one.flush()
        assert read(path, "run/loss").tolist() == [0.0, 1.0, 2.0]
    assert read(path, "run/error").tolist() == [0, 1, 2]
    assert read(path, "run/loss").tolist() == [0.0, 1.0, 2.0]
    with HDF5Saver(path, "run/loss") as saver:
        saver.save([3.0])
    assert read(path, "run/loss").tolist() == [0.0, 1.0, 2.0, 3.0]
    with HDF5Saver(path, "run") as saver, pytest.raises((FormatError, InvalidInputError)):
        saver.save([1.0])
    assert verify(path) == []


# ---- filters ----


def filters(path, name="dataset"):
    with h5py.File(path) as file:
        dataset = file[name]
        return dataset.compression, dataset.compression_opts, dataset.shuffle, dataset.fletcher32


ROWS = np.arange(3000.0).reshape(1000, 3)


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, ("gzip", 1, True, False)),
        ({"codecs": None}, (None, None, False, False)),
        ({"codecs": "small"}, ("gzip", 6, True, False)),
        ({"compression": "gzip"}, ("gzip", 4, False, False)),
        ({"compression": 7, "shuffle": True}, ("gzip", 7, True, False)),
        ({"compression": "gzip", "compression_opts": 9}, ("gzip", 9, False, False)),
        ({"compression": "lzf", "shuffle": True}, ("lzf", None, True, False)),
        ({"fletcher32": True}, ("gzip", 1, True, True)),
        ({"compression": None, "fletcher32": True}, (None, None, False, True)),
    ],
)
def test_filters_as_h5py_spells_them(tmp_path, settings, wanted):
    for number, (own, call) in enumerate(((settings, {}), ({}, settings))):
        path = tmp_path / f"out{number}.h5"
        with HDF5Saver(path, chunks=300, **own) as saver:
            saver.save(ROWS[:700], **call)
        with HDF5Saver(path, chunks=300, **own) as saver:
            saver.save(ROWS[700:], **call)
        with HDF5Saver(path, approach="update") as saver:
            saver.save(ROWS[4:6], [4, 5])
        assert filters(path) == wanted
        np.testing.assert_array_equal(read(path), ROWS)
        assert verify(path) == []


def test_a_filter_of_a_plugin(tmp_path):
    plugin = pytest.importorskip("hdf5plugin")
    with HDF5Saver(tmp_path / "out.h5", compression=plugin.Zstd(3)) as saver:
        saver.save(ROWS)
        saver.save(ROWS)
    np.testing.assert_array_equal(read(tmp_path / "out.h5"), np.concatenate([ROWS, ROWS]))
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["dataset"].id.get_create_plist().get_filter(0)[0] == plugin.Zstd.filter_id


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"compression": "zipp"}, InvalidInputError),
        ({"compression": "gzip", "compression_opts": 11}, InvalidInputError),
        ({"codecs": "zstd"}, InvalidInputError),
        ({"shards": (10, 3)}, InvalidInputError),
        ({"compressor": None}, InvalidTypeError),
    ],
)
def test_filters_that_are_not_there_are_refused(tmp_path, settings, error):
    with HDF5Saver(tmp_path / "out.h5") as saver, pytest.raises(error):
        saver.save(ROWS, **settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"chunks": 7}, "chunks"),
        ({"dtype": "f4"}, "dtype"),
        ({"compression": "lzf"}, "filters"),
        ({"fill_value": 3.0}, "fill_value"),
        ({"attributes": {"units": "K"}}, "units"),
    ],
)
def test_settings_of_an_array_that_is_there_must_agree(tmp_path, given, name):
    with HDF5Saver(tmp_path / "out.h5", chunks=5) as saver:
        saver.save(ROWS, attributes={"units": "m"}, fill_value=-1.0)
    with HDF5Saver(tmp_path / "out.h5") as saver:
        with pytest.raises(InvalidInputError, match=name):
            saver.save(ROWS, **given)
        saver.save(ROWS, chunks=5, attributes={"units": "m"}, fill_value=-1.0)
    assert len(read(tmp_path / "out.h5")) == 2000


def test_the_fill_value_is_that_of_the_dataset(tmp_path):
    for given, wanted in ((-5.0, -5.0), (None, np.nan)):
        path = tmp_path / f"out{wanted}.h5"
        with HDF5Saver(path) as saver:
            saver.save([1.0], fill_value=given)
        with h5py.File(path) as file:
            np.testing.assert_equal(file["dataset"].fillvalue, wanted)


# ---- files of others ----


@pytest.fixture
def foreign(tmp_path):
    path = tmp_path / "theirs.h5"
    with h5py.File(path, "w") as file:
        file.attrs["author"] = "somebody"
        file.create_dataset("x", data=np.arange(10.0), maxshape=(None,), chunks=(4,), compression=4)
        file["x"].attrs["units"] = "m"
        file.create_dataset("whole", data=np.arange(5))
        file.create_dataset("lzf", data=ROWS, maxshape=(None, 3), chunks=(64, 3), compression="lzf")
        group = file.create_group("deep/down")
        group.create_dataset("y", data=["a", "b"], maxshape=(None,), chunks=(2,))
        file.create_dataset("when", data=np.arange(10))
        file["when"].make_scale("when")
        file["when"].attrs["units"] = "days"
        file.create_dataset("bounded", data=np.zeros(3), chunks=(2,), maxshape=(4,))
        file["single"] = 1.0
        file["x"].dims[0].attach_scale(file["when"])
        file.create_dataset("records", data=np.zeros(3, "i4,f8"))
    return path


def test_a_file_of_others_is_extended_and_keeps_all_else(foreign):
    with HDF5Saver(foreign, "x") as saver:
        saver.save([10.0, 11.0])
    with HDF5Saver(foreign, "deep/down/y") as saver:
        saver.save(["c"])
    with HDF5Saver(foreign, "lzf", "update") as saver:
        saver.save(-ROWS[:2], [0, 999])
    with HDF5Saver(foreign, "new", attrs={"title": "ours"}) as saver:
        saver.save([1])
    assert read(foreign, "x").tolist() == list(np.arange(12.0))
    assert read(foreign, "deep/down/y").tolist() == ["a", "b", "c"]
    wanted = ROWS.copy()
    wanted[[0, 999]] = -ROWS[:2]
    np.testing.assert_array_equal(read(foreign, "lzf"), wanted)
    assert read(foreign, "whole").tolist() == [0, 1, 2, 3, 4]
    assert attributes(foreign)["author"] == "somebody"
    assert attributes(foreign)["title"] == "ours"
    assert attributes(foreign, "x")["units"] == "m"
    with h5py.File(foreign) as file:
        assert file["x"].dims[0].keys() == ["when"]
        assert file["x"].dims[0][0] == file["when"]
        assert file["records"].shape == (3,)
    assert verify(foreign) == []


def test_a_dataset_of_others_is_replaced(foreign):
    for rows in ([1, 2], [3, 4, 5]):
        with HDF5Saver(foreign, "whole", "overwrite") as saver:
            saver.save(rows)
        assert read(foreign, "whole").tolist() == rows
    assert read(foreign, "x").tolist() == list(np.arange(10.0))


@pytest.mark.parametrize("name", ["records", "single"])
def test_a_dataset_that_cannot_grow_is_refused(foreign, name):
    before = foreign.read_bytes()
    with HDF5Saver(foreign, name) as saver, pytest.raises(FormatError, match="extended"):
        saver.save([1])
    assert foreign.read_bytes() == before


@pytest.mark.parametrize("approach", ["append", "update"])
def test_a_dataset_in_one_piece_gets_chunks_and_keeps_what_it_has(foreign, approach):
    with HDF5Saver(foreign, "when", approach) as saver:
        saver.save([77], None if approach == "append" else [9])
    wanted = [*range(10), 77] if approach == "append" else [*range(9), 77]
    assert read(foreign, "when").tolist() == wanted
    assert attributes(foreign, "when")["units"] == "days"
    with h5py.File(foreign) as file:
        assert file["when"].is_scale
        assert file["x"].dims[0].keys() == ["when"]
        assert file["x"].dims[0][0] == file["when"]
    with HDF5Saver(foreign, "bounded") as saver:
        saver.save([5.0] * 4)
    assert read(foreign, "bounded").tolist() == [0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0]
    assert verify(foreign) == []


def test_something_else_in_the_place_of_the_file_is_refused(tmp_path):
    (tmp_path / "text").write_text("no HDF5")
    (tmp_path / "folder").mkdir()
    for name in ("text", "folder"):
        with pytest.raises(FormatError, match=name), HDF5Saver(tmp_path / name) as saver:
            saver.save([1.0])
    assert (tmp_path / "text").read_text() == "no HDF5"


def test_a_file_that_others_changed_meanwhile_is_refused(tmp_path):
    path = tmp_path / "out.h5"
    with HDF5Saver(path) as saver:
        saver.save([1.0, 2.0])
    with h5py.File(path, "r+") as file:
        file["dataset"].resize((1,))
    with HDF5Saver(path) as saver, pytest.raises(FormatError, match="changed by another program"):
        saver.save([3.0])


def test_a_ledger_whose_file_is_gone_is_set_aside(tmp_path):
    path = tmp_path / "out.h5"
    with HDF5Saver(path) as saver:
        saver.save([1.0, 2.0])
    path.unlink()
    with pytest.warns(UserWarning, match="is gone"), HDF5Saver(path) as saver:
        saver.save([3.0])
    assert read(path).tolist() == [3.0]


# ---- life of a file ----


def test_no_file_before_the_first_flush_and_none_changes_in_place(tmp_path):
    path = tmp_path / "out.h5"
    with HDF5Saver(path, chunks=2) as saver:
        saver.save(ROWS[:5])
        assert not path.exists()
        saver.flush()
        first, content = os.stat(path), path.read_bytes()
        with path.open("rb") as held:
            saver.save(ROWS[5:10])
            assert path.read_bytes() == content
            saver.flush()
            assert os.stat(path).st_ino != first.st_ino
            assert held.read() == content
        second = os.stat(path)
        saver.flush()
        assert os.stat(path).st_ino == second.st_ino  # nothing new, nothing done
    assert os.stat(path).st_ino == second.st_ino
    assert not list((tmp_path / "out.h5.ledger").glob("*.segment"))


def test_without_durability_the_file_is_written_in_place(tmp_path):
    path = tmp_path / "out.h5"
    with HDF5Saver(path, chunks=4, durability="none") as saver:
        saver.save(ROWS[:3])
        saver.flush()
        first = os.stat(path)
        saver.save(ROWS[3:50])
    with HDF5Saver(path, chunks=4, durability="none", approach="update") as saver:
        saver.save(ROWS[:1], [7])
    assert os.stat(path).st_ino == first.st_ino
    wanted = ROWS[:50].copy()
    wanted[7] = ROWS[0]
    np.testing.assert_array_equal(read(path), wanted)
    assert verify(path) == []


def test_holes_of_replaced_chunks_are_used_again(tmp_path):
    path = tmp_path / "out.h5"
    rng = np.random.default_rng(0)
    with HDF5Saver(path, chunks=4000) as saver:
        for _ in range(40):
            saver.save(rng.normal(size=(100, 8)))
            saver.flush()
    with h5py.File(path) as file:
        stored = file["dataset"].id.get_storage_size()
    assert path.stat().st_size < 3 * stored  # 20 times without


def test_opening_a_finished_file_leaves_it_alone(tmp_path):
    path = tmp_path / "out.h5"
    with HDF5Saver(path) as saver:
        saver.save([1.0])
    before = os.stat(path)
    with HDF5Saver(path, approach="update") as saver:
        saver.session().open()
    assert os.stat(path).st_ino == before.st_ino


def test_the_permissions_of_a_file_stay(tmp_path):
    path = tmp_path / "out.h5"
    with HDF5Saver(path) as saver:
        saver.save([1.0])
    path.chmod(0o640)
    with HDF5Saver(path) as saver:
        saver.save([1.0])
    assert path.stat().st_mode & 0o777 == 0o640


def test_too_little_room_is_told_before_the_file_is_built(tmp_path, monkeypatch):
    path = tmp_path / "out.h5"
    saver = HDF5Saver(path, chunks=2)
    saver.save(ROWS)
    usage = (0, 0, 1000)
    with monkeypatch.context() as patched:
        found = type("Usage", (), {"free": usage[2]})()
        patched.setattr("savers._stores._single_file.shutil.disk_usage", lambda folder: found)
        with pytest.raises(StorageError, match="MB are needed"):
            saver.flush()
    assert not path.exists()
    saver.close()
    np.testing.assert_array_equal(read(path), ROWS)


def test_what_a_killed_run_committed_is_put_in_by_recover(tmp_path):
    path = tmp_path / "out.h5"
    program = (
        "import os, sys\nfrom savers import HDF5Saver\n"
        "saver = HDF5Saver(sys.argv[1], chunks=2)\n"
        "saver.save([0.0, 1.0, 2.0])\nsaver.flush()\nsaver.save([3.0, 4.0])\nos._exit(9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert done.returncode == 9
    assert read(path).tolist() == [0.0, 1.0, 2.0]
    for command in ("inspect", "verify", "recover", "verify"):
        assert main([command, str(path)]) == 0
    assert read(path).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("name", ["HDF5Saver", "NetCDFSaver"])
def test_a_saver_left_open_is_published_when_its_process_ends(tmp_path, name):
    program = (
        f"import sys\nfrom savers import {name}\n"
        f"saver = {name}(sys.argv[1], chunks=2, attrs={{'title': 'T'}})\n"
        "saver.save({'x': [0.0, 1.0, 2.0], 't': ['a', 'b', 'c']})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "out"], check=True, capture_output=True
    )
    assert done.stderr == b""
    assert read(tmp_path / "out", "x").tolist() == [0.0, 1.0, 2.0]


def test_flipped_bytes_are_found_by_verify(tmp_path):
    path = tmp_path / "out.h5"
    rows = np.random.default_rng(0).normal(size=(64, 16))
    with HDF5Saver(path, chunks=16) as saver:
        saver.save(rows)
    whole = path.read_bytes()
    with h5py.File(path) as file:
        places = [file["dataset"].id.get_chunk_info(i) for i in range(4)]
    for place in places:
        damaged = bytearray(whole)
        damaged[place.byte_offset + place.size // 2] ^= 4
        path.write_bytes(damaged)
        assert [finding.array for finding in verify(path)] == ["dataset"]
    path.write_bytes(whole)
    assert verify(path) == []


def test_no_handle_of_hdf5_stays_open(tmp_path):
    path = tmp_path / "out.h5"
    with HDF5Saver(path) as saver:
        saver.save(ROWS)
        saver.flush()
        gc.collect()
        kinds = h5py.h5f.OBJ_FILE | h5py.h5f.OBJ_DATASET | h5py.h5f.OBJ_GROUP | h5py.h5f.OBJ_ATTR
        assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, kinds) == 0
