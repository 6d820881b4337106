"""What goes over the pipe between the driver and a worker process, and in which form."""

from __future__ import annotations

import copyreg
import io
import pickle
import struct
import sys
from collections import ChainMap
from importlib import import_module
from socket import MSG_DONTWAIT
from typing import TYPE_CHECKING, Any

import numpy as np

from taskmanager._arena import Region
from taskmanager._pickling import dump_by_value

if TYPE_CHECKING:
    from socket import socket

    from taskmanager._arena import Lender, Reader

__all__ = ["Inbox", "Packed", "pack", "send", "unpack"]

#: Buffers of at least this many bytes go through shared memory.
LARGE_BYTES = 64 << 10

_HEADER = struct.Struct("<Q")

#: A pickled value and, where it has large buffers, the region that holds them.
Packed = tuple[bytes, Region | None]


def send(sock: socket, message: bytes) -> None:
    """Send one message; blocks while the pipe is full."""
    header = _HEADER.pack(len(message))
    if len(message) < LARGE_BYTES:
        sock.sendall(header + message)
    else:
        sock.sendall(header)
        sock.sendall(message)


class Inbox:
    """Messages that arrive piece by piece, read without ever blocking (or always, in workers)."""

    def __init__(self, sock: socket, *, blocking: bool = False) -> None:
        self._sock = sock
        self._flags = 0 if blocking else MSG_DONTWAIT
        self._start(_HEADER.size, header=True)

    def _start(self, size: int, *, header: bool) -> None:
        self._buffer = bytearray(size)
        self._filled = 0
        self._is_header = header

    def receive(self) -> bytearray | None:
        """Return the next message, None when it is not complete yet.

        Raises
        ------
        EOFError
            The other side is gone, or has closed its end.
        """
        while True:
            if not self._fill():
                return None
            whole = self._buffer
            self._start(
                _HEADER.unpack(whole)[0] if self._is_header else _HEADER.size,
                header=not self._is_header,
            )
            if self._is_header:
                return whole

    def _fill(self) -> bool:
        view = memoryview(self._buffer)
        while self._filled < len(view):
            try:
                count = self._sock.recv_into(view[self._filled :], 0, self._flags)
            except BlockingIOError:
                return False
            except ConnectionError as error:
                raise EOFError from error
            if count == 0:
                raise EOFError
            self._filled += count
        return True


def pack(value: object, lender: Lender) -> Packed:
    """Pickle a result, its large buffers into shared memory where there is room for them."""
    large: list[memoryview] = []

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < LARGE_BYTES:
            return True
        large.append(raw)
        return False

    try:
        payload = _dump_buffers(value, in_band)
    except Exception as error:
        return dump_by_value(value, error), None
    if not large:
        return payload, None
    region = lender.place(large)
    return (payload, region) if region is not None else (pickle.dumps(value, 5), None)


def _dump_buffers(value: object, in_band: Any) -> bytes:
    file = io.BytesIO()
    pickler = pickle.Pickler(file, 5, buffer_callback=in_band)
    pickler.dispatch_table = _reducers()
    pickler.dump(value)
    return file.getvalue()


def _reduce_array(array: np.ndarray[Any, Any]) -> Any:
    """Give strided views a buffer of their own: NumPy would pickle them in band."""
    return (array if array.flags.forc else array.copy()).__reduce_ex__(5)


def _reduce_tensor(tensor: Any) -> Any:
    """Give a large tensor in host memory a buffer: torch would pickle it in band."""
    torch = sys.modules["torch"]
    plain = tensor.device.type == "cpu" and tensor.layout == torch.strided
    if not plain or tensor.requires_grad or tensor.nbytes < LARGE_BYTES:
        return tensor.__reduce_ex__(5)
    bits = tensor.resolve_conj().resolve_neg().contiguous().view(torch.uint8)
    return _tensor, (bits.numpy(), str(tensor.dtype).removeprefix("torch."))


def _tensor(bits: np.ndarray[Any, Any], dtype: str) -> Any:
    torch = import_module("torch")
    return torch.from_numpy(bits).view(getattr(torch, dtype))


_REDUCERS: dict[type, Any] = {np.ndarray: _reduce_array}


def _reducers() -> Any:
    if "torch" in sys.modules and len(_REDUCERS) == 1:
        _REDUCERS[sys.modules["torch"].Tensor] = _reduce_tensor
    return ChainMap(_REDUCERS, copyreg.dispatch_table)


def unpack(packed: Packed, reader: Reader) -> object:
    """Return a result; its large arrays are views of shared memory."""
    payload, region = packed
    if region is None:
        return pickle.loads(payload)
    return pickle.loads(payload, buffers=reader.view(region))
