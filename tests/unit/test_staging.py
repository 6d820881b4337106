"""What is staged is ours: right, contiguous, and not changed by what the caller does next."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from savers._values._staging import stage
from savers.errors import ClosedError, InvalidInputError, InvalidTypeError

DTYPES = ["?", "i1", "u2", "i8", "f2", "f4", "f8", "c8", "c16", "M8[s]", "m8[h]", "S3", "U2", ">f4"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", [np.s_[:], np.s_[::2], np.s_[:, ::-1], np.s_[0], np.s_[:0]])
def test_values_are_those_of_the_moment_of_the_call(dtype, view):
    x = (np.arange(24).reshape(4, 6) % 2).astype(dtype)
    wanted = np.array(x[view])
    staged = stage(x[view])
    x[...] = np.zeros(1, dtype)
    x[::2] = np.ones(1, dtype)
    assert staged.values.dtype == staged.dtype == np.dtype(dtype)
    assert staged.shape == wanted.shape
    assert staged.nbytes == wanted.nbytes
    assert staged.values.flags.c_contiguous
    np.testing.assert_array_equal(staged.values, wanted)
    staged.release()


def test_memory_is_used_again_after_the_release_and_not_before():
    one = stage(np.zeros(1 << 20))
    two = stage(np.ones(1 << 20))
    assert not np.shares_memory(one.values, two.values)
    memory = one.values
    one.release()
    three = stage(np.full(1 << 20, 3.0))
    assert np.shares_memory(memory, three.values)
    assert (two.values == 1).all()
    two.release()
    three.release()


def test_released_values_are_gone_and_a_second_release_is_harmless():
    staged = stage(np.ones(3))
    staged.wait()
    staged.release()
    staged.release()
    with pytest.raises(ClosedError, match="released"):
        staged.values  # noqa: B018


def test_without_a_copy_the_callers_memory_is_taken_as_it_is():
    x = np.arange(6.0).reshape(2, 3)
    assert stage(x, copy=False).values is x
    turned = stage(x.T, copy=False)
    assert not np.shares_memory(turned.values, x)
    assert turned.values.flags.c_contiguous
    turned.release()


@pytest.mark.parametrize(
    ("x", "wanted"),
    [
        (3, np.array(3)),
        ([1, 2], np.array([1, 2])),
        ([np.ones(2), np.zeros(2)], np.array([[1.0, 1], [0, 0]])),
        (["a", "bc"], np.array(["a", "bc"])),
        (np.float32(2.5), np.array(2.5, "f4")),
    ],
    ids=str,
)
def test_lists_and_scalars(x, wanted):
    staged = stage(x)
    assert staged.dtype == wanted.dtype
    np.testing.assert_array_equal(staged.values, wanted)


@pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 2")
def test_text_of_varying_length():
    x = np.array(["a", "a text that is far longer than others"], np.dtypes.StringDType())
    staged = stage(x)
    x[:] = "changed"
    assert staged.values.tolist() == ["a", "a text that is far longer than others"]


@pytest.mark.parametrize("x", [{"a": 1}, None, [object()], np.ma.array([1], mask=[True])], ids=str)
def test_what_is_no_array_is_refused_by_name(x):
    with pytest.raises(InvalidTypeError):
        stage(x, name="t2m")


def test_ragged_input_is_refused():
    with pytest.raises(InvalidInputError, match="'t2m'"):
        stage([[1, 2], [3]], name="t2m")


def test_many_threads_stage_at_once():
    wrong = []

    def work(mark):
        for _ in range(20):
            staged = stage(np.full(50_000, mark))
            if not (staged.values == mark).all():
                wrong.append(mark)
            staged.release()

    threads = [threading.Thread(target=work, args=(mark,)) for mark in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_torch_is_not_imported_for_arrays():
    program = """
import sys, numpy
from savers._values._staging import stage
stage(numpy.ones(3)).release()
stage([1, 2]).release()
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=100)


# -- dtypes that NumPy has not ---------------------------------------------------------------------

#: Upper halves of float32: zeros, ones, subnormals, the largest, infinities, NaNs with payload.
BITS = np.arange(1 << 16, dtype=np.uint16)


def test_bfloat16_keeps_every_bit(torch):
    tensor = torch.from_numpy(BITS.copy()).view(torch.bfloat16)
    staged = stage(tensor.reshape(256, 256).T)
    assert staged.dtype == np.dtype("f4")
    assert staged.attributes == {"original_dtype": "bfloat16"}
    bits = staged.values.view(np.uint32)
    np.testing.assert_array_equal(bits, BITS.reshape(256, 256).T.astype(np.uint32) << 16)
    staged.release()


def test_bfloat16_of_jax_is_that_of_torch():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    staged = stage(BITS.view(ml_dtypes.bfloat16))
    assert staged.attributes == {"original_dtype": "bfloat16"}
    np.testing.assert_array_equal(staged.values.view(np.uint32), BITS.astype(np.uint32) << 16)
    eighth = stage(np.array([0.5, -4]).astype(ml_dtypes.float8_e5m2))
    assert eighth.attributes == {"original_dtype": "float8_e5m2"}
    assert eighth.values.tolist() == [0.5, -4]
    with pytest.raises(InvalidTypeError, match="'t2m': int4 has no portable form; convert it"):
        stage(np.zeros(2, ml_dtypes.int4), name="t2m")


