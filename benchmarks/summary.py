"""From rounds to medians, spreads, and how far ours is ahead. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.contender import Contender, Figures, Row
    from benchmarks.rounds import Results


@dataclass(frozen=True)
class Spread:
    """Median and range of one number over the rounds."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One contender in one group: its figures, and how many times better ours does.

    `ahead` is taken round by round from the row's first figure. Over 1 ours is better; for a
    floor it is the share of the floor that ours reaches.
    """

    group: str
    contender: str
    role: str
    figures: dict[str, Spread]
    ahead: Spread | None


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def lines(row: Row, results: Results) -> list[Line]:
    """Return all lines, group by group, best first."""
    groups = dict.fromkeys(group for one in row.contenders for group in one.groups)
    return [line for group in groups for line in _group(row, results, group)]


def _group(row: Row, results: Results, group: str) -> list[Line]:
    inside = [one for one in row.contenders if group in one.groups and one.name in results.figures]
    reference = next((results.figures[one.name] for one in inside if one.role == "ours"), None)
    made = [_line(row, group, one, results.figures[one.name], reference) for one in inside]
    first = row.figures[0]
    return sorted(
        made, key=lambda line: line.figures[first.name].median, reverse=first.higher_is_better
    )


def _line(
    row: Row, group: str, one: Contender, rounds: Sequence[Figures], ours: Sequence[Figures] | None
) -> Line:
    figures = {f.name: spread([each[f.name] for each in rounds]) for f in row.figures}
    ahead = None if ours is None or rounds is ours else spread(_ratios(row, rounds, ours))
    return Line(group, one.name, one.role, figures, ahead)


def _ratios(row: Row, theirs: Sequence[Figures], ours: Sequence[Figures]) -> list[float]:
    name, higher = row.figures[0].name, row.figures[0].higher_is_better
    pairs = [(t[name], o[name]) for t, o in zip(theirs, ours, strict=False)]
    return [o / t if higher else t / o for t, o in pairs]


def best_peer(made: Sequence[Line], group: str) -> Line | None:
    """Return the peer that ours has to beat in a group (lines come best first)."""
    peers = (line for line in made if line.group == group and line.role == "peer")
    return next(peers, None)


def as_json(row: Row, results: Results, machine: dict[str, object], size: str) -> dict[str, Any]:
    """Return everything that was measured, every round of it."""
    return {
        "title": row.title,
        "size": {"name": size, **row.sizes[size]},
        "machine": machine,
        "summary": [asdict(line) for line in lines(row, results)],
        "rounds": results.figures,
        "failed": results.failed,
        "left_out": results.left_out,
    }
