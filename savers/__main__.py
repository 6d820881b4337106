"""The command line: ``python -m savers``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from savers.errors import InvalidInputError, NotFoundError, SaverError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from savers._maintenance._inspect import ArrayView, DatasetView


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0 all is well, 1 something is wrong, 2 there is nothing to work on."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (NotFoundError, InvalidInputError) as error:
        print(f"savers {options.command}: {error}", file=sys.stderr)
        return 2
    except SaverError as error:
        print(f"savers {options.command}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m savers", description="Look after what savers have written."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    texts = {
        "inspect": "layout, rows, jobs and who writes; what CF asks for; which readers open it",
        "verify": "compare every stored byte with its checksum",
        "recover": "publish what only the ledger holds after a crash, without running anything",
    }
    for name, run in (("inspect", _inspect), ("verify", _verify), ("recover", _recover)):
        command = commands.add_parser(name, help=texts[name], description=texts[name])
        command.add_argument("path", metavar="PATH", help="path or URL of the store")
        command.set_defaults(run=run)
        if name == "inspect":
            command.add_argument("--json", action="store_true", help="for other programs")
    text = "chunk and shard advice for an array: files and their size"
    plan = commands.add_parser("plan", help=text, description=text)
    plan.add_argument("--shape", required=True, help="extents of the whole array: 12,721,1440")
    plan.add_argument("--dtype", default="float32", help="NumPy dtype (default: float32)")
    plan.set_defaults(run=_plan)
    return parser


# -- commands ------------------------------------------------------------------------------------


def _verify(options: argparse.Namespace) -> int:
    from savers._maintenance._verify import examine

    report = examine(options.path)
    for note in report.notes:
        print(f"note: {note}")
    for finding in report.findings:
        print(finding)
    counts = report.counts
    looked = (
        f"{counts['records']} records, {counts['chunks']} chunks ({_bytes(counts['bytes'])}), "
        f"{counts['documents']} metadata documents"
    )
    wrong = len(report.findings)
    print(f"{looked}: {f'{wrong} wrong' if wrong else 'all as the ledger says'}")
    return 1 if wrong else 0


def _recover(options: argparse.Namespace) -> int:
    from savers._maintenance._recover import recover

    rows = [("array", "readers saw", "see now", "chunks put in")]
    for one in recover(options.path):
        before = "nothing" if one.before is None else _shape(one.before)
        rows.append((one.array, before, _shape(one.after), str(one.chunks)))
    print(*_aligned(rows), sep="\n")
    return 0


def _inspect(options: argparse.Namespace) -> int:
    from savers._maintenance._inspect import inspect
    from savers._maintenance._readers import try_readers

    view = inspect(options.path)
    local = view.format != "none" and os.path.isdir(view.path)
    readers = try_readers(Path(view.path)) if local else {}
    if options.json:
        print(json.dumps({**asdict(view), "readers": readers}, indent=1))
        return 0
    print(f"{view.path}: {view.format}, {view.files} files, {_bytes(view.nbytes)}")
    _section("arrays", _array_rows(view.arrays))
    _section("datasets", [line for dataset in view.datasets for line in _dataset_lines(dataset)])
    _section("CF conventions", view.cf or ["nothing found"])
    _section("readers", _aligned([[f"{name}:", text] for name, text in readers.items()]))
    return 0


def _plan(options: argparse.Namespace) -> int:
    import numpy as np

    from savers._maintenance._advice import advise

    try:
        shape = tuple(int(part) for part in options.shape.split(","))
        itemsize = np.dtype(options.dtype).itemsize
    except (ValueError, TypeError) as error:
        message = f"expected --shape as 12,721,1440 and --dtype as float32: {error}"
        raise InvalidInputError(message) from None
    if min(shape) < 1 or itemsize < 1:
        message = f"expected extents and an item size above 0, got {shape} and {itemsize}"
        raise InvalidInputError(message)
    rows = [("results by", "chunks", "shards", "files", "bytes a file", "results a file")]
    for way in advise(shape, itemsize):
        shards = _shape(way.shards) if way.shards else "-"
        size, results = _bytes(way.file_bytes), str(way.results)
        rows.append((way.way, _shape(way.chunks), shards, str(way.files), size, results))
    print(*_aligned(rows), sep="\n")
    return 0


# -- text ----------------------------------------------------------------------------------------


def _array_rows(arrays: Sequence[ArrayView]) -> list[str]:
    head = ("name", "dtype", "shape", "dims", "chunks", "shards", "codecs", "saved", "failed",
            "open", "objects", "bytes")  # fmt: skip
    rows: list[tuple[str, ...]] = [head]
    for one in arrays:
        known = ["-" if n is None else str(n) for n in (one.committed, one.failed, one.open)]
        rows.append((
            one.name, one.dtype, _shape(one.published), ",".join(one.dims) or "-",
            _shape(one.chunks), _shape(one.shards), "+".join(one.codecs) or "raw", *known,
            str(one.objects), _bytes(one.nbytes),
        ))  # fmt: skip
    return _aligned(rows)


def _dataset_lines(dataset: DatasetView) -> list[str]:
    if dataset.problem:
        return [f"{dataset.name}: {dataset.problem}"]
    ended = "not closed by its last writer: recover finishes it" if dataset.crashed else "closed"
    state = f"in use by {dataset.holder}" if dataset.holder else ended
    ledger = f"{dataset.records} records, {_bytes(dataset.nbytes)}"
    lines = [f"{dataset.name}: {state}; ledger {dataset.stream} ({ledger})"]
    for job in dataset.jobs:
        name = f"{job.task} {job.version}".strip()
        counts = f"{job.done} done, {job.failed} failed, {job.skipped} skipped, {job.open} open"
        ended = "finished" if job.finished else "unfinished"
        lines.append(f"  job {job.number} {name}: {counts}; {ended}")
    return lines


def _section(title: str, lines: Iterable[str]) -> None:
    lines = list(lines)
    if lines:
        print(f"\n{title}")
        print(*(f"  {line}" for line in lines), sep="\n")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _shape(shape: Sequence[int] | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape)) or "scalar"


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


if __name__ == "__main__":
    sys.exit(main())
