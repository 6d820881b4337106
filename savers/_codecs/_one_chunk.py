"""Any codecs at all, by way of zarr: its own pipeline writes and reads the chunks of an array.

zarr works in threads that refuse work once the interpreter begins to exit, which is when a saver
that was left open publishes what it has. From then on its calls are run here, one after the other.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._codecs._codec import ChunkCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from numpy.typing import NDArray

    from savers._codecs._codec import Bytes

__all__ = ["ChunkArray", "ZarrChunks"]


class ChunkArray:
    """A zarr array whose chunks stand for those of other arrays.

    Parameters
    ----------
    metadata : mapping
        ``zarr.json`` or ``.zarray`` of an array; its codecs, dtype and fill value count.
    shape : tuple of int
        The keys of its chunks are ``c/0/0``, or ``0/0`` in version 2.
    store : zarr.abc.store.Store
    """

    def __init__(self, metadata: Mapping[str, Any], shape: tuple[int, ...], store: Any) -> None:
        import zarr

        made = zarr.AsyncArray(
            _renamed(metadata, shape),
            zarr.storage.StorePath(store),
            {"write_empty_chunks": True},
        )
        self._asynchronous: Any = made
        self._array: Any = zarr.Array(made)

    def write(self, region: Any, block: NDArray[Any]) -> None:
        """Encode a block into the chunks of a region."""
        if threading.main_thread().is_alive():
            self._array[region] = block
        else:
            _finish(self._asynchronous.setitem(region, block))

    def read(self, region: Any) -> NDArray[Any]:
        """Return what the chunks of a region hold."""
        if threading.main_thread().is_alive():
            return np.asarray(self._array[region])
        return np.asarray(_finish(self._asynchronous.getitem(region)))


def _renamed(metadata: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    """The same codecs under keys that don't depend on a generation."""
    alone = {**metadata, "shape": list(shape), "attributes": {}}
    if metadata["zarr_format"] == 2:
        return {**alone, "dimension_separator": "/"}
    keys = {"name": "default", "configuration": {"separator": "/"}}
    return {**alone, "chunk_key_encoding": keys}


def _finish(work: Coroutine[Any, Any, Any]) -> Any:
    """Run what zarr would hand to its threads, while the interpreter exits."""
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_AtOnce())
    try:
        return loop.run_until_complete(work)
    finally:
        loop.close()


class _AtOnce(ThreadPoolExecutor):
    """Runs what it is given in the calling thread; asyncio takes no other kind of executor."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 -- raised by whoever awaits it
            future.set_exception(error)
        return future


class ZarrChunks(ChunkCodec):
    """One chunk in memory (one a thread)."""

    def __init__(self, metadata: Mapping[str, Any], chunks: tuple[int, ...]) -> None:
        self.metadata = metadata
        self.chunks = chunks
        start = ["c"] if metadata["zarr_format"] == 3 else []
        self._key = "/".join([*start, *("0" for _ in chunks)] or ["0"])
        self._local = threading.local()

    def parts(self, block: NDArray[Any]) -> list[Bytes]:
        array, memory = self._array()
        array.write(..., block)
        return [memory[self._key].to_bytes()]

    def decode(self, data: Bytes) -> NDArray[Any]:
        from zarr.core.buffer import default_buffer_prototype

        array, memory = self._array()
        memory[self._key] = default_buffer_prototype().buffer.from_bytes(data)
        return array.read(...)

    def _array(self) -> tuple[ChunkArray, dict[str, Any]]:
        from zarr.storage import MemoryStore

        if not hasattr(self._local, "array"):
            memory: dict[str, Any] = {}
            store = MemoryStore(memory)
            self._local.memory = memory
            self._local.array = ChunkArray(self.metadata, self.chunks, store)
        return self._local.array, self._local.memory
