"""Processor time of the caller in a write that does not block, beside plain copies of the tensor.

python -m benchmarks.blocked
"""

from __future__ import annotations

import statistics
import tempfile
import time
from typing import TYPE_CHECKING

import numpy as np

from savers import AsyncZarrSaver

if TYPE_CHECKING:
    from collections.abc import Callable

SIDE = 1024
FIRST = 3  # writes that make the array and the threads


def main() -> None:
    import torch

    for rows, count in ((1, 60), (4, 40), (16, 14)):
        x = torch.rand(rows, SIDE, SIDE)
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/out.zarr"
            saver = AsyncZarrSaver(path, {"step": np.arange(count)}, blocking=False)
            target = np.empty(x.shape, "f4")
            calls = (
                lambda step, x=x, saver=saver: saver.write(x[None], labels(x.shape, step), "v"),
                lambda _, x=x: x.clone(),
                lambda _, x=x, target=target: np.copyto(target, x.numpy()),
            )
            times = [[spent(call, step) for call in calls] for step in range(count)]
            saver.close()
        write, clone, copy = map(statistics.median, zip(*times[FIRST:], strict=True))
        size = x.nbytes / 2**20
        print(f"{size:4.0f} MiB: write {write:.2f} ms, clone {clone:.2f} ms, copyto {copy:.2f} ms")


def labels(shape: tuple[int, ...], step: int) -> dict[str, np.ndarray]:
    inner = {f"axis{axis}": np.arange(size) for axis, size in enumerate(shape)}
    return {"step": np.array([step]), **inner}


def spent(call: Callable[[int], object], step: int) -> float:
    """Return the processor time of this thread in a call, ms."""
    began = time.thread_time()
    kept = call(step)
    ended = time.thread_time()
    del kept
    return 1e3 * (ended - began)


if __name__ == "__main__":
    main()
