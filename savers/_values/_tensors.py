"""Whatever holds values, as NumPy sees it: tensors of torch, DLPack producers, odd dtypes.

Nothing is copied here that need not be. Dtypes that NumPy has not are widened to the smallest one
that holds each of their values exactly; ``original_dtype`` in the metadata of the dtype names them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from savers.errors import InvalidTypeError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Values", "array_values", "is_tensor", "lies_on_cuda", "tensor_values", "torch_bits"]

#: DLPack's numbers of the devices whose memory the processor reads: CPU, pinned, managed.
_HOST_DEVICES = frozenset({1, 3, 11, 13})


@dataclass(frozen=True)
class Values:
    """Values in host memory, in the bits of their producer."""

    bits: NDArray[Any]
    #: The dtype that NumPy has not, "" where it has it.
    original: str = ""
    #: True where nobody else holds the memory of `bits`.
    owned: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype that the values have as NumPy numbers."""
        if not self.original:
            return self.bits.dtype
        kept = np.dtype(np.float32) if self.shifted else self.bits.dtype
        return np.dtype(kept, metadata={"original_dtype": self.original})

    @property
    def shifted(self) -> bool:
        """Whether the bits are the upper half of a float32, which is what bfloat16 is."""
        return self.original == "bfloat16" and self.bits.dtype == np.uint16

    def array(self) -> NDArray[Any]:
        """Return the values, without a copy where NumPy has their dtype."""
        if not self.shifted:
            return self.bits.view(self.dtype) if self.original else self.bits
        array = np.empty(self.bits.shape, self.dtype)
        self.copy_to(array)
        return array

    def copy_to(self, out: NDArray[Any]) -> None:
        """Copy the values into an array of their shape and dtype, in one pass."""
        if self.shifted:
            np.left_shift(self.bits, 16, out=out.view(np.uint32), dtype=np.uint32)
        else:
            np.copyto(out, self.bits)


def is_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor; torch is not imported to find out."""
    return isinstance(value, getattr(sys.modules.get("torch"), "Tensor", ()))


def lies_on_cuda(value: Any) -> bool:
    """Whether `value` is a torch tensor, or a producer that torch can take over, on CUDA."""
    if is_tensor(value):
        return bool(value.is_cuda)
    return _device_of(value) == 2 and "torch" in sys.modules and _torch().cuda.is_available()


def tensor_values(value: Any, name: str) -> Values | None:
    """Return the values of a tensor on the host; None if `value` is no tensor.

    Parameters
    ----------
    value : object
        A torch tensor, or anything with ``__dlpack__``; elsewhere than on the host it is copied.
    name : str
        For messages.

    Raises
    ------
    InvalidTypeError
        Sparse, quantized and meta tensors; dtypes under one byte; a device that can't be read.
    """
    if is_tensor(value):
        bits, original = torch_bits(value, name)
        owned = bits.data_ptr() != value.data_ptr() or not value.is_cpu
        return Values(bits.cpu().numpy(), original, owned)
    device = _device_of(value)
    if device is None or (device in _HOST_DEVICES and hasattr(value, "__array__")):
        return None
    if device in _HOST_DEVICES:
        return array_values(np.from_dlpack(value), name)
    return array_values(_fetched(value, device, name), name, owned=True)


def array_values(array: NDArray[Any], name: str, *, owned: bool = False) -> Values:
    """Return the values of an array, whose dtype may come from `ml_dtypes` (as JAX's do)."""
    if array.dtype.isbuiltin != 2:  # not one that a library added to NumPy
        return Values(array, "", owned)
    kind = array.dtype.name
    if kind == "bfloat16":
        return Values(array.view(np.uint16), kind, owned)
    if kind.startswith("float8"):
        return Values(array.astype(np.float32), kind, owned=True)
    raise _no_such_dtype(kind, name)


def torch_bits(tensor: Any, name: str) -> tuple[Any, str]:
    """Return a tensor of the same values whose dtype NumPy has, and the dtype that it has not.

    bfloat16 stays in its bits (as uint16), for `Values` to shift. Nothing leaves the device.
    """
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized or tensor.is_meta:
        kind = f"{tensor.dtype} {tensor.layout} on {tensor.device}"
        message = f"{name!r}: expected a dense tensor with values, got {kind}"
        raise InvalidTypeError(message)
    torch, dtype = _torch(), str(tensor.dtype).removeprefix("torch.")
    tensor = tensor.detach()
    if dtype == "bfloat16":
        return tensor.view(torch.uint16), dtype
    if dtype == "complex32":
        return tensor.cfloat().resolve_conj().resolve_neg(), dtype
    if dtype.startswith("float8"):
        return tensor.float(), dtype
    if not hasattr(np, dtype):
        raise _no_such_dtype(dtype, name)
    return tensor.resolve_conj().resolve_neg(), ""


def _torch() -> Any:
    return sys.modules["torch"]


def _device_of(value: Any) -> int | None:
    """Return DLPack's number of the device that `value` lies on; None if it does not speak it."""
    if isinstance(value, np.ndarray) or not hasattr(value, "__dlpack_device__"):
        return None
    return int(value.__dlpack_device__()[0])


def _fetched(value: Any, device: int, name: str) -> NDArray[Any]:
    """Return a host copy of a producer elsewhere, made by the producer itself."""
    ways = (
        lambda: np.from_dlpack(value, device="cpu"),  # asks it to copy (NumPy >= 2.1)
        lambda: np.asarray(value.get()),  # CuPy
        lambda: np.asarray(value),  # JAX
    )
    for way in ways:
        try:
            return way()
        except (AttributeError, BufferError, RuntimeError, TypeError, ValueError):
            continue
    message = (
        f"{name!r}: {type(value).__name__} lies on DLPack device {device} and does not copy "
        "itself to the host; pass a NumPy array or a torch tensor of it"
    )
    raise InvalidTypeError(message)


def _no_such_dtype(kind: str, name: str) -> InvalidTypeError:
    message = (
        f"{name!r}: {kind} has no portable form; convert it first, to int8 or float32 for example"
    )
    return InvalidTypeError(message)
