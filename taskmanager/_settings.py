"""What a manager and a call were asked for, checked before anything happens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from savers import Saver
from taskmanager._executors import EXECUTORS, default_workers
from taskmanager._policy import OnError, RetryPolicy, SaveEvery, check_choice, check_number

if TYPE_CHECKING:
    from taskmanager._inputs import Inputs
    from taskmanager._progress import ProgressSetting
    from taskmanager._resume import Resume
    from taskmanager._task import Task

__all__ = ["Call", "ChunkSize", "Settings", "Write", "check_iterable"]

ChunkSize = int | Literal["auto"]
Write = Literal["auto", "driver", "worker"]

_LATER = ("dask", "ray")


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a `TaskManager`, which documents them."""

    name: str
    version: str
    factory: Callable[[], Task]
    executor: str | Executor = "serial"
    max_workers: int | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeout: float | None = None
    errors: OnError = "raise"
    progress: ProgressSetting = None
    deadline: float | None = None
    max_failures: int | None = None
    grace: float = 10.0
    max_inflight_bytes: int = 256 * 2**20

    def __post_init__(self) -> None:
        _check_executor(self.executor)
        check_number("max_workers", self.max_workers, least=1, whole=True, none=True)
        check_number("timeout", self.timeout, strict=True, none=True)
        check_choice("errors", self.errors, get_args(OnError))
        if self.progress is not None and not isinstance(self.progress, bool):
            _check_callable("progress", self.progress)
        check_number("deadline", self.deadline, strict=True, none=True)
        check_number("max_failures", self.max_failures, whole=True, none=True)
        check_number("grace", self.grace)
        check_number("max_inflight_bytes", self.max_inflight_bytes, strict=True, whole=True)

    @property
    def workers(self) -> int:
        """Number of workers of a run."""
        if self.executor == "serial":
            return 1
        return self.max_workers or default_workers(self.executor)


@dataclass(frozen=True, slots=True)
class Call:
    """Arguments of one `TaskManager.submit_tasks`, which documents them."""

    inputs: Inputs
    saver: Saver | None = None
    save_interval: int | SaveEvery = 100
    chunk_size: ChunkSize = "auto"
    at_once: bool = False
    kwargs_task: Mapping[str, Any] = field(default_factory=dict)
    save_kwargs: Mapping[str, Any] = field(default_factory=dict)
    resume: Resume = True
    seed: int | None = None
    write: Write = "auto"
    keep_results: bool | None = None

    def __post_init__(self) -> None:
        check_iterable(self.inputs.items)
        _check_callable("key", self.inputs.key)
        _check_callable("labels", self.inputs.labels)
        if self.saver is not None and not isinstance(self.saver, Saver):
            raise TypeError(f"saver: expected a savers.Saver or None, got {self.saver!r}")
        SaveEvery.of(self.save_interval)
        if self.chunk_size != "auto":
            check_number("chunk_size (or 'auto')", self.chunk_size, least=1, whole=True)
        _check_names("kwargs_task", self.kwargs_task)
        _check_names("save_kwargs", self.save_kwargs)
        check_choice("resume", self.resume, (True, "new", "restart"))
        check_number("seed", self.seed, whole=True, none=True)
        check_choice("write", self.write, get_args(Write))
        if self.write == "worker":
            raise ValueError("write='worker' is not available yet: use write='auto'")
        self._check_without_saver()

    @property
    def keep(self) -> bool:
        """Whether results stay in memory for `Run.results`."""
        return self.saver is None if self.keep_results is None else self.keep_results

    @property
    def policy(self) -> SaveEvery:
        """When to save."""
        return SaveEvery.of(self.save_interval)

    def _check_without_saver(self) -> None:
        if self.saver is None and self.inputs.labels is not None:
            raise ValueError("labels= says where a saver puts results: expected a saver, got None")
        if self.saver is None and self.save_kwargs:
            raise ValueError("save_kwargs= goes to a saver: expected a saver, got None")


def check_iterable(items: Iterable[Any]) -> None:
    """Refuse items that are none.

    Raises
    ------
    TypeError
        `items` can't be iterated over, or is a string (most likely one item that was meant).
    """
    if isinstance(items, (str, bytes)):
        raise TypeError(f"items: expected an iterable of items, got {items!r}: use [{items!r}]")
    try:
        iter(items) if not hasattr(items, "__next__") else None
    except TypeError:
        raise TypeError(f"items: expected an iterable, got {items!r}") from None


def _check_executor(executor: object) -> None:
    if isinstance(executor, Executor):
        return
    if executor in _LATER:
        raise ValueError(
            f"executor={executor!r} is not available yet; expected one of "
            f"{', '.join(map(repr, EXECUTORS))} or a concurrent.futures.Executor"
        )
    if executor not in EXECUTORS:
        raise ValueError(
            f"executor: expected one of {', '.join(map(repr, EXECUTORS))} or a "
            f"concurrent.futures.Executor, got {executor!r}"
        )


def _check_callable(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{name}: expected a function, got {value!r}")


def _check_names(name: str, value: object) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise TypeError(f"{name}: expected a mapping of names to values, got {value!r}")
