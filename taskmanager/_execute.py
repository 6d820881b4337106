"""How a worker runs a chunk, wherever the worker is: items in, one `Outcome` each out."""

from __future__ import annotations

import copy
import logging
import os
import re
import traceback
from time import perf_counter
from typing import TYPE_CHECKING, Any

from taskmanager._copies import copied
from taskmanager._pool import Outcome
from taskmanager._task import Context, Task, set_context
from taskmanager.errors import TaskManagerError, TaskTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from taskmanager._pool import TaskPlan, Work

__all__ = [
    "device_of",
    "failed",
    "run_chunk",
    "set_up",
    "setup_failed",
    "task_maker",
    "tear_down",
    "timed_out",
]

log = logging.getLogger("taskmanager")

_GPU_NODE = re.compile(r"nvidia\d+")


def task_maker(factory: Callable[[], Task]) -> Callable[[], Task]:
    """Return what makes a task for each thread: of a class a new one, of an instance a copy.

    The copies are made of the instance as it was given, before any `setup`.
    """
    if isinstance(factory, type):
        return factory
    fresh = copy.copy(factory())
    return lambda: copy.copy(fresh)


def set_up(task: Task, context: Context) -> None:
    """Give this thread its context and prepare its task; once per worker."""
    set_context(context)
    task.setup()


def tear_down(task: Task) -> None:
    """End a worker's task. Its results are safe already, so that an error is only logged."""
    try:
        task.teardown()
    except Exception:
        log.warning("teardown() of %s failed", type(task).__name__, exc_info=True)


def setup_failed(worker_id: int, error: BaseException, remote: str = "") -> TaskManagerError:
    """Return the error that ends a pool whose worker can't be prepared.

    `remote` is the traceback where it does not travel with `error`.
    """
    kind = type(error).__name__
    message = f"setup() failed in worker {worker_id} with {kind}: {error}; no item was run there"
    failure = TaskManagerError(message)
    failure.__cause__ = error
    if remote:
        failure.add_note(f"In the worker:\n{remote}")
    return failure


def run_chunk(
    task: Task,
    plan: TaskPlan,
    chunk: Sequence[Work],
    context: Context,
    *,
    started: Callable[[int, int], None] | None = None,
    passing: tuple[type[BaseException], ...] = (),
) -> Iterator[Outcome]:
    """Run the items of a chunk and yield what became of each, as soon as it is known.

    Parameters
    ----------
    task : Task
        Already set up.
    plan : TaskPlan
    chunk : sequence of Work
    context : Context
        The context of this worker, which the task sees.
    started : callable, optional
        Called with the index of the item (or of the first of a batch) and the number of items
        that start now.
    passing : tuple of exception types
        Raised by the task, these end the chunk instead of becoming an outcome.
    """
    if plan.at_once and _takes_batches(task):
        return _run_batch(task, plan, chunk, context, started, passing)
    call = task.process_item
    return _run_each(call, plan, chunk, context, started, passing)


def _takes_batches(task: Task) -> bool:
    """The default `process_items` runs one by one anyway: then each item gets its context."""
    return type(task).process_items is not Task.process_items


def _run_each(
    call: Callable[..., Any],
    plan: TaskPlan,
    chunk: Sequence[Work],
    context: Context,
    started: Callable[[int, int], None] | None,
    passing: tuple[type[BaseException], ...],
) -> Iterator[Outcome]:
    kwargs, worker_id = plan.kwargs, context.worker_id
    for work in chunk:
        index = work.index
        context.enter_item(index)
        if started is not None:
            started(index, 1)
        begin = perf_counter()
        try:
            value = call(work.item, **kwargs)
        except passing:
            raise
        except BaseException as error:
            yield failed(index, error, perf_counter() - begin, worker_id)
        else:
            seconds = perf_counter() - begin
            if plan.own:
                yield Outcome(index, copied(value), None, "", seconds, worker_id, owned=True)
            else:
                yield Outcome(index, value, None, "", seconds, worker_id)
    context.enter_item(-1)


def _run_batch(
    task: Task,
    plan: TaskPlan,
    chunk: Sequence[Work],
    context: Context,
    started: Callable[[int, int], None] | None,
    passing: tuple[type[BaseException], ...],
) -> Iterator[Outcome]:
    if started is not None:
        started(chunk[0].index, len(chunk))
    begin = perf_counter()
    try:
        values = list(task.process_items([work.item for work in chunk], **plan.kwargs))
    except passing:
        raise
    except BaseException as error:
        seconds = perf_counter() - begin
        if len(chunk) == 1:
            yield failed(chunk[0].index, error, seconds, context.worker_id)
            return
    else:
        seconds = perf_counter() - begin
        for outcome in _dealt(chunk, values, seconds, context.worker_id):
            if plan.own:
                outcome.value, outcome.owned = copied(outcome.value), True
            yield outcome
        return
    for work in chunk:  # run alone, the items show which of them is at fault
        yield from _run_batch(task, plan, [work], context, started, passing)


def _dealt(
    chunk: Sequence[Work], values: list[Any], seconds: float, worker_id: int
) -> Iterator[Outcome]:
    seconds /= len(chunk)
    if len(values) == len(chunk):
        for work, value in zip(chunk, values, strict=True):
            yield Outcome(work.index, value, None, "", seconds, worker_id)
        return
    message = (
        f"process_items returned {len(values)} results for {len(chunk)} items: "
        "expected one an item, in order"
    )
    for work in chunk:
        yield failed(work.index, ValueError(message), seconds, worker_id)


def failed(index: int, error: BaseException, seconds: float = 0.0, worker_id: int = 0) -> Outcome:
    """Return the outcome of an item that raised `error`."""
    inner = error.__traceback__
    if inner is not None and inner.tb_next is not None:
        inner = inner.tb_next  # our own frame tells nobody anything
    text = "".join(traceback.format_exception(type(error), error, inner))
    return Outcome(index, None, error, text, seconds, worker_id)


def timed_out(work: Work, seconds: float, limit: float, consequence: str) -> TaskTimeoutError:
    """Return the error of an item that ran longer than its limit, in seconds."""
    message = (
        f"item {work.index} ran {seconds:.3g} s, longer than timeout={limit:g} s; {consequence}"
    )
    return TaskTimeoutError(message, work.index, work.item)


def device_of(worker_id: int) -> str:
    """Return the device of a worker: round-robin over the visible GPUs, else ``"cpu"``."""
    count = _visible_gpus()
    return f"cuda:{worker_id % count}" if count else "cpu"


def _visible_gpus() -> int:
    """Count them without importing a GPU library (which might start a driver context)."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    nodes = _gpu_nodes()
    if chosen is None or not nodes:
        return nodes
    names = [name.strip() for name in chosen.split(",")]
    bad = next((i for i, name in enumerate(names) if name in {"", "-1"}), len(names))
    return len(names[:bad])


def _gpu_nodes() -> int:
    try:
        return sum(1 for name in os.listdir("/dev") if _GPU_NODE.fullmatch(name))
    except OSError:
        return 0
