"""The words in which a task manager and a saver speak of a job.

A job is a list of items whose results go into one saver. The saver's ledger knows its jobs
(`JobState`); `JobLedger` is the open book of them, and `JobWriter` is the one way in: results are
staged, and one `commit` makes their bytes and their "done" durable together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["Failure", "ItemStatus", "JobLedger", "JobSpec", "JobState", "JobWriter"]


class ItemStatus(IntEnum):
    """What the ledger knows of an item."""

    OPEN = 0
    DONE = 1
    FAILED = 2  # given up for now: the next call tries it again
    SKIPPED = 3  # given up for good


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What makes a job the same job when it is called again.

    Parameters
    ----------
    task : str
        Name of the task.
    version : str
        `Task.version`, chosen by the user; never a hash of the code.
    arguments : str
        Digest (hexadecimal) of the task's keyword arguments.
    identity : {"position", "key", "labels"}
        How an item is known again: by its position and digest, by its key's digest alone, or by
        its labels' digest alone.
    approach : str
        How the saver uses what is there; a job that replaces an array is not one that extends it.
    """

    task: str
    version: str = ""
    arguments: str = ""
    identity: str = "position"
    approach: str = ""


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that was given up: what the ledger keeps of it.

    Parameters
    ----------
    position : int
        Position of the item in its job.
    digest : int
        64-bit digest of the item (or of its key or labels).
    error : str
        Type name of the exception.
    message : str
        Its text.
    attempts : int
        How often the item was tried.
    final : bool
        True for an item that is given up for good (`ItemStatus.SKIPPED`).
    """

    position: int
    digest: int
    error: str
    message: str
    attempts: int = 1
    final: bool = False


@dataclass(slots=True)
class JobState:
    """A job as the ledger knows it; position *i* is item *i* of the job.

    Parameters
    ----------
    job_id : int
        Number of the job in its ledger.
    spec : JobSpec
    seed : int
        Seed of the run, from which every item's random generator follows.
    digests : ndarray of uint64, shape (n,)
        Digest of each known item, 0 where the ledger knows none.
    status : ndarray of uint8, shape (n,)
        An `ItemStatus` each.
    failures : dict of int to Failure
        The items that are FAILED or SKIPPED.
    finished : bool
        True once all items of the input are DONE or SKIPPED (or the job was abandoned).
    """

    job_id: int
    spec: JobSpec
    seed: int
    digests: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, np.uint64))
    status: NDArray[np.uint8] = field(default_factory=lambda: np.zeros(0, np.uint8))
    failures: dict[int, Failure] = field(default_factory=dict)
    finished: bool = False

    def settle(self, position: int, digest: int, status: ItemStatus) -> None:
        """Note the status of one item, growing the tables when its position is new."""
        if position >= len(self.status):
            size = max(position + 1, 2 * len(self.status), 64)
            self.digests = _grown(self.digests, size)
            self.status = _grown(self.status, size)
        self.digests[position] = digest
        self.status[position] = status
        if status == ItemStatus.DONE:
            self.failures.pop(position, None)

    def known(self) -> int:
        """Return one more than the last position that is not OPEN."""
        settled = np.flatnonzero(self.status)
        return int(settled[-1]) + 1 if len(settled) else 0


def _grown(table: NDArray[Any], size: int) -> NDArray[Any]:
    grown = np.zeros(size, table.dtype)
    grown[: len(table)] = table
    return grown


class JobWriter(ABC):
    """The way of one job's results into its saver. Used by one thread at a time."""

    state: JobState
    #: Results that the last `commit` had to hold back, as they wait for those of earlier items.
    pending: int = 0

    @abstractmethod
    def stage(
        self,
        position: int,
        digest: int,
        result: object,
        labels: Mapping[str, object] | None = None,
        *,
        copy: bool = True,
    ) -> int:
        """Take the result of an item; nothing is durable before `commit`.

        Parameters
        ----------
        position : int
            Position of the item in the job.
        digest : int
            Its 64-bit digest.
        result : object
            Array, tensor, scalar; or a dict, dataclass, named tuple or tuple of such.
        labels : mapping of dimension to label, optional
            Where the result belongs, instead of row ``base + position``.
        copy : bool
            False promises that nobody changes the result's memory after this call.

        Returns
        -------
        int
            Bytes held for this result until the next commit.

        Raises
        ------
        InvalidInputError
            The result does not fit the array (shape, dtype, fields; the text names the field) or a
            label is unknown. The item has failed, the job goes on and nothing was changed.
        """

    @abstractmethod
    def fail(self, failure: Failure) -> None:
        """Take an item that was given up; recorded with the next `commit`."""

    @abstractmethod
    def commit(self) -> None:
        """Make everything staged since the last commit durable, together with its "done".

        Raises
        ------
        StorageError
            The store refused. What was committed before is intact; what was staged is still
            staged, and a later `commit` tries it again.
        """

    @abstractmethod
    def finish(self, items: int) -> None:
        """Commit, and record that the input had `items` items and none is left to do.

        Raises
        ------
        StorageError
            As `commit`.
        """

    @abstractmethod
    def read(self, position: int) -> object:
        """Return the committed result at `position` in the form the task returned it, as arrays.

        A single array comes back as an array, several fields as a dict name -> array.

        Raises
        ------
        NotImplementedError
            This saver can't read back.
        """


class JobLedger(ABC):
    """The open book of a saver's jobs; while it is open no other driver can write there.

    `states` lists the known jobs, oldest first. Close it when the run ends; the saver stays open.
    """

    states: Sequence[JobState]

    @abstractmethod
    def begin(self, spec: JobSpec, seed: int) -> JobWriter:
        """Start a new job behind everything that is there."""

    @abstractmethod
    def resume(self, job_id: int) -> JobWriter:
        """Go on with a known job (also a finished one, when its list grew)."""

    @abstractmethod
    def abandon(self, job_id: int) -> None:
        """Keep what the job saved and count it as finished; its open items become holes."""

    @abstractmethod
    def discard(self, job_id: int) -> None:
        """Remove what the job saved, as if it had never run."""

    @abstractmethod
    def close(self) -> None:
        """Publish what is committed and let other drivers in. Idempotent."""
