"""What users write: a `Task`, or a plain function."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Context", "FunctionTask", "Task", "as_factory"]

_current = threading.local()


@dataclass(slots=True)
class Context:
    """Where a task runs, and for which item.

    Attributes
    ----------
    worker_id : int
        Number of the worker, 0 <= worker_id < max_workers.
    device : str
        ``"cuda:<k>"`` (round-robin over the visible GPUs) or ``"cpu"``.
    index : int
        Position of the current item in its job, -1 outside `Task.process_item`.
    seed : int
        Seed of the run; kept in the ledger, so that a resumed run draws the same numbers.
    """

    worker_id: int = 0
    device: str = "cpu"
    index: int = -1
    seed: int = 0
    _rng: np.random.Generator | None = field(default=None, repr=False)

    @property
    def rng(self) -> np.random.Generator:
        """Random generator of the current item: ``SeedSequence([seed, index])``.

        The same item draws the same numbers on any worker, in any order, after any resume.
        """
        if self._rng is None:
            self._rng = np.random.default_rng(np.random.SeedSequence([self.seed, self.index]))
        return self._rng

    def enter_item(self, index: int) -> None:
        """Make `index` the current item, with a fresh generator."""
        self.index = index
        self._rng = None


class Task:
    """One kind of work. Subclass it and write `process_item`.

    Examples
    --------
    >>> class Square(Task):
    ...     version = "1"
    ...     def process_item(self, item):
    ...         return item * item
    """

    #: Change it when results change: an unfinished job of another version is not mixed with them.
    version: str = ""

    @property
    def context(self) -> Context:
        """The worker and item that this thread works on now (see `Context`)."""
        try:
            context: Context = _current.context
        except AttributeError:
            context = _current.context = Context()
        return context

    # `*args` is never passed: with it, type checkers let overrides name parameters of their own.
    def process_item(self, item: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the result of one item: an array, tensor, scalar, dict, dataclass or tuple."""
        message = f"{type(self).__name__} has no process_item(item)"
        raise NotImplementedError(message)

    def process_items(self, items: Sequence[Any], *args: Any, **kwargs: Any) -> Sequence[Any]:
        """Return one result an item, in order; called with whole chunks when ``at_once=True``."""
        return [self.process_item(item, **kwargs) for item in items]

    def setup(self) -> None:
        """Prepare a worker (load a model, open a file); called once, before its first item."""

    def teardown(self) -> None:
        """Undo `setup`; called once, when the worker ends in good order."""


class FunctionTask(Task):
    """A plain function as a task."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def process_item(self, item: Any, *args: Any, **kwargs: Any) -> Any:
        return self.function(item, **kwargs)


def set_context(context: Context) -> None:
    """Make `context` what `Task.context` returns on this thread."""
    _current.context = context


def as_factory(task: object) -> Callable[[], Task]:
    """Return what makes a worker's task from what the user gave: a class, an instance, a function.

    Raises
    ------
    TypeError
        It is none of them.
    """
    if isinstance(task, type) and issubclass(task, Task):
        return task
    if isinstance(task, Task):
        return _Given(task)
    if callable(task) and not isinstance(task, type):
        return _Given(FunctionTask(task))
    message = f"expected a Task class, a Task or a function, got {task!r}"
    raise TypeError(message)


@dataclass(frozen=True, slots=True)
class _Given:
    """Factory of a task that exists already (a picklable stand-in for a lambda)."""

    task: Task

    def __call__(self) -> Task:
        return self.task


def task_name(task: object) -> str:
    """Return the name under which the ledger knows a task: ``module.qualname``."""
    if isinstance(task, Task) and not isinstance(task, FunctionTask):
        task = type(task)
    name = getattr(task, "__qualname__", type(task).__qualname__)
    return f"{getattr(task, '__module__', '?')}.{name}"
