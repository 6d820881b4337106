"""The common compressors, called directly: bytes to bytes, and back.

Each maker takes the configuration that stands in the metadata and returns a `Transform`. Its
functions are safe to use from several threads, give up the GIL while they work, and give the same
bytes for the same input wherever they run.
"""

from __future__ import annotations

import os
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

__all__ = ["Transform", "compressors_v2", "compressors_v3"]


class Transform(NamedTuple):
    """Bytes to bytes, and back.

    Attributes
    ----------
    encode, decode : callable
    block : int
        Bytes that are encoded independently of each other, as Blosc frames that `_blosc_frames`
        can join; 0 where everything is one piece.
    """

    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    block: int = 0


def compressors_v3(codecs: Sequence[Mapping[str, Any]]) -> list[Transform] | None:
    """Return the transforms of v3 codec documents; None where one is not among the common."""
    makers = {"blosc": _blosc, "zstd": _zstd, "gzip": _gzip, "crc32c": _crc32c}
    if any(codec["name"] not in makers for codec in codecs):
        return None
    return [makers[codec["name"]](codec.get("configuration", {})) for codec in codecs]


def compressors_v2(config: Mapping[str, Any] | None, itemsize: int) -> list[Transform]:
    """Return the transforms of the compressor of a v2 array, whose values have `itemsize` bytes."""
    if config is None:
        return []
    import numcodecs

    if config["id"] == "blosc":
        return [_blosc_of(numcodecs.get_codec(dict(config)), itemsize)]
    codec = numcodecs.get_codec(dict(config))
    return [Transform(codec.encode, codec.decode)]


def _blosc(settings: Mapping[str, Any]) -> Transform:
    from numcodecs.blosc import Blosc

    shuffle = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}[settings["shuffle"]]
    block = settings.get("blocksize", 0)
    return _blosc_of(
        Blosc(settings["cname"], settings["clevel"], shuffle, block), settings["typesize"]
    )


def _blosc_of(codec: Any, itemsize: int) -> Transform:
    compress = _single_threaded(codec.encode)
    value = np.dtype(f"V{itemsize}")

    def encode(data: Any) -> Any:
        typed = itemsize > 1 and memoryview(data).nbytes % itemsize == 0  # not behind other codecs
        return compress(np.frombuffer(data, value) if typed else data)

    joinable = codec.cname == "zstd" and codec.blocksize % itemsize == 0
    return Transform(encode, codec.decode, codec.blocksize if joinable else 0)


def _single_threaded(encode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Blosc's own threads would give other bytes, in an order that differs from run to run."""

    def alone(data: Any) -> Any:
        with _BLOSC:
            return encode(data)

    return alone


class _BloscAlone:
    """Keeps Blosc from its own threads while any thread is within; a user's choice comes back."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._chosen: bool | None = None

    @cached_property
    def _blosc(self) -> Any:
        from numcodecs import blosc

        return blosc

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._chosen, self._blosc.use_threads = self._blosc.use_threads, False
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._restore()

    def _restore(self) -> None:
        self._blosc.use_threads = self._chosen

    def forked(self) -> None:
        """In a child process nobody is within."""
        if self._inside:
            self._restore()
        self._lock, self._inside = threading.Lock(), 0


_BLOSC = _BloscAlone()
os.register_at_fork(after_in_child=_BLOSC.forked)


def _zstd(settings: Mapping[str, Any]) -> Transform:
    from numcodecs.zstd import Zstd

    codec = Zstd(settings["level"], settings.get("checksum", False))
    return Transform(codec.encode, codec.decode)


def _gzip(settings: Mapping[str, Any]) -> Transform:
    from numcodecs.gzip import GZip

    codec = GZip(settings["level"])
    return Transform(codec.encode, codec.decode)


def _crc32c(_settings: Mapping[str, Any]) -> Transform:
    from crc32c import crc32c

    def encode(data: Any) -> bytes:
        return b"".join((data, crc32c(data).to_bytes(4, "little")))

    def decode(data: Any) -> memoryview:
        body, sum_ = memoryview(data)[:-4], bytes(memoryview(data)[-4:])
        if crc32c(body).to_bytes(4, "little") != sum_:
            message = "a stored chunk does not match its checksum"
            raise ValueError(message)
        return body

    return Transform(encode, decode)
