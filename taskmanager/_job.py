"""One call of `TaskManager.submit_tasks`, from planning to the last commit."""

from __future__ import annotations

import logging
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING

from savers import JobLedger, JobSpec, JobWriter, Saver
from taskmanager._drive import Drive
from taskmanager._events import emit
from taskmanager._inputs import PlainSource
from taskmanager._items import arguments_digest
from taskmanager._keyed import KeyedSource
from taskmanager._resume import Comparison, Decision
from taskmanager._source import PositionSource
from taskmanager.errors import LedgerMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from taskmanager._run import Run
    from taskmanager._settings import Call, Settings

__all__ = ["draw_seed", "run_job"]


def run_job(settings: Settings, call: Call) -> Run:
    """Run the items of a call; see `TaskManager.submit_tasks`."""
    if call.saver is None:
        source = PlainSource(call.inputs.items)
        seed = draw_seed() if call.seed is None else call.seed
        with Drive.start(settings, call, source, seed) as drive:
            return drive.run(None)
    with _opened(call.saver, call) as ledger:
        return _run_saved(settings, call, ledger)


def _run_saved(settings: Settings, call: Call, ledger: JobLedger) -> Run:
    spec = JobSpec(
        settings.name,
        settings.version,
        arguments_digest(call.kwargs_task),
        call.inputs.identity,
        str(getattr(call.saver, "approach", "")),
    )
    comparison = Comparison(ledger.states, spec, call.resume)
    kind = PositionSource if spec.identity == "position" else KeyedSource
    source = kind(call.inputs, comparison)
    seed = _seed(call.seed, source.decision)
    # Everything that can be refused was; from here on the ledger changes.
    with Drive.start(settings, call, source, seed) as drive:
        if source.decision.resume is None and source.empty():
            return drive.result(None)
        return drive.run(_writer(ledger, source.decision, spec, seed))


def draw_seed() -> int:
    """Return a seed from the operating system's entropy."""
    return secrets.randbits(63)


def _seed(asked: int | None, decision: Decision) -> int:
    """Return the seed of the run: that of the ledger when a job goes on."""
    if decision.resume is None:
        return draw_seed() if asked is None else asked
    known = decision.resume.seed
    if asked is not None and asked != known:
        raise LedgerMismatchError(
            f"job {decision.resume.job_id} has seed {known}, got seed={asked}: leave seed out to "
            'go on, or call with resume="new" or resume="restart"'
        )
    return known


def _writer(ledger: JobLedger, decision: Decision, spec: JobSpec, seed: int) -> JobWriter:
    for job_id in decision.abandon:
        ledger.abandon(job_id)
    for job_id in decision.discard:
        ledger.discard(job_id)
    if decision.resume is not None:
        return ledger.resume(decision.resume.job_id)
    return ledger.begin(spec, seed)


@contextmanager
def _opened(saver: Saver, call: Call) -> Iterator[JobLedger]:
    """Open the saver's ledger; flush the saver and close the ledger, whatever happens.

    An error that is on its way already is the one that counts: what then fails here is logged.
    """
    ledger = saver.open_jobs(**call.save_kwargs)
    try:
        yield ledger
    except BaseException:
        for finish in (saver.flush, ledger.close):
            try:
                finish()
            except Exception as error:
                emit("flush_failed", logging.ERROR, error=repr(error))
        raise
    try:
        saver.flush()
    finally:
        ledger.close()
