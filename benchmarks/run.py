"""`make bench`: measure rows, write docs/benchmarks, print the tables.

python -m benchmarks.run [--rows appends,commit] [--size full|quick|tiny] [--rounds 5]
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import machine, report, rounds

if TYPE_CHECKING:
    from collections.abc import Sequence

ROWS = (
    "commit",
    "appends",
    "fields",
    "small",
    "hdf5",
    "ensemble",
    "tasks",
    "transfer",
    "kept",
    "resume",
    "reading",
    "service",
    "s3",
)
DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 1 when a contender of ours failed."""
    asked = _parser().parse_args(arguments)
    broken = [name for name in asked.rows if not _measure(name, asked)]
    if broken:
        print(f"ours failed in: {', '.join(broken)}", file=sys.stderr)
    return 1 if broken else 0


def _measure(name: str, asked: argparse.Namespace) -> bool:
    module = f"benchmarks.rows.{name}"
    row = import_module(module).ROW
    print(f"== {row.title} ({asked.size})", flush=True)
    here = machine.describe()
    results = rounds.run_row(module, asked.size, asked.rounds, asked.only)
    here["load_after"] = round(os.getloadavg()[0], 1)
    print("\n" + report.write(asked.docs, name, row, results, here, asked.size), flush=True)
    ours = {one.name for one in row.contenders if one.role == "ours"}
    return not ours & results.failed.keys()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rows", type=_rows, default=ROWS, help="comma-separated: %(default)s")
    parser.add_argument("--size", choices=("full", "quick", "tiny"), default="full")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", type=_words, default=(), help="contenders, by name or role")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where tables and plots go")
    return parser


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _rows(text: str) -> tuple[str, ...]:
    names = _words(text)
    unknown = [name for name in names if name not in ROWS]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected rows out of {ROWS}, got {unknown[0]!r}")
    return names or ROWS


if __name__ == "__main__":
    sys.exit(main())
