"""`ZarrSaver` passes the conformance suite in every format; a saver that does not conform fails."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from savers import ClosedError, InvalidInputError, Saver, ZarrSaver
from savers.testing import MemorySaver, SaverTests
from taskmanager import TaskManager


class TestZarr3(SaverTests):
    def make_saver(self, path, **settings):
        return ZarrSaver(path, **settings)

    def read(self, path, name="dataset"):
        return zarr.open_group(path, mode="r")[name][...]


class TestZarr2(TestZarr3):
    def make_saver(self, path, **settings):
        return ZarrSaver(path, **{"zarr_format": 2, **settings})

    def test_overwrite_replaces_shape_and_dtype(self, tmp_path):
        for rows in (np.zeros((4, 2)), np.ones((2, 2, 2), "f4")):
            self.save(tmp_path / "out", rows, approach="overwrite")
            self.expect(tmp_path / "out", rows)
        self.save(tmp_path / "flat", [1.0])
        with pytest.raises(InvalidInputError, match="can't be replaced in one step"):
            self.save(tmp_path / "flat", [2.0], approach="overwrite")


class TestZarrSharded(TestZarr3):
    def make_saver(self, path, **settings):
        return super().make_saver(path, **{"chunks": 2, "shards": 4, **settings})


class Sloppy(Saver):
    """Takes anything, keeps floats of the last save."""

    def __init__(self, path, **settings):
        self.path = path

    def save(self, data, indices=None, **kwargs):
        np.save(self.path, np.asarray(data, float))


class SloppyTests(SaverTests):
    def make_saver(self, path, **settings):
        return Sloppy(path, **settings)

    def read(self, path, name="dataset"):
        return np.load(path.with_name(path.name + ".npy"))


def test_a_saver_that_does_not_conform_fails_each_test_that_it_should(tmp_path):
    passed = []
    for name in sorted(name for name in dir(SaverTests) if name.startswith("test_")):
        folder = tmp_path / name
        folder.mkdir()
        try:
            getattr(SloppyTests(), name)(folder)
        except Exception:  # noqa: BLE001 -- any failure is one
            continue
        passed.append(name)
    fine = ["test_a_saver_that_never_saved_leaves_nothing",
            "test_case_and_blanks_of_the_approach_are_forgiven"]  # fmt: skip
    assert passed == fine


def test_a_memory_saver_keeps_what_a_run_saves():
    saver = MemorySaver()
    with TaskManager(lambda item: item + 0.5) as manager:
        run = manager.submit_tasks(range(5), saver=saver, save_interval=2)
    assert run.counts["saved"] == 5
    assert saver.rows == [0.5, 1.5, 2.5, 3.5, 4.5]


def test_a_memory_saver_refuses_what_it_does_not_know():
    saver = MemorySaver()
    with pytest.raises(InvalidInputError, match="only appends"):
        saver.save([1], indices=[0])
    with pytest.raises(TypeError, match="no keyword 'chunks'"):
        saver.save([1], chunks=3)
    saver.close()
    with pytest.raises(ClosedError):
        saver.save([1])
    assert saver.rows == []
