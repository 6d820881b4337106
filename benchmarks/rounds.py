"""Rounds: every contender in a process of its own, one after the other, in changing order."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from benchmarks.contender import Contender, Figures, Row

LIMIT = 1800.0  # seconds that one round of one contender may take
HERE = Path(__file__).parent.parent


@dataclass
class Results:
    """What a row's rounds gave: figures[contender] has one entry a round."""

    figures: dict[str, list[Figures]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class RoundError(Exception):
    """A contender failed, gave something else back than went in, or took too long."""


class Process:
    """A contender's process, in a process group of its own so that its workers end with it."""

    def __init__(self, module: str, name: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", module, name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=HERE, start_new_session=True,
        )  # fmt: skip

    def ask(self, asked: dict[str, Any], limit: float = LIMIT) -> Figures:
        """Have one round done.

        Raises
        ------
        RoundError
            The text is the contender's traceback.
        """
        self._child.stdin.write(json.dumps(asked).encode() + b"\n")
        self._child.stdin.flush()
        if not select.select([self._child.stdout], [], [], limit)[0]:
            raise RoundError(f"took over {limit:.0f} s")
        line = self._child.stdout.readline()
        if not line:
            raise RoundError(f"its process ended (exit status {self._child.wait()})")
        given = json.loads(line)
        if "error" in given:
            raise RoundError(given["error"])
        return given["figures"]

    def close(self) -> None:
        """End the process, by force where the end of its input is not enough."""
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)
        self._child.wait()
        self._child.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def missing(contender: Contender) -> str:
    """Return the modules that a contender needs and that are not installed."""
    return ", ".join(name for name in contender.needs if importlib.util.find_spec(name) is None)


def run_row(
    module: str, size: str, rounds: int, only: Collection[str] = (), *, verbose: bool = True
) -> Results:
    """Prepare the inputs, warm up, and do all rounds of one row.

    Parameters
    ----------
    module : str
        Where `ROW` is, such as ``benchmarks.rows.appends``.
    size : {"full", "quick", "tiny"}
    rounds : int
    only : collection of str
        Contenders whose name contains one of these, or whose role is one; all when empty.
    verbose : bool
        Print each figure as it comes.
    """
    row: Row = importlib.import_module(module).ROW
    results = Results()
    chosen = [one for one in row.contenders if _is_chosen(one, only)]
    results.left_out = {one.name: f"needs {lack}" for one in chosen if (lack := missing(one))}
    chosen = [one for one in chosen if one.name not in results.left_out]
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tasksavers-bench-")))
        os.environ.update(stack.enter_context(row.service()))
        arena = _Arena(module, row, chosen, place, results, stack)
        if not row.fresh:
            arena.go("tiny", 0, keep=False)
        arena.prepare(size)
        for number in range(rounds):
            arena.go(size, number, keep=True, verbose=verbose)
    return results


def _is_chosen(contender: Contender, only: Collection[str]) -> bool:
    return not only or any(word in contender.name or word == contender.role for word in only)


@dataclass
class _Arena:
    module: str
    row: Row
    contenders: Sequence[Contender]
    place: Path
    results: Results
    stack: ExitStack
    _processes: dict[str, Process] = field(default_factory=dict)
    _prepared: set[str] = field(default_factory=set)

    def prepare(self, size: str) -> Path:
        inputs = self.place / f"inputs-{size}"
        if size not in self._prepared:
            inputs.mkdir()
            asked = {"folder": str(inputs), "inputs": str(inputs), "number": 0}
            with Process(self.module, "prepare") as process:
                process.ask({**asked, "size": self.row.sizes[size]})
            self._prepared.add(size)
        return inputs

    def go(self, size: str, number: int, *, keep: bool, verbose: bool = False) -> None:
        """Let every contender that has not failed do one round; each round begins elsewhere."""
        inputs = self.prepare(size)
        shift = number % max(1, len(self.contenders))
        for one in [*self.contenders[shift:], *self.contenders[:shift]]:
            if one.name not in self.results.failed:
                self._one(one, inputs, size, number, keep=keep, verbose=verbose)

    def _one(
        self, one: Contender, inputs: Path, size: str, number: int, *, keep: bool, verbose: bool
    ) -> None:
        folder = self.place / "round"
        folder.mkdir()
        asked = {"folder": str(folder), "inputs": str(inputs), "number": number}
        os.sync()  # so that no contender pays for the bytes of an earlier one
        try:
            figures = self._ask(one.name, {**asked, "size": self.row.sizes[size]})
        except RoundError as error:
            self.results.failed[one.name] = str(error)
            print(f"  {one.name}: FAILED\n{error}", file=sys.stderr)
        else:
            if keep:
                self.results.figures.setdefault(one.name, []).append(figures)
            if verbose:
                first = self.row.figures[0]
                print(f"  {number} {one.name:40} {figures[first.name]:12.3f} {first.title}")
        finally:
            shutil.rmtree(folder)

    def _ask(self, name: str, asked: dict[str, Any]) -> Figures:
        if self.row.fresh:
            with Process(self.module, name) as process:
                return process.ask(asked)
        if name not in self._processes:
            self._processes[name] = self.stack.enter_context(Process(self.module, name))
        return self._processes[name].ask(asked)
