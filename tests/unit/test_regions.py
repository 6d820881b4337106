"""Regions select what NumPy selects, and pieces cut them without losing or doubling a cell."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from savers import InvalidInputError
from savers._values._regions import box, from_indices, pieces, rows
from tests.properties import EXAMPLES

SHAPES = st.lists(st.integers(0, 5), min_size=1, max_size=4).map(tuple)


@st.composite
def index_arrays(draw, size, count):
    """Integers of an axis, as NumPy array or list, negative ones too, of `count` entries."""
    whole = st.integers(-size, size - 1)
    values = draw(st.lists(whole, min_size=count, max_size=count))
    return draw(st.sampled_from([list, np.array, lambda v: np.array(v, "i2")]))(values)


@st.composite
def entries(draw, size, count):
    """One axis' index: integer, slice with any step, list, array or mask."""
    bounds = st.none() | st.integers(-size - 2, size + 2)
    steps = st.none() | st.integers(-3, 3).filter(bool)
    kinds = [st.builds(slice, bounds, bounds, steps)]
    if size:
        kinds += [st.integers(-size, size - 1), st.integers(0, size - 1).map(np.int64)]
        kinds.append(index_arrays(size, count))
        masks = st.lists(st.booleans(), min_size=size, max_size=size)
        kinds += [masks.filter(lambda m: sum(m) == count).map(np.array)] * (count <= size)
    return draw(st.one_of(kinds))


@st.composite
def cases(draw):
    """A shape, an index of it as a user writes one, and the shape of a chunk."""
    shape = draw(SHAPES)
    count = draw(st.integers(1, 3))
    used = draw(st.integers(0, len(shape)))
    index = [draw(entries(size, count)) for size in shape[:used]]
    if draw(st.booleans()):
        skipped = draw(st.integers(0, used))
        tail = used - skipped
        index = index[:skipped]
        index += [..., *(draw(entries(s, count)) for s in shape[len(shape) - tail :])]
        index = index if tail or draw(st.booleans()) else index[:-1]
    chunks = tuple(draw(st.integers(1, 4)) for _ in shape)
    whole = tuple(index) if len(index) != 1 or draw(st.booleans()) else index[0]
    return shape, whole, chunks


def numbered(shape):
    return np.arange(np.prod(shape, dtype=int)).reshape(shape)


def names_a_cell_twice(shape, index):
    selected = numbered(shape)[index]
    return len(np.unique(selected)) < selected.size


@settings(max_examples=5 * EXAMPLES)
@given(cases())
@example(((2, 3, 2, 2), (slice(None), [0], 0, ..., 0), (1, 1, 1, 1)))
def test_a_region_is_what_numpy_selects(case):
    shape, index, chunks = case
    if names_a_cell_twice(shape, index):
        with pytest.raises(InvalidInputError, match="twice"):
            from_indices(index, shape, "x")
        return
    wanted = numbered(shape)[index]
    try:
        region = from_indices(index, shape, "x")
    except InvalidInputError:
        assert wanted.size == 0  # a point named twice where there is no cell
        return
    assert region.user_shape == wanted.shape
    assert (written_by(region, wanted, chunks, shape) == expected(shape, index, wanted)).all()


def expected(shape, index, block):
    array = np.full(shape, -1)
    array[index] = block
    return array


def cells_of(chunk, chunks, shape):
    """The cells of a chunk that lie in an array of this shape."""
    ends = zip(chunk, chunks, shape, strict=True)
    return tuple(slice(i * n, min((i + 1) * n, size)) for i, n, size in ends)


def written_by(region, block, chunks, shape):
    """An array into which the pieces were written chunk by chunk, each cell at most once."""
    array, times = np.full(shape, -1), np.zeros(shape, int)
    block = region.arrange(block)
    for piece in pieces(region, chunks, shape):
        cells = cells_of(piece.chunk, chunks, shape)
        array[cells][piece.inside] = block[piece.source]
        times[cells][piece.inside] += 1
        if piece.whole:
            assert times[cells].all()
    assert times.max(initial=0) <= 1
    return array


@given(SHAPES, st.data())
def test_a_box_is_cut_at_chunk_borders_and_knows_whole_chunks(shape, data):
    start = tuple(data.draw(st.integers(0, size)) for size in shape)
    extent = tuple(data.draw(st.integers(0, n - a)) for n, a in zip(shape, start, strict=True))
    chunks = tuple(data.draw(st.integers(1, 4)) for _ in shape)
    inside = tuple(slice(a, a + n) for a, n in zip(start, extent, strict=True))
    block = numbered(extent)
    wanted = expected(shape, inside, block)
    assert (written_by(box(start, extent), block, chunks, shape) == wanted).all()
    for piece in pieces(box(start, extent), chunks, shape):
        covered = (wanted[cells_of(piece.chunk, chunks, shape)] >= 0).all()
        assert piece.whole == covered


def test_rows_span_all_other_axes():
    assert rows(3, (2, 5)).selectors == (slice(3, 5), slice(0, 5))


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (5, "index 5 is out of range for axis 0 with 5 entries"),
        (-6, "index -6 is out of range"),
        ([0, 7], "index 7 is out of range"),
        ((0, [1, 4]), "index 4 is out of range for axis 1 with 4 entries"),
        ((0, 0, 0), "takes 2 indices, got 3"),
        ((..., ...), "at most one Ellipsis"),
        ([1, 1], "cell 1 twice"),
        ([1, -4], "cell 1 twice"),
        (([0, 0], [2, 2]), r"cell \(0, 2\) twice"),
        (([0, 1], [0, 1, 2]), "don't go together"),
        ([True, False], r"expected a mask of shape \(5,\), got \(2,\)"),
        (True, "expected an index, got True"),
        (np.True_, "expected an index"),
        (np.array(True), "expected an index"),
        (1.5, "got float64"),
        ([0.0, 1.0], "got float64"),
        ("1", "expected integers"),
        ([[0], [1, 2]], "ragged list"),
        (np.array([None]), "got object"),
        (slice(0, 3, 0), "expected a slice of integers"),
        (slice("a", None), "expected a slice of integers"),
        ((None, 0), "expected an index, got None"),
    ],
)
def test_what_is_no_index_is_refused_by_name(index, says):
    with pytest.raises(InvalidInputError, match=says) as caught:
        from_indices(index, (5, 4), "field")
    assert "'field'" in str(caught.value)


def test_an_empty_selection_touches_no_chunk():
    for index in ([], slice(2, 2), np.zeros(5, bool), (slice(None), [])):
        region = from_indices(index, (5, 4), "x")
        assert 0 in region.user_shape
        assert not list(itertools.islice(pieces(region, (2, 2), (5, 4)), 1))
