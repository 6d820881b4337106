"""The driver of the demo, a process of its own because it is to be killed, seen from both sides.

It tells on its standard output, a JSON object a line, how many items are committed
(``{"saved": 16}``) and in the end the counts of its run (``{"counts": {...}}``).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import astuple, dataclass, field
from typing import TYPE_CHECKING, Any

from taskmanager import TaskManager
from taskmanager.demo._ensemble import SEED, ForecastTask, items, labels, saver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskmanager._progress import ProgressReport

__all__ = ["Ended", "Job", "drive", "run"]


@dataclass(frozen=True)
class Job:
    """What a driver is asked to do; two drivers of the same job do the same call.

    Parameters
    ----------
    path : str
        The store.
    count : int
        Number of forecasts.
    executor : str
        ``"processes"``, ``"threads"`` or ``"serial"``.
    workers : int
        Number of workers, 0 for the manager's own choice.
    saver : str
        ``"zarr"``, ``"async-zarr"``, ``"hdf5"`` or ``"netcdf"``.
    """

    path: str
    count: int
    executor: str = "processes"
    workers: int = 0
    saver: str = "zarr"

    @property
    def save_interval(self) -> int:
        """Number of forecasts between two commits: an eighth of them."""
        return max(1, self.count // 8)


@dataclass
class Ended:
    """How a driver ended.

    Attributes
    ----------
    killed : bool
        It was killed; otherwise it came to its own end.
    status : int
        Its exit status, minus the signal that ended it.
    saved : int
        Committed items as it last told.
    seconds : float
        From its start to its end.
    counts : dict of str to int
        Of its run (see `taskmanager.Run`), empty when it was killed.
    """

    killed: bool = False
    status: int = 0
    saved: int = 0
    seconds: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)


def run(job: Job) -> dict[str, int]:
    """Run the job in this process, the way a user would, and return the counts of the run."""
    manager = TaskManager(
        ForecastTask, executor=job.executor, max_workers=job.workers or None, progress=_tell
    )
    with manager, saver(job.path, job.count, job.saver) as target:
        done = manager.submit_tasks(
            items(job.count),
            saver=target,
            save_interval=job.save_interval,
            labels=labels,
            seed=SEED,
        )
    return dict(done.counts)


def drive(job: Job, kill_at: int = 0) -> Ended:
    """Start a driver and wait for its end; kill it with SIGKILL once `kill_at` items are committed.

    Parameters
    ----------
    job : Job
    kill_at : int
        0 lets it come to its own end.
    """
    command = [sys.executable, "-m", __name__, *map(str, astuple(job))]
    ended, start = Ended(), time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        try:
            _watch(process, kill_at, ended)
        except KeyboardInterrupt:
            process.wait()  # it was interrupted too, and saves what is finished
            raise
    ended.status, ended.seconds = process.returncode, time.monotonic() - start
    return ended


def _watch(process: subprocess.Popen[str], kill_at: int, ended: Ended) -> None:
    for told in _told(process):
        ended.saved = told.get("saved", ended.saved)
        ended.counts = told.get("counts", ended.counts)
        if 0 < kill_at <= ended.saved:
            process.kill()
            ended.killed = True
            return


def _told(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    for line in process.stdout or ():
        yield json.loads(line)


def _tell(report: ProgressReport) -> None:
    print(json.dumps({"saved": report.saved}), flush=True)


def main(path: str, count: str, executor: str, workers: str, kind: str) -> int:
    """Run as the driver's process, and return its exit status."""
    try:
        counts = run(Job(path, int(count), executor, int(workers), kind))
    except KeyboardInterrupt:
        return 130
    print(json.dumps({"counts": counts}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
