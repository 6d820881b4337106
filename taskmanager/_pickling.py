"""What travels between processes, and a clear word about what can't."""

from __future__ import annotations

import pickle
from importlib import import_module
from typing import TYPE_CHECKING, Any

from taskmanager.errors import TaskManagerError

if TYPE_CHECKING:
    from taskmanager._pool import Outcome, TaskPlan

__all__ = ["dump_plan", "portable_error"]


def dump_plan(plan: TaskPlan) -> bytes:
    """Return the pickled plan, by cloudpickle where that is installed and pickle can't.

    Raises
    ------
    TypeError
        The task or its arguments can't travel; the text names the attribute.
    """
    try:
        payload = pickle.dumps(plan, 5)
    except Exception as error:
        return _dump_by_value(plan, error)
    if b"__main__" in payload:
        return _dump_by_value(plan, None)
    return payload


def _dump_by_value(plan: TaskPlan, error: Exception | None) -> bytes:
    try:
        payload: bytes = import_module("cloudpickle").dumps(plan, 5)
    except Exception as second:
        raise TypeError(_why_not(plan, error or second)) from (error or second)
    return payload


def _why_not(plan: TaskPlan, error: Exception) -> str:
    task = plan.factory
    if not isinstance(task, type):
        task = plan.factory()
    for name, value in _parts(task, plan.kwargs):
        if (trouble := _trouble(value)) is not None:
            return (
                f"{name} ({type(value).__name__}) can't be sent to worker processes: {trouble}; "
                "make it in setup(), or use executor='threads'"
            )
    return f"the task can't be sent to worker processes: {error}; or use executor='threads'"


def _parts(task: object, kwargs: Any) -> list[tuple[str, object]]:
    name = type(task).__name__
    own = [(f"{name}.{key}", value) for key, value in getattr(task, "__dict__", {}).items()]
    return own + [(f"keyword argument {key!r}", value) for key, value in kwargs.items()]


def _trouble(value: object) -> Exception | None:
    try:
        pickle.dumps(value, 5)
    except Exception as error:
        return error
    return None


def portable_error(outcome: Outcome) -> Outcome:
    """Replace an error that would not survive pickling by one that says what it was."""
    error = outcome.error
    if error is None:
        return outcome
    try:
        pickle.loads(pickle.dumps(error, 5))
    except Exception:
        kind = f"{type(error).__module__}.{type(error).__qualname__}"
        message = f"{kind}: {error} (the exception itself can't be pickled)"
        outcome.error = TaskManagerError(message)
    return outcome
