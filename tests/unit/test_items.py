"""Digests: the same value is the same item in every process, and nothing else is."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel

from taskmanager._items import (
    POSITION_ONLY,
    NotCanonicalError,
    arguments_digest,
    digest,
    digests,
    encode,
)

Point = collections.namedtuple("Point", "x y")  # noqa: PYI024 - the untyped kind is wanted here


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Case:
    name: str
    member: int


@dataclasses.dataclass
class OtherCase:
    name: str
    member: int


class Settings(BaseModel):
    name: str
    member: int


class Name(str):
    __slots__ = ()


DIFFERENT = [
    None,
    True,
    False,
    1,
    0,
    -1,
    2**70,
    1.0,
    0.0,
    -0.0,
    1j,
    "1",
    "",
    b"1",
    bytearray(b"1"),
    Path("1"),
    dt.date(2024, 1, 1),
    dt.datetime(2024, 1, 1),  # noqa: DTZ001 - without a zone it is another value
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.time(1),
    dt.timedelta(days=1),
    dt.timedelta(microseconds=1),
    np.int64(1),
    np.int32(1),
    np.float64(1),
    np.str_("1"),
    np.datetime64("2024-01-01"),
    np.datetime64("2024-01-01T00", "h"),
    np.timedelta64(1, "h"),
    np.array([1]),
    np.array([[1]]),
    np.array([1], np.int32),
    np.array([1.0]),
    np.array(["a"]),
    np.array(["2024-01-01"], "M8[ns]"),
    np.array([1, "a"], object),
    [1],
    (1,),
    [1, 2],
    (1, 2),
    ((1,), 2),
    (1, (2,)),
    [["ab"], "c"],
    [["a"], "bc"],
    {1},
    frozenset({1}),
    {},
    {"a": 1},
    {"a": "1"},
    {1: "a"},
    {"a": {"b": 1}},
    Point(1, 2),
    Colour.RED,
    Colour.BLUE,
    Level.LOW,
    Case("a", 1),
    Case("a", 2),
    OtherCase("a", 1),
    Settings(name="a", member=1),
    Name("1"),
]


def test_different_values_have_different_encodings() -> None:
    encodings = [encode(value) for value in DIFFERENT]
    same = [
        (DIFFERENT[i], DIFFERENT[j])
        for i in range(len(encodings))
        for j in range(i)
        if encodings[i] == encodings[j]
    ]
    assert same == []


def test_the_order_of_filling_does_not_matter() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    letters = [chr(97 + i) for i in range(26)]
    assert digest(set(letters)) == digest(dict.fromkeys(letters[::-1], 0).keys() | set())
    assert digest(np.arange(6).reshape(2, 3).T) == digest(
        np.ascontiguousarray(np.arange(6).reshape(2, 3).T)
    )


def test_digests_agree_with_digest_and_are_never_0() -> None:
    values = digests(DIFFERENT)
    assert values.dtype == np.uint64
    assert values.tolist() == [digest(value) for value in DIFFERENT]
    assert values.all()


def test_another_process_finds_the_same_digests() -> None:
    code = (
        "from taskmanager._items import digest\n"
        "print(digest(({'b', 'a', 'c'}, 1.5, 'x')), digest({'k': frozenset('xyz')}))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        ).stdout
        for seed in ("1", "2")
    }
    here = f"{digest(({'b', 'a', 'c'}, 1.5, 'x'))} {digest({'k': frozenset('xyz')})}\n"
    assert found == {here}


@pytest.mark.parametrize("value", [object(), [object()], {"a": object()}, lambda: 1, Case])
def test_anything_else_is_known_by_position(value: object) -> None:
    with pytest.raises(NotCanonicalError, match="no canonical encoding"):
        digest(value)
    assert digests([1, value]).tolist() == [digest(1), POSITION_ONLY]


def test_a_container_that_holds_itself_is_known_by_position() -> None:
    loop: list[object] = []
    loop.append(loop)
    assert digests([loop]).tolist() == [POSITION_ONLY]


def test_arguments_without_encoding_count_with_their_type() -> None:
    assert arguments_digest({}) == ""
    assert arguments_digest({"a": 1, "b": 2}) == arguments_digest({"b": 2, "a": 1})
    assert arguments_digest({"a": 1}) != arguments_digest({"a": 2})
    assert arguments_digest({"model": object()}) == arguments_digest({"model": object()})
