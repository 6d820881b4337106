"""Any sequence of saves, failures, flushes and reopenings leaves what NumPy would hold."""

from __future__ import annotations

import shutil
import tempfile
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from savers import InvalidInputError, ZarrSaver
from tests.properties import EXAMPLES
from tests.stores import consolidated_is_current

DTYPES = ["i4", "f8", "f4", "?", "M8[s]", "T"]
#: Values that every dtype has; 0 is missing, where there is such.
VALUES = {
    "i4": np.array([-1, 0, 1, 2], "i4"),
    "f8": np.array([np.nan, 0, 1.5, -2.5]),
    "f4": np.array([np.nan, 0, 1.5, -2.5], "f4"),
    "?": np.array([False, True, True, False]),
    "M8[s]": np.array(["NaT", "1970-01-01", "2000-01-01", "2024-02-29"], "M8[s]"),
    "T": np.array(["", "a", "Grüße", "long " * 9]),
}


class ZarrSaverMachine(RuleBasedStateMachine):
    """`self.model` is the array as NumPy holds it; None before the first save."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="tasksavers-"))
        self.path = self.folder / "out.zarr"
        self.model = None
        self.published = True
        self.savers = {}

    @initialize(
        version=st.sampled_from([3, 3, 2]),
        dtype=st.sampled_from(DTYPES),
        row=st.sampled_from([(), (3,), (2, 2)]),
        chunks=st.sampled_from([None, 1, 2, 5]),
        shards=st.booleans(),
    )
    def start(self, version, dtype, row, chunks, shards):
        self.dtype, self.row = dtype, row
        self.settings = {"zarr_format": version, "chunks": chunks}
        if shards and chunks and version == 3:
            self.settings["shards"] = 2 * chunks

    def saver(self, approach):
        if approach not in self.savers:
            self.savers[approach] = ZarrSaver(self.path, approach=approach, **self.settings)
        return self.savers[approach]

    def block(self, count, seed, row=None):
        row = self.row if row is None else row
        picked = np.random.default_rng(seed).integers(0, 4, (count, *row))
        return VALUES[self.dtype][picked]

    @rule(count=st.integers(0, 6), seed=st.integers(0, 99))
    def append(self, count, seed):
        block = self.block(count, seed)
        self.saver("append").save(block)
        self.model = block if self.model is None else np.concatenate([self.model, block])
        self.published = False

    @rule(count=st.integers(0, 4), seed=st.integers(0, 99), row=st.sampled_from([(3,), (2, 2), ()]))
    def overwrite(self, count, seed, row):
        block = self.block(count, seed, row)
        flat = row == () or self.row == ()
        if self.settings["zarr_format"] == 2 and self.model is not None and flat:
            with self.refused("can't be replaced"):
                self.saver("overwrite").save(block)
            return
        self.saver("overwrite").save(block)
        self.model, self.row, self.published = block, row, False

    @precondition(lambda self: self.model is not None and len(self.model))
    @rule(data=st.data(), seed=st.integers(0, 99))
    def update(self, data, seed):
        size = len(self.model)
        rows = st.integers(-size, size - 1)
        kinds = rows | st.lists(rows, max_size=4, unique_by=lambda i: i % size)
        steps = st.integers(-3, 3).filter(bool)
        indices = data.draw(kinds | st.builds(slice, rows, rows | st.none(), steps))
        wanted = self.model.copy()
        block = self.block(1, seed)[0] if isinstance(indices, int) else self.block(
            len(wanted[indices]), seed)  # fmt: skip
        self.saver("update").save(block, indices)
        wanted[indices] = block
        self.model, self.published = wanted, False

    @precondition(lambda self: self.model is not None)
    @rule()
    def bad_calls_change_nothing(self):
        with self.refused():
            self.saver("append").save(np.zeros((1, 9, 9, 9), "c8"))
        with self.refused("out of range"):
            self.saver("update").save(self.block(1, 0), [len(self.model)])
        with self.refused("no keyword"):
            self.saver("append").save(self.block(1, 0), nonsense=1)

    def refused(self, says=None):
        return pytest.raises(InvalidInputError, match=says)

    @rule()
    def flush(self):
        for saver in self.savers.values():
            saver.flush()
        self.published = True

    @rule()
    def reopen(self):
        for saver in self.savers.values():
            saver.close()
        self.savers.clear()
        self.published = True

    @invariant()
    def readers_find_it(self):
        if self.model is None or not self.published:
            return
        found = zarr.open_group(self.path, mode="r")["dataset"]
        assert found.shape == self.model.shape
        values = found[...]
        if self.dtype == "M8[s]":
            values = values.view("M8[s]")
        np.testing.assert_array_equal(values.astype(self.model.dtype), self.model)
        assert consolidated_is_current(self.path)

    @invariant()
    def xarray_opens_it(self):
        if self.model is None or not self.published:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = xr.open_zarr(self.path)["dataset"]
        assert found.shape == self.model.shape

    def teardown(self):
        for saver in self.savers.values():
            saver.close()
        self.published = True
        self.readers_find_it()
        shutil.rmtree(self.folder)
        assert not [t for t in threading.enumerate() if t.name.startswith("savers-")]


ZarrSaverMachine.TestCase.settings = settings(
    max_examples=max(8, EXAMPLES // 3),
    stateful_step_count=10,
    phases=[phase for phase in Phase if phase != Phase.shrink],  # minutes, for runs this long
)
TestZarrSaver = ZarrSaverMachine.TestCase
