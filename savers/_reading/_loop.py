"""Where work runs while an event loop waits.

What is short runs on the loop, one after another; what is long in a worker thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from savers._reading._at_once import WaitsError, at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable

__all__ = ["MOST_ON_LOOP", "home", "paced", "running_loop", "side_by_side"]

T = TypeVar("T")

#: Bytes: work on more of them leaves the event loop.
MOST_ON_LOOP = 1 << 20

#: The loop whose requests these are, while a worker thread decodes.
home: ContextVar[asyncio.AbstractEventLoop | None] = ContextVar("home", default=None)

_turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
_places: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, None where none does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def side_by_side(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Await coroutines side by side; the first failure ends the others and is raised itself."""
    calls = list(calls)
    if len(calls) == 1:  # a task of its own would only take time
        return [await calls[0]]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(call) for call in calls]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed.exceptions[0].__cause__
    return [task.result() for task in tasks]


async def paced(nbytes: int, task: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine that works rather than waits, so that everything else has its turn.

    Parameters
    ----------
    nbytes : int
        How much it works on. Up to `MOST_ON_LOOP` it runs on the event loop, one after another:
        fifty that become ready together don't hold up the loop together. Else it runs in a worker
        thread, on as many as there are cores. So does what waits all the same.
    task : coroutine function
        It waits for no request; those that it makes all the same go to the loop that called.
    """
    loop = asyncio.get_running_loop()
    if nbytes <= MOST_ON_LOOP:
        with contextlib.suppress(WaitsError):
            async with _turns.setdefault(loop, asyncio.Lock()):
                done = at_once(task)
                await asyncio.sleep(0)
                return done
    async with _places.setdefault(loop, asyncio.Semaphore(os.cpu_count() or 1)):
        return await asyncio.to_thread(_apart, task, loop)


def _apart(task: Callable[[], Coroutine[Any, Any, T]], caller: asyncio.AbstractEventLoop) -> T:
    home.set(caller)
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(task())
