"""When to save, when to try again, when to stop: small objects that only answer questions."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from taskmanager.errors import WorkerDiedError

__all__ = ["OnError", "RetryOn", "RetryPolicy", "SaveEvery", "check_choice", "check_number"]

OnError = Literal["raise", "skip", "collect"]
RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]


def check_number(
    name: str,
    value: object,
    *,
    least: float = 0,
    strict: bool = False,
    whole: bool = False,
    none: bool = False,
) -> None:
    """Refuse a setting that is no number, or out of its range.

    Raises
    ------
    TypeError
        `value` is no number (no whole number with `whole`).
    ValueError
        `value` is below `least` (or equal to it with `strict`), or NaN.
    """
    if none and value is None:
        return
    kinds = (int,) if whole else (int, float)
    wanted = "a whole number" if whole else "a number"
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise TypeError(f"{name}: expected {wanted}, got {value!r}")
    if not (value > least if strict else value >= least):
        raise ValueError(
            f"{name}: expected {'more than' if strict else 'at least'} {least}, got {value!r}"
        )


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    """Refuse a setting that is none of `choices`.

    Raises
    ------
    ValueError
        With the choices and what came.
    """
    if not any(
        value is choice or (type(value) is type(choice) and value == choice) for choice in choices
    ):
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


@dataclass(frozen=True, slots=True)
class SaveEvery:
    """Save when any of these is reached, counted since the last save.

    Parameters
    ----------
    items : int, optional
        Results.
    seconds : float, optional
        Time since the oldest result that is not saved yet.
    nbytes : int, optional
        Size of the results.

    Raises
    ------
    ValueError
        Nothing was given, or something is not positive.

    Examples
    --------
    >>> policy = SaveEvery(seconds=30, nbytes=64 * 2**20)
    >>> policy.due(items=5, seconds=12.0, nbytes=2**20)
    False
    >>> policy.due(items=5, seconds=31.0, nbytes=2**20)
    True
    """

    items: int | None = None
    seconds: float | None = None
    nbytes: int | None = None

    def __post_init__(self) -> None:
        if self.items is None and self.seconds is None and self.nbytes is None:
            raise ValueError("SaveEvery: expected items=, seconds= or nbytes=, got none of them")
        check_number("SaveEvery(items=)", self.items, strict=True, whole=True, none=True)
        check_number("SaveEvery(seconds=)", self.seconds, strict=True, none=True)
        check_number("SaveEvery(nbytes=)", self.nbytes, strict=True, none=True)

    @classmethod
    def of(cls, interval: int | SaveEvery) -> SaveEvery:
        """Return the policy that `save_interval` stands for.

        Raises
        ------
        TypeError, ValueError
            It is neither a positive whole number nor a `SaveEvery`.
        """
        if isinstance(interval, SaveEvery):
            return interval
        check_number("save_interval", interval, strict=True, whole=True)
        return cls(items=interval)

    def due(self, items: int, seconds: float, nbytes: int) -> bool:
        """Return whether it is time to save, given what came since the last save."""
        return (
            (self.items is not None and items >= self.items)
            or (self.seconds is not None and seconds >= self.seconds)
            or (self.nbytes is not None and nbytes >= self.nbytes)
        )


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Whether and when an item that failed is tried again.

    Parameters
    ----------
    retries : int
        How often an item is tried again at most.
    retry_on : exception type, tuple of them, or callable
        Which errors are worth it; a callable takes the exception. The death of a worker always is.
    backoff : float
        Seconds before the first retry (half to one and a half of it); doubled for each further one.

    Examples
    --------
    >>> policy = RetryPolicy(retries=2, retry_on=OSError)
    >>> policy.again(OSError(), attempts=1), policy.again(ValueError(), attempts=1)
    (True, False)
    >>> policy.again(OSError(), attempts=3)
    False
    """

    retries: int = 0
    retry_on: RetryOn = Exception
    backoff: float = 0.1

    def __post_init__(self) -> None:
        check_number("retries", self.retries, whole=True)
        check_number("backoff", self.backoff)
        kinds = self.retry_on if isinstance(self.retry_on, tuple) else (self.retry_on,)
        if not all(_is_exception(kind) for kind in kinds) and not callable(self.retry_on):
            raise TypeError(
                "retry_on: expected an exception type, a tuple of them or a function of the "
                f"exception, got {self.retry_on!r}"
            )

    def again(self, error: BaseException, attempts: int) -> bool:
        """Return whether an item is tried again after `attempts` failed ones."""
        return attempts <= self.retries and (
            isinstance(error, WorkerDiedError) or self._worth_it(error)
        )

    def delay(self, attempts: int) -> float:
        """Return how many seconds to wait after `attempts` failed ones, with jitter."""
        return float(self.backoff * 2 ** min(attempts - 1, 30) * random.uniform(0.5, 1.5))  # noqa: S311

    def _worth_it(self, error: BaseException) -> bool:
        if isinstance(self.retry_on, tuple) or _is_exception(self.retry_on):
            return isinstance(error, self.retry_on)  # type: ignore[arg-type]
        return bool(self.retry_on(error))


def _is_exception(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)
