"""Killed at every call, then `verify`, `recover`, `verify`: no false alarm, and nothing left to do.

Run by `make torture`; ``python tests/torture_recover.py 40`` tries 40 points of each program.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

from savers import SaverError
from savers._maintenance._recover import recover
from savers._maintenance._verify import examine
from tests.crash.cases import cases
from tests.crash.kinds import KINDS, PRELOAD
from tests.faults import ForkServer, Outcome, crash_points, double_crashes

if TYPE_CHECKING:
    from tests.crash.cases import Case

DOUBLES = 10


def wrong(store: Path) -> str:
    """Return what is wrong with verify and recover after a crash."""
    findings = examine(store).findings
    if findings:
        return f"verify calls what a crash left damage: {findings[0]}"
    try:
        recover(store)
    except SaverError as error:
        return f"recover: {error}"
    report = examine(store)
    left = [*map(str, report.findings), *report.notes]
    return f"after recover: {left[0]}" if left else ""


def has_ledger(outcome: Outcome, store: str) -> bool:
    return any((outcome.root / f"{store}.ledger").glob("*.log"))


def torture(case: Case, server: ForkServer, folder: Path, spread: int | None) -> int:
    """Try the points of one program; return how many went wrong."""
    start, program = case.start_state(server, folder / "start-state"), case.program(server)
    begin, tried, bad = time.monotonic(), 0, 0
    singles = crash_points(program, folder, start, spread=spread)
    for outcome in chain(singles, double_crashes(program, folder, start, count=DOUBLES)):
        if has_ledger(outcome, case.kind.store):
            tried += 1
            if problem := wrong(outcome.root / case.kind.store):
                bad += 1
                print(f"{case.kind.name} {case.name}, {outcome}: {problem}")
    title, seconds = f"{case.kind.name} {case.name}", time.monotonic() - begin
    print(f"{title}: {tried} crashes, {bad} wrong, {seconds:.0f} s", flush=True)
    return bad


def main() -> int:
    spread = int(sys.argv[1]) if len(sys.argv) > 1 else None
    with ForkServer(preload=PRELOAD) as server:
        bad = 0
        for case in (case for kind in KINDS for case in cases(kind=kind)):
            with tempfile.TemporaryDirectory() as folder:
                bad += torture(case, server, Path(folder), spread)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
