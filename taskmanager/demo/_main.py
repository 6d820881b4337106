"""The demo as a story on the terminal: start, kill, ask, resume, check, look."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from savers import NotFoundError, SaverError, verify
from taskmanager.demo._checks import Check, check_fields, check_runs, committed
from taskmanager.demo._driver import Ended, Job, drive
from taskmanager.demo._ensemble import MEMBERS
from taskmanager.demo._picture import draw

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["add_arguments", "tell"]

_STORES = {
    "zarr": "forecast.zarr",
    "async-zarr": "forecast.zarr",
    "hdf5": "forecast.h5",
    "netcdf": "forecast.nc",
}
_ZARR = ("zarr", "async-zarr")
_PICTURE = "forecast.png"
_FOLDER = "demo-out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``python -m taskmanager demo``."""
    add = parser.add_argument
    help_out = "folder, or s3://bucket/prefix (%(default)s)"
    add("--out", default=_FOLDER, metavar="PATH", help=help_out)
    add(
        "--saver", choices=tuple(_STORES), default="zarr", help="format of the output (%(default)s)"
    )
    executors = ("processes", "threads", "serial")
    add("--executor", choices=executors, default="processes", help="where forecasts run")
    add("--workers", type=_positive, default=0, metavar="N", help="number of workers")
    add("--items", type=_positive, default=4 * MEMBERS, metavar="N", help="forecasts (%(default)s)")
    help_crash = "kill the driver once N are committed (half of them; 0: never)"
    add("--crash-at", type=int, default=None, metavar="N", help=help_crash)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {number}")
    return number


def tell(options: argparse.Namespace) -> int:
    """Run the demo and return its exit status: 0 when every check passed, 1 when one failed.

    Status 2 says that it could not start: an option or the output folder does not fit, or a
    package is missing.
    """
    start = time.monotonic()
    crash_at = options.items // 2 if options.crash_at is None else options.crash_at
    complaint = _complaint(options, crash_at)
    if complaint:
        print(f"demo: {complaint}", file=sys.stderr)
        return 2
    folder = Path(_FOLDER if _is_url(options.out) else options.out)
    _clear(folder)
    job = Job(_store(options), options.items, options.executor, options.workers, options.saver)
    passed = all(_shown(check) for check in _chapters(job, crash_at, folder))
    verdict = "every check passed" if passed else "A CHECK FAILED"
    print(f"\nDone in {time.monotonic() - start:.0f} s: {verdict}.")
    return 0 if passed else 1


def _is_url(place: str) -> bool:
    return "://" in place


def _store(options: argparse.Namespace) -> str:
    """Return the path or URL of the store."""
    return f"{options.out.rstrip('/')}/{_STORES[options.saver]}"


def _complaint(options: argparse.Namespace, crash_at: int) -> str:
    """Return why the demo can't start, if it can't."""
    if not 0 <= crash_at < options.items:
        return f"--crash-at: expected 0 to {options.items - 1} (of --items), got {crash_at}"
    needed = ["xarray", "matplotlib", *(["h5netcdf"] if options.saver not in _ZARR else [])]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        return f"needs {' and '.join(missing)}: pip install 'tasksavers[demo,netcdf]'"
    return _complaint_of_bucket(options) if _is_url(options.out) else _of_folder(Path(options.out))


def _of_folder(out: Path) -> str:
    if out.exists() and not out.is_dir():
        return f"--out: expected a folder, got the file {out}"
    foreign = [path.name for path in _content(out) if not _is_ours(path)]
    if foreign:
        return f"--out: expected a folder of the demo's own, got {out} with {foreign[0]}"
    return ""


def _complaint_of_bucket(options: argparse.Namespace) -> str:
    """Nothing is removed from a bucket: another prefix costs nothing."""
    if options.saver not in _ZARR:
        return "--out: a bucket takes --saver zarr or async-zarr here"
    try:
        verify(_store(options))
    except NotFoundError:
        return ""
    except SaverError as error:
        return f"--out: {error}"
    return f"--out: there is a store at {_store(options)} already; choose another prefix"


def _content(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _is_ours(path: Path) -> bool:
    return path.name.startswith("forecast.")


def _clear(folder: Path) -> None:
    """Make the folder and remove what an earlier demo left, so that the story starts anew."""
    folder.mkdir(parents=True, exist_ok=True)
    earlier = _content(folder)
    for path in earlier:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    if earlier:
        print(f"(removed what an earlier demo left in {folder})\n")


def _shown(check: Check) -> bool:
    print(f"   {'ok    ' if check.passed else 'FAILED'} {check.text}", flush=True)
    return check.passed


def _chapters(job: Job, crash_at: int, folder: Path) -> Iterator[Check]:
    """Tell the story, yielding the checks as they are made; it ends with the first that fails."""
    print(f"1  A driver runs {job.count} forecasts of five days ({_place(job)})")
    print(f"   and commits every {job.save_interval} of them to {job.path}", flush=True)
    yield from _crash_and_resume(job, crash_at) if crash_at else _undisturbed(job)
    print("\n3  What is in the store", flush=True)
    yield from _look(job, folder)


def _place(job: Job) -> str:
    return f"{job.workers or ''} {job.executor}".strip()


def _undisturbed(job: Job) -> Iterator[Check]:
    ended = drive(job)
    yield Check(f"it ended after {ended.seconds:.1f} s", ended.status == 0)
    yield from check_runs(job.count, 0, ended)


def _crash_and_resume(job: Job, crash_at: int) -> Iterator[Check]:
    ended = drive(job, kill_at=crash_at)
    yield _killed(ended, crash_at)
    found = committed(job)
    print(f"   The driver is dead; the ledger holds {found} of {job.count} forecasts as done.")
    print("\n2  The same call once more", flush=True)
    ended = drive(job)
    yield Check(f"it ended after {ended.seconds:.1f} s", ended.status == 0)
    yield from check_runs(job.count, found, ended)


def _killed(ended: Ended, crash_at: int) -> Check:
    if ended.killed and ended.status == -signal.SIGKILL:
        text = f"killed with SIGKILL after {ended.seconds:.1f} s, when {ended.saved} were committed"
        return Check(text, passed=True)
    text = f"expected to kill it when {crash_at} were committed, but it ended before"
    return Check(f"{text} (status {ended.status}): choose a lower --crash-at", passed=False)


def _look(job: Job, folder: Path) -> Iterator[Check]:
    """Read the store the way any user of xarray would."""
    from xarray import open_dataset, open_zarr

    zarr = job.path.endswith(".zarr")
    with open_zarr(job.path) if zarr else open_dataset(job.path, engine="h5netcdf") as dataset:
        yield from check_fields(dataset, job.count)
        yield _verified(job.path)
        picture = folder / _PICTURE
        draw(dataset, picture)
        print(f"\n4  What xarray sees\n{dataset}")
    print(f"\n   A map of ensemble mean and spread: {picture}")
    print("   To look yourself, paste this into Python:")
    whole = job.path if _is_url(job.path) else Path(job.path).resolve()
    call = f'open_zarr("{whole}")' if zarr else f'open_dataset("{whole}", engine="h5netcdf")'
    print(f"     import xarray; print(xarray.{call})")


def _verified(path: str) -> Check:
    findings = verify(path)
    text = "every checksum is that of the ledger" if not findings else f"verify: {findings[0]}"
    return Check(text, not findings)
