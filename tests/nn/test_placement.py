"""Where a module's numbers are: the forms of `to`, and its short names."""

import sys

import numpy as np
import pytest

from lora_np import nn
from lora_np.autograd import Tensor
from lora_np.autograd.devices import Device

F16, F32, F64 = np.float16, np.float32, np.float64


def module():
    return nn.ModuleList([nn.Linear(3, 2), nn.LayerNorm(2)])


@pytest.mark.parametrize(
    ("args", "options", "dtype"),
    [
        (("cpu",), {}, F32),
        ((F64,), {}, F64),
        (("float16",), {}, F16),
        (("cpu", F64), {}, F64),
        ((), {"device": Device("cpu"), "dtype": F64, "non_blocking": True}, F64),
        ((Tensor(np.zeros(1)),), {}, F64),
    ],
)
def test_every_form_of_to(args, options, dtype):
    made = module()
    assert made.to(*args, **options) is made
    assert {p.dtype for p in made.parameters()} == {np.dtype(dtype)}
    assert (made.dtype, made.device, made.device.type) == (dtype, "cpu", "cpu")


@pytest.mark.parametrize(("name", "dtype"), [("half", F16), ("float", F32), ("double", F64)])
def test_short_names(name, dtype):
    made = module()
    assert getattr(made, name)() is made
    assert made.dtype == dtype
    assert made.cpu() is made


def test_buffers_say_nothing_about_the_dtype():
    made = nn.Module()
    assert made.dtype == F32
    made.codes, made.weight = nn.Buffer(np.zeros(2, np.uint8)), nn.Parameter(np.zeros(2, F16))
    assert made.dtype == F16


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m: m.to(np.int64), TypeError, "parameters are floating-point numbers, they cannot become int64"),
        (lambda m: m.bfloat16(), ImportError, "bfloat16 needs the package ml_dtypes"),
        (lambda m: m.to("torch.bfloat16"), ImportError, "bfloat16 needs the package ml_dtypes"),
        (lambda m: m.to("mps"), ValueError, "unknown device 'mps'"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_changes(monkeypatch, call, error, message):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    made = module()
    with pytest.raises(error, match=message):
        call(made)
    assert made.dtype == F32


def test_without_a_gpu_the_sentence_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    with pytest.raises(RuntimeError, match="device 'cuda' needs CuPy, which is not installed"):
        module().cuda()


@pytest.mark.parity
def test_half_computes_as_torchs_does(rng):
    import torch

    made, theirs = nn.Linear(8, 4), torch.nn.Linear(8, 4)
    theirs.load_state_dict({name: torch.tensor(array) for name, array in made.state_dict().items()})
    x = rng.standard_normal((5, 8)).astype(F16)
    found, expected = made.half()(Tensor(x)), theirs.half()(torch.tensor(x))
    assert found.dtype == F16
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=4e-3, atol=4e-3)
