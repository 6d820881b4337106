"""What happens in stores without conditional writes, where other stores promise more.

Each "no" of the table in docs/stores.md has its test here. A store object of its own stands for a
process of its own: savers know such stores by the object.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import zarr

from savers import AsyncZarrSaver, StorageError, ZarrSaver
from tests.stores import KINDS, UNGUARDED, OwnStore, Place

WARNING = "without conditional writes: nothing keeps a second process out; see docs/stores.md"
ROWS = np.arange(8.0)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "x.zarr"


def quiet(store, **settings):
    """Return a saver whose warning was read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        saver = ZarrSaver(store, chunks=2, **settings)
        saver.session().open(yielding=saver.approach == "update")
    return saver


def read(folder):
    return zarr.open_group(folder, mode="r")["dataset"][:].tolist()


@pytest.mark.parametrize("kind", UNGUARDED[:-1])
def test_whoever_opens_one_is_warned_once_an_opening(kind, tmp_path):
    place = Place(kind, tmp_path)
    with ZarrSaver(place.target) as saver:
        with pytest.warns(UserWarning, match=WARNING):
            saver.save([1.0])
        saver.save([2.0])
    labels = {"lead_time": np.arange(2)}
    with (
        pytest.warns(UserWarning, match=WARNING),
        AsyncZarrSaver("", labels, store=Place(kind, tmp_path, name="b").target) as labelled,
    ):
        labelled.write(np.array([1.0]), {"lead_time": [1]}, "t2m")


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_is_warned_where_all_is_well(kind, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ZarrSaver(Place(kind, tmp_path).target) as saver:
            saver.save([1.0])


def test_of_two_processes_that_append_at_once_one_loses_its_values(folder):
    one = quiet(OwnStore(folder))
    one.save([1.0, 2.0])
    other = quiet(OwnStore(folder))
    other.save([3.0, 4.0])
    one.save([5.0, 6.0])
    one.close()
    other.close()
    with quiet(OwnStore(folder)) as saver:
        saver.flush()
    assert read(folder) in ([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 5.0, 6.0])


@pytest.mark.filterwarnings("ignore:.*without conditional writes:UserWarning")
def test_of_two_processes_that_fill_one_chunk_by_label_one_loses_its_values(folder):
    def saver_of():
        return AsyncZarrSaver(
            "", {"step": [0, 1]}, store=OwnStore(folder), blocking=False, chunked_coords={"step": 2}
        )

    with saver_of() as one, saver_of() as other:
        other.write(np.array([2.0]), {"step": [1]}, "t2m")
        one.write(np.array([1.0]), {"step": [0]}, "t2m")
        one.flush()
        other.flush()
    found = zarr.open_group(folder, mode="r")["t2m"][:]
    np.testing.assert_array_equal(found, [np.nan, 2.0])


class Failing(OwnStore):
    """A store of which one request fails."""

    failing = ""

    async def set(self, key, value):
        if self.failing and self.failing in key:
            self.failing = ""
            raise OSError(5, "no answer")
        await super().set(key, value)


@pytest.mark.filterwarnings("ignore:.*without conditional writes:UserWarning")
@pytest.mark.parametrize("failing", ["dataset/c/", ".ledger/"])
def test_a_request_that_fails_is_an_error_at_once_and_the_call_can_be_made_again(folder, failing):
    store = Failing(folder)
    with ZarrSaver(store, chunks=2) as saver:
        saver.save([0.0, 1.0])
        store.failing = failing
        with pytest.raises(StorageError, match="can't write .* in zarr Failing: .*no answer"):
            saver.save([2.0, 3.0])
        saver.save([2.0, 3.0])
    assert read(folder) == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.filterwarnings("ignore:.*without conditional writes:UserWarning")
def test_power_is_as_durable_as_the_store_makes_it(folder):
    with ZarrSaver(OwnStore(folder), durability="power") as saver:
        saver.save([1.0])
    assert read(folder) == [1.0]
