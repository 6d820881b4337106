"""The store that readers see: requests and errors of one kind, and what was asked for before."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakKeyDictionary

from zarr.abc.store import (
    OffsetByteRequest,
    RangeByteRequest,
    Store,
)
from zarr.core.buffer import default_buffer_prototype

from savers._reading._at_once import refuse_to_wait
from savers._reading._loop import home, side_by_side
from savers._stores._bucket._reasons import error_number, reason
from savers._stores._secrets import masked, shows
from savers.errors import InvalidInputError, SaverError, StorageError

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Awaitable,
        Callable,
        Collection,
        Iterable,
        Iterator,
        Mapping,
    )

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

__all__ = ["LoopStore", "ReadStore", "Source", "cut", "supplying"]

#: Requests of one selection that are under way at a time.
MOST_REQUESTS = 256

_supplied: ContextVar[Mapping[str, Buffer | None]] = ContextVar("supplied", default={})  # noqa: B039


@contextlib.contextmanager
def supplying(objects: Mapping[str, Buffer | None]) -> Iterator[None]:
    """Answer requests for these keys from memory, in this context and those that start here."""
    token = _supplied.set({**_supplied.get(), **objects})
    try:
        yield
    finally:
        _supplied.reset(token)


class Source(Protocol):
    """What reading needs of a store; every zarr store has it."""

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object or a part of it, None where there is none."""

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names below a prefix."""


class ReadStore(Store):
    """What a store holds, as zarr reads it.

    Parameters
    ----------
    inner : Source
    name : str
        For messages, without credentials.
    secrets : collection of str
        Texts that no message may show.
    """

    def __init__(self, inner: Source, name: str, secrets: Collection[str] = ()) -> None:
        super().__init__(read_only=True)
        self.inner = inner
        self.name = name
        self.secrets = secrets
        self.again: Callable[[], ReadStore] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A pickle carries no credentials: a place named by path or URL is opened anew."""
        if self.again is not None:
            return self.again, ()
        if self.secrets:
            message = f"{self.name} holds credentials, pickle what opens it instead: give its URL"
            raise InvalidInputError(message)
        return ReadStore, (self.inner, self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ReadStore) and self.inner == other.inner

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def __str__(self) -> str:
        return self.name

    async def get(
        self,
        key: str,
        prototype: BufferPrototype | None = None,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Return an object or a part of it, None where there is none.

        Raises
        ------
        StorageError
            The request failed; the text names the object.
        """
        supplied = _supplied.get()
        if key in supplied:
            return cut(supplied[key], byte_range)
        refuse_to_wait(key)
        loop = home.get()
        request = self._request(key, prototype or default_buffer_prototype(), byte_range)
        if loop is None or loop is asyncio.get_running_loop():
            return await request
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(request, loop))

    async def _request(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None
    ) -> Buffer | None:
        with self._errors(f"read {key}"):
            return await self.inner.get(key, prototype, byte_range)

    async def wake(self) -> None:
        """Open the store within, as zarr does before it uses one."""
        if isinstance(self.inner, Store):
            with self._errors("open"):
                await self.inner._ensure_open()  # noqa: SLF001 -- has no public name

    async def fetch(self, keys: Iterable[str]) -> dict[str, Buffer | None]:
        """Return objects, asked for side by side."""
        places = asyncio.Semaphore(MOST_REQUESTS)
        supplied = _supplied.get()

        async def one(key: str) -> Buffer | None:
            async with places:
                return await self.get(key)

        wanted = [key for key in dict.fromkeys(keys) if key not in supplied]
        found = await side_by_side(one(key) for key in wanted)
        return dict(zip(wanted, found, strict=True))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names below a prefix."""
        with self._errors(f"list {prefix or 'the root'}"):
            found = [name async for name in self.inner.list_dir(prefix)]
        for name in found:
            yield name

    @contextlib.contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except SaverError:
            raise
        except Exception as error:
            number = getattr(error, "errno", None) or error_number(error)
            text = masked(f"can't {what} in {self.name}: {reason(error)}", self.secrets)
            failure = StorageError(number, text)
            if not shows(error, self.secrets):
                raise failure from error
            try:
                raise failure from None
            finally:
                failure.__context__ = None  # nothing leads back to the text with the secret

    # -- what zarr's interface asks for, too -------------------------------------------------------

    async def get_partial_values(
        self,
        prototype: BufferPrototype,
        key_ranges: Iterable[tuple[str, ByteRequest | None]],
    ) -> list[Buffer | None]:
        """Return parts of several objects."""
        return [await self.get(key, prototype, part) for key, part in key_ranges]

    async def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        return await self.get(key) is not None

    supports_listing = True
    supports_writes = supports_deletes = supports_partial_writes = False

    def list(self) -> AsyncIterator[str]:
        """Refuse: nothing that is read needs all keys."""
        return self.list_prefix("")

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Refuse: nothing that is read needs all keys."""
        message = f"expected requests for objects of {self.name}, got one to list {prefix!r}"
        raise NotImplementedError(message)

    async def set(self, key: str, value: Buffer) -> None:
        """Refuse: what is read is not written to."""
        raise StorageError(errno.EROFS, f"can't write {key} in {self.name}: opened for reading")

    async def delete(self, key: str) -> None:
        """Refuse: what is read is not written to."""
        raise StorageError(errno.EROFS, f"can't delete {key} in {self.name}: opened for reading")

    def close(self) -> None:
        """Nothing to do: whoever made the inner store closes it."""


def cut(found: Buffer | None, byte_range: ByteRequest | None) -> Buffer | None:
    """Return the part of an object that was asked for."""
    if found is None or byte_range is None:
        return found
    if isinstance(byte_range, RangeByteRequest):
        return found[byte_range.start : byte_range.end]
    if isinstance(byte_range, OffsetByteRequest):
        return found[byte_range.offset :]
    return found[max(0, len(found) - byte_range.suffix) :]


class LoopStore:
    """A store whose connections belong to an event loop: made anew for each that asks.

    Parameters
    ----------
    make : callable
        Returns a source for the loop that runs now. Pickles.
    close : coroutine function
        Closes such a source. Pickles.
    """

    def __init__(self, make: Callable[[], Source], close: Callable[[Any], Awaitable[None]]) -> None:
        self.make = make
        self.close = close
        self._made: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[Source, Any]]
        self._made = WeakKeyDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        return LoopStore, (self.make, self.close)

    async def _here(self) -> Source:
        loop = asyncio.get_running_loop()
        if loop not in self._made:
            source = self.make()
            closing = _closing(source, self.close)
            self._made[loop] = source, closing
            await anext(closing)
        return self._made[loop][0]

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return an object or a part of it, None where there is none."""
        return await (await self._here()).get(key, prototype, byte_range)

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yield the names below a prefix."""
        async for name in (await self._here()).list_dir(prefix):
            yield name


async def _closing(source: Source, close: Callable[[Any], Awaitable[None]]) -> AsyncIterator[None]:
    """Close a source when its event loop ends its asynchronous generators, or nobody needs it."""
    try:
        yield
    finally:
        await close(source)
