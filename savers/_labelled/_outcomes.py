"""What becomes of writes: durable or failed, and which failures somebody was told of."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from savers.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from savers._labelled._budget import Budget
    from savers._labelled._handles import Submission

__all__ = ["Outcomes", "failed"]


class Outcomes:
    """The writes that are not durable yet. Guarded by the lock of its queue.

    Attributes
    ----------
    open : dict of int to Submission
        Writes on their way, and those that failed, in the order in which they came.
    unreported : list of StorageError
        Failures that no `flush` has named yet.
    """

    def __init__(self, budget: Budget) -> None:
        self.open: dict[int, Submission] = {}
        self.unreported: list[StorageError] = []
        self._budget = budget

    def begin(self, one: Submission) -> None:
        """Count a write as on its way."""
        self.open[id(one)] = one

    def end(self, one: Submission) -> None:
        """Count a write as durable."""
        one.settled = True
        self.open.pop(id(one), None)
        self._budget.hold(-one.size)

    def fail(self, one: Submission, error: Exception, array: str | None) -> None:
        """Count a write as failed, and tell its handle; its values are kept."""
        failure = failed(one, error, array)
        one.errors.append(failure)
        if not one.settled:
            one.settled = True
            self.unreported.append(failure)
            self._budget.set_aside(one.size)
            if not one.future.done():
                one.future.set_exception(failure)

    def revive(self, one: Submission) -> None:
        """Count a write that failed as on its way again."""
        if one.settled and one.errors:
            one.settled = False
            one.errors.clear()
            self._budget.take_back(one.size)

    def forget(self, one: Submission) -> None:
        """Let go of a write whose failure its caller was told of."""
        self.unreported = [error for error in self.unreported if error not in one.errors]
        if self.open.pop(id(one), None) is not None and one.settled:
            self._budget.kept -= one.size

    def told(self, writes: Sequence[Submission]) -> bool:
        """Return whether there are failed writes, and all their failures were reported."""
        errors = [error for one in writes for error in one.errors]
        return bool(writes) and not any(error in self.unreported for error in errors)

    def report(self) -> list[StorageError]:
        """Return the failures that were not reported yet; from here on they are."""
        found, self.unreported = self.unreported, []
        return found


def failed(one: Submission, error: BaseException, array: str | None) -> StorageError:
    """Return the failure of a write, which names array, labels and attempts."""
    attempts = getattr(error, "attempts", 1)
    times = f"{attempts} attempts" if attempts > 1 else "1 attempt"
    message = f"can't save {one.describe(array)} ({times}): {error}"
    failure = StorageError(getattr(error, "errno", None) or errno.EIO, message)
    failure.__cause__ = error
    return failure
