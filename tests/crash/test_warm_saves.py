"""What a save asks of the system once the array is there: one write, and no question."""

from __future__ import annotations

from collections import Counter
from collections.abc import MutableMapping

import numpy as np
import pytest
import zarr

from savers import ZarrSaver
from savers._session import _session
from savers._stores._store import LocalStore
from tests.faults import ForkServer, skip_without_faults

#: Calls that change files, of one save: name of the case -> settings, rows of a save, calls.
CASES = {
    "small append": ({}, [100, 8], {"write": 1}),
    "a chunk": ({"chunks": [1, 64]}, [1, 64], {"write": 1, "mkdir": 1, "openat": 1, "writev": 1}),
    "eight chunks": (
        {"chunks": [1, 64]}, [8, 64], {"write": 1, "mkdir": 8, "openat": 8, "writev": 8},
    ),
    "a shard of eight chunks": (
        {"chunks": [1, 64], "shards": [8, 64]}, [8, 64],
        {"write": 1, "mkdir": 1, "openat": 1, "writev": 1},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_save_makes_one_record_and_one_write_a_chunk(tmp_path, case):
    skip_without_faults()
    settings, rows, expected = CASES[case]
    with ForkServer(preload=["numpy", "zarr", "savers"]) as server:
        counted = [calls(server, tmp_path / str(n), n, rows, settings) for n in (3, 13)]
    counted[1].subtract(counted[0])
    each = {name: count / 10 for name, count in counted[1].items() if count}
    assert each == expected


def calls(server, root, count, rows, settings):
    root.mkdir()
    result = server.function(
        "tests.crash.warm_programs:save", count=count, rows=rows, **settings
    ).run(root)
    assert result.returncode == 0, result.stderr
    found = zarr.open_array(root / "out", path="dataset")
    assert found.shape == (count * rows[0], *rows[1:])
    return Counter(call.name for call in result.calls)


#: A mapping of nobody knows what keeps no second process out; its users are told so.
unfenced = pytest.mark.filterwarnings("ignore:Noting is written to without conditional writes")


class Noting(MutableMapping):
    """A store that notes what is asked of it."""

    def __init__(self):
        self.objects, self.asked = {}, []

    def __getitem__(self, key):
        self.asked.append(("get", key))
        return self.objects[key]

    def __setitem__(self, key, value):
        self.asked.append(("put", key))
        self.objects[key] = value

    def __delitem__(self, key):
        self.asked.append(("delete", key))
        del self.objects[key]

    def __iter__(self):
        self.asked.append(("list", ""))
        return iter(list(self.objects))

    def __len__(self):
        return len(self.objects)


@unfenced
def test_a_warm_save_to_an_object_store_puts_chunks_and_a_record_and_asks_nothing(monkeypatch):
    monkeypatch.setattr(_session, "PUBLISH_AFTER", 1e9)
    store = Noting()
    with ZarrSaver(store, chunks=(1, 8)) as saver:
        saver.save(np.zeros((1, 8)))
        store.asked.clear()
        saver.save(np.ones((2, 8)))
        *chunks, (kind, record) = store.asked
    assert sorted(chunks) == [("put", "dataset/c/1/0"), ("put", "dataset/c/2/0")]
    assert kind == "put"
    assert record.startswith("dataset/.ledger/")


def test_documents_of_arrays_survive_a_power_cut_before_the_root_that_speaks_of_them(
    tmp_path, monkeypatch
):
    done = []
    put, barrier = LocalStore.put, LocalStore.barrier
    monkeypatch.setattr(
        LocalStore, "put", lambda self, key, data: (put(self, key, data), done.append(key))[0]
    )
    monkeypatch.setattr(
        LocalStore, "barrier", lambda self: (barrier(self), done.append("barrier"))[0]
    )
    with ZarrSaver(tmp_path / "out", durability="power") as saver:
        saver.save({"a": np.arange(3), "b": np.arange(3)})
        saver.flush()
        done.clear()
        saver.save({"a": np.arange(3)})
        saver.flush()
    last = [key for key in done if key == "barrier" or key.endswith("zarr.json")]
    assert last[-4:] == ["a/zarr.json", "barrier", "zarr.json", "barrier"]


@unfenced
def test_only_arrays_that_changed_are_published_again():
    store = Noting()
    with ZarrSaver(store) as saver:
        saver.save({f"a{number}": np.arange(8.0)[None] for number in range(5)})
        saver.flush()
        store.asked.clear()
        saver.save({"a3": np.arange(8.0)[None], "new": np.arange(3)})
        saver.flush()
    documents = [key for kind, key in store.asked if kind == "put" and key.endswith("zarr.json")]
    assert sorted(documents) == ["a3/zarr.json", "new/zarr.json", "zarr.json"]
