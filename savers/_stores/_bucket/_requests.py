"""Requests to an object store: tried again while the failure may pass, slower where it asks for it.

The libraries below don't retry. Only here is it known which request was conditional, so that an
answer that got lost can be told from an object of somebody else (see `_store`).
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from savers._stores._bucket._reasons import (
    asks_for_less,
    error_number,
    may_pass,
    no_bucket,
    reason,
    unreachable,
)
from savers._stores._secrets import masked, shows
from savers.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

__all__ = ["Conflict", "Gate", "Requests", "gate_of"]

#: Seconds in which a request is tried again.
BUDGET = 120.0
#: The same where no connection was ever made: more likely a wrong endpoint than an outage.
FIRST_BUDGET = 10.0
#: First and longest pause between two attempts, in seconds.
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 8.0
#: Requests at a time, as long as the store does not ask for fewer.
WIDTH = 64

T = TypeVar("T")


class Failed(NamedTuple):
    """An attempt without an answer."""

    error: Exception


class Conflict(Exception):  # noqa: N818 -- an answer, not yet an error
    """The object is not the one that the condition of a request named."""


class Gate:
    """How many requests may be under way: halved by SlowDown, one more for each full round.

    Additive increase, multiplicative decrease, as in TCP (RFC 5681, section 3.1): what was under
    way together is one reason to halve, however many of it were refused.
    """

    def __init__(self, width: int = WIDTH) -> None:
        self.most = width
        self.width = float(width)
        self._busy = 0
        self._halved = 0
        self._free = threading.Condition()

    def __enter__(self) -> int:
        """Return the round, for `slower`."""
        with self._free:
            self._free.wait_for(lambda: self._busy < max(1, int(self.width)))
            self._busy += 1
            return self._halved

    def __exit__(self, *_: object) -> None:
        with self._free:
            self._busy -= 1
            self._free.notify()

    def slower(self, begun: int) -> None:
        """The store answered to a request of this round that there are too many."""
        with self._free:
            if begun == self._halved:
                self._halved += 1
                self.width = max(1.0, self.width / 2)

    def faster(self) -> None:
        """A request went well."""
        with self._free:
            self.width = min(self.most, self.width + 1 / self.width)


#: One for each bucket that this process speaks to, whoever does it.
_gates: WeakValueDictionary[str, Gate] = WeakValueDictionary()
_gates_mutex = threading.Lock()


def gate_of(bucket: str) -> Gate:
    """Return the gate of a bucket, the same for all that speak to it."""
    with _gates_mutex:
        return _gates.setdefault(bucket, Gate())


def _forget() -> None:
    """A forked process has its own: nobody leaves the gates of its parent's threads."""
    global _gates_mutex  # noqa: PLW0603 -- it may be held by a thread that is not here
    _gates_mutex = threading.Lock()
    _gates.clear()


os.register_at_fork(after_in_child=_forget)


class Requests:
    """Sends requests, each with its own budget of attempts.

    Parameters
    ----------
    name : str
        The store, for messages.
    secrets : collection of str
        Texts that no message may show.
    budget : float
        Seconds in which a request is tried again, at least.
    gate : Gate, optional
        Shared with others that speak to the same bucket.
    """

    def __init__(
        self, name: str, secrets: Collection[str] = (), budget: float = BUDGET,
        gate: Gate | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.secrets = secrets
        self.budget = budget
        self.gate = gate or Gate()
        self._reached = False
        #: False once a store turned out to know no conditions.
        self.conditional = True
        #: True once a store refused a request for its condition.
        self.proven = False

    def send(self, operation: str, key: str, request: Callable[[], T]) -> T:
        """Return the answer to a request.

        Raises
        ------
        FileNotFoundError
            There is no such object.
        Conflict
            A condition of the request was not met.
        StorageError
            The store refused, or did not answer well within the budget; the text names the object,
            the reason and the attempts.
        """
        begin = time.monotonic()
        for attempt, pause in enumerate(_pauses(), 1):
            answer = self._try(request)
            if not isinstance(answer, Failed):
                return answer
            error, late = answer.error, time.monotonic() - begin >= self._patience()
            if late or not may_pass(error, reached=self._reached):
                failure = self._failure(error, operation, key, attempt)
                raise failure from self._cause(error)  # here: nothing leads back to a secret
            time.sleep(pause)
        raise AssertionError  # pauses are endless

    def _patience(self) -> float:
        return self.budget if self._reached else min(self.budget, FIRST_BUDGET)

    def _try(self, request: Callable[[], T]) -> T | Failed:
        from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

        begun = 0
        try:
            with self.gate as begun:
                answer = request()
        except (AlreadyExistsError, PreconditionError) as error:
            self._reached = self.proven = True
            raise Conflict from error
        except (BaseError, OSError) as error:
            self._reached = self._reached or not unreachable(error)
            if isinstance(error, FileNotFoundError) and not no_bucket(error):
                raise
            if asks_for_less(error):
                self.gate.slower(begun)
            return Failed(error)
        self._reached = True
        self.gate.faster()
        return answer

    def _failure(self, error: Exception, operation: str, key: str, attempts: int) -> StorageError:
        tried = f" (tried {attempts} times in {self._patience():g} s)" if attempts > 1 else ""
        why = reason(error, reached=self._reached)
        message = f"can't {operation} {key} in {self.name}: {why}{tried}"
        return StorageError(error_number(error), masked(message, self.secrets))

    def _cause(self, error: Exception) -> Exception | None:
        return None if shows(error, self.secrets) else error


def _pauses() -> Iterator[float]:
    """Exponential back-off with jitter, so that many writers don't come back at one moment."""
    longest = FIRST_PAUSE
    while True:
        yield random.uniform(longest / 2, longest)  # noqa: S311 -- no secret
        longest = min(2 * longest, LONGEST_PAUSE)
