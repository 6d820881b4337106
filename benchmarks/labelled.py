"""Ways to save a stack of arrays by label, behind the caller's back: ours and earth2studio's."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.arrays import BLOCK, clocked

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.arrays import Floats, Seconds, Stack

NEEDS = ("earth2studio", "torch", "loguru")  # of earth2studio's backends


def ours(stack: Stack, path: Path) -> Seconds:
    from savers import AsyncZarrSaver

    saver = AsyncZarrSaver(path, _parallel(stack), blocking=False, **_settings(stack))
    return _clocked(stack, saver, lambda values: values)


def earth2studio(stack: Stack, path: Path) -> Seconds:
    import torch
    from earth2studio.io import AsyncZarrBackend
    from loguru import logger

    logger.remove()  # it tells every write
    backend = AsyncZarrBackend(str(path), _parallel(stack), blocking=False, **_settings(stack))
    return _clocked(stack, backend, torch.from_numpy)


def _parallel(stack: Stack) -> OrderedDict[str, Any]:
    return OrderedDict(number=np.arange(len(stack.values)))


def _settings(stack: Stack) -> dict[str, Any]:
    from zarr.codecs import BloscCodec

    codec = BloscCodec(cname="zstd", clevel=1, shuffle="shuffle", typesize=4, blocksize=BLOCK)
    sharded = {"shard_coords": {"number": stack.shard}} if stack.shard else {}
    return {"zarr_codecs": codec, **sharded}


def _clocked(stack: Stack, backend: Any, tensor: Any) -> Seconds:
    inner = stack.values.shape[1:]
    rest = {f"axis{axis}": np.arange(size) for axis, size in enumerate(inner)}

    def save(start: int, values: Floats) -> None:
        labels = OrderedDict(number=np.arange(start, start + len(values)), **rest)
        backend.write(tensor(values), labels, "dataset")

    return clocked(stack, save, backend.close)
