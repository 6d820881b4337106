"""Values reach the dtype of their array exactly, or not at all; odd input is named."""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections import namedtuple
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from savers import InvalidInputError
from savers._values._blocks import as_block, as_result, fit, own, split_fields
from savers.errors import InvalidTypeError
from tests.properties import EXAMPLES

INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
FLOATS = ["f2", "f4", "f8"]
NUMBERS = ["?", *INTEGERS, *FLOATS, "c8", "c16"]


def exactly(value):
    """A NumPy number as Python's own exact numbers: (real, imaginary); NaN and inf as text."""
    value = complex(value) if np.iscomplexobj(value) else value.item()
    parts = (value.real, value.imag) if isinstance(value, complex) else (value, 0)
    return tuple(
        str(part) if isinstance(part, float) and not math.isfinite(part) else Fraction(part)
        for part in parts
    )


@st.composite
def values(draw):
    dtype = np.dtype(draw(st.sampled_from(NUMBERS))).newbyteorder(draw(st.sampled_from("<>")))
    block = draw(hnp.arrays(dtype, hnp.array_shapes(max_dims=2, max_side=3)))
    return np.asarray(block)


@settings(max_examples=5 * EXAMPLES)
@given(values(), st.sampled_from(NUMBERS))
@example(np.array([-(2**63)]), "f2")
@example(np.array([True]), "u8")
@example(np.array([2**53 + 1]), "f8")
@example(np.array([complex(np.nan, 1e300)]), "c8")
@example(np.array([2.0**63]), "i8")
@example(np.array([1.0]), "c8")
@example(np.array([2**63 - 1]), "f4")
def test_fit_keeps_every_value_or_raises(block, target):
    dtype = np.dtype(target)
    try:
        fitted = fit(block, dtype, "x")
    except InvalidInputError:
        assert not holds_all(block, dtype)
    else:
        assert fitted.dtype == dtype
        assert [exactly(v) for v in fitted.ravel()] == [exactly(v) for v in block.ravel()]


def holds_all(block, dtype):
    """Whether exact arithmetic says that `dtype` holds the values of `block`."""
    if block.dtype.kind == "b" or dtype.kind == "b":
        return block.dtype.kind == "b" and dtype.kind in "biufc"
    if block.dtype.kind == "c" and dtype.kind != "c":
        return False
    return all(_holds(part, dtype) for value in block.ravel() for part in exactly(value))


def _holds(part, dtype):
    if isinstance(part, str):
        return dtype.kind in "fc"
    if dtype.kind in "iu":
        info = np.iinfo(dtype)
        return part.denominator == 1 and info.min <= part <= info.max
    real = np.zeros((), dtype).real.dtype
    with np.errstate(over="ignore"):
        rounded = real.type(float(part))
    return bool(np.isfinite(rounded)) and Fraction(float(rounded)) == part


@given(hnp.arrays("f8", 4), st.sampled_from(["f2", "f4"]))
@pytest.mark.filterwarnings("ignore:overflow")
def test_rounding_gives_up_digits_and_never_size(block, target):
    cast = block.astype(target)
    if (np.isfinite(block) & ~np.isfinite(cast)).any():
        with pytest.raises(InvalidInputError, match="can't hold the float64 value"):
            fit(block, np.dtype(target), "x", rounding=True)
    else:
        fitted = fit(block, np.dtype(target), "x", rounding=True)
        np.testing.assert_array_equal(fitted, cast)


