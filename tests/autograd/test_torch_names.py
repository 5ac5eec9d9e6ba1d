"""`import lora_np as torch`: what is found there, and that it is torch's."""

import inspect

import numpy as np
import pytest
from helpers import assert_close

import lora_np
from lora_np.autograd import Tensor
from lora_np.autograd.torch_names import NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_is_found_and_explained(name):
    found = getattr(lora_np, name)
    assert found is NAMES[name]
    assert name in dir(lora_np)
    assert name not in lora_np.__all__
    if inspect.isfunction(found) and found.__module__.startswith("lora_np"):
        assert found.__doc__


@pytest.mark.parity
@pytest.mark.parametrize("name", NAMES)
def test_each_is_in_torch(name):
    import torch

    assert hasattr(torch, name)


def test_gradients_may_be_asked_as_arrays():
    w = Tensor([3.0, 4.0], requires_grad=True)
    (w * w).sum().backward()
    assert lora_np.norm(w.grad) == 10
    assert lora_np.abs(w.grad).max() == 8


def test_functions_pass_gradients():
    w = Tensor(np.array([[1.0, 2.0]]), requires_grad=True)
    lora_np.log_softmax(lora_np.cat([w, w], dim=1), dim=-1)[0, 0].backward()
    p = np.exp([1, 2]) / np.exp([1, 2]).sum()
    assert_close(w.grad, np.array([[1 - p[0], -p[1]]]))


@pytest.mark.parametrize("name", ["save", "load"])
def test_pickles_are_refused(name, tmp_path):
    with pytest.raises(NotImplementedError, match=r"pickles, .*save_pretrained\(directory\).*write_safetensors"):
        getattr(lora_np, name)({}, tmp_path / "a.pt")


def test_blocks_without_gradients():
    w = Tensor([1.0], requires_grad=True)
    with lora_np.inference_mode():
        assert not (w * 2).requires_grad
        with lora_np.enable_grad():
            assert (w * 2).requires_grad
        with lora_np.set_grad_enabled(False):
            assert not lora_np.is_grad_enabled()

    @lora_np.no_grad()
    def called(x):
        return x * 2

    @lora_np.no_grad
    def bare(x):
        return x * 2

    assert not called(w).requires_grad
    assert not bare(w).requires_grad
    assert (w * 2).requires_grad


def test_devices():
    cpu = lora_np.device("cpu")
    assert (cpu, cpu.type, cpu.index, str(cpu)) == ("cpu", "cpu", None, "cpu")
    gpu = lora_np.device("cuda", 1)
    assert (gpu, gpu.type, gpu.index) == ("cuda:1", "cuda", 1)
    assert Tensor([1.0]).device.type == "cpu"
    with pytest.raises(ValueError, match="unknown device 'mps': expected 'cpu', 'cuda' or 'cuda:N'"):
        lora_np.device("mps")


@pytest.mark.parity
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_what_a_type_of_floats_can_hold(name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("ml_dtypes")
    expected, x = torch.finfo(getattr(torch, name)), lora_np.ones(2).to(name)
    for dtype in (getattr(lora_np, name), x.dtype):
        found = lora_np.finfo(dtype)
        for field in ("min", "max", "eps", "tiny", "bits"):
            assert float(getattr(found, field)) == getattr(expected, field), field
    filled = x.masked_fill(x > 0, lora_np.finfo(x.dtype).min)
    assert filled.dtype == x.dtype
    assert filled[0].item() == expected.min
