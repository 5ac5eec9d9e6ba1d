"""The TF32 switch: off means float32, on means faster and coarser products, everywhere in the engine."""

import numpy as np
import pytest

from lora_np.autograd import Tensor, dispatch
from lora_np.autograd import functional as F
from lora_np.autograd.precision import set_tf32

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _off_afterwards():
    yield
    set_tf32(False)


def error(product, tf32):
    """The relative error of a product of random matrices."""
    import cupy

    set_tf32(tf32)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((512, 512)).astype(np.float32) for _ in range(2))
    found = product(cupy.asarray(a), cupy.asarray(b)).get()
    exact = a.astype(np.float64) @ b.astype(np.float64)
    return np.linalg.norm(found - exact) / np.linalg.norm(exact)


PRODUCTS = {
    "matmul": lambda a, b: (Tensor(a) @ Tensor(b)).data,
    "a stack": lambda a, b: (Tensor(a[None]) @ Tensor(b[None])).data[0],
    "stacks of stacks": lambda a, b: (Tensor(a[None, None]) @ Tensor(b.T[None, None].swapaxes(2, 3))).data[0, 0],
    "a stack and a matrix": lambda a, b: (Tensor(a[None]) @ Tensor(b)).data[0],
    "linear": lambda a, b: F.linear(Tensor(a), Tensor(b.T)).data,
    "linear with a bias": lambda a, b: F.linear(Tensor(a), Tensor(b.T), Tensor(b[0] * 0)).data,
    "the update of a weight": lambda a, b: dispatch.matmul(a, b),
    "lora_linear": lambda a, b: F.lora_linear(Tensor(a), Tensor(b.T), None, Tensor(a[:1]), Tensor(b[:, :1]), 0.0).data,
}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_the_switch_holds_everywhere(product):
    assert error(product, False) < 1e-6
    assert 1e-5 < error(product, True) < 1e-2
    assert error(product, False) < 1e-6


def test_gradients_too():
    import cupy

    rng = np.random.default_rng(1)
    a, b, dy = (rng.standard_normal((256, 256)).astype(np.float32) for _ in range(3))
    exact = dy.astype(np.float64) @ b.astype(np.float64).T
    for tf32, low, high in ((False, 0, 1e-6), (True, 1e-5, 1e-2)):
        set_tf32(tf32)
        x = Tensor(cupy.asarray(a), requires_grad=True)
        (x @ Tensor(cupy.asarray(b))).backward(cupy.asarray(dy))
        found = np.linalg.norm(x.grad.get() - exact) / np.linalg.norm(exact)
        assert low <= found < high


def test_the_gradient_through_4_bits_too():
    import cupy

    from lora_np.nn import Linear
    from lora_np.nn.quantized import Linear4bit

    rng = np.random.default_rng(2)
    layer = Linear4bit.from_linear(Linear(256, 256)).to("cuda")
    dy = rng.standard_normal((64, 256)).astype(np.float32)
    exact = dy.astype(np.float64) @ layer.weight.data.get().astype(np.float64)
    for tf32, low, high in ((False, 0, 1e-6), (True, 1e-5, 1e-2)):
        set_tf32(tf32)
        x = Tensor(cupy.zeros((64, 256), np.float32), requires_grad=True)
        layer(x).backward(cupy.asarray(dy))
        assert low <= np.linalg.norm(x.grad.get() - exact) / np.linalg.norm(exact) < high
