"""Any zarr store as a mapping of keys to bytes, for stores that are written through zarr alone.

Requests run on zarr's own event loop, the one that such a store works in for everybody else.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, TypeVar

from savers._stores._store import MappingStore

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

    from zarr.abc.store import Store

__all__ = ["AnyZarr", "ZarrMapping"]

T = TypeVar("T")


class ZarrMapping(MutableMapping[str, bytes]):
    """The objects of a zarr store.

    Parameters
    ----------
    store : zarr Store
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def __getitem__(self, key: str) -> bytes:
        found = self._done(self._get(key))
        if found is None:
            raise KeyError(key)
        return found

    async def _get(self, key: str) -> bytes | None:
        from zarr.core.buffer import default_buffer_prototype

        found = await self.store.get(key, default_buffer_prototype())
        return None if found is None else found.to_bytes()

    def __setitem__(self, key: str, value: bytes) -> None:
        self._done(self._set(key, value))

    async def _set(self, key: str, value: bytes) -> None:
        from zarr.core.buffer import default_buffer_prototype

        await self.store.set(key, default_buffer_prototype().buffer.from_bytes(value))

    def __delitem__(self, key: str) -> None:
        self._done(self._delete(key))

    async def _delete(self, key: str) -> None:
        await self.store.delete(key)

    def __iter__(self) -> Iterator[str]:
        return self.below("")

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def below(self, prefix: str) -> Iterator[str]:
        """Yield the keys that begin with a prefix; zarr's stores list whole folders alike."""
        found = self._done(self._list(prefix[: prefix.rfind("/") + 1]))
        return (key for key in found if key.startswith(prefix))

    async def _list(self, folder: str) -> list[str]:
        return [key async for key in self.store.list_prefix(folder)]

    def _done(self, request: Coroutine[Any, Any, T]) -> T:
        from zarr.core.sync import sync

        return sync(self._opened(request))

    async def _opened(self, request: Coroutine[Any, Any, T]) -> T:
        """Open the store before its first request, as zarr does."""
        await self.store._ensure_open()  # noqa: SLF001 -- has no public name
        return await request


class AnyZarr(MappingStore):
    """A zarr store; it promises no more than a mapping does.

    Parameters
    ----------
    store : zarr Store
    name : str
        For messages, without credentials.
    """

    mapping: ZarrMapping

    def __init__(self, store: Store, name: str) -> None:
        super().__init__(ZarrMapping(store), name)

    def list(self, prefix: str) -> Iterator[str]:
        with self._errors("list", prefix):
            return self.mapping.below(prefix)
