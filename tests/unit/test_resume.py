"""Planning a resume is pure: states and digests in, a decision or a named difference out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from savers import ItemStatus, JobSpec, JobState
from taskmanager._inputs import Inputs
from taskmanager._items import digests
from taskmanager._resume import Comparison, Decision, Resume
from taskmanager._source import PositionSource
from taskmanager.errors import LedgerMismatchError

SPEC = JobSpec("model.run", "1", "aa")


def job(
    job_id: int,
    items: list[Any],
    *,
    finished: bool,
    spec: JobSpec = SPEC,
    odd: dict[int, ItemStatus] | None = None,
) -> JobState:
    state = JobState(job_id, spec, seed=7, finished=finished)
    for position, value in enumerate(digests(items).tolist()):
        status = (odd or {}).get(position, ItemStatus.DONE)
        if status != ItemStatus.OPEN:
            state.settle(position, value, status)
    return state


def decide(
    states: list[JobState], items: list[Any], *, resume: Resume = True, spec: JobSpec = SPEC
) -> tuple[Decision, list[Any]]:
    """Return the decision and what would run, the same for a list and for an iterator."""
    found = []
    for given in (items, iter(items)):
        source = PositionSource(Inputs(given), Comparison(states, spec, resume))
        ran: list[Any] = []
        while not source.ended:
            ran += [(entry.work.index, entry.work.item) for entry in source.take(3)]
        assert source.taken == len(items)
        found.append((source.decision, ran))
    assert found[0] == found[1]
    return found[0]


def test_an_empty_ledger_begins_a_job() -> None:
    assert decide([], [1, 2]) == (Decision(), [(0, 1), (1, 2)])


def test_the_same_call_runs_what_is_not_done() -> None:
    odd = {1: ItemStatus.OPEN, 3: ItemStatus.FAILED, 4: ItemStatus.SKIPPED}
    state = job(0, [10, 11, 12, 13, 14, 15], finished=False, odd=odd)
    decision, ran = decide([state], [10, 11, 12, 13, 14, 15, 16])
    assert decision.resume is state
    assert ran == [(1, 11), (3, 13), (6, 16)]


def test_a_finished_job_calls_nothing_and_a_grown_list_goes_on() -> None:
    state = job(0, [1, 2, 3], finished=True)
    assert decide([state], [1, 2, 3]) == (Decision(resume=state), [])
    assert decide([state], [1, 2, 3, 4]) == (Decision(resume=state), [(3, 4)])


def test_every_job_is_compared() -> None:
    first, second = job(0, [1, 2], finished=True), job(1, [3, 4], finished=True)
    third = job(2, [5, 6, 7], finished=False)
    assert decide([first, second, third], [3, 4])[0].resume is second
    assert decide([first, second, third], [5, 6, 7, 8])[0].resume is third


def test_other_items_on_finished_jobs_are_a_new_job_with_all_its_items() -> None:
    state = job(0, [1, 2, 3], finished=True)
    assert decide([state], [1, 2, 4]) == (Decision(), [(0, 1), (1, 2), (2, 4)])
    assert decide([state], [9]) == (Decision(), [(0, 9)])


@pytest.mark.parametrize(
    ("items", "spec", "difference"),
    [
        ([1, 2, 9], SPEC, r"item 2 differs: got 9"),
        ([1, 2], SPEC, r"ended after 2 items, the job has 3 or more"),
        ([1, 2, 3], JobSpec("model.walk", "1", "aa"), r"task is 'model.run', got 'model.walk'"),
        ([1, 2, 3], JobSpec("model.run", "2", "aa"), r"version '1', got '2'"),
        ([1, 2, 3], JobSpec("model.run", "1", "bb"), r"arguments in kwargs_task differ"),
    ],
)
def test_another_call_while_a_job_is_unfinished_names_the_difference(
    items: list[int], spec: JobSpec, difference: str
) -> None:
    state = job(4, [1, 2, 3], finished=False)
    with pytest.raises(LedgerMismatchError, match=difference) as raised:
        decide([state], items, spec=spec)
    assert 'resume="new"' in str(raised.value)
    assert 'resume="restart"' in str(raised.value)
    assert "job 4" in str(raised.value)


def test_identity_is_compared() -> None:
    state = job(0, [1], finished=False)
    comparison = Comparison([state], JobSpec("model.run", "1", "aa", "key"))
    with pytest.raises(LedgerMismatchError, match="known by position, got items known by key"):
        comparison.decide(ended=False)


def test_new_keeps_and_restart_discards_the_unfinished_job() -> None:
    finished, open_ = job(0, [1], finished=True), job(1, [5, 6], finished=False)
    states = [finished, open_]
    assert decide(states, [5, 7], resume="new") == (Decision(abandon=(1,)), [(0, 5), (1, 7)])
    assert decide(states, [5, 6], resume="restart") == (Decision(discard=(1,)), [(0, 5), (1, 6)])


def test_restart_of_a_finished_job_runs_it_again() -> None:
    state = job(3, [1, 2], finished=True)
    assert decide([state], [1, 2], resume="restart") == (Decision(discard=(3,)), [(0, 1), (1, 2)])
    assert decide([state], [7], resume="restart") == (Decision(), [(0, 7)])


def test_an_iterator_is_read_no_further_than_the_ledger_knows() -> None:
    state = job(0, list(range(5)), finished=False)
    endless = iter(range(10**9))
    PositionSource(Inputs(endless), Comparison([state], SPEC))
    assert next(endless) == 5


def test_done_items_are_not_held() -> None:
    state = job(0, list(range(20_000)), finished=False, odd={7: ItemStatus.FAILED})
    source = PositionSource(Inputs(iter(range(20_000))), Comparison([state], SPEC))
    assert [entry.work.index for entry in source.take(10)] == [7]
    assert source.resumed == 19_999


def test_one_warning_names_key() -> None:
    with pytest.warns(UserWarning, match="key=") as caught:
        decide([], [object(), object(), object()])
    assert len(caught) == 2  # one for the list, one for the iterator


def test_positions_without_a_digest_match_anything() -> None:
    state = JobState(0, SPEC, seed=1)
    state.settle(1, int(digests([2])[0]), ItemStatus.DONE)
    assert np.count_nonzero(state.digests) == 1
    assert decide([state], [1, 2]) == (Decision(resume=state), [(0, 1)])
