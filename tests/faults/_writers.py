"""Small programs for the tests of this layer: each prints what it has finished."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LETTERS = bytes(range(65, 91))


def acknowledge(*words: object) -> None:
    print(*words, flush=True)


def write_bytes(path: Path, *parts: bytes, sync: bool = False) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        for part in parts:
            os.write(fd, part)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(root: Path, *, sync: bool = False) -> None:
    """Write aside, then rename: the file is old or new, never a mixture."""
    write_bytes(root / "file.tmp", LETTERS, LETTERS.lower(), sync=sync)
    os.rename(root / "file.tmp", root / "file")
    if sync:
        sync_folder(root)
    acknowledge("replaced")


def rename_each(root: Path, count: int) -> None:
    """Rename files one after the other; nothing is synced but their data."""
    for i in range(count):
        write_bytes(root / f"{i}.tmp", LETTERS, sync=True)
    for i in range(count):
        os.rename(root / f"{i}.tmp", root / str(i))


def sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def append_lines(root: Path, lines: int, *, sync: bool = False) -> None:
    """A log: a line is acknowledged when it is written, or synced."""
    fd = os.open(root / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for i in range(lines):
        os.write(fd, b"line %04d\n" % i)
        if sync:
            os.fsync(fd)
        acknowledge(i)
    os.close(fd)


def every_call(root: Path) -> None:
    """One of each kind of call, some through C's stdio and a thread, some outside the root."""
    import ctypes
    import shutil

    write_bytes(root / "a", b"12345678")
    fd = os.open(root / "a", os.O_RDWR)
    os.pwrite(fd, b"ab", 1)
    os.writev(fd, [b"cd", b"efg"])
    os.pwritev(fd, [b"hi", b"j"], 5)
    os.ftruncate(fd, 9)
    os.posix_fallocate(fd, 0, 10)
    os.fdatasync(fd)
    os.fchmod(fd, 0o600)
    os.close(fd)
    os.truncate(root / "a", 9)
    os.mkdir(root / "folder")
    os.rename(root / "a", root / "folder" / "b")
    os.link(root / "folder" / "b", root / "c")
    shutil.copyfile(root / "c", root / "d")
    os.unlink(root / "c")
    os.symlink("nowhere", root / "link")
    os.chmod(root / "d", 0o600)
    os.mkdir(root / "gone")
    os.rmdir(root / "gone")
    thread = threading.Thread(target=write_bytes, args=(root / "thread", b"t"))
    thread.start()
    thread.join()
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.fopen(bytes(root / "stdio"), b"w"))
    libc.fputs(b"through stdio", stream)
    libc.fclose(stream)
    acknowledge("outside")


def persist(root: Path, attempts: int) -> None:
    """Try again and again, telling what came of it."""
    for i in range(attempts):
        try:
            write_bytes(root / f"file-{i}", LETTERS)
            acknowledge("ok")
        except OSError as error:
            acknowledge(error.errno)


def start_child(root: Path) -> None:
    """A child's calls do not count, whether it is forked or started."""
    import subprocess

    pid = os.fork()
    if pid == 0:
        write_bytes(root / "forked", LETTERS)
        os._exit(0)
    os.waitpid(pid, 0)
    code = f"open({str(root / 'started')!r}, 'w').write('x')"
    subprocess.run([sys.executable, "-c", code], check=True)
    write_bytes(root / "own", b"1")


def leave_orphan(root: Path) -> None:
    """Die with a child alive."""
    pid = os.fork()
    if pid == 0:
        threading.Event().wait()
    acknowledge(pid)
    write_bytes(root / "a", LETTERS)


def hang(root: Path) -> None:
    threading.Event().wait()


def write_hdf5(root: Path, rows: int) -> None:
    import h5py
    import numpy as np

    try:
        with h5py.File(root / "x.h5", "w") as file:
            file.create_dataset("x", data=np.arange(rows * 1000.0).reshape(rows, 1000))
    except OSError as error:
        acknowledge(error.errno or str(error))
        raise
    acknowledge("written")


def write_zarr(root: Path, rows: int) -> None:
    import numpy as np
    import zarr

    with zarr.config.set({"async.concurrency": 1}):  # one call after the other
        array = zarr.create_array(root / "x.zarr", shape=(rows, 4), chunks=(2, 4), dtype="f8")
        array[:] = np.arange(rows * 4.0).reshape(rows, 4) + 1
    acknowledge("written")