@given(hnp.arrays(st.sampled_from(["M8[D]", "M8[s]", "M8[ns]", "M8[h]"]), 3))
def test_times_keep_their_moment_or_raise(block):
    ours = {"D": 86400 * 10**9, "h": 3600 * 10**9, "s": 10**9, "ns": 1}
    for unit, ticks in ours.items():
        theirs = ours[np.datetime_data(block.dtype)[0]]
        moments = [v if v == -(2**63) else v * theirs for v in block.view("i8").tolist()]
        possible = all(
            m == -(2**63) or (m % ticks == 0 and abs(m // ticks) < 2**63) for m in moments
        )
        try:
            fitted = fit(block, np.dtype(f"M8[{unit}]"), "t").view("i8").tolist()
        except InvalidInputError:
            assert not possible
        else:
            assert [v if v == -(2**63) else v * ticks for v in fitted] == moments


@pytest.mark.parametrize(
    ("data", "target", "says"),
    [
        (np.array([1.0, 2.5]), "i4", r"can't hold the float64 value 2\.5 at \[1\]"),
        (np.array([np.nan]), "i4", "value nan"),
        (np.array([300]), "u1", "value 300"),
        (np.array([-1]), "u4", "value -1"),
        (np.array([1j]), "f8", "expected float64 values, got complex128"),
        (np.array([0.1]), "f4", "pass dtype='float32' to round"),
        (np.array(["a"]), "f8", "expected float64 values, got <U1"),
        (np.array([1], "M8[s]"), "i8", "expected int64 values"),
        (np.array([1]), "?", "expected bool values, got int64"),
        (np.array([b"abc"]), "S2", "can't hold"),
    ],
)
def test_a_value_that_does_not_fit_is_named(data, target, says):
    with pytest.raises(InvalidInputError, match=says):
        fit(data, np.dtype(target), "x")


# -- input -----------------------------------------------------------------------------------------


class Odd:
    def __repr__(self):
        return "Odd()"


@pytest.mark.parametrize(
    ("data", "error", "says"),
    [
        (
            [[1, 2], [3]],
            InvalidInputError,
            r"shape \(2,\) as the first one, got shape \(1,\) at po",
        ),
        ([np.zeros(3), np.zeros(3), np.zeros(4)], InvalidInputError, r"got shape \(4,\) at posit"),
        ([1.0, [2.0]], InvalidInputError, "at position 1"),
        ([1.0, None], TypeError, r"'x\[1\]': expected numbers.*got NoneType"),
        ([1, "a"], TypeError, "expected int64 results as the first one, got <U1 at position 1"),
        ([1, True], TypeError, "got bool at position 1"),
        ([0.5, np.datetime64("2000-01-01")], TypeError, "at position 1"),
        ([Odd()], TypeError, r"got Odd.*Odd\(\)"),
        (Odd(), TypeError, "got Odd"),
        (None, TypeError, "got NoneType"),
        ({1, 2}, TypeError, "got set"),
        (np.array([1, Odd()], dtype=object), TypeError, r"got int at \[0\]"),
        (np.array(["a", 1.5], dtype=object), TypeError, r"got float at \[1\]: 1\.5"),
        (np.zeros(2, "i4,f8"), TypeError, "structured one with fields f0, f1"),
        ([np.zeros(2, "i4,f8")], TypeError, r"'x\[0\]'.*structured"),
        (np.ma.masked_array([1, 2], [True, False]), TypeError, "masked"),
        ([2**80], TypeError, r"got int.*1208925819614629174706176"),
        ([1.5, 2**60 + 1], InvalidInputError, r"x\[1\].*1152921504606846977"),
        ([np.float64(1.5), np.int64(2**60 + 1)], InvalidInputError, "1152921504606846977"),
        ([-1, 2**64 - 1], InvalidInputError, "18446744073709551615"),
        (np.zeros(2, np.longdouble), TypeError, "no portable form"),
        (np.zeros(2, "V4"), TypeError, "can't be stored"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value[:12],
)
def test_what_is_no_array_is_refused_naming_the_first_odd_item(data, error, says):
    with pytest.raises(error, match=says) as caught:
        as_block(data, "x")
    assert isinstance(caught.value, InvalidInputError)


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ([1, 2, 3], np.array([1, 2, 3])),
        ([1, 2.5], np.array([1.0, 2.5])),
        ([2**63, 2**64 - 1], np.array([2**63, 2**64 - 1], "u8")),
        ([2**63 + 1, 1], np.array([2**63 + 1, 1], "u8")),
        (range(3), np.arange(3)),
        ((1, 2), np.array([1, 2])),
        (7, np.array([7])),
        (np.float32(2), np.array([2], "f4")),
        ([], np.zeros(0)),
        ([[1, 2], [3, 4]], np.array([[1, 2], [3, 4]])),
        ([np.zeros((2, 2)), np.ones((2, 2), "f4")], np.stack([np.zeros((2, 2)), np.ones((2, 2))])),
        ("abc", np.array(["abc"])),
        (["a", "bcd"], np.array(["a", "bcd"])),
        (np.array(["a", "bc"], object), np.array(["a", "bc"])),
        ([b"a", b"bc"], np.array([b"a", b"bc"])),
        ([True, False], np.array([True, False])),
        ([1 + 2j, 0j], np.array([1 + 2j, 0])),
        (np.arange(6, dtype=">i2")[::-2], np.array([5, 3, 1], ">i2")),
        ([np.datetime64("2000-01-01"), np.datetime64("NaT", "D")],
         np.array(["2000-01-01", "NaT"], "M8[D]")),
        ([np.datetime64("2000-01-01"), np.datetime64("2000-01-01T01")],
         np.array(["2000-01-01T00", "2000-01-01T01"], "M8[h]")),
    ],
    ids=str,
)  # fmt: skip
def test_lists_scalars_and_arrays_become_one_block(data, wanted):
    block = as_block(data, "x")
    assert block.dtype == wanted.dtype
    np.testing.assert_array_equal(block, wanted)


@given(st.lists(st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False), min_size=1))
def test_a_list_of_numbers_is_kept_exactly_or_refused(numbers):
    try:
        block = as_block(numbers, "x")
    except InvalidInputError:
        assert any(isinstance(n, int) and int(float(n)) != n for n in numbers)
    else:
        assert block.tolist() == numbers


def test_what_has_an_array_or_dlpack_is_an_array():
    class Arrayish:
        def __array__(self, dtype=None, copy=None):
            return np.arange(3.0)

    class Capsule:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **kwargs):
            return self.array.__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    np.testing.assert_array_equal(as_block(Arrayish(), "x"), np.arange(3.0))
    np.testing.assert_array_equal(as_block(Capsule(np.arange(4)), "x"), np.arange(4))
    both = as_block([Capsule(np.arange(4)), Capsule(np.arange(4))], "x")
    assert both.shape == (2, 4)


