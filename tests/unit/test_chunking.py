"""Chunks are large enough to be few, small enough to hold, whatever came with the first save."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.properties  # noqa: F401 -- sets how hard properties are tried
from savers import InvalidInputError
from savers._values._chunking import LARGEST, MIB, SMALLEST, check_chunks, plan_chunks

SIZES = st.integers(0, 5000)
ROWS = st.lists(SIZES, max_size=4).map(tuple)


@given(ROWS, st.sampled_from([1, 2, 4, 8, 16]), st.none() | SIZES)
def test_a_planned_chunk_has_a_mib_where_there_is_one_and_never_too_much(row, itemsize, known):
    chunks = plan_chunks((known, *row), itemsize)
    size = math.prod(chunks) * itemsize
    whole = math.prod(max(1, n) for n in row) * itemsize
    assert all(1 <= n <= max(1, extent) for n, extent in zip(chunks[1:], row, strict=True))
    assert size <= LARGEST or max(chunks) == 1
    if known is None:
        assert size >= SMALLEST
        assert size <= max(2 * SMALLEST, whole)
    else:
        assert chunks[0] <= max(1, known)
        assert size >= min(SMALLEST, whole * max(1, known))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.data())
def test_labelled_dimensions_share_a_chunk_until_it_has_a_mib(shape, data):
    joined = data.draw(st.sets(st.sampled_from(range(len(shape))), min_size=1))
    chunks = plan_chunks(shape, 8, joined)
    assert all(1 <= n <= size for n, size in zip(chunks, shape, strict=True))
    size = 8 * math.prod(chunks)
    assert size >= min(SMALLEST, 8 * math.prod(shape))
    assert size <= LARGEST


@pytest.mark.parametrize(
    ("shape", "itemsize", "chunks"),
    [
        ((None,), 8, (131072,)),
        ((None, 8), 8, (16384, 8)),
        ((None, 721, 1440), 4, (1, 721, 1440)),
        ((None, 37, 721, 1440), 4, (1, 5, 721, 1440)),
        ((None, 0), 8, (131072, 1)),
        ((10,), 8, (10,)),
        ((0,), 8, (1,)),
        ((300_000,), 8, (150_000,)),  # a divisor, so that the last chunk is whole
    ],
)
def test_plans_that_people_will_see(shape, itemsize, chunks):
    assert plan_chunks(shape, itemsize) == chunks


@pytest.mark.parametrize(
    ("given_", "shape", "chunks"),
    [
        (5, (None, 3, 4), (5, 3, 4)),
        (5, (None,), (5,)),
        ((5, 2), (None, 3), (5, 2)),
        ([5, 2], (None, 3), (5, 2)),
        (5, (None, 0), (5, 1)),
    ],
)
def test_chunks_as_users_write_them(given_, shape, chunks):
    assert check_chunks(given_, shape, "x") == chunks


@pytest.mark.parametrize("given_", [0, -1, True, 1.5, "auto", (5,), (5, 2, 1), (5, 0), (5, None),
                                    None, {}])  # fmt: skip
def test_chunks_that_are_none(given_):
    with pytest.raises(InvalidInputError, match="'x': expected chunks as 2 positive integers"):
        check_chunks(given_, (None, 3), "x")


def test_the_bounds_are_those_that_are_promised():
    assert (SMALLEST, LARGEST) == (MIB, 32 * MIB)
