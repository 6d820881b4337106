"""Chunks encoded by zarrs, the Rust pipeline: an option of `savers.ZarrSaver`, not the default.

zarrs hands out no encoded bytes: it writes the objects of an array by itself. So it is given an
array of scratch chunks in a folder of our own, and what it writes there is measured and moved to
its key like any staged object.

Its settings come from `zarr.config`, which is one for all threads of a process. They stand there,
under a lock, while such an array is opened: about a millisecond, at most twice for an array that is
saved to. A thread of another program part that opens an array in that very moment gets them too.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.util
import json
import os
import re
import shutil
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from savers._codecs._choice import chunk_codec
from savers._codecs._codec import FileCodec
from savers._codecs._one_chunk import ChunkArray
from savers._stores._files import make_side_folder, storage_errors
from savers.errors import FormatError, InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from savers._codecs._codec import Bytes

__all__ = ["ZarrsChunks", "ZarrsSettings", "require_zarrs"]

#: Scratch chunks of an array; more than one a thread of ours.
SLOTS = 16


class ZarrsSettings(BaseModel):
    """Settings of the zarrs pipeline; None leaves one as ``zarr.config`` has it.

    Parameters
    ----------
    max_workers : int, optional
        Threads of zarrs for one call (``threading.max_workers``). Savers call it from up to four
        threads, a chunk each.
    chunk_concurrent_minimum, chunk_concurrent_maximum : int, optional
        Chunks it works on at a time. It is given one stored object at a time, so that these matter
        for what it does within a shard.
    write_empty_chunks : bool
        False leaves out objects that hold nothing but the fill value, where no object is yet.
    validate_checksums : bool, optional
        Whether zarrs checks checksum codecs when it decodes.
    direct_io : bool, optional
        Write past the page cache (``O_DIRECT``), where the file system can.

    Examples
    --------
    >>> ZarrsSettings(max_workers=2).as_config()["threading.max_workers"]
    2
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    max_workers: int | None = Field(default=None, gt=0)
    chunk_concurrent_minimum: int | None = Field(default=None, gt=0)
    chunk_concurrent_maximum: int | None = Field(default=None, gt=0)
    write_empty_chunks: bool = True
    validate_checksums: bool | None = None
    direct_io: bool | None = None

    def as_config(self) -> dict[str, object]:
        """Return what stands in ``zarr.config`` while zarrs opens an array."""
        config: dict[str, object] = {
            "codec_pipeline.path": "zarrs.ZarrsCodecPipeline",
            "codec_pipeline.strict": True,  # what it can't do is an error, not a warning
            "threading.max_workers": self.max_workers,
            "codec_pipeline.chunk_concurrent_minimum": self.chunk_concurrent_minimum,
            "codec_pipeline.chunk_concurrent_maximum": self.chunk_concurrent_maximum,
            "codec_pipeline.validate_checksums": self.validate_checksums,
            "codec_pipeline.direct_io": self.direct_io,
        }
        return {name: value for name, value in config.items() if value is not None}


def require_zarrs() -> None:
    """Refuse to go on without the zarrs package.

    Raises
    ------
    InvalidInputError
        It is not installed.
    """
    if importlib.util.find_spec("zarrs") is None:
        message = "pipeline='zarrs' needs the package zarrs: pip install 'tasksavers[fast]'"
        raise InvalidInputError(message)