def test_python_times_are_refused_as_objects_or_kept():
    when = datetime.datetime(2000, 1, 1)  # noqa: DTZ001 -- NumPy's times have no zone
    with pytest.raises(InvalidTypeError, match="got datetime"):
        as_block([when], "x")


# -- torch -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("float16", "f2"), ("float32", "f4"), ("float64", "f8"), ("bfloat16", "f4"),
        ("int8", "i1"), ("int16", "i2"), ("int32", "i4"), ("int64", "i8"), ("uint8", "u1"),
        ("uint16", "u2"), ("uint32", "u4"), ("uint64", "u8"), ("bool", "?"),
        ("complex64", "c8"), ("complex128", "c16"), ("complex32", "c8"),
        ("float8_e4m3fn", "f4"), ("float8_e5m2", "f4"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_every_torch_dtype_round_trips_or_widens_exactly(torch, name, kept):
    tensor = torch.tensor([0, 1, 1, 0]).to(getattr(torch, name))
    block = as_block(tensor, "x")
    assert block.dtype == np.dtype(kept)
    assert block.tolist() == [0, 1, 1, 0]


def test_tensors_with_gradient_views_and_lists_of_them(torch):
    grad = torch.arange(4.0, requires_grad=True)
    np.testing.assert_array_equal(as_block(grad * 2, "x"), [0, 2, 4, 6])
    turned = torch.arange(6).reshape(2, 3).T[:, ::1]
    np.testing.assert_array_equal(as_block(turned, "x"), np.arange(6).reshape(2, 3).T)
    np.testing.assert_array_equal(as_block(torch.tensor([1 + 2j]).conj(), "x"), [1 - 2j])
    stacked = as_block([torch.zeros(2), torch.ones(2)], "x")
    np.testing.assert_array_equal(stacked, [[0, 0], [1, 1]])
    assert as_block(torch.tensor(3.0), "x").shape == (1,)


@pytest.mark.parametrize("layout", ["sparse", "meta", "quantized"])
@pytest.mark.filterwarnings("ignore:.*quantize.*:UserWarning", "ignore:.*quantize.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*quantize.*:DeprecationWarning")
def test_a_tensor_without_plain_values_is_refused(torch, layout):
    made = {
        "sparse": lambda: torch.eye(2).to_sparse(),
        "meta": lambda: torch.zeros(2, device="meta"),
        "quantized": lambda: torch.quantize_per_tensor(torch.zeros(2), 0.1, 0, torch.qint8),
    }
    with pytest.raises(InvalidTypeError, match="'x'"):
        as_block(made[layout](), "x")


# -- several parts ---------------------------------------------------------------------------------


@dataclasses.dataclass
class Wind:
    u: float
    v: float


Pair = namedtuple("Pair", "u v")  # noqa: PYI024 -- as users write them


@pytest.mark.parametrize("result", [{"u": 1.0, "v": 2.0}, Wind(1.0, 2.0), Pair(1.0, 2.0)])
def test_named_parts_go_to_arrays_of_their_name(result):
    assert split_fields(result, "w") == {"u": 1.0, "v": 2.0}


def test_a_tuple_is_numbered_and_anything_else_is_one_part():
    assert split_fields((1, 2), "w") == {"w_0": 1, "w_1": 2}
    assert split_fields([1, 2], "w") == {"w": [1, 2]}


def test_an_own_block_is_contiguous_and_shared_with_nobody():
    block = np.arange(6).reshape(2, 3).T
    mine = own(block)
    assert mine.flags.c_contiguous
    assert not np.shares_memory(mine, block)


def test_one_result_keeps_its_shape():
    assert as_result(2.0, "x").shape == ()
    assert as_result([[1, 2]], "x").shape == (1, 2)
