"""From whatever a caller hands over to one host array of ours: the copy that a write waits for.

Arrays and tensors in host memory are copied once, into memory that was used before. Tensors on CUDA
are copied within the device first (so that the caller may overwrite its tensor at once, and the
model's next kernels wait for nothing), then by a stream of ours into pinned memory, while the
caller goes on.
"""

from __future__ import annotations

import math
import sys
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from savers._values._blocks import as_values
from savers._values._buffers import BufferPool
from savers._values._tensors import Values, is_tensor, lies_on_cuda, torch_bits
from savers.errors import ClosedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from savers._values._buffers import Lent

__all__ = ["Staged", "stage"]

#: Bytes of host memory, and of pinned host memory, that this process keeps for reuse.
KEPT = 256 << 20


def _pinned(nbytes: int) -> NDArray[np.uint8]:
    torch = sys.modules["torch"]
    memory: NDArray[np.uint8] = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()
    return memory


_HOST = BufferPool(KEPT)
_PINNED = BufferPool(KEPT, _pinned)
_streams: dict[Any, Any] = {}


def stage(x: object, *, copy: bool = True, name: str = "x") -> Staged:
    """Take over the values of an array, tensor, list or scalar; the caller may change it at once.

    Parameters
    ----------
    x : array, tensor, sequence or scalar
        NumPy, torch on any device, anything with ``__dlpack__`` or ``__array__``, lists of such.
    copy : bool
        False: values that lie C-contiguous in host memory are not copied; they belong to the
        caller, who must leave them alone until they are saved.
    name : str
        Name of the array, for messages.

    Returns
    -------
    Staged
        Release it when its values are saved: that is how memory is used again.

    Raises
    ------
    InvalidTypeError
        What can't become an array; dtypes under one byte (int4 and the like).
    InvalidInputError
        Ragged input.

    Notes
    -----
    Safe in threads and after a fork. A tensor on CUDA is copied in the order of the stream that is
    current for the caller; without device memory to spare, that stream's later work waits for the
    copy to the host instead.

    Examples
    --------
    >>> x = np.arange(6.0).reshape(2, 3)
    >>> staged = stage(x.T)
    >>> x[:] = 0
    >>> staged.values.tolist()
    [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    >>> staged.release()
    """
    if lies_on_cuda(x):
        return _from_cuda(x, name)
    values = as_values(x, name)
    mine = values.owned or not copy
    if mine and values.bits.flags.c_contiguous and not values.shifted:
        return Staged(values)
    if values.dtype.hasobject:  # text of varying length lies outside the array
        return Staged(Values(values.array().copy(), values.original))
    return Staged(*_into_host_memory(values))


def _into_host_memory(values: Values) -> tuple[Values, Lent]:
    dtype = values.dtype
    lent = _HOST.take(values.bits.size * dtype.itemsize)
    out = lent.array(values.bits.shape, dtype)
    values.copy_to(out)
    return Values(out, values.original, owned=True), lent


def _from_cuda(x: Any, name: str) -> Staged:
    torch = sys.modules["torch"]
    bits, original = torch_bits(x if is_tensor(x) else torch.from_dlpack(x), name)
    producer = torch.cuda.current_stream(bits.device)
    stream = _stream(torch, bits.device)
    bits, is_ours = _device_copy(torch, bits)
    stream.wait_stream(producer)
    lent = _PINNED.take(bits.numel() * bits.element_size())
    host = lent.array(tuple(bits.shape), np.dtype(str(bits.dtype).removeprefix("torch.")))
    with torch.cuda.stream(stream):
        torch.from_numpy(host).copy_(bits, non_blocking=True)
        arrived = torch.cuda.Event(blocking=True)  # who waits for it sleeps
        arrived.record(stream)
    bits.record_stream(stream)  # its memory is not used again before the copy is done
    if not is_ours:
        producer.wait_event(arrived)
    return Staged(Values(host, original, owned=True), lent, arrived)


def _stream(torch: Any, device: Any) -> Any:
    """Return our own stream of a device."""
    return _streams.get(device) or _streams.setdefault(device, torch.cuda.Stream(device))


def _device_copy(torch: Any, bits: Any) -> tuple[Any, bool]:
    """Return a copy on the device, made in the producer's order, if there is memory for it."""
    try:
        return bits.clone(memory_format=torch.contiguous_format), True
    except torch.cuda.OutOfMemoryError:
        return bits, False


class Staged:
    """Values on the host, or on their way to it.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype
        Both are known while the values are still on their way.
    attributes : dict
        ``original_dtype`` where NumPy has no such dtype (bfloat16 becomes float32), else empty.
    """

    def __init__(self, values: Values, lent: Lent | None = None, arrived: Any = None) -> None:
        self.shape = values.bits.shape
        self.dtype = values.dtype
        self.attributes: dict[str, str] = dict(values.dtype.metadata or {})
        self._source: Values | None = values
        self._lent = lent
        self._arrived = arrived
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def values(self) -> NDArray[Any]:
        """The values, C-contiguous; waits for those that are on their way.

        Raises
        ------
        ClosedError
            They were released.
        """
        self.wait()
        source = self._source
        if source is None:
            raise ClosedError("these values were released; stage them again")
        return source.array()

    @property
    def owned(self) -> bool:
        """True: nobody else holds the values."""
        source = self._source
        return source is not None and (source.owned or self._lent is not None)

    def wait(self) -> None:
        """Return once the values are on the host. At once where they came from there."""
        with self._lock:
            if self._arrived is None or self._source is None:
                return
            self._arrived.synchronize()
            self._arrived = None
            if self._source.shifted and self._lent is not None:
                pinned, (self._source, self._lent) = self._lent, _into_host_memory(self._source)
                pinned.release()

    def release(self) -> None:
        """Let the memory be used again; nobody may look at the values any more. Idempotent."""
        self.wait()  # a copy on its way would write into somebody else's values
        with self._lock:
            lent, self._lent, self._source = self._lent, None, None
        if lent is not None:
            lent.release()
