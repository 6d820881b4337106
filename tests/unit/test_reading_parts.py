"""The parts of reading by themselves: which objects a selection touches, and what runs at once."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import uvloop
import xarray
from hypothesis import given
from hypothesis import strategies as st

import savers
from savers._reading import _lazy
from savers._reading._at_once import WaitsError, at_once
from savers._reading._chunks import touched

sys.path.insert(0, str(Path(__file__).parent))
import reading_stores

SIZES = st.integers(1, 12)


@st.composite
def selections(draw):
    shape = draw(st.lists(SIZES, min_size=1, max_size=3))
    grid = [draw(SIZES) for _ in shape]
    key = []
    for size in shape:
        cells = st.integers(-size, size - 1)
        ends = st.none() | st.integers(-size - 1, size + 1)
        steps = st.integers(-5, 5).filter(bool)
        many = st.lists(cells, max_size=6).map(lambda found: np.array(found, np.int64))
        key.append(draw(st.builds(slice, ends, ends, steps) | cells | many))
    return shape, grid, tuple(key)


@given(selections())
def test_the_objects_of_a_selection_are_those_of_its_cells(case):
    shape, grid, key = case
    axes = [np.atleast_1d(np.arange(size)[part]) for size, part in zip(shape, key, strict=True)]
    cells = [np.unique(axis // step) for axis, step in zip(axes, grid, strict=True)]
    expected = {tuple(map(int, index)) for index in np.stack(
        np.meshgrid(*cells, indexing="ij"), -1).reshape(-1, len(shape))}  # fmt: skip
    found = touched(key, shape, grid, pointwise=False)
    assert set(found) == expected
    assert len(found) == len(expected)


@given(st.data())
def test_the_objects_of_points_are_those_of_their_cells(data):
    shape = data.draw(st.lists(SIZES, min_size=1, max_size=3))
    grid = [data.draw(SIZES) for _ in shape]
    count = data.draw(st.integers(1, 8))
    points = [data.draw(st.lists(st.integers(-n, n - 1), min_size=count, max_size=count))
              for n in shape]  # fmt: skip
    found = touched([np.array(axis) for axis in points], shape, grid, pointwise=True)
    expected = {
        tuple(cell % size // step for cell, size, step in zip(point, shape, grid, strict=True))
        for point in zip(*points, strict=True)
    }
    assert set(found) == expected
    assert len(found) == len(expected)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_what_never_waits_runs_at_once_where_it_is(loop):
    here = threading.get_ident()
    order = []

    async def other():
        order.append("other")

    async def works():
        idents = await asyncio.gather(*(asyncio.to_thread(threading.get_ident) for _ in range(3)))
        order.append("work")
        return idents

    async def main():
        task = asyncio.ensure_future(other())
        assert at_once(works) == [here] * 3
        assert asyncio.current_task() is not None
        await task

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
    assert order == ["work", "other"]
    assert at_once(works) == [here] * 3


@pytest.mark.parametrize("wait", [lambda: asyncio.sleep(1), lambda: asyncio.Event().wait()])
def test_what_waits_is_refused_and_leaves_nothing(wait):
    ended = []

    async def waits():
        async def one():
            try:
                await wait()
            finally:
                ended.append(1)

        await asyncio.gather(one(), one())

    async def main():
        with pytest.raises(WaitsError):
            at_once(waits)
        assert len(asyncio.all_tasks()) == 1
        await asyncio.sleep(0)

    asyncio.run(main())
    assert ended == [1, 1]


def test_errors_come_out_as_they_are():
    async def fails():
        await asyncio.to_thread(int, "x")

    with pytest.raises(ValueError, match="invalid literal"):
        at_once(fails)


@pytest.mark.parametrize("kind", [reading_stores.v3, reading_stores.sharded],
                         ids=lambda kind: kind.__name__)  # fmt: skip
def test_objects_that_were_not_foreseen_are_asked_for_in_time(tmp_path, monkeypatch, kind):
    path = kind(tmp_path / "store.zarr")
    expected = savers.open_dataset(path).load()
    monkeypatch.setattr(_lazy, "touched", lambda *_, **__: [])

    async def loaded():
        return await (await savers.open_dataset_async(path)).load_async()

    xarray.testing.assert_identical(asyncio.run(loaded()), expected)
