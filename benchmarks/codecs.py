"""The codec table: what each setting costs and saves, on five kinds of values.

``python -m benchmarks.codecs`` writes docs/benchmarks/codecs.md. Time is that of the one thread
that encodes (``time.thread_time``), the best of seven, so that a busy machine changes little; every
object is decoded and compared.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numcodecs import Blosc, GZip, Zstd, blosc

from benchmarks.machine import describe

if TYPE_CHECKING:
    from collections.abc import Callable

    from numcodecs.abc import Codec
    from numpy.typing import NDArray

OUT = Path(__file__).parent.parent / "docs" / "benchmarks" / "codecs.md"
SHAPE = (1024, 1024)
NO, BYTE, BIT = Blosc.NOSHUFFLE, Blosc.SHUFFLE, Blosc.BITSHUFFLE
KIB = 1 << 10


def smooth(rng: np.random.Generator, power: float = 2.3) -> NDArray[np.float32]:
    """A field with the spectrum of the atmosphere: energy falls with the wave number."""
    ky, kx = np.fft.fftfreq(SHAPE[0])[:, None], np.fft.rfftfreq(SHAPE[1])[None]
    white = np.fft.rfft2(rng.standard_normal(SHAPE))
    field = np.fft.irfft2(white / (1e-3 + np.hypot(ky, kx)) ** power, s=SHAPE)
    return (280 + 12 * field / field.std()).astype("f4")


def kinds() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    field = smooth(rng)
    already = Zstd(9).encode(smooth(rng).tobytes())
    return {
        "smooth": field,
        "noisy": (field + rng.standard_normal(SHAPE)).astype("f4"),
        "integers": rng.poisson(200, SHAPE).astype("i4"),
        "mask": smooth(rng, 1.8) > 280,
        "compressed": np.frombuffer(already, "u1"),
    }


def candidates(size: int) -> dict[str, Codec]:
    """Name -> codec of values of `size` bytes; all are core codecs of Zarr v3."""
    shuffle = BIT if size == 1 else BYTE
    return {
        "blosc lz4-1": Blosc("lz4", 1, shuffle),
        "blosc lz4-1, bitshuffle": Blosc("lz4", 1, BIT),
        "blosc lz4-1, blocks of 256 KiB": Blosc("lz4", 1, shuffle, 256 * KIB),
        "blosc lz4-5": Blosc("lz4", 5, shuffle),
        "blosc lz4-5, blocks of 256 KiB": Blosc("lz4", 5, shuffle, 256 * KIB),
        "blosc zstd-1": Blosc("zstd", 1, shuffle),
        "blosc zstd-1, bitshuffle": Blosc("zstd", 1, BIT),
        "blosc zstd-1, blocks of 256 KiB": Blosc("zstd", 1, shuffle, 256 * KIB),
        "blosc zstd-1, blocks of 512 KiB": Blosc("zstd", 1, shuffle, 512 * KIB),
        "blosc zstd-1, blocks of 1 MiB": Blosc("zstd", 1, shuffle, 1024 * KIB),
        "blosc zstd-1, blocks of 256 KiB, bitshuffle": Blosc("zstd", 1, BIT, 256 * KIB),
        "blosc zstd-1, blocks of 4 MiB": Blosc("zstd", 1, shuffle, 4096 * KIB),
        "blosc zstd-3": Blosc("zstd", 3, shuffle),
        "blosc zstd-3, blocks of 1 MiB": Blosc("zstd", 3, shuffle, 1024 * KIB),
        "blosc zstd-5, blocks of 1 MiB": Blosc("zstd", 5, shuffle, 1024 * KIB),
        "blosc zstd-6": Blosc("zstd", 6, shuffle),
        "blosc zstd-9, blocks of 1 MiB": Blosc("zstd", 9, shuffle, 1024 * KIB),
        "zstd-1": Zstd(1),
        "gzip-1": GZip(1),
    }


def measured(codec: Codec, values: NDArray[Any]) -> tuple[float, float, float]:
    """Return MB/s of encoding, MB/s of decoding, and the ratio."""
    encoded, encode = best(lambda: codec.encode(values))
    decoded, decode = best(lambda: codec.decode(encoded))
    if bytes(decoded) != values.tobytes():
        message = f"{codec} gave back other values"
        raise RuntimeError(message)
    return values.nbytes / encode / 1e6, values.nbytes / decode / 1e6, values.nbytes / len(encoded)


def best(call: Callable[[], Any]) -> tuple[Any, float]:
    taken = []
    for _ in range(7):
        start = time.thread_time()
        result = call()
        taken.append(time.thread_time() - start)
    return result, min(taken)


def table() -> str:
    data = kinds()
    rows = ["| codec | " + " | ".join(data) + " |", "|---" * (len(data) + 1) + "|"]
    for name in candidates(4):
        cells = []
        for values in data.values():
            codec = candidates(values.itemsize)[name]
            encode, decode, ratio = measured(codec, values)
            cells.append(f"{encode:.0f} / {decode:.0f}, {ratio:.2f}")
            print(name, cells[-1], flush=True)
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def machine() -> str:
    found = describe()
    versions = ", ".join(f"{name} {found['packages'][name]}" for name in ("numcodecs", "numpy"))
    return (
        f"{found['cores']} cores of {found['processor']}, {found['memory_gib']} GiB, "
        f"{found['system']}, Python {found['python']}, {versions}"
    )


def main() -> None:
    blosc.use_threads = False
    text = f"""# Codecs

Encoding / decoding in MB/s of one core, and the ratio of raw to stored bytes, for chunks of 1024 x
1024 values: float32 with the spectrum of a weather field (smooth), the same with noise of a
tenth of its spread (noisy), int32 counts, a bool mask, and bytes that were compressed before.
Shuffle is by bits for values of one byte, else by bytes where nothing else is said.

{table()}

Measured by `python -m benchmarks.codecs` on {machine()}.
"""
    OUT.write_text(text)


if __name__ == "__main__":
    main()
