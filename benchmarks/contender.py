"""The words of the benchmark: a row is one kind of work, and contenders do it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

Size = Mapping[str, int]
Figures = dict[str, float]


@dataclass(frozen=True)
class Round:
    """One round of one contender: an empty folder, the common inputs, and how much to do."""

    folder: Path
    inputs: Path
    size: Size
    number: int = 0


@dataclass(frozen=True)
class Figure:
    """One measured number. The first figure of a row is the one that is compared.

    `stored_mib` is measured by the harness: all bytes that lie in the round's folder.
    """

    name: str
    title: str
    higher_is_better: bool = False


@dataclass(frozen=True)
class Contender:
    """One way to do a row's work.

    `run` does it and returns its figures. `check`, which is not timed, reads everything back with
    the raw library and raises where it is not what went in. A contender whose `needs` (names of
    modules) are not installed is left out, and the table says so. Contenders compete within a
    group; the first of ours in a group is the one that the others are compared with.
    """

    name: str
    run: Callable[[Round], Figures]
    check: Callable[[Round], None]
    role: Literal["ours", "peer", "floor"] = "peer"
    groups: tuple[str, ...] = ("",)
    needs: tuple[str, ...] = ()


def _no_inputs(folder: Path, size: Size) -> None:
    """Most rows make their data as they go."""


Service = Callable[[], AbstractContextManager[Mapping[str, str]]]


def no_service() -> AbstractContextManager[Mapping[str, str]]:
    """Most contenders need files alone."""
    return nullcontext({})


@dataclass(frozen=True)
class Row:
    """One kind of work, at the sizes "full", "quick" (minutes) and "tiny" (tests, warm-up).

    `prepare` fills the folder of inputs once. `service` runs what all contenders speak to, and
    gives the environment variables that tell them where. With `fresh`, every round has a new
    process, for work that is about starting or about memory; otherwise processes stay and are
    warmed up.
    """

    title: str
    story: str
    figures: tuple[Figure, ...]
    contenders: tuple[Contender, ...]
    sizes: Mapping[str, Size]
    prepare: Callable[[Path, Size], None] = _no_inputs
    fresh: bool = False
    service: Service = no_service
    note: str = ""
