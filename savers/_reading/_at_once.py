"""A coroutine that never waits, run at once inside another event loop's turn.

zarr decodes in coroutines, and hands every chunk to a thread. For a few kilobytes the way there and
back takes longer than decoding. Here such a coroutine runs to its end where it is called: in an
event loop that has nothing to wait with, and whose "threads" are calls.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["WaitsError", "at_once", "refuse_to_wait"]

T = TypeVar("T")

_running: ContextVar[bool] = ContextVar("at_once", default=False)


class WaitsError(Exception):
    """The coroutine would have to wait: it must run elsewhere, from its beginning."""


def refuse_to_wait(what: str) -> None:
    """Raise `WaitsError` in a coroutine that runs at once."""
    if _running.get():
        raise WaitsError(what)


def at_once(task: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine to its end, whatever event loop runs in this thread.

    Raises
    ------
    WaitsError
        It waits for something.
    """
    outer = asyncio._get_running_loop()  # noqa: SLF001 -- for those who make event loops
    token = _running.set(True)
    asyncio._set_running_loop(None)  # noqa: SLF001
    loop = _Loop()
    try:
        return loop.run_until_complete(task())
    except BaseException:
        loop.cancel_all()
        raise
    finally:
        loop.close()
        asyncio._set_running_loop(outer)  # noqa: SLF001
        _running.reset(token)


class _Calls(ThreadPoolExecutor):
    """Runs what it is given where it is given it."""

    def submit(self, fn: Callable[..., T], /, *args: Any, **options: Any) -> Future[T]:
        done: Future[T] = Future()
        try:
            done.set_result(fn(*args, **options))
        except BaseException as error:  # noqa: BLE001 -- the future's business
            done.set_exception(error)
        return done


class _Nothing:
    """What a loop without files waits with."""

    def select(self, timeout: float | None = None) -> list[NoReturn]:
        if timeout is None or timeout > 0:
            message = "a coroutine that runs at once"
            raise WaitsError(message)
        return []


class _Loop(asyncio.BaseEventLoop):
    """An event loop without files: making one costs little, and nothing has to be closed."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = _Nothing()
        self.set_default_executor(_Calls(max_workers=1))

    def _process_events(self, events: list[NoReturn]) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody sleeps who could be woken."""

    def cancel_all(self) -> None:
        """Cancel what still waits."""
        left = asyncio.all_tasks(self)
        for task in left:
            task.cancel()
        if left:
            self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