@pytest.mark.parametrize("dtype", ["int4", "uint4", "int2", "bits8", "float4_e2m1fn_x2"])
def test_a_torch_dtype_without_a_portable_form_is_refused(torch, dtype):
    tensor = torch.zeros(2, dtype=torch.uint8).view(getattr(torch, dtype))
    with pytest.raises(InvalidTypeError, match=f"'t2m': {dtype} has no portable form; convert it"):
        stage(tensor, name="t2m")


# -- tensors ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", ["float32", "bool", "uint16", "float16", "complex64", "bfloat16"])
def test_a_tensor_may_be_overwritten_at_once(torch, dtype):
    tensor = torch.tensor([[0, 1, 1], [1, 0, 0]]).to(getattr(torch, dtype)).T
    staged = stage(tensor)
    tensor.zero_()
    assert staged.values.tolist() == [[0, 1], [1, 0], [1, 0]]
    assert staged.attributes == ({"original_dtype": dtype} if dtype == "bfloat16" else {})
    staged.release()


def test_a_subclass_of_tensor_with_gradient(torch):
    parameter = torch.nn.Parameter(torch.arange(3.0))
    staged = stage(parameter * 2)
    assert staged.values.tolist() == [0, 2, 4]
    assert stage(parameter).values.tolist() == [0, 1, 2]


def test_a_tensor_is_taken_without_a_copy_where_that_was_asked_for(torch):
    tensor = torch.arange(4.0)
    assert stage(tensor, copy=False).values.ctypes.data == tensor.data_ptr()


# -- producers on other devices --------------------------------------------------------------------


class OnDevice:
    """An array of a library of its own on a CUDA device: the host may not look at its memory."""

    def __init__(self, array, *, copies):
        self.array = array
        self.copies = copies

    def __dlpack_device__(self):
        return 2, 0

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if self.copies != "dlpack" or dl_device != (1, 0):
            raise BufferError("lies on the device")
        return self.array.copy().__dlpack__(max_version=max_version)

    def __array__(self, dtype=None, copy=None):
        if self.copies != "array":
            raise TypeError("implicit conversion is not allowed")
        return self.array.copy()

    def __getattr__(self, name):
        if name == "get" and self.copies == "get":
            return self.array.copy
        raise AttributeError(name)


@pytest.mark.parametrize("copies", ["dlpack", "get", "array"])
def test_a_producer_on_a_device_copies_itself_to_the_host(copies):
    staged = stage(OnDevice(np.arange(6.0).reshape(2, 3), copies=copies))
    assert staged.values.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_producer_that_does_not_copy_itself_is_refused_with_a_way_out():
    with pytest.raises(InvalidTypeError, match="'t2m': OnDevice lies on DLPack device 2 and does"):
        stage(OnDevice(np.zeros(2), copies="no"), name="t2m")


class OnHost:
    def __init__(self, array):
        self.array = array

    def __dlpack_device__(self):
        return 1, 0

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)


def test_a_producer_in_host_memory_is_copied_once():
    array = np.arange(4.0)
    staged = stage(OnHost(array))
    array[:] = 9
    assert staged.values.tolist() == [0, 1, 2, 3]


# -- CUDA ------------------------------------------------------------------------------------------


@pytest.fixture
def cuda(torch):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device("cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "bool", "uint16", "float16", "complex64", "bfloat16"])
def test_a_cuda_tensor_of_any_dtype(torch, cuda, dtype):
    tensor = torch.tensor([[0, 1, 1], [1, 0, 0]], device=cuda).to(getattr(torch, dtype)).T
    staged = stage(tensor)
    tensor.zero_()
    assert staged.shape == (3, 2)
    assert staged.values.tolist() == [[0, 1], [1, 0], [1, 0]]
    assert staged.attributes == ({"original_dtype": dtype} if dtype == "bfloat16" else {})
    staged.release()


@pytest.mark.gpu
def test_the_copy_waits_for_the_kernel_that_produces_the_values(torch, cuda):
    stream = torch.cuda.Stream()
    x = torch.zeros(1 << 22, device=cuda)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # about 0.1 s on the device
        x.fill_(7)
        staged = stage(x)
        still_running = not stream.query()
    assert still_running, "the copy was waited for by the caller"
    assert (staged.values == 7).all()
    staged.release()


@pytest.mark.gpu
def test_a_cuda_tensor_may_be_overwritten_at_once(torch, cuda):
    x = torch.zeros(1 << 24, device=cuda)
    kept = []
    for step in range(8):
        x.fill_(step)
        kept.append(stage(x))
    x.fill_(-1)
    for step, staged in enumerate(kept):
        assert (staged.values == step).all()
        staged.release()


@pytest.mark.gpu
def test_without_device_memory_to_spare_later_work_waits_for_the_copy(torch, cuda, monkeypatch):
    def full(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError

    x = torch.full((1 << 24,), 3.0, device=cuda)
    monkeypatch.setattr(torch.Tensor, "clone", full)
    staged = stage(x)
    x.fill_(-1)
    assert (staged.values == 3).all()
    staged.release()


@pytest.mark.gpu
def test_pinned_memory_is_used_again(torch, cuda):
    x = torch.ones(1 << 20, device=cuda)
    staged = stage(x)
    memory = staged.values
    assert torch.from_numpy(memory).is_pinned()
    staged.release()
    again = stage(x + 1)
    assert np.shares_memory(memory, again.values)
    assert (again.values == 2).all()
    again.release()
