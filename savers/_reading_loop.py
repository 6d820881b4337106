"""Where work runs while an event loop waits: what is short on the loop, one after another; what is
long in a worker thread."""

from __future__ import annotations

import asyncio
import os
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["MOST_ON_LOOP", "home", "run_apart", "running_loop", "work"]

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


async def work(nbytes: int, task: Callable[[], T]) -> T:
    """Run a function that waits for nothing, and let everything else on the loop have its turn.

    Parameters
    ----------
    nbytes : int
        How much it works on; over `MOST_ON_LOOP` it runs in a worker thread.
    task : callable
    """
    loop = asyncio.get_running_loop()
    if nbytes > MOST_ON_LOOP:
        async with _places.setdefault(loop, asyncio.Semaphore(os.cpu_count() or 1)):
            return await asyncio.to_thread(task)
    async with _turns.setdefault(loop, asyncio.Lock()):
        done = task()
        await asyncio.sleep(0)  # fifty of these that become ready together don't follow at once
        return done


async def run_apart(task: Callable[[], Coroutine[Any, Any, T]], then: Callable[[T], T]) -> T:
    """Run a coroutine that waits for no request, and a function on its result, in a worker thread.

    Requests that it makes all the same go to the loop that called.
    """
    loop = asyncio.get_running_loop()

    def decode() -> T:
        home.set(loop)
        with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
            found = runner.run(task())
        return then(found)

    async with _places.setdefault(loop, asyncio.Semaphore(os.cpu_count() or 1)):
        return await asyncio.to_thread(decode)
