"""Packed values are within half a step, and are packed to the same integers again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.properties  # noqa: F401 -- sets how hard properties are tried
from savers import InvalidInputError
from savers._codecs._packing import Packing

F4, F8 = np.dtype("f4"), np.dtype("f8")


@given(
    st.sampled_from(["int8", "int16", "int32", "uint8", "uint16", "uint32"]),
    st.floats(1e-6, 1e6) | st.floats(-1e6, -1e-6),
    st.floats(-1e6, 1e6),
    st.lists(st.floats(0, 1), min_size=1, max_size=20),
)
def test_values_are_kept_within_half_a_step_and_for_good(dtype, scale, offset, shares):
    try:
        packing = Packing.of("a", {"dtype": dtype, "scale_factor": scale, "add_offset": offset}, F8)
    except InvalidInputError:  # steps too small for an offset this large
        assert abs(offset) / abs(scale) > 1e10
        return
    low, high = packing.range
    values = np.array([*(low + share * (high - low) for share in shares), np.nan, low, high])
    packing.check(values, "a")
    packed = packing.pack(values)
    back = packing.unpack(packed, F8)
    assert packed.dtype == dtype
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    assert np.nanmax(np.abs(back - values)) <= abs(scale) * (0.5 + 1e-4)
    np.testing.assert_array_equal(packing.pack(back), packed)


def test_what_does_not_fit_is_refused_by_name_and_place():
    packing = Packing.of("t2m", {"dtype": "int8", "scale_factor": 0.5, "add_offset": 10}, F4)
    assert packing.range == (-53.5, 73.5)
    packing.check(np.array([-53.7, 73.7, np.nan], "f4"), "t2m")
    for bad in (-54.0, 74.0, np.inf, -np.inf):
        with pytest.raises(InvalidInputError, match=r"'t2m' is packed into int8, .* at \[1, 0\]"):
            packing.check(np.array([[0.0], [bad]], "f4"), "t2m")


@pytest.mark.parametrize(
    ("given", "dtype", "text"),
    [
        ("int16", F4, "expected packing as"),
        ({"dtype": "int16"}, F4, "expected packing as"),
        ({"dtype": "float32", "scale_factor": 1}, F4, "expected a dtype out of"),
        ({"dtype": "nonsense", "scale_factor": 1}, F4, "nonsense"),
        ({"dtype": "int16", "scale_factor": 0}, F4, "other than 0"),
        ({"dtype": "int16", "scale_factor": "x"}, F4, "could not convert"),
        ({"dtype": "int16", "scale_factor": np.nan}, F4, "finite"),
        ({"dtype": "int16", "scale_factor": 1, "offset": 2}, F4, "unknown 'offset'"),
        ({"dtype": "int16", "scale_factor": 1}, np.dtype("i4"), "packing is for floats"),
        ({"dtype": "int32", "scale_factor": 1}, F4, "dtype='float64'"),
        ({"dtype": "int16", "scale_factor": 1e-6, "add_offset": 273}, F4, "dtype='float64'"),
    ],
)
def test_settings_that_are_refused(given, dtype, text):
    with pytest.raises(InvalidInputError, match=text):
        Packing.of("t2m", given, dtype)
