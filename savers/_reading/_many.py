"""Many stores, opened side by side."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from savers._reading._dataset import open_dataset_async
from savers.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterable
    from typing import Self

    import xarray

    Found = tuple[Any, "xarray.Dataset | Exception"]

__all__ = ["OpenMany", "open_many_async"]


def open_many_async(paths: Iterable[Any], *, limit: int = 32, **options: Any) -> OpenMany:
    """Open many stores side by side.

    Parameters
    ----------
    paths : iterable
        What `open_dataset_async` opens, each; taken as they are needed.
    limit : int
        How many are being opened at a time, those included that nobody has taken yet.
    **options
        As for `open_dataset_async`.

    Returns
    -------
    OpenMany
        An asynchronous iterator of (path, Dataset or exception), in the order in which they come.
        Leaving it (``async with``, `aclose`, the end of the loop) ends what is under way.

    Raises
    ------
    InvalidInputError
        `limit` is less than 1.

    Examples
    --------
    >>> import asyncio, tempfile, savers
    >>> path = tempfile.mkdtemp() + "/results.zarr"
    >>> with savers.ZarrSaver(path, dataset_name="energy") as saver:
    ...     saver.save([1.0, 2.0, 3.0])
    >>> async def kinds():
    ...     opened = savers.open_many_async([path, path + "-is-not-there"])
    ...     return sorted([type(found).__name__ async for _, found in opened])
    >>> asyncio.run(kinds())
    ['Dataset', 'NotFoundError']
    """
    if limit < 1:
        message = f"expected a limit of at least 1, got {limit}"
        raise InvalidInputError(message)
    return OpenMany(_opened(paths, limit, options))


class OpenMany:
    """What `open_many_async` returns: iterate over it, or await it first, which changes nothing."""

    def __init__(self, found: Any) -> None:
        self._found = found

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Found:
        found: Found = await anext(self._found)
        return found

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End what is under way."""
        await self._found.aclose()


async def _opened(
    paths: Iterable[Any], limit: int, options: dict[str, Any]
) -> AsyncIterator[Found]:
    waiting = iter(paths)
    running: dict[asyncio.Task[xarray.Dataset], Any] = {}
    try:
        while True:
            for path in waiting:
                running[asyncio.create_task(open_dataset_async(path, **options))] = path
                if len(running) >= limit:
                    break
            if not running:
                return
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield running.pop(task), _outcome(task)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _outcome(task: asyncio.Task[xarray.Dataset]) -> xarray.Dataset | Exception:
    error = task.exception()
    return error if isinstance(error, Exception) else task.result()
