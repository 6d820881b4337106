"""The loop of a run: work goes out, results go to the saver, failures follow the policy."""

from __future__ import annotations

import copy
import sys
from collections.abc import Sized
from contextlib import contextmanager, nullcontext
from time import monotonic
from typing import TYPE_CHECKING, Any

from savers import ItemStatus, JobWriter
from taskmanager._events import emit
from taskmanager._executors import make_pool
from taskmanager._failures import Failures
from taskmanager._flow import Flow, Settled
from taskmanager._pool import Outcome, TaskPlan
from taskmanager._progress import ProgressReport, Ticker, reporter
from taskmanager._room import chunking_of, room_beside_saving, room_without_saver
from taskmanager._run import Insights, Run
from taskmanager._saving import Saving
from taskmanager._signals import Interruption
from taskmanager.errors import TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskmanager._inputs import Entry, Source
    from taskmanager._pool import Pool
    from taskmanager._settings import Call, Settings

__all__ = ["Drive", "kept_value", "plan_of"]

_PATIENCE = 0.5  # seconds between two looks at clock and progress


def plan_of(settings: Settings, call: Call, seed: int) -> TaskPlan:
    """Return what the workers need to know."""
    return TaskPlan(settings.factory, dict(call.kwargs_task), seed, call.at_once, settings.timeout,
                    own=call.saver is not None)  # fmt: skip


def kept_value(settings: Settings, outcome: Outcome) -> Any:
    """Return a result that somebody may keep for as long as they like.

    Large arrays from worker processes lie in memory that the workers use again: who keeps them
    makes a copy, or all further results would have to come through the pipe.
    """
    if outcome.owned or settings.executor != "processes":
        return outcome.value
    return copy.deepcopy(outcome.value)


