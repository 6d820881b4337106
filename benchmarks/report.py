"""Tables and plots in docs/benchmarks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from benchmarks.summary import as_json, best_peer, lines

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.contender import Row
    from benchmarks.rounds import Results
    from benchmarks.summary import Line, Spread

COLOURS = {"ours": "#1f6f8b", "peer": "#b0b7bf", "floor": "#d9a441"}


def write(
    folder: Path, name: str, row: Row, results: Results, machine: dict[str, object], size: str
) -> str:
    """Write `name`.json, `name`.md and `name`.svg; return the table."""
    folder.mkdir(parents=True, exist_ok=True)
    data = as_json(row, results, machine, size)
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    text = page(name, row, results, data)
    (folder / f"{name}.md").write_text(text)
    if results.figures:
        _plot(folder / f"{name}.svg", row, lines(row, results))
    return text


# -- the page ----------------------------------------------------------------------------------


def page(name: str, row: Row, results: Results, data: dict[str, Any]) -> str:
    """Return the Markdown page of a row."""
    made = lines(row, results)
    rounds = max((len(each) for each in results.figures.values()), default=0)
    size = ", ".join(f"{key} {value:,}" for key, value in row.sizes[data["size"]["name"]].items())
    parts = [f"# {row.title}", row.story, f"Size: {size}. {rounds} rounds."]
    for group in dict.fromkeys(line.group for line in made):
        parts += [_heading(group, made), _table(row, [ln for ln in made if ln.group == group])]
    parts.append(row.note)
    parts += [f"Left out: {one} ({why})." for one, why in results.left_out.items()]
    parts += [f"Failed: {one}: {why.splitlines()[-1]}." for one, why in results.failed.items()]
    if made:
        parts.append(f"![{row.title}]({name}.svg)")
    parts.append(_machine(data["machine"]))
    return "\n\n".join(part for part in parts if part) + "\n"


def _heading(group: str, made: Sequence[Line]) -> str:
    peer = best_peer(made, group)
    verdict = ""
    if peer and peer.ahead:
        verdict = f"Against the best peer ({peer.contender}): {_times(peer.ahead)}."
    floors = [ln for ln in made if ln.group == group and ln.role == "floor" and ln.ahead]
    verdict += "".join(
        f" Share of the floor ({ln.contender}): {_times(ln.ahead)}." for ln in floors if ln.ahead
    )
    return "\n\n".join(part for part in (f"## {group}" if group else "", verdict.strip()) if part)


def _table(row: Row, made: Sequence[Line]) -> str:
    head = ["Contender", *(figure.title for figure in row.figures), "ours is ahead by"]
    ruler = ["---", *(["---:"] * (len(head) - 1))]
    cells = [head, ruler, *(_cells(row, line) for line in made)]
    return "\n".join("| " + " | ".join(each) + " |" for each in cells)


def _cells(row: Row, line: Line) -> list[str]:
    name = f"**{line.contender}**" if line.role == "ours" else line.contender
    shown = f"{name} (floor)" if line.role == "floor" else name
    values = [_number(line.figures[figure.name]) for figure in row.figures]
    return [shown, *values, _times(line.ahead) if line.ahead else "-"]


def _number(value: Spread) -> str:
    if value.low == value.high:
        return _digits(value.median)
    return f"{_digits(value.median)} ({_digits(value.low)}..{_digits(value.high)})"


def _times(value: Spread) -> str:
    return f"{_digits(value.median)}x ({_digits(value.low)}..{_digits(value.high)})"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _machine(machine: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"Measured on {machine['cores']} cores of {machine['processor']}, "
        f"{machine['memory_gib']} GiB, {machine['system']}, temporary folder on "
        f"{machine['file_system']}; load {machine['load']} before the row began and "
        f"{machine['load_after']} after it. Python {machine['python']}, SQLite "
        f"{machine['sqlite']}, {versions}."
    )


# -- the plot ----------------------------------------------------------------------------------


def _plot(path: Path, row: Row, made: Sequence[Line]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys(line.group for line in made))
    counts = [sum(line.group == group for line in made) for group in groups]
    figure = Figure(figsize=(8, 1.0 + 0.32 * sum(counts) + 0.5 * len(groups)), layout="tight")
    panels = figure.subplots(
        len(groups), 1, squeeze=False, sharex=True, height_ratios=counts
    )[:, 0]  # fmt: skip
    for panel, group in zip(panels, groups, strict=True):
        _bars(panel, row, [line for line in made if line.group == group])
        panel.set_title(group, loc="left", fontsize=9)
    panels[-1].set_xlabel(row.figures[0].title + " (median, least and most of the rounds)")
    with mpl.rc_context({"svg.hashsalt": row.title, "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def _bars(panel: Any, row: Row, made: Sequence[Line]) -> None:
    values = [line.figures[row.figures[0].name] for line in made]
    middle = [value.median for value in values]
    reach = [[v.median - v.low for v in values], [v.high - v.median for v in values]]
    colours = [COLOURS[line.role] for line in made]
    panel.barh(range(len(made)), middle, xerr=reach, color=colours, ecolor="#444", height=0.7)
    panel.set_yticks(range(len(made)), [line.contender for line in made], fontsize=8)
    panel.set_xscale("log")
    panel.invert_yaxis()
    panel.spines[["top", "right"]].set_visible(False)
