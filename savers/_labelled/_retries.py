"""What is worth another attempt: a store that was busy or out of reach, not one that refused."""

from __future__ import annotations

import errno
import random
import re
import time
from typing import TYPE_CHECKING, TypeVar

from savers.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["is_transient", "tried"]

#: Attempts at one object, and seconds before the second one; doubled, with jitter, each time.
ATTEMPTS = 5
FIRST_WAIT = 0.1

_PASSING = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET,
    errno.EHOSTUNREACH, errno.EINTR, errno.ENETDOWN, errno.ENETUNREACH, errno.EPIPE, errno.ESTALE,
    errno.ETIMEDOUT,
}  # fmt: skip
_LASTING = {errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOENT}
_SERVER = re.compile(
    r"\b(429|500|502|503|504)\b|SlowDown|timed? ?out|connection (reset|closed)", re.IGNORECASE
)

T = TypeVar("T")


def is_transient(error: BaseException) -> bool:
    """Return whether the same call may succeed a moment later (reset, time-out, 5xx)."""
    return any(_passes(one) for one in _causes(error))


def _passes(error: BaseException) -> bool:
    code = getattr(error, "errno", None)
    if code in _LASTING:
        return False
    if code in _PASSING or isinstance(error, (ConnectionError, TimeoutError)):
        return True
    status = getattr(error, "status", None) or getattr(error, "status_code", None)
    if isinstance(status, int):
        return status == 429 or status >= 500
    return not isinstance(error, StorageError) and bool(_SERVER.search(str(error)))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def tried(call: Callable[[], T]) -> tuple[T, int]:
    """Return what `call` returns, and the attempts it took.

    Raises
    ------
    StorageError, ...
        What the last attempt raised, with the number of attempts as its attribute `attempts`.
    """
    wait, attempt = FIRST_WAIT, 1
    while True:
        try:
            return call(), attempt
        except Exception as error:
            if attempt == ATTEMPTS or not is_transient(error):
                error.attempts = attempt  # type: ignore[attr-defined]
                raise
        time.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 -- not for secrets
        wait, attempt = 2 * wait, attempt + 1
