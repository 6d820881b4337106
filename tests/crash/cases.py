"""The programs of `programs` with what must hold after a fault, read back with plain libraries."""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.crash.kinds import KINDS
from tests.crash.programs import values

if TYPE_CHECKING:
    from pathlib import Path

    from tests.crash.kinds import Kind
    from tests.faults import ForkServer, Outcome, Program

Views = dict[str, np.ndarray[Any, Any]]  # how it was opened -> all that is there
Read = Callable[[str], np.ndarray[Any, Any] | None]  # array name -> what the first reader sees


@dataclass(frozen=True)
class Case:
    """A program, where it starts from, and its promises.

    Parameters
    ----------
    start : tuple of str and dict, optional
        Program that makes the start state.
    visible : callable (rows, ...) -> bool
        Whether what a plain reader sees of array `name` is allowed at any time.
    kept : callable (read, acknowledged numbers) -> list of str
        What is wrong after recovering.
    final : dict of str to ndarray
        Content when the program has ended well.
    interval : int
        Items of a commit, for programs that run items.
    """

    name: str
    function: str
    kwargs: dict[str, Any]
    visible: Callable[[np.ndarray[Any, Any], str], bool]
    kept: Callable[[Read, list[int]], list[str]]
    final: Views
    start: tuple[str, dict[str, Any]] | None = None
    interval: int = 0
    kind: Kind = KINDS["zarr"]

    def program(self, server: ForkServer, **more: Any) -> Program:
        return server.function(
            f"{PROGRAMS}:{self.function}", kind=self.kind.name, **self.kwargs, **more
        )

    def start_state(self, server: ForkServer, folder: Path) -> Path:
        folder.mkdir()
        if self.start is not None:
            name, kwargs = self.start
            start = server.function(f"{PROGRAMS}:{name}", kind=self.kind.name, **kwargs)
            made = start.run(folder)
            if made.returncode:
                raise RuntimeError(f"no start state for {self.name}:\n{made.stderr}")
        return folder


PROGRAMS = "tests.crash.programs"


# ---- promises ----


def prefix(rows: np.ndarray[Any, Any], sign: int = 1) -> bool:
    """Rows 0, 1, 2, ... and nothing else."""
    return len(rows) == 0 or np.array_equal(rows, sign * values(range(len(rows))))


def batches_kept(size: int, *names: str) -> Callable[[Read, list[int]], list[str]]:
    def check(read: Read, acknowledged: list[int]) -> list[str]:
        promised = size * len(acknowledged) and size * (max(acknowledged) + 1)
        wrong = []
        for name in names:
            rows = read(name)
            there = 0 if rows is None else len(rows)
            if there < promised or there % size:
                wrong.append(f"{there} rows of {name!r} after recovering, {promised} promised")
        return wrong

    return check


def items_kept(read: Read, acknowledged: list[int]) -> list[str]:
    """Items out of order show only in what a resumed run leaves out (see `judge`)."""
    return []


def one_generation(old: int, new: int) -> Callable[[np.ndarray[Any, Any], str], bool]:
    def check(rows: np.ndarray[Any, Any], name: str) -> bool:
        return any(
            np.array_equal(rows, values(range(count), generation))
            for generation, count in enumerate((old, new))
        )

    return check


def new_kept(new: int) -> Callable[[Read, list[int]], list[str]]:
    def check(read: Read, acknowledged: list[int]) -> list[str]:
        rows = read("x")
        if acknowledged and (rows is None or not np.array_equal(rows, values(range(new), 1))):
            return ["the overwrite was acknowledged, and the old content is there"]
        return [] if rows is not None else ["the array is gone"]

    return check


def old_or_new(total: int) -> Callable[[np.ndarray[Any, Any], str], bool]:
    def check(rows: np.ndarray[Any, Any], name: str) -> bool:
        allowed = (values(range(total)) == rows) | (values(range(total), 1) == rows)
        return bool(allowed.all())

    return check


def updates_kept(updates: list[list[int]]) -> Callable[[Read, list[int]], list[str]]:
    def check(read: Read, acknowledged: list[int]) -> list[str]:
        rows = read("x")
        if rows is None:
            return ["the array is gone"]
        changed = [[bool(rows[i, 0] > 10_000) for i in update] for update in updates]
        torn = [k for k, flags in enumerate(changed) if len(set(flags)) > 1]
        lost = [k for k in acknowledged if not all(changed[k])]
        return [f"update {k} is half there" for k in torn] + [f"update {k} is lost" for k in lost]

    return check


