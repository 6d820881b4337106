"""Every point at which a program can be struck, each on a fresh copy of the start state."""

from __future__ import annotations

import errno
import random
import shutil
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ._fault import MODES, SPACE_ERRORS, Call, Fault, Result, When, fail, kill
from ._powercut import surviving_state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ._program import Program


@dataclass(frozen=True, slots=True)
class Outcome:
    """One fault and what it left: check `root`, it is removed when the next one is taken."""

    fault: Fault
    root: Path
    result: Result

    def __str__(self) -> str:
        struck = [str(call) for call in self.result.calls if call.mark]
        return f"{self.fault} ({'; '.join(struck[:2]) or 'not reached'})"


def crash_points(
    program: Program,
    scratch: Path,
    start: Path | None = None,
    *,
    when: Sequence[When] = ("before", "half", "after"),
    spread: int | None = None,
) -> Iterator[Outcome]:
    """Run `program` once to count, then kill it at every call in every way.

    Parameters
    ----------
    program : Program
        See `Command` and `ForkServer.function`.
    scratch : Path
        Existing folder for the copies, on the file system to be tested.
    start : Path, optional
        Folder that every run starts from a copy of; empty without one.
    when : sequence of {"before", "half", "after"}
        ``half`` is tried at writes of two bytes or more.
    spread : int, optional
        Try this many of the points, the same in every run, instead of all.
    """
    calls = _calls(program, scratch, start)
    yield from _strike(program, scratch, start, _some(_kills(calls, when), spread))


def double_crashes(
    program: Program,
    scratch: Path,
    start: Path | None = None,
    *,
    count: int = 20,
    seed: int = 0,
) -> Iterator[Outcome]:
    """Kill `program` at a random call, and the next run, which recovers, at another one.

    `Outcome.result` is that of the second run; its stdout begins with that of the first run and a
    line ``killed``. `count` pairs are tried, drawn by `seed`; every kind of call is as likely as
    any other to be the first one struck, and early calls likelier than late ones to be the second.
    """
    rng = random.Random(seed)
    calls = _calls(program, scratch, start)
    names = sorted({call.name for call in calls})
    for number in range(count):
        root = _fresh(scratch / f"double-{number}", start)
        name = rng.choice(names)  # the rare calls matter as much as the many
        faults = _kills([call for call in calls if call.name == name], MODES)
        first = program.run(root, rng.choice(faults))
        again = _kills(_calls(program, scratch, root), MODES)
        if again:  # none when the first run was killed after its last change
            fault = again[int(len(again) * rng.random() ** 2)]  # recovery comes first
            second = program.run(root, fault)
            both = f"{first.stdout}killed\n{second.stdout}"
            yield Outcome(fault, root, replace(second, stdout=both))
        shutil.rmtree(root)


def _kills(calls: Sequence[Call], when: Sequence[When]) -> list[Fault]:
    return [kill(call.n, w) for call in calls for w in when if w != "half" or call.divisible]


def fail_points(
    program: Program,
    scratch: Path,
    start: Path | None = None,
    *,
    errors: Sequence[int] = (errno.ENOSPC, errno.EIO),
    lasting: Sequence[bool] = (False, True),
    short: bool = True,
    spread: int | None = None,
) -> Iterator[Outcome]:
    """Run `program` once to count, then fail every call with every error, once and for good.

    ENOSPC and EDQUOT are tried at calls that need space. With `short`, a write is also tried with
    half of its bytes written before the error. Other parameters as in `crash_points`.
    """
    calls = _calls(program, scratch, start)
    faults = [
        fail(call.n, error, lasting=last, short=half)
        for call in calls
        for error in errors
        for last in lasting
        for half in ((False, True) if short and call.divisible else (False,))
        if call.space or error not in SPACE_ERRORS
    ]
    yield from _strike(program, scratch, start, _some(faults, spread))


def power_cuts(
    program: Program,
    scratch: Path,
    start: Path | None = None,
    *,
    count: int = 20,
    seed: int = 0,
    ordered: bool = False,
) -> Iterator[Outcome]:
    """Kill `program` at `count` random calls, and each time drop what was not fsynced.

    `Outcome.root` is what the disk held after the cut (see README.md, "Power cuts");
    `Outcome.result.stdout` is what had been acknowledged.

    Parameters
    ----------
    seed : int
        Chooses calls and losses.
    ordered : bool
        Directory changes reach the disk in their order, as on ext4 or XFS, not in any.
    """
    rng = random.Random(seed)
    last = len(_calls(program, scratch, start))
    for number in range(count):
        fault = kill(rng.randint(1, last), rng.choice(("before", "half", "after")))
        root = _fresh(scratch / "running", start)
        result = program.run(root, fault, record=True)
        begin = _fresh(scratch / "start", start)
        survived = scratch / f"cut-{number}"
        surviving_state(begin, result, survived, rng, ordered=ordered)
        yield Outcome(fault, survived, result)
        for folder in (root, begin, survived):
            shutil.rmtree(folder)


def _strike(
    program: Program, scratch: Path, start: Path | None, faults: Sequence[Fault]
) -> Iterator[Outcome]:
    for fault in faults:
        root = _fresh(scratch / f"{fault.action}-{fault.n}-{fault.when}", start)
        yield Outcome(fault, root, program.run(root, fault))
        shutil.rmtree(root)


def _calls(program: Program, scratch: Path, start: Path | None) -> tuple[Call, ...]:
    root = _fresh(scratch / "count", start)
    result = program.run(root)
    shutil.rmtree(root)
    if result.returncode:
        raise RuntimeError(f"the undisturbed run failed ({result.returncode}):\n{result.stderr}")
    return result.calls


def _fresh(root: Path, start: Path | None) -> Path:
    if start is None:
        root.mkdir()
    else:
        shutil.copytree(start, root, symlinks=True)
    return root


def _some(faults: list[Fault], spread: int | None) -> Sequence[Fault]:
    if spread is None or spread >= len(faults):
        return faults
    chosen = random.Random(0).sample(range(len(faults)), spread)
    return [faults[i] for i in sorted(chosen)]
