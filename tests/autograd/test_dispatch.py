"""The table of operations: it names all there are, and for each array the functions that are meant for it."""

import ast
import inspect
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from lora_np.autograd import dispatch, elementary, fused
from lora_np.autograd.dispatch import OPERATIONS, implementation, in_16_bits_all, module_of, pair

PAIRS = [name for name, operation in OPERATIONS.items() if operation.numpy is fused]
CUDA = Path(dispatch.__file__).parent / "cuda" / "__init__.py"


def all_of(path):
    """The names in a module's `__all__`, read without importing it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (names,) = (node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "__all__")
    return set(ast.literal_eval(names))


def functions_of(name):
    return {f"{name}_forward", f"{name}_backward"} if name in PAIRS else {name}


def test_every_fused_pair_has_a_row():
    assert {name.removesuffix("_forward") for name in fused.__all__ if name.endswith("_forward")} == set(PAIRS)
    assert {name.removesuffix("_backward") for name in fused.__all__ if name.endswith("_backward")} == set(PAIRS)


def test_every_elementary_operation_has_a_row():
    found = {
        name for name, f in vars(elementary).items() if inspect.isfunction(f) and f.__module__ == elementary.__name__
    }
    assert found == {name for name, operation in OPERATIONS.items() if operation.numpy is elementary}


def test_the_rows_with_kernels_are_those_that_have_them():
    wanted = set().union(*(functions_of(name) for name, operation in OPERATIONS.items() if operation.cuda))
    assert all_of(CUDA) == wanted


@pytest.mark.parametrize("name", PAIRS)
def test_numpy_arrays_get_the_numpy_pair(name):
    x = np.ones(3, np.float32)
    assert pair(name, (x, None)) == (getattr(fused, f"{name}_forward"), getattr(fused, f"{name}_backward"))


def test_operations_that_another_room_has_in_numpy():
    for name in ("adamw", "clip"):
        assert implementation(name, [np.ones(3, np.float32)]) is None


def test_an_operation_that_is_not_there_is_an_error():
    with pytest.raises(KeyError, match="convolution"):
        pair("convolution", (np.ones(3),))


class FakeArray:
    def __init__(self, dtype="float32", c_contiguous=True):
        self.dtype, self.flags = np.dtype(dtype), types.SimpleNamespace(c_contiguous=c_contiguous)


@pytest.fixture
def cuda(monkeypatch):
    """As if CuPy were there: its arrays are `FakeArray`s, its kernels in this module."""
    kernels = types.ModuleType("lora_np.autograd.cuda")
    for name in all_of(CUDA):
        setattr(kernels, name, name)
    monkeypatch.setitem(sys.modules, "cupy", types.SimpleNamespace(ndarray=FakeArray))
    monkeypatch.setitem(sys.modules, "lora_np.autograd.cuda", kernels)
    monkeypatch.setattr(sys.modules["lora_np.autograd"], "cuda", kernels, raising=False)
    return kernels


@pytest.mark.parametrize("name", OPERATIONS)
def test_which_arrays_the_kernels_take(cuda, name):
    operation, x = OPERATIONS[name], FakeArray()
    narrow_alone = operation.cuda is dispatch.in_16_bits_all
    has_kernels = operation.cuda is not None and not narrow_alone
    any_dtype = operation.cuda is dispatch.any_dtype
    takes_16_bits = any_dtype or operation.cuda is dispatch.float32_or_16_bits
    assert module_of(name, (x, x)) is (cuda if has_kernels else operation.numpy)
    assert module_of(name, (x, FakeArray("float64"))) is (cuda if any_dtype else operation.numpy)
    assert module_of(name, (FakeArray("float16"), x)) is (cuda if takes_16_bits else operation.numpy)
    if narrow_alone:
        assert module_of(name, (FakeArray("float16"), FakeArray("float16"))) is cuda
    assert module_of(name, (x, 2.0)) is operation.numpy
    assert module_of(name, (2.0, x)) is operation.numpy
    in_order = operation.cuda is dispatch.float32_in_order
    other = FakeArray(c_contiguous=False)
    assert module_of(name, (x, other)) is (cuda if has_kernels and not in_order else operation.numpy)


def test_an_input_that_is_left_out_does_not_matter(cuda):
    assert module_of("linear", (FakeArray(), FakeArray(), None)) is cuda
    assert pair("linear", (FakeArray(), FakeArray(), None)) == ("linear_forward", "linear_backward")
    assert implementation("adamw", (FakeArray(),)) == "adamw"


def test_arrays_of_the_cpu_load_no_kernels():
    code = """
import sys
import numpy as np
from lora_np.autograd import Tensor, functional as F
x = Tensor(np.ones((2, 4), np.float32), requires_grad=True)
(F.gelu(F.layer_norm(x, np.ones(4, np.float32), np.ones(4, np.float32)), "tanh") + x).sum().backward()
assert x.grad is not None
assert not {"cupy", "scipy", "lora_np.autograd.cuda"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPERATIONS)
def test_the_kernels_are_there(name):
    import cupy

    from lora_np.autograd import cuda as kernels

    x = cupy.ones(4, np.float32)
    x = x.astype(np.float16) if OPERATIONS[name].cuda is in_16_bits_all else x
    place = module_of(name, (x, x))
    assert place is (kernels if OPERATIONS[name].cuda else OPERATIONS[name].numpy)
    assert all(callable(getattr(place, function)) for function in functions_of(name))
