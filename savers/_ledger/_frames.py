r"""The bytes of a ledger: records framed by lengths and checksums. Pure functions.

A frame is a header line, a JSON object, raw bytes and a newline::

    R <json length> <raw length> <crc> <header crc>\n{...}<raw bytes>\n

with the four numbers as 8 hexadecimal digits. ``crc`` is the CRC-32C (RFC 3720, appendix B.4) of
JSON and raw bytes, ``header crc`` that of the header before it. A frame that ends beyond the end
of its stream is a torn append and counts as never written; any other damage is reported.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crc32c import crc32c

from savers.errors import LedgerCorruptedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Frame", "encode_frame", "read_frames"]

HEADER = 38  # "R " + 4 * 8 digits + 3 spaces + newline
LONGEST = 0xFFFFFFFF
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True)
class Frame:
    """A record of a stream.

    Attributes
    ----------
    record : dict
        Its JSON object.
    raw : memoryview
        Its raw bytes; valid while the stream's buffer is.
    raw_at : int
        Where the raw bytes begin in the stream.
    end : int
        Where the next frame begins.
    """

    record: dict[str, Any]
    raw: memoryview
    raw_at: int
    end: int


def encode_frame(record: dict[str, Any], raw: Sequence[bytes | memoryview] = ()) -> bytes:
    """Return the frame of a record."""
    text = _JSON.encode(record).encode()
    size, checksum = 0, crc32c(text)
    for part in raw:
        size, checksum = size + len(part), crc32c(part, checksum)
    if len(text) + size > LONGEST:
        message = (
            f"a ledger record of {len(text) + size} bytes is too long; save fewer results at once"
        )
        raise LedgerCorruptedError(message)
    return b"".join((_encode_header(len(text), size, checksum), text, *raw, b"\n"))


def _encode_header(text: int, raw: int, checksum: int) -> bytes:
    prefix = b"R %08x %08x %08x " % (text, raw, checksum)
    return b"%s%08x\n" % (prefix, crc32c(prefix))


def raw_offset(frame: bytes) -> int:
    """Return where the raw bytes begin in an encoded frame."""
    return HEADER + int(frame[2:10], 16)


def read_frames(stream: memoryview, name: str) -> Iterator[Frame]:
    """Yield the frames of a stream; ends before a torn last one.

    Raises
    ------
    LedgerCorruptedError
        A frame is damaged; the text names the stream and the position.
    """
    at = 0
    while len(stream) - at >= HEADER:
        sizes = _header(stream, at, name)
        if sizes is None:
            return
        text, body, end = at + HEADER, at + HEADER + sizes[0], at + HEADER + sum(sizes[:2]) + 1
        if end > len(stream):
            return
        if crc32c(stream[text : end - 1]) != sizes[2] or stream[end - 1] != ord("\n"):
            if end == len(stream) and _blank_tail(stream[text:end]):
                return
            raise _damaged(name, at)
        yield Frame(json.loads(bytes(stream[text:body])), stream[body : end - 1], body, end)
        at = end
    if len(stream) > at and not _begins_frame(bytes(stream[at:])):
        raise _damaged(name, at)


def _header(stream: memoryview, at: int, name: str) -> tuple[int, int, int] | None:
    """JSON length, raw length and checksum; None for blank space after a power cut."""
    header = bytes(stream[at : at + HEADER])
    try:
        sizes = int(header[2:10], 16), int(header[11:19], 16), int(header[20:28], 16)
        valid = header == _encode_header(*sizes)
    except ValueError:
        valid = False
    if valid:
        return sizes
    if not any(stream[at + HEADER - 1 :]):  # blocks that a power cut left unwritten
        return None
    raise _damaged(name, at)


def _blank_tail(frame: memoryview) -> bool:
    """A power cut can leave a file at its full length with blocks that were never written."""
    return frame[-1] == 0


def _begins_frame(rest: bytes) -> bool:
    return rest.startswith(b"R ") or b"R ".startswith(rest) or not any(rest)


def _damaged(name: str, at: int) -> LedgerCorruptedError:
    message = (
        f"ledger {name} is damaged at byte {at}; nothing was changed. Restore it from a copy, or "
        "move the ledger folder away to start a new one"
    )
    return LedgerCorruptedError(message)
