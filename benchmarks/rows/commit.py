"""What one durable small record costs: 64 bytes, committed one by one."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.contender import Contender, Figure, Round, Row
from benchmarks.timing import each_us, per_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from benchmarks.contender import Figures

PROCESS, POWER = "survives a killed process", "survives a power cut"


def record(number: int) -> NDArray[np.float64]:
    return np.arange(number, number + 8, dtype=np.float64)


def count(this: Round, group: str) -> int:
    """Return how many records; those that are fsynced are fewer."""
    return this.size["fsynced" if group == POWER else "records"]


def equal(found: Any, this: Round, group: str) -> None:
    """Raise unless `found` is every record, in order."""
    np.testing.assert_array_equal(found, [record(i) for i in range(count(this, group))])


# -- ours --------------------------------------------------------------------------------------


def saves(this: Round, group: str, durability: Any) -> Figures:
    from savers import ZarrSaver

    with ZarrSaver(this.folder / "out.zarr", durability=durability) as saver:
        saver.save(record(0)[None])
        timed = each_us(lambda i: saver.save(record(i + 1)[None]), count(this, group) - 1)
    return per_call(timed)


def job(this: Round, group: str, durability: Any) -> Figures:
    """Commit as a task manager does: stage a result, commit it with its "done"."""
    from savers import JobSpec, ZarrSaver

    with ZarrSaver(this.folder / "out.zarr", durability=durability) as saver:
        ledger = saver.open_jobs()
        writer = ledger.begin(JobSpec("bench"), 0)

        def one(number: int) -> None:
            writer.stage(number, number + 1, record(number))
            writer.commit()

        one(0)
        timed = each_us(lambda i: one(i + 1), count(this, group) - 1)
        writer.finish(count(this, group))
        ledger.close()
    return per_call(timed)


def read_zarr(this: Round, group: str) -> None:
    import zarr

    equal(zarr.open_array(this.folder / "out.zarr", path="dataset", mode="r")[:], this, group)


# -- peers -------------------------------------------------------------------------------------


def renames(this: Round, group: str, *, fsync: bool) -> Figures:
    def one(number: int) -> None:
        path = this.folder / f"{number}.bin"
        fd = os.open(f"{path}.tmp", os.O_WRONLY | os.O_CREAT)
        os.write(fd, record(number).tobytes())
        if fsync:
            os.fsync(fd)
        os.close(fd)
        os.rename(f"{path}.tmp", path)
        if fsync:
            os.fsync(parent)

    parent = os.open(this.folder, os.O_RDONLY)
    try:
        return per_call(each_us(one, count(this, group)))
    finally:
        os.close(parent)


def read_files(this: Round, group: str) -> None:
    names = [this.folder / f"{i}.bin" for i in range(count(this, group))]
    equal([np.fromfile(name) for name in names], this, group)


@contextlib.contextmanager
def database(this: Round) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(this.folder / "out.db", isolation_level=None)
    with contextlib.closing(connection):
        connection.execute("PRAGMA journal_mode=WAL")
        yield connection


def sqlite(this: Round, group: str, *, synchronous: str) -> Figures:
    with database(this) as connection:
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("CREATE TABLE records (number INTEGER PRIMARY KEY, value BLOB)")

        def one(number: int) -> None:
            connection.execute(
                "INSERT INTO records VALUES (?, ?)", (number, record(number).tobytes())
            )

        return per_call(each_us(one, count(this, group)))


def read_sqlite(this: Round, group: str) -> None:
    with database(this) as connection:
        found = connection.execute("SELECT value FROM records ORDER BY number").fetchall()
    equal([np.frombuffer(value) for (value,) in found], this, group)


# -- floor -------------------------------------------------------------------------------------


def by_hand(this: Round, group: str, *, sync: bool) -> Figures:
    """Append to an open file: one write, and one fdatasync where power may fail."""
    fd = os.open(this.folder / "out.bin", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def one(number: int) -> None:
        os.write(fd, record(number).tobytes())
        if sync:
            os.fdatasync(fd)

    try:
        return per_call(each_us(one, count(this, group)))
    finally:
        os.close(fd)


def read_bytes(this: Round, group: str) -> None:
    equal(np.fromfile(this.folder / "out.bin").reshape(-1, 8), this, group)


def entry(
    name: str, group: str, run: Callable[..., Figures], check: Any, role: Any = "peer", **how: Any
) -> Contender:
    return Contender(
        name, partial(run, group=group, **how), partial(check, group=group), role, (group,)
    )


ROW = Row(
    title="Commits",
    story="One record of 8 float64 after the other, each durable before the next. Microseconds a "
    "record, without opening and closing.",
    figures=(
        Figure("us", "us each (median)"),
        Figure("mean_us", "mean us"),
        Figure("p99_us", "99th percentile us"),
        Figure("first_us", "mean of the first tenth, us"),
        Figure("last_us", "mean of the last tenth, us"),
    ),
    contenders=(
        entry("ours, save", PROCESS, saves, read_zarr, "ours", durability="process"),
        entry("ours, stage and commit", PROCESS, job, read_zarr, "ours", durability="process"),
        entry("temporary file and rename", PROCESS, renames, read_files, fsync=False),
        entry("SQLite WAL, NORMAL", PROCESS, sqlite, read_sqlite, synchronous="NORMAL"),
        entry("one write", PROCESS, by_hand, read_bytes, "floor", sync=False),
        entry("ours, save (power)", POWER, saves, read_zarr, "ours", durability="power"),
        entry("ours, stage and commit (power)", POWER, job, read_zarr, "ours", durability="power"),
        entry("temporary file, fsync, rename, fsync", POWER, renames, read_files, fsync=True),
        entry("SQLite WAL, FULL", POWER, sqlite, read_sqlite, synchronous="FULL"),
        entry("one write, one fdatasync", POWER, by_hand, read_bytes, "floor", sync=True),
    ),
    sizes={
        "full": {"records": 10_000, "fsynced": 500},
        "quick": {"records": 2_000, "fsynced": 50},
        "tiny": {"records": 50, "fsynced": 20},
    },
)
