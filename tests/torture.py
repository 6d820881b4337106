"""Every crash point, every refused call, many power cuts: ``python tests/torture.py [CASE ...]``.

Prints a line for each case and kind of fault, and everything that went wrong. Exit status 1 when
anything did. ``--size`` makes the runs longer, ``--cuts`` the power cuts more.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.crash.cases import Judge, cases, refusal
from tests.crash.kinds import KINDS, PRELOAD
from tests.faults import (
    ForkServer,
    crash_points,
    double_crashes,
    fail_points,
    power_cuts,
    unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.crash.cases import Case
    from tests.faults import Outcome, Program

    Strike = Callable[[Program, Path, Path], Iterator[Outcome]]


def kinds(cuts: int, spread: int | None) -> dict[str, tuple[Strike, dict[str, str]]]:
    """Return each kind of fault with the saver's settings under it."""
    strict = functools.partial(power_cuts, count=cuts)
    ordered = functools.partial(power_cuts, count=cuts, ordered=True)
    return {
        "killed": (functools.partial(crash_points, spread=spread), {}),
        "killed twice": (functools.partial(double_crashes, count=cuts), {}),
        "refused": (functools.partial(fail_points, spread=spread), {}),
        "refused, power": (functools.partial(fail_points, spread=spread), {"durability": "power"}),
        "power cut": (strict, {"durability": "power"}),
        "power cut, ordered": (ordered, {"durability": "power"}),
        "power cut without fsync": (strict, {"durability": "process"}),
    }


def torture(case: Case, server: ForkServer, strike: Strike, settings: dict[str, str]) -> list[str]:
    """Try every fault of a kind on a case; return how many there were and what went wrong."""
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        scratch = Path(name)
        start = case.start_state(server, scratch / "start-state")
        judge = Judge(case, server, start, scratch, **settings)
        began, wrong, tried = time.monotonic(), [], 0
        for outcome in strike(judge.program, scratch, start):
            tried += 1
            wrong += refusal(outcome) if outcome.fault.action == "fail" else []
            wrong += judge.after(outcome)
    print(f"{tried:6} tried {len(wrong):6} wrong {time.monotonic() - began:8.1f} s", flush=True)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", help="names of cases (default: all)")
    parser.add_argument("--formats", nargs="*", default=[*KINDS], choices=[*KINDS])
    parser.add_argument("--size", type=int, default=1)
    parser.add_argument("--cuts", type=int, default=20)
    parser.add_argument("--spread", type=int, help="try this many kills and refusals, not all")
    parser.add_argument("--kinds", nargs="*", default=[])
    parser.add_argument("--show", type=int, default=10, help="problems to show of each kind")
    given = parser.parse_args()
    if reason := unavailable():
        print(f"nothing was tried: {reason}")
        return 0
    failures = 0
    every = [case for name in given.formats for case in cases(given.size, name)]
    with ForkServer(preload=PRELOAD) as server:
        for case in every:
            for kind, (strike, settings) in kinds(given.cuts, given.spread).items():
                if (given.cases and case.name not in given.cases) or (
                    given.kinds and kind not in given.kinds
                ):
                    continue
                print(f"{case.kind.name:8}{case.name:26}{kind:26}", end="", flush=True)
                wrong = torture(case, server, strike, settings)
                for text in wrong[: given.show]:
                    print(f"    {text}")
                # without fsync a power cut may take anything: shown, not counted
                failures += len(wrong) if kind != "power cut without fsync" else 0
    print(f"{failures} wrong")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
