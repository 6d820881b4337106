"""A job into an AsyncZarrSaver, to be killed: each call goes on where the last one stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from savers import AsyncZarrSaver, StorageError

if TYPE_CHECKING:
    from pathlib import Path

TIMES, MEMBERS = np.arange(4), np.arange(3)
ITEMS = [(t, m) for t in range(4) for m in range(3)]
#: What another writer writes before the job, beside results of the job in its chunk.
OTHERS = ITEMS[4]


def value(item: tuple[int, int]) -> np.ndarray[Any, Any]:
    """Return the result of an item: never zero, so that nothing passes for a fill value."""
    return np.arange(1.0, 5.0) + 100 * item[0] + 10 * item[1]


def opened(root: Path, member: int) -> AsyncZarrSaver:
    saver = AsyncZarrSaver(
        root / "x.zarr", {"time": TIMES, "member": MEMBERS}, chunked_coords={"member": member},
        async_timeout=60,
    )  # fmt: skip
    saver.add_array({"time": TIMES, "member": MEMBERS, "lat": np.arange(4)}, "x")
    return saver


def begin(root: Path, member: int) -> None:
    """Write one label directly."""
    with opened(root, member) as saver:
        where = {"time": OTHERS[:1], "member": OTHERS[1:], "lat": np.arange(4)}
        saver.write(value(OTHERS)[None, None], where, "x")


def run(root: Path, member: int) -> None:
    """Run all other items; a line says which ones ran, and once they are saved."""
    from taskmanager import TaskManager

    def task(item: tuple[int, int]) -> dict[str, Any]:
        print("run", ITEMS.index(item), flush=True)
        return {"x": value(item), "n": float(item[0] + 1)}

    def labels(item: tuple[int, int]) -> dict[str, object]:
        return {"time": TIMES[item[0]], "member": MEMBERS[item[1]]}

    items = [item for item in ITEMS if item != OTHERS]
    with TaskManager(task) as manager:
        try:
            _submit(manager, root, member, items, labels)
        except StorageError as error:
            print("refused", error.errno, flush=True)
            _submit(manager, root, member, items, labels)
    for item in items:
        print("saved", ITEMS.index(item), flush=True)


def _submit(manager: Any, root: Path, member: int, items: Any, labels: Any) -> None:
    with opened(root, member) as saver:
        manager.submit_tasks(items, saver, 3, labels=labels)
