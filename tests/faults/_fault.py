"""The words of this layer: a fault, a call that was counted, and what became of a run."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import unquote

if TYPE_CHECKING:
    from pathlib import Path

When = Literal["before", "half", "after"]
ACTIONS = ("record", "kill", "fail")  # in the order of faults.c
MODES: tuple[When, ...] = ("before", "half", "after")
SPACE_ERRORS = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at call `n`, counted from 1. Made by `kill` and `fail`."""

    n: int
    action: Literal["record", "kill", "fail"]
    when: When = "before"
    error: int = 0
    lasting: bool = False
    until: Path | None = None

    def __str__(self) -> str:
        if self.action == "kill":
            return f"kill {self.when} call {self.n}"
        if self.action == "record":
            return "no fault"
        short = "short write, then " if self.when == "half" else ""
        span = f"from call {self.n} on" if self.lasting else f"at call {self.n}"
        return f"{short}{errno.errorcode[self.error]} {span}"


def kill(n: int, when: When = "before") -> Fault:
    """SIGKILL before call `n`, after it, or when half of its bytes are written."""
    return Fault(n, "kill", when)


def fail(
    n: int, error: int, *, lasting: bool = False, short: bool = False, until: Path | None = None
) -> Fault:
    """Let call `n` fail with `error`; the next one that can, if `n` can't (unlink and ENOSPC).

    Parameters
    ----------
    lasting : bool
        All later calls fail too, until the file `until` exists if one is given.
    short : bool
        Call `n`, a write, writes half of its bytes, and the error comes with the next call.
    """
    return Fault(n, "fail", "half" if short else "before", error, lasting, until)


@dataclass(frozen=True, slots=True)
class Call:
    """One counted call: a line of the log.

    Attributes
    ----------
    n : int
        Its number, from 1.
    name : str
        Name of the system call.
    result : int
        What it returned; minus errno where it failed.
    offset, size : int
        Where it wrote or cut, and how much it was asked to.
    flags : int
        Flags of open, rename or unlink.
    space : bool
        It may fail for want of space.
    data : int
        Where its bytes stand in the recorded data, -1 without any.
    mark : str
        ``kill-before`` and the like, ``fail``, ``short``; empty for an undisturbed call.
    path, path2 : str
        Paths below the root ('.' is the root).
    """

    n: int
    name: str
    result: int
    offset: int
    size: int
    flags: int
    space: bool
    data: int
    mark: str
    path: str
    path2: str

    def __str__(self) -> str:
        target = f" -> {self.path2}" if self.path2 else ""
        size = f" {self.size} B at {self.offset}" if self.divisible else ""
        mark = f" [{self.mark}]" if self.mark else ""
        return f"{self.n} {self.name} {self.path}{target}{size} = {self.result}{mark}"

    @property
    def divisible(self) -> bool:
        """Whether the call can end half way: it wrote more than one byte."""
        return self.result > 1 and ("write" in self.name or self.name in _COPIES)


_COPIES = ("copy_file_range", "sendfile")


def parse_log(text: str) -> tuple[Call, ...]:
    """Return the calls of a log, oldest first."""
    return tuple(_parse(line) for line in text.splitlines())


def _parse(line: str) -> Call:
    n, name, result, offset, size, flags, space, data, mark, path, path2 = line.split("\t")
    return Call(
        n=int(n),
        name=name,
        result=int(result),
        offset=int(offset),
        size=int(size),
        flags=int(flags),
        space=space == "1",
        data=int(data),
        mark=mark,
        path=unquote(path),
        path2=unquote(path2),
    )


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one run.

    Attributes
    ----------
    returncode : int
        As in `subprocess`: -9 after SIGKILL.
    stdout, stderr : str
        What it wrote there before it ended: the place for acknowledgements.
    calls : tuple of Call
        Every file-changing call below the root.
    data : bytes
        The bytes that they wrote, where this was recorded.
    """

    returncode: int
    stdout: str
    stderr: str
    calls: tuple[Call, ...]
    data: bytes = b""

    @property
    def struck(self) -> bool:
        """Whether the fault came to pass."""
        return any(call.mark for call in self.calls)
