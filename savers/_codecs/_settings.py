"""The compressors behind the names that users choose.

They were chosen from docs/benchmarks/codecs.md: blocks of 1 MiB make zstd about twice as fast as
Blosc's own choice of them, and its output smaller.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

__all__ = ["preset"]

#: Bytes that Blosc compresses at a time.
BLOCK = 1 << 20


def preset(name: str | None, dtype: np.dtype[Any]) -> Any:
    """Return the zarr v3 compressors for a setting that users choose by name.

    ``"balanced"`` is Blosc with zstd-1 and shuffle, ``"fast"`` with lz4-5, ``"small"`` with zstd-5;
    other names are codecs (``"zstd"``, ``"gzip"``, ``"lz4"``, ``"blosc"``); None stores raw values.

    Raises
    ------
    KeyError
        Unknown name.
    """
    from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec

    if name is None:
        return ()
    if dtype.kind in "UT" and name in ("balanced", "fast", "small"):
        return (ZstdCodec(level=1),)
    shuffle: Any = "bitshuffle" if dtype.itemsize == 1 else "shuffle"

    def blosc(compressor: Any, level: int, block: int) -> BloscCodec:
        return BloscCodec(cname=compressor, clevel=level, shuffle=shuffle,
                          typesize=dtype.itemsize, blocksize=block)  # fmt: skip

    made: dict[str, Callable[[], Any]] = {
        "balanced": lambda: blosc("zstd", 1, BLOCK),
        "fast": lambda: blosc("lz4", 5, 0),
        "small": lambda: blosc("zstd", 5, BLOCK),
        "blosc": lambda: blosc("zstd", 1, BLOCK),
        "lz4": lambda: blosc("lz4", 5, 0),
        "zstd": lambda: ZstdCodec(level=1),
        "gzip": lambda: GzipCodec(level=1),
    }
    return (made[name](),)
