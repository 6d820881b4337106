"""Does the last chunk or array cost what the first did? How much memory does a save take?

``python -m benchmarks.limits`` writes docs/benchmarks/limits.md. Each measurement has a process of
its own (``python -m benchmarks.limits chunks`` makes one and prints its figures).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.codecs import machine
from benchmarks.machine import file_system

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

OUT = Path(__file__).parent.parent / "docs" / "benchmarks" / "limits.md"
CHUNKS, ARRAYS, ROUNDS = 100_000, 1_000, 20
GROUP = 100  # chunks a save
MIB = 1 << 20
LIMITS = (16, 64, 256)  # MiB in flight


def tenths(call: Callable[[int], object], count: int, each: int = 1) -> dict[str, Any]:
    """Return us a thing in each tenth of `count` calls that do `each` things."""
    taken = []
    for number in range(count):
        start = time.perf_counter()
        call(number)
        taken.append((time.perf_counter() - start) * 1e6 / each)
    groups = np.array_split(np.array(taken), 10)
    return {
        "mean": [float(group.mean()) for group in groups],
        "median": [float(np.median(group)) for group in groups],
    }


def chunks(folder: Path) -> dict[str, Any]:
    """100,000 chunks of 4 KiB, 100 a save."""
    from savers import ZarrSaver

    values = np.random.default_rng(0).normal(size=(GROUP, 512))
    with ZarrSaver(folder / "out", chunks=(1, 512), codecs=None) as saver:
        found = tenths(lambda number: saver.save(values + number), CHUNKS // GROUP, GROUP)
    check(folder / "out", "dataset", values[-1] + CHUNKS // GROUP - 1)
    return found


def new_arrays(folder: Path) -> dict[str, Any]:
    """1,000 arrays in one store, one made after the other."""
    from savers import ZarrSaver

    value = np.arange(8.0)[None]
    with ZarrSaver(folder / "out") as saver:
        found = tenths(lambda number: saver.save({f"a{number}": value}), ARRAYS)
    check(folder / "out", f"a{ARRAYS - 1}", value[0])
    return found


def rows_of_arrays(folder: Path) -> dict[str, Any]:
    """Rows for 1,000 arrays, all of them in each save."""
    from savers import ZarrSaver

    value = np.arange(8.0)[None]
    with ZarrSaver(folder / "out") as saver:
        saver.save({f"a{number}": value for number in range(ARRAYS)})
        found = tenths(
            lambda row: saver.save({f"a{number}": value + row for number in range(ARRAYS)}),
            ROUNDS, ARRAYS,
        )  # fmt: skip
    check(folder / "out", "a0", value[0] + ROUNDS - 1)
    return found


def memory(folder: Path, limit: int) -> dict[str, Any]:
    """MiB that one save of 64 fields (256 MiB in chunks of 4 MiB) takes beside its data."""
    from benchmarks.rows.fields import synthetic
    from savers import ZarrSaver

    values = np.tile(synthetic(0), (64, 1, 1))
    with ZarrSaver(folder / "out", chunks=(1, 721, 1440), max_inflight_bytes=limit * MIB) as saver:
        saver.save(values[:1])
        before = high_water()
        saver.save(values)
        after = high_water()
    check(folder / "out", "dataset", values[-1])
    return {"limit": limit, "taken": (after - before) / MIB}


def high_water() -> int:
    """Return the most bytes this process has held, and begin anew where the kernel allows it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    most = next(line.split()[1] for line in lines if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return int(most) * 1024


def check(path: Path, name: str, last: np.ndarray[Any, Any]) -> None:
    """Read the last result back with plain zarr."""
    import zarr

    np.testing.assert_array_equal(zarr.open_array(path, path=name, mode="r")[-1], last)


MEASURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "chunks": chunks,
    "arrays": new_arrays,
    "rows": rows_of_arrays,
    **{f"memory-{limit}": lambda folder, n=limit: memory(folder, n) for limit in LIMITS},  # type: ignore[misc]
}


def measured(name: str) -> dict[str, Any]:
    """Make one measurement in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.limits", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    print(name, done.stdout.strip()[:300], flush=True)
    return json.loads(done.stdout)


def line(title: str, found: dict[str, Any]) -> str:
    """Return a row of the table of tenths."""
    cells = [f"{found[kind][tenth]:.0f}" for kind in ("median", "mean") for tenth in (0, -1)]
    return f"| {title} | " + " | ".join(cells) + " |"


def page() -> str:
    """Measure everything and return the page."""
    kept = [measured(f"memory-{limit}") for limit in LIMITS]
    memory_rows = "\n".join(f"| {one['limit']} | {one['taken']:.0f} |" for one in kept)
    return f"""# Many chunks, many arrays, little memory

Microseconds each, in the first and in the last tenth of a run; `ZarrSaver`, everything committed
before the next. Means hold the publications and compactions that fall into a tenth.

| | first tenth, median | last tenth, median | first tenth, mean | last tenth, mean |
|---|---:|---:|---:|---:|
{line(f"a chunk of 4 KiB, one of {CHUNKS:,}, {GROUP} a save, a file each", measured("chunks"))}
{line(f"a new array, one of {ARRAYS:,} in the store", measured("arrays"))}
{line(f"a row of an array, {ARRAYS:,} arrays a save", measured("rows"))}

Memory that one save of 64 fields (chunks of 4 MiB, 254 MiB, `"balanced"`) takes beside its data:

| `max_inflight_bytes`, MiB | most taken at a time, MiB |
|---:|---:|
{memory_rows}

Measured by `python -m benchmarks.limits` on {machine()}, temporary folder on
{file_system(tempfile.gettempdir())}, load average {os.getloadavg()[0]:.1f} at the end.
"""


def main() -> None:
    """Make one measurement, or all of them and the page."""
    names: Sequence[str] = sys.argv[1:]
    if not names:
        OUT.write_text(page())
    for name in names:
        with tempfile.TemporaryDirectory(prefix="tasksavers-limits-") as folder:
            print(json.dumps(MEASURES[name](Path(folder))))


if __name__ == "__main__":
    main()