class ZarrsChunks(FileCodec):
    """Chunks of one array; safe to use from several threads.

    Parameters
    ----------
    metadata : mapping
        Of an array of numbers in the byte order of this machine.
    chunks : tuple of int
        Shape of a stored object.
    settings : ZarrsSettings
    name : str
        Of the array, for messages.

    Raises
    ------
    InvalidInputError
        zarrs does not know these codecs, or it was used before this process was forked.
    """

    def __init__(
        self,
        metadata: Mapping[str, Any],
        chunks: tuple[int, ...],
        settings: ZarrsSettings,
        name: str,
    ) -> None:
        _WINDOW.refuse_forked()
        self.metadata = metadata
        self.chunks = chunks
        self.settings = settings
        self._own = chunk_codec(metadata, chunks)
        self._scratch: ChunkArray | None = None
        self._opening = threading.Lock()
        self._free: SimpleQueue[int] = SimpleQueue()
        for slot in range(SLOTS):
            self._free.put(slot)
        self._folder = ""
        self._scratch_shape = (*(n * SLOTS for n in chunks[:1]), *chunks[1:])
        alone = {**metadata, "shape": self._scratch_shape, "attributes": {}}
        if problem := _problem(json.dumps(alone, sort_keys=True), settings):
            message = (
                f"{name!r}: pipeline='zarrs' can't encode this array ({problem}); take codecs that "
                "zarrs knows (transpose, blosc, zstd, gzip, crc32c, shards), or leave pipeline out"
            )
            raise InvalidInputError(message)

    # -- files -------------------------------------------------------------------------------------

    def work_in(self, folder: str) -> None:
        self._folder = folder

    def close(self) -> None:
        if self._scratch is not None:
            self._scratch = None
            shutil.rmtree(self._folder, ignore_errors=True)

    @contextlib.contextmanager
    def encoded(self, block: NDArray[Any], *, whole: bool) -> Iterator[str]:
        array = self._array()
        with self._slot() as (region, path), storage_errors("write", path):
            try:
                array.write(region, block)
            except RuntimeError as error:
                raise _as_os_error(error) from error
            if (whole or self.settings.write_empty_chunks) and not os.path.exists(path):
                _write(path, self._own.encode(block))  # zarrs 0.2 leaves it out in any case
            yield path
            with contextlib.suppress(FileNotFoundError):  # moved
                os.unlink(path)

    def parts(self, block: NDArray[Any]) -> list[Bytes]:
        with self.encoded(block, whole=True) as path, open(path, "rb") as file:
            return [file.read()]

    def decode(self, data: Bytes) -> NDArray[Any]:
        array = self._array()
        with self._slot() as (region, path), storage_errors("write", path):
            _write(path, data)
            try:
                return array.read(region)
            except RuntimeError as error:
                message = f"zarrs can't decode a stored chunk: {error}"
                raise FormatError(message) from error
            finally:
                os.unlink(path)

    def _array(self) -> ChunkArray:
        with self._opening:
            if self._scratch is None:
                make_side_folder(Path(self._folder))
                shape = self._scratch_shape
                self._scratch = _open(self.metadata, shape, self._folder, self.settings)
            return self._scratch

    @contextlib.contextmanager
    def _slot(self) -> Iterator[tuple[tuple[slice, ...], str]]:
        """Lend the region of one scratch chunk, and where its object lies."""
        slot = self._free.get()
        try:
            # An array without axes has one chunk, so that nobody asks for a second slot.
            place = (slot, *(0 for _ in self.chunks[1:]))[: len(self.chunks)]
            region = tuple(slice(i * n, i * n + n) for i, n in zip(place, self.chunks, strict=True))
            start = ["c"] if self.metadata["zarr_format"] == 3 else []
            key = "/".join([*start, *map(str, place)] or ["0"])
            yield region, f"{self._folder}/{key}"
        finally:
            self._free.put(slot)


def _open(
    metadata: Mapping[str, Any], shape: tuple[int, ...], folder: str, settings: ZarrsSettings
) -> ChunkArray:
    """Return an array that zarrs reads and writes; nothing is touched by that."""
    from zarr.storage import LocalStore

    with _WINDOW.configured(settings):
        return ChunkArray(metadata, shape, LocalStore(folder))


@functools.lru_cache(maxsize=256)
def _problem(document: str, settings: ZarrsSettings) -> str:
    """Return what zarrs has against an array, "" for nothing; asked once for arrays alike."""
    from zarrs.pipeline import UnsupportedMetadataError

    metadata = json.loads(document)
    try:
        _open(metadata, tuple(metadata["shape"]), "nowhere", settings)
    except UnsupportedMetadataError as error:
        return str(error.__cause__)
    return ""


def _write(path: str, data: bytes | memoryview) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)


def _as_os_error(error: RuntimeError) -> OSError:
    """What zarrs met: it puts the number of an error of the system into its text alone."""
    found = re.search(r"\(os error (\d+)\)", str(error))
    code = int(found.group(1)) if found else errno.EIO
    return OSError(code, os.strerror(code) if found else str(error))


class _Window:
    """The moment in which our settings stand in ``zarr.config``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._user = 0  # the process that zarrs started its threads in

    def refuse_forked(self) -> None:
        """Threads of zarrs that stayed behind in a parent would be waited for without end."""
        if self._user not in (0, os.getpid()):
            message = (
                "pipeline='zarrs' was used before this process was forked, and its threads don't "
                "come along: start processes by 'spawn' or 'forkserver', or leave pipeline out here"
            )
            raise InvalidInputError(message)

    @contextlib.contextmanager
    def configured(self, settings: ZarrsSettings) -> Iterator[None]:
        import zarr
        import zarrs  # noqa: F401 -- while nothing is changed, for it takes time

        with self._lock, zarr.config.set(settings.as_config()):
            yield
        self._user = os.getpid()


_WINDOW = _Window()
