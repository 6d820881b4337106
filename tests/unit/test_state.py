"""What records add up to: which rows are shown, what stays done, and what a cut forgets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.properties  # noqa: F401 -- sets how hard properties are tried
from savers import ItemStatus
from savers._ledger._records import fold
from savers._ledger._state import ArrayLayout, State, fresh_array

OPEN, DONE, FAILED, SKIPPED = ItemStatus
ROWS = ArrayLayout("x", "<f8", (0, 2), (4, 2))
LABELLED = ArrayLayout("x", "<f8", (3, 5, 2), (1, 1, 2), growing=False, cells=(0, 1))
BOXES = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 5), st.sampled_from([DONE, DONE, FAILED, SKIPPED]))
)


@given(BOXES)
def test_rows_are_shown_up_to_the_first_that_is_not_settled(boxes):
    array, model = fresh_array(ROWS), np.zeros(20, np.uint8)
    for start, length, status in boxes:
        if not length:
            continue
        array.settle((start,), (start + length,), status)
        cut = model[start : start + length]
        cut[cut != DONE] = status
    taken = np.flatnonzero(model)
    assert array.rows == (taken[-1] + 1 if len(taken) else 0)
    assert array.status.tolist() == model[: array.rows].tolist()
    assert array.extent() == (int(np.argmin(model != OPEN)), 2)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4), st.sampled_from([DONE, FAILED]))))
def test_labelled_cells_are_told_apart_along_their_axes(cells):
    array, model = fresh_array(LABELLED), np.zeros((3, 5), np.uint8)
    for one, two, status in cells:
        array.settle((one, two), (one + 1, two + 1), status)
        if model[one, two] != DONE:
            model[one, two] = status
    np.testing.assert_array_equal(array.status, model)
    assert (array.rows, array.extent()) == (0, (3, 5, 2))


def test_a_layout_is_the_same_after_its_record():
    for layout in (ROWS, LABELLED, ROWS.renumbered(3)):
        assert ArrayLayout.from_json(layout.to_json()) == layout


def commit(state, **record):
    fold(state, {"kind": "commit", **record}, memoryview(record.pop("raw", b"")), 0)


def saved():
    """A state with ten rows: two chunks in the store, the rest in the ledger."""
    state = State()
    commit(state, new=[{"layout": ROWS.to_json()}])
    pieces = [[[2, 0], [0, 0], [2, 2], 0, 32]]
    chunks = [[[0, 0], 64, 1, ""], [[1, 0], 64, 2, "token"]]
    entry = {"array": "x", "generation": 0, "cells": [[[0], [10], int(DONE)]], "chunks": chunks}
    fold(
        state, {"kind": "commit", "arrays": [{**entry, "pieces": pieces}]}, memoryview(bytes(32)), 7
    )
    return state


def test_a_commit_settles_cells_and_knows_where_its_bytes_lie():
    array = saved().arrays["x"]
    assert array.extent() == (10, 2)
    assert {index: tuple(chunk) for index, chunk in array.chunks.items()} == {
        (0, 0): (64, 1),
        (1, 0): (64, 2),
    }
    [(piece,)] = array.loose.values()
    assert (piece.at, piece.size, piece.start, piece.shape) == (7, 32, (0, 0), (2, 2))
    assert saved().staged == {"token": ("x", 0, (1, 0))}


def test_a_chunk_in_the_store_makes_its_pieces_needless():
    state = saved()
    entry = {"array": "x", "generation": 0, "shape": [10, 2], "chunks": [[[2, 0], 40, 3, ""]]}
    fold(state, {"kind": "publish", "arrays": [entry]}, memoryview(b""), 0)
    array = state.arrays["x"]
    assert not array.loose
    assert (array.published, array.before) == ((10, 2), None)
    assert state.staged == {}


def test_rows_that_are_cut_take_their_chunks_with_them():
    state = saved()
    commit(state, rows={"x": 4})
    array = state.arrays["x"]
    assert (array.rows, list(array.chunks), list(array.loose)) == (4, [(0, 0)], [])


def test_a_replacement_is_shown_from_its_record_on():
    state = saved()
    new = ROWS.renumbered(1)
    commit(state, new=[{"layout": new.to_json(), "pending": True}])
    assert state.arrays["x"].layout.generation == 0
    assert state.array("x", 1) is state.pending["x"]
    commit(state, replace={"x": 0})
    assert state.arrays["x"].layout.generation == 1
    assert (state.pending, state.stale) == ({}, {"x": 0})
    fold(state, {"kind": "clean", "array": "x"}, memoryview(b""), 0)
    assert state.stale == {}


@pytest.mark.parametrize("record", [{}, {"kind": "nonsense"}, {"kind": "commit", "arrays": 5}])
def test_a_record_that_makes_no_sense_is_an_error(record):
    with pytest.raises((KeyError, TypeError, ValueError)):
        fold(State(), record, memoryview(b""), 0)