def updated(total: int, updates: list[list[int]]) -> np.ndarray[Any, Any]:
    rows = values(range(total))
    for update in updates:
        rows[update] = values(range(total), 1)[update]
    return rows


# ---- the cases ----

UPDATES = [[0, 1], [2, 3, 4, 9], [13], [5, 6, 7, 8, 10, 11]]


def items_case(name: str, function: str, items: int) -> Case:
    """Return the case of a program that runs items, three to a commit."""
    return Case(
        name,
        function,
        {"items": items, "interval": 3},
        visible=lambda rows, name: prefix(rows),
        kept=items_kept,
        final={"x": values(range(items))},
        interval=3,
    )


def cases(size: int = 1, kind: str = "zarr") -> list[Case]:
    """Return the cases of a format; `size` 1 is for every test run, 2 and more for the torture."""
    count = 5 * size
    made = [
        Case(
            "append",
            "append",
            {"batches": count, "rows": 3},
            visible=lambda rows, name: prefix(rows),
            kept=batches_kept(3, "x"),
            final={"x": values(range(3 * count))},
        ),
        Case(
            "append to what is there",
            "append",
            {"batches": 3 + count, "rows": 3},
            start=("append", {"batches": 3, "rows": 3}),
            visible=lambda rows, name: prefix(rows) and len(rows) >= 9,
            kept=batches_kept(3, "x"),
            final={"x": values(range(9 + 3 * count))},
        ),
        Case(
            "append to two arrays",
            "append_two",
            {"batches": count, "rows": 3},
            visible=lambda rows, name: prefix(rows, 1 if name == "a" else -1),
            kept=batches_kept(3, "a", "b"),
            final={"a": values(range(3 * count)), "b": -values(range(3 * count))},
        ),
        items_case("items out of order", "job", 10 * size),
        items_case("task manager", "manage", 10 * size),
        Case(
            "overwrite",
            "overwrite",
            {"rows": 7, "generation": 1},
            start=("overwrite", {"rows": 10, "generation": 0}),
            visible=one_generation(10, 7),
            kept=new_kept(7),
            final={"x": values(range(7), 1)},
        ),
        Case(
            "update",
            "update",
            {"indices": UPDATES, "generation": 1},
            start=("append", {"batches": 5, "rows": 3}),
            visible=old_or_new(15),
            kept=updates_kept(UPDATES),
            final={"x": updated(15, UPDATES)},
        ),
    ]
    if kind == "zarr":
        by_zarrs = {**made[0].kwargs, "pipeline": "zarrs"}
        made.append(replace(made[0], name="append through zarrs", kwargs=by_zarrs))
    return [replace(case, kind=KINDS[kind]) for case in made]


# ---- judging ----


