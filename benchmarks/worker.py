"""The process of one contender: reads a round a line, answers with its figures.

    python -m benchmarks.worker MODULE CONTENDER

A line is JSON: folder, inputs, size, number. The answer is JSON: figures, or error. The contender
named "prepare" makes the row's inputs, so that the harness itself stays small.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from benchmarks.contender import Contender, Round

if TYPE_CHECKING:
    from benchmarks.contender import Figures, Row


def stored_mib(folder: Path) -> float:
    """Return the bytes of all files below a folder, MiB."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20


def prepare(row: Row, this: Round) -> Figures:
    """Fill the folder of inputs; it has no figures."""
    row.prepare(this.inputs, this.size)
    return {}


def prepared(this: Round) -> None:
    """The contenders of the row will see whether their inputs are there."""


def answer(contender: Contender, asked: dict[str, Any]) -> dict[str, Any]:
    """Do one round; what fails is told, with its traceback."""
    this = Round(Path(asked["folder"]), Path(asked["inputs"]), asked["size"], asked["number"])
    try:
        figures: Figures = contender.run(this)
        figures["stored_mib"] = stored_mib(this.folder)
        contender.check(this)
    except Exception:  # noqa: BLE001 -- any library may fail in any way, and the others go on
        return {"error": traceback.format_exc()}
    return {"figures": figures}


def _own_stdout() -> TextIO:
    """Return the pipe to the harness; whatever a library prints goes to stderr from now on."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return pipe


def main() -> None:
    module, name = sys.argv[1:3]
    out = _own_stdout()
    row = importlib.import_module(module).ROW
    making = Contender("prepare", lambda this: prepare(row, this), prepared)
    contender = next(one for one in (making, *row.contenders) if one.name == name)
    for line in sys.stdin:
        print(json.dumps(answer(contender, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