class Drive:
    """Run the items of a source and give their results to a writer, or keep them.

    Parameters
    ----------
    settings : Settings
    call : Call
    source : Source
    pool : Pool
    """

    def __init__(self, settings: Settings, call: Call, source: Source, pool: Pool) -> None:
        self._settings = settings
        self._call = call
        self._source = source
        self._pool = pool
        self._chunking = chunking_of(settings, call)
        self._flow = Flow(
            pool, source, settings.retry, self._chunking, self._room, on_retry=_log_retry
        )
        self._saving: Saving | None = None
        self._kept: dict[int, Any] = {}
        self._finished = 0
        self._was_finished = False
        self._failures = Failures(settings.errors, settings.max_failures)
        self._stop: BaseException | None = None
        self._begin = monotonic()
        self._ticker = Ticker(reporter(settings.progress), self._report)

    @classmethod
    @contextmanager
    def start(cls, settings: Settings, call: Call, source: Source, seed: int) -> Iterator[Drive]:
        """Make the pool, and end it however the run goes."""
        pool = make_pool(settings.executor, plan_of(settings, call, seed), settings.workers)
        try:
            yield cls(settings, call, source, pool)
        except BaseException:
            pool.close(grace=0.0)
            raise
        pool.close()

    # --- the run -----------------------------------------------------------------------------

    def run(self, writer: JobWriter | None) -> Run:
        """Run until the input ends or something ends the run; return or raise what came of it."""
        emit("run_started", task=self._settings.name, resumed=self._source.resumed)
        if writer is not None:
            limit = self._settings.max_inflight_bytes
            self._was_finished = writer.state.finished
            self._saving = Saving(writer, self._call.policy, limit, self._flow.wake)
        interruption = Interruption(self._settings.grace, self._on_interruption)
        with interruption if writer is not None else nullcontext():
            try:
                self._loop(interruption)
                self._settle_refused()
            except BaseException as error:
                self._stop = error
            self._wind_down(interruption)
        self._ticker.close()
        emit("run_ended", **self._counts(), error=repr(self._stop) if self._stop else None)
        if self._stop is not None:
            raise self._stop
        return self.result(writer)

    def _loop(self, interruption: Interruption) -> None:
        while not self._flow.done and self._stop is None:
            self._absorb(self._flow.step(_PATIENCE))
            self._ticker.tick()
            if interruption.signum:
                self._stop = interruption.error()
            elif self._saving is not None:
                self._look_at_saving(self._saving)
            self._check_deadline()

    def _settle_refused(self) -> None:
        """Wait until the saver has looked at every result: it may refuse some of the last ones."""
        if self._saving is not None and self._stop is None:
            self._saving.drain()
            self._look_at_saving(self._saving)

    def _wind_down(self, interruption: Interruption) -> None:
        """End the pool, save what is finished, and finish the job if nothing is left to do."""
        if self._stop is not None:
            grace = 0.0 if interruption.over else interruption.remaining
            self._end_pool(grace)
        if self._saving is None:
            return
        timeout = None
        if interruption.signum:
            timeout = 0.0 if interruption.over else interruption.remaining + 0.1
        try:
            ended = self._saving.finish(self._items_when_complete(), timeout)
        except BaseException as error:  # the second signal
            self._stop, ended = error, False
        if self._saving.error is not None and not interruption.signum:
            self._stop = self._storage_error(self._saving.error)
        if interruption.signum:
            self._stop = self._stop or interruption.error()
            self._say_how_to_go_on(ended=ended)

    def _end_pool(self, grace: float) -> None:
        try:
            self._pool.close(grace=grace)
            self._absorb(self._flow.settle(self._pool.poll(0.0)))
        except BaseException as error:
            if self._stop is None or not isinstance(error, Exception):
                self._stop = error

    # --- what came back ----------------------------------------------------------------------

    def _absorb(self, settled: list[Settled]) -> None:
        if not settled:
            return
        good = [pair for pair in settled if pair[1].error is None]
        self._finished += len(good)
        if self._call.keep:
            self._kept.update(
                (entry.place, kept_value(self._settings, outcome)) for entry, outcome in good
            )
        if self._saving is not None and good:
            self._saving.put(good)
        if len(good) < len(settled):
            for entry, outcome in settled:
                if outcome.error is not None:
                    self._give_up(entry, outcome, outcome.error)

    def _look_at_saving(self, saving: Saving) -> None:
        while saving.refused:
            entry, error = saving.refused.popleft()
            self._finished -= 1
            self._kept.pop(entry.place, None)
            self._give_up(entry, Outcome(entry.work.index, error=error), error)
        if saving.error is not None and self._stop is None:
            self._stop = self._storage_error(saving.error)

    def _give_up(self, entry: Entry, outcome: Outcome, error: BaseException) -> None:
        if self._saving is not None:
            self._saving.fail(self._failures.record(entry, error))
        reason = self._failures.add(entry, outcome, error)
        self._stop = self._stop or reason

    def _check_deadline(self) -> None:
        limit = self._settings.deadline
        if limit is None or self._stop is not None or self._flow.done:
            return
        if monotonic() - self._begin > limit:
            self._stop = TaskTimeoutError(
                f"the run took longer than deadline={limit:g} s, {self._flow.out} items were "
                "out; what is finished was kept, the same call goes on"
            )

    def _on_interruption(self) -> None:
        if self._saving is not None:
            self._saving.commit_soon()
        self._flow.wake()

    def _room(self, out: int) -> int:
        """Return how many more items may go to the pool, `out` of them being there."""
        chunk = self._chunking.size(self._flow.executed, self._flow.seconds)
        if self._saving is None:
            return room_without_saver(out, chunk, self._pool.workers)
        limit = self._settings.max_inflight_bytes
        interval = self._call.policy.items
        return room_beside_saving(self._saving, interval, limit, out, chunk, self._pool.workers)

    # --- what came of it ---------------------------------------------------------------------

    def result(self, writer: JobWriter | None) -> Run:
        """Return the run as its caller sees it."""
        failures = self._failures.in_order()
        return Run(self._counts(), failures, self._insights(), lambda: self._results(writer))

    def _counts(self) -> dict[str, int]:
        given_up = len(self._failures)
        final = self._failures.final
        return {
            "items": self._source.taken,
            "executed": self._flow.executed,
            "resumed": self._source.resumed,
            "saved": self._saving.saved if self._saving else 0,
            "failed": 0 if final else given_up,
            "skipped": self._source.skipped + (given_up if final else 0),
        }

    def _insights(self) -> Insights:
        saving = self._saving
        return Insights(
            seconds=monotonic() - self._begin,
            task_seconds=self._flow.seconds,
            save_seconds=saving.seconds if saving else 0.0,
            saved_bytes=saving.nbytes if saving else 0,
            workers=self._pool.workers,
            executed=self._flow.executed,
        )

    def _report(self) -> ProgressReport:
        source, saving = self._source, self._saving
        items = self._call.inputs.items
        return ProgressReport(
            done=source.resumed + source.skipped + self._finished + len(self._failures),
            total=len(items) if isinstance(items, Sized) else None,
            resumed=source.resumed + source.skipped,
            failed=len(self._failures),
            saved=saving.saved if saving else 0,
            nbytes=saving.nbytes if saving else 0,
            seconds=monotonic() - self._begin,
        )

    def _items_when_complete(self) -> int | None:
        """Return the number of items of the job when none is left to do, else None."""
        if self._stop is not None or not self._flow.done:
            return None
        if self._was_finished and not self._flow.executed:
            return None  # nothing was added to it
        if len(self._failures) and not self._failures.final:
            return None
        return self._source.complete()

    def _results(self, writer: JobWriter | None) -> Iterator[Any]:
        if writer is None and not self._call.keep:
            raise ValueError("results() has nothing to give: expected keep_results=True or a saver")
        for place in range(self._source.taken):
            if place in self._kept or writer is None:
                yield self._kept.get(place)
                continue
            position = self._source.position(place)
            status = writer.state.status
            done = position < len(status) and status[position] == ItemStatus.DONE
            yield writer.read(position) if done else None

    def _storage_error(self, error: BaseException) -> BaseException:
        error.add_note(
            f"{self._counts()['saved']} results were committed by this run and are kept; "
            "the same call goes on from there"
        )
        return error

    def _say_how_to_go_on(self, *, ended: bool) -> None:
        counts = self._counts()
        done = counts["resumed"] + counts["saved"] + counts["skipped"]
        lost = "" if ended else " (saving did not end in time: the last interval may run again)"
        if self._saving is not None and self._saving.error is not None:
            lost = f" (then saving failed: {self._saving.error})"
        sys.stderr.write(
            f"Stopped. {done} items are saved, {counts['saved']} of them by this run{lost}. "
            "Run the same call again to go on.\n"
        )
        sys.stderr.flush()


def _log_retry(entry: Entry, outcome: Outcome, delay: float) -> None:
    emit(
        "item_retried",
        index=entry.place,
        error=repr(outcome.error),
        attempts=entry.attempts,
        delay=round(delay, 3),
    )