class Judge:
    """Says what is wrong after a fault, if anything.

    Parameters
    ----------
    case : Case
    server : ForkServer
    start : Path
        The start state.
    scratch : Path
        Existing folder for copies.
    settings : dict
        Passed to the saver in every run.
    """

    def __init__(
        self, case: Case, server: ForkServer, start: Path, scratch: Path, **settings: Any
    ) -> None:
        self.case = case
        self.scratch = scratch
        self.program = case.program(server, **settings)
        self.recover = server.function(f"{PROGRAMS}:publish_rest", kind=case.kind.name)
        self._reference = self._undisturbed(start)

    def _undisturbed(self, start: Path) -> dict[str, object]:
        root = self.scratch / "reference"
        shutil.copytree(start, root)
        result = self.program.run(root)
        wrong = [result.stderr] if result.returncode else self._content(root)
        if wrong:
            raise RuntimeError(f"{self.case.name} fails undisturbed: {wrong}")
        return self.case.kind.tree(root / self.case.kind.store)

    def after(self, outcome: Outcome) -> list[str]:
        """Check what readers see, what recovering brings, and that the same call completes."""
        wrong = self._visible(outcome.root, "at once")
        again = self.scratch / "again"
        shutil.copytree(outcome.root, again)
        wrong += self._recovered(again, outcome)
        shutil.rmtree(again)
        wrong += self._same_call(outcome)
        return [f"{self.case.name}: {outcome}: {text}" for text in wrong]

    def _seen(self, root: Path, name: str, when: str) -> tuple[Views, list[str]]:
        try:
            return dict(self.case.kind.views(root / self.case.kind.store, name)), []
        except Exception as error:  # noqa: BLE001 - any: the store must be readable
            first = str(error).partition("\n")[0]
            return {}, [f"unreadable {when}: {type(error).__name__}: {first}"]

    def _visible(self, root: Path, when: str) -> list[str]:
        wrong = []
        for name in self.case.final:
            seen, unreadable = self._seen(root, name, when)
            wrong += unreadable
            wrong += [
                f"{title} reader sees {len(rows)} rows {when}: {rows[:, 0].tolist()}"
                for title, rows in seen.items()
                if not self.case.visible(rows, name)
            ]
        return wrong

    def _recovered(self, root: Path, outcome: Outcome) -> list[str]:
        result = self.recover.run(root)
        if result.returncode:
            return [f"recovering fails: {_last(result.stderr)}"]
        wrong = self._visible(root, "after recovering")
        read = functools.partial(self.case.kind.read, root)
        return wrong or self.case.kept(read, acknowledged(outcome.result.stdout, "saved"))

    def _same_call(self, outcome: Outcome) -> list[str]:
        result = self.program.run(outcome.root)
        if result.returncode:
            return [f"the same call fails ({result.returncode}): {_last(result.stderr)}"]
        first, second = (acknowledged(r.stdout, "run") for r in (outcome.result, result))
        saved = set(acknowledged(outcome.result.stdout, "saved"))
        wrong = self._content(outcome.root)
        if saved & set(second):
            wrong.append(f"saved items run again: {sorted(saved & set(second))}")
        wrong += self._executions(outcome, len(first), len(second))
        return wrong + self._differences(outcome.root)

    def _executions(self, outcome: Outcome, first: int, second: int) -> list[str]:
        """Every interruption may cost two intervals and the chunks at work, at most one more."""
        stdout = outcome.result.stdout
        interruptions = 1 + stdout.count("refused") + stdout.count("killed")
        items = len(next(iter(self.case.final.values())))
        most = items + interruptions * 3 * self.case.interval
        if not self.case.interval or first + second <= most:
            return []
        return [f"{first} + {second} executions of {items} items, at most {most}"]

    def _content(self, root: Path) -> list[str]:
        wrong = []
        for name, expected in self.case.final.items():
            seen, unreadable = self._seen(root, name, "at the end")
            wrong += unreadable
            wrong += [
                f"{title} reader sees {rows[:, 0].tolist()} in {name!r} at the end"
                for title, rows in seen.items()
                if not np.array_equal(rows, expected)
            ]
            wrong += (
                []
                if len(seen) == self.case.kind.readers
                else [f"{name!r} is seen by {list(seen)} only"]
            )
        return wrong

    def _differences(self, root: Path) -> list[str]:
        found = self.case.kind.tree(root / self.case.kind.store)
        names = sorted(found.keys() ^ self._reference.keys())
        names += [
            n for n in found.keys() & self._reference.keys() if found[n] != self._reference[n]
        ]
        return [f"files differ from those of an undisturbed run: {names}"] if names else []


def acknowledged(stdout: str, word: str) -> list[int]:
    """Return the numbers that were printed behind a word."""
    lines = [line.split() for line in stdout.splitlines() if line.endswith(tuple("0123456789"))]
    return [int(line[1]) for line in lines if line[0] == word]


def refusal(outcome: Outcome) -> list[str]:
    """Say what is wrong with how a program took an error of the disk."""
    code, stderr = outcome.result.returncode, outcome.result.stderr
    errors = raised(stderr)
    others = [line for line in errors if "StorageError" not in line]
    wrong = [f"expected a StorageError, got {line}" for line in others]
    if code not in (0, 1):
        wrong.append(f"ended by {code}")
    if code and not outcome.fault.lasting:
        wrong.append(f"fails ({code}) though the error came once: {_last(stderr)}")
    if code and not others and not all("free)" in line for line in errors):
        wrong.append(f"expected a text with the free space, got {errors}")
    return [f"{outcome}: {text}" for text in wrong]


def raised(stderr: str) -> list[str]:
    """Return what was raised in the end: the first line of each error that led to no other."""
    chains = re.split(r"\n\n(?:The above exception|During handling)[^\n]*\n\n", stderr)
    found = [[line for line in part.splitlines() if _ERROR.match(line)] for part in chains]
    ends = [lines[:-1] for lines in found[:-1]] + found[
        -1:
    ]  # the last one before a link is a cause
    return [line for lines in ends for line in lines]


_ERROR = re.compile(r"([a-z_]+\.)*[A-Z]\w*(Error|Exception)\b")


def _last(stderr: str) -> str:
    return stderr.strip().splitlines()[-1] if stderr.strip() else "(nothing on stderr)"
