"""What a disk holds after a power cut: a replay of the recorded calls, less what may be lost.

The model stands in README.md, "Power cuts". Two halves: `_Disk` replays the calls and notes which
changes an fsync made durable; `surviving_state` then draws the losses and writes the result out.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from ._fault import Call, Result

PAGE = 4096
RENAME_EXCHANGE = 2
KEEP_SIZE = 1


@dataclass(eq=False, slots=True)
class _Node:
    """A file or folder; `entries` is None for a file."""

    entries: dict[str, _Node] | None = None
    data: bytearray = field(default_factory=bytearray)
    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # since the last fsync
    created: _Change | None = None
    parent: _Node | None = None

    def write(self, offset: int, data: bytes) -> None:
        _write(self.data, offset, data)
        self.pending.append((offset, data))

    def truncate(self, size: int) -> None:
        _truncate(self.data, size)
        self.pending.append((size, None))

    def sync(self) -> None:
        self.synced = bytes(self.data)
        self.pending.clear()


@dataclass(eq=False, slots=True)
class _Change:
    """One atomic change of directory entries: (folder, name, what was there, what is there)."""

    entries: list[tuple[_Node, str, _Node | None, _Node | None]]
    moves: bool = False  # a rename: needs its source where it was
    durable: bool = False


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def _truncate(content: bytearray, size: int) -> None:
    del content[size:]
    content.extend(bytes(size - len(content)))


def surviving_state(
    start: Path, result: Result, target: Path, rng: random.Random, *, ordered: bool = False
) -> None:
    """Write to `target` what is left of `result`, which ran on a copy of `start`.

    Parameters
    ----------
    start : Path
        The state before, all of it durable.
    result : Result
        Recorded with ``record=True``.
    target : Path
        Folder to make.
    rng : random.Random
        Draws what is lost.
    ordered : bool
        Directory changes are lost from the end only, and an fsync keeps all before it.

    Raises
    ------
    NotImplementedError
        A call that the model does not know: symlinks, holes, unnamed files, the root as target.
    """
    disk = _Disk(start, result.data)
    durable = _entries_of(disk.root)
    for call in result.calls:
        if call.result >= 0:
            disk.replay(call)
    for change in _survivors(disk.changes, rng, ordered=ordered):
        _apply(change, durable)
    _write_out(disk.root, target, durable, rng)


class _Disk:
    """The files as the running system sees them, and the changes that led there."""

    def __init__(self, start: Path, data: bytes) -> None:
        self.root = _load(start)
        self.changes: list[_Change] = []
        self._data = data

    def replay(self, call: Call) -> None:
        if call.path.endswith(" (deleted)"):
            return  # a file without a name: nothing of it can survive
        _REPLAYS.get(call.name, _unknown)(self, call)

    def node(self, path: str) -> _Node:
        node = self.root
        for part in PurePosixPath(path).parts:
            assert node.entries is not None
            node = node.entries[part]
        return node

    def place(self, path: str) -> tuple[_Node, str]:
        if path == "." or path.startswith("/"):
            raise NotImplementedError(f"expected a path below the root, got {path!r}")
        pure = PurePosixPath(path)
        return self.node(str(pure.parent)), pure.name

    def change(
        self, entries: list[tuple[_Node, str, _Node | None]], *, moves: bool = False
    ) -> None:
        whole = [(folder, name, _in(folder).get(name), new) for folder, name, new in entries]
        change = _Change(whole, moves)
        self.changes.append(change)
        for folder, name, _, new in whole:
            if new is None:
                del _in(folder)[name]
            else:
                _in(folder)[name] = new
                new.parent = folder
                new.created = new.created or change

    def written(self, call: Call) -> bytes:
        return self._data[call.data : call.data + call.result]

    # ---- one method a kind of call ----

    def open(self, call: Call) -> None:
        if call.flags & os.O_TMPFILE == os.O_TMPFILE:
            _unknown(self, call)
        folder, name = self.place(call.path)
        if name not in _in(folder):
            self.change([(folder, name, _Node())])
        elif call.flags & os.O_TRUNC:
            self.node(call.path).truncate(0)

    def write(self, call: Call) -> None:
        if call.result:
            self.node(call.path).write(call.offset, self.written(call))

    def truncate(self, call: Call) -> None:
        self.node(call.path).truncate(call.size)

    def allocate(self, call: Call) -> None:
        if call.flags & ~KEEP_SIZE:
            _unknown(self, call)
        node = self.node(call.path)
        if not call.flags:
            node.truncate(max(len(node.data), call.offset + call.size))

    def mkdir(self, call: Call) -> None:
        self.change([(*self.place(call.path), _Node(entries={}))])

    def remove(self, call: Call) -> None:
        self.change([(*self.place(call.path), None)])

    def link(self, call: Call) -> None:
        self.change([(*self.place(call.path2), self.node(call.path))])

    def rename(self, call: Call) -> None:
        source, target = self.place(call.path), self.place(call.path2)
        moved = self.node(call.path)
        if call.flags & RENAME_EXCHANGE:
            self.change([(*source, self.node(call.path2)), (*target, moved)], moves=True)
        elif source != target:
            self.change([(*source, None), (*target, moved)], moves=True)

    def sync(self, call: Call) -> None:
        node = self.node(call.path)
        if node.entries is None:
            node.sync()
        else:
            for change in self.changes:
                change.durable |= any(folder is node for folder, *_ in change.entries)
        while node.parent is not None:  # a file is of no use without the folders it was made in
            if node.created is not None:
                node.created.durable = True
            node = node.parent

    def ignore(self, call: Call) -> None:
        """Permissions, and a sync_file_range that promises nothing."""


def _unknown(disk: _Disk, call: Call) -> None:
    raise NotImplementedError(f"the power cut does not know how to replay: {call}")


def _in(folder: _Node) -> dict[str, _Node]:
    assert folder.entries is not None
    return folder.entries


_REPLAYS: dict[str, Callable[[_Disk, Call], None]] = {
    **dict.fromkeys(("open", "openat", "openat2", "creat"), _Disk.open),
    **dict.fromkeys(("write", "pwrite64", "writev", "pwritev", "pwritev2"), _Disk.write),
    **dict.fromkeys(("copy_file_range", "sendfile"), _Disk.write),
    **dict.fromkeys(("truncate", "ftruncate"), _Disk.truncate),
    **dict.fromkeys(("rename", "renameat", "renameat2"), _Disk.rename),
    **dict.fromkeys(("unlink", "unlinkat", "rmdir"), _Disk.remove),
    **dict.fromkeys(("mkdir", "mkdirat"), _Disk.mkdir),
    **dict.fromkeys(("link", "linkat"), _Disk.link),
    **dict.fromkeys(("fsync", "fdatasync"), _Disk.sync),
    **dict.fromkeys(("chmod", "fchmod", "fchmodat", "sync_file_range"), _Disk.ignore),
    "fallocate": _Disk.allocate,
}


def _load(path: Path, parent: _Node | None = None) -> _Node:
    if path.is_symlink():
        raise NotImplementedError(f"the power cut does not know symlinks: {path}")
    if not path.is_dir():
        data = path.read_bytes()
        return _Node(data=bytearray(data), synced=data, parent=parent)
    node = _Node(entries={}, parent=parent)
    _in(node).update({child.name: _load(child, node) for child in path.iterdir()})
    return node


def _entries_of(node: _Node) -> dict[_Node, dict[str, _Node]]:
    """Return a copy of the entries of every folder below `node`: what is durable at the start."""
    found = {node: dict(_in(node))}
    for child in _in(node).values():
        if child.entries is not None:
            found.update(_entries_of(child))
    return found


def _survivors(changes: list[_Change], rng: random.Random, *, ordered: bool) -> list[_Change]:
    if not ordered:
        return [change for change in changes if change.durable or rng.random() < 0.5]
    kept = max((i + 1 for i, change in enumerate(changes) if change.durable), default=0)
    return changes[: rng.randint(kept, len(changes))]


def _apply(change: _Change, durable: dict[_Node, dict[str, _Node]]) -> None:
    """Make a change on the disk, unless it builds on one that was lost."""

    folder, name, old, new = change.entries[0]
    builds_on_old = new is None or change.moves
    if builds_on_old and durable.get(folder, {}).get(name) is not old and not change.durable:
        return
    for folder, name, old, new in change.entries:
        entries = durable.setdefault(folder, {})
        if new is not None:
            entries[name] = new
        elif entries.get(name) is old:
            del entries[name]


def _write_out(
    node: _Node, target: Path, durable: dict[_Node, dict[str, _Node]], rng: random.Random
) -> None:
    if node.entries is None:
        target.write_bytes(_surviving_data(node, rng))
        return
    target.mkdir()
    for name, child in durable.get(node, {}).items():
        _write_out(child, target / name, durable, rng)


def _surviving_data(node: _Node, rng: random.Random) -> bytes:
    """Draw what is left of a file: all after an fsync, anything in between before one."""
    if not node.pending:
        return node.synced
    draw = rng.choice((_lost, _torn, _patchy, _kept))
    return draw(node, rng)


def _lost(node: _Node, rng: random.Random) -> bytes:
    return node.synced


def _kept(node: _Node, rng: random.Random) -> bytes:
    return bytes(node.data)


def _torn(node: _Node, rng: random.Random) -> bytes:
    """Return the content after some of the writes, the last of them cut off."""
    content = bytearray(node.synced)
    *whole, last = node.pending[: rng.randint(1, len(node.pending))]
    for position, data in whole:
        _truncate(content, position) if data is None else _write(content, position, data)
    position, data = last
    if data is not None:
        _write(content, position, data[: rng.randint(0, len(data))])
    return bytes(content)


def _patchy(node: _Node, rng: random.Random) -> bytes:
    """Return the full length, each page new or as it was (zero where there was none)."""
    content = bytearray(node.synced)
    _truncate(content, len(node.data))
    for start in range(0, len(content), PAGE):
        if rng.random() < 0.5:
            content[start : start + PAGE] = node.data[start : start + PAGE]
    return bytes(content)
