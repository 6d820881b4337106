"""The filters that every HDF5 library has, done by us: shuffle, deflate, Fletcher's checksum.

libhdf5 filters one chunk at a time under its global lock. These run side by side in the encode
threads, and what they make is written with ``write_direct_chunk``; plain HDF5 reads it back.
Source: HDF5 file format specification 3.0, section IV.A.2.l (filter pipeline), RFC 1950.
"""

from __future__ import annotations

import functools
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._codecs._codec import DirectChunks
from savers._codecs._compressors import Transform

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from savers._codecs._codec import ChunkCodec

__all__ = ["DEFLATE", "FLETCHER32", "SHUFFLE", "filtered_chunks"]

#: Identifiers of the filters in HDF5 files.
DEFLATE, SHUFFLE, FLETCHER32 = 1, 2, 3

#: Up to this level ISA-L takes over: its output is 1 to 3 % larger than zlib's, in about a
#: fifth of the time. Who asks for more wants small files, which zlib makes.
ISAL_UP_TO = 4

Filter = tuple[int, "Sequence[int]"]


def filtered_chunks(
    dtype: np.dtype[Any], chunks: Sequence[int], filters: Sequence[Filter]
) -> ChunkCodec | None:
    """Return the codec of the chunks of an HDF5 dataset; None where a filter is not among ours.

    Parameters
    ----------
    dtype : numpy.dtype
        Of the values in the file.
    chunks : sequence of int
        Cells of a chunk. Blocks have this shape at the edge of an array as well: HDF5 wants whole
        chunks, filled up with the fill value.
    filters : sequence of (identifier, parameters)
        In the order of the dataset's pipeline: ``(SHUFFLE, (itemsize,))``,
        ``(DEFLATE, (level,))`` with levels 0 to 9, ``(FLETCHER32, ())``.

    Notes
    -----
    Safe to use from several threads. The same values give the same bytes wherever the same
    library (ISA-L from the extra ``fast``, else zlib) does the work.
    """
    makers: dict[int, Callable[..., Transform]]
    makers = {SHUFFLE: _shuffle, DEFLATE: _deflate, FLETCHER32: _fletcher32}
    if any(identifier not in makers for identifier, _ in filters):
        return None
    chain = [makers[identifier](*parameters) for identifier, parameters in filters]
    return DirectChunks(dtype, chain, tuple(chunks))


def _shuffle(itemsize: int) -> Transform:
    """All first bytes of the values, then all second bytes, ..., then what is not a whole value."""
    if itemsize == 1:
        return Transform(_same, _same)
    return Transform(
        lambda data: _turned(data, len(data) // itemsize, itemsize),
        lambda data: _turned(data, itemsize, len(data) // itemsize),
    )


def _same(data: Any) -> Any:
    return data


def _turned(data: Any, rows: int, columns: int) -> memoryview:
    """NumPy copies a transposed view as fast as C code made for it does, and without the GIL."""
    values: NDArray[np.uint8] = np.frombuffer(data, np.uint8)
    whole = rows * columns
    turned = np.empty_like(values)
    turned[:whole].reshape(columns, rows)[...] = values[:whole].reshape(rows, columns).T
    turned[whole:] = values[whole:]
    return turned.data


def _deflate(level: int) -> Transform:
    fast = _isal() if 0 < level <= ISAL_UP_TO else None
    if fast is not None:
        return Transform(lambda data: fast.compress(data, 1), fast.decompress)
    return Transform(lambda data: zlib.compress(data, level), zlib.decompress)


@functools.cache
def _isal() -> Any:
    """Return ISA-L where the extra "fast" is installed."""
    try:
        from isal import isal_zlib
    except ImportError:
        return None
    return isal_zlib


def _fletcher32() -> Transform:
    from numcodecs.fletcher32 import Fletcher32

    codec = Fletcher32()
    return Transform(codec.encode, codec.decode)
