"""The activations that a config.json can name, as in Transformers. Several names mean the same function."""

# Tensor's operators are given to it by autograd/ops.py, where a type checker does not see them.
# mypy: disable-error-code="operator,arg-type"

from collections.abc import Callable

from ..autograd import Tensor, ops
from ..autograd import functional as F


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's approximate GELU."""
    return F.gelu(x, approximate="tanh")


def gelu_10(x: Tensor) -> Tensor:
    """GELU, at most 10."""
    y = F.gelu(x)
    return y - F.relu(y - 10.0)


def quick_gelu(x: Tensor) -> Tensor:
    """x σ(1.702 x), a cheaper approximation of GELU."""
    return F.silu(x * 1.702) * (1 / 1.702)


def relu6(x: Tensor) -> Tensor:
    """ReLU, at most 6."""
    return F.relu(x) - F.relu(x - 6.0)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python_tanh": gelu_tanh,
    "gelu_10": gelu_10,
    "quick_gelu": quick_gelu,
    "silu": F.silu,
    "swish": F.silu,
    "hardswish": lambda x: x * relu6(x + 3.0) * (1 / 6),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x) ** 2,
    "relu6": relu6,
    "leaky_relu": lambda x: F.relu(x) - F.relu(-x) * 0.01,
    "sigmoid": lambda x: ops.tanh(x * 0.5) * 0.5 + 0.5,
    "tanh": ops.tanh,
    "linear": lambda x: x,
}


def check_activation(name: str, field: str) -> None:
    """ValueError, with the known names, if `name`, the value of the config's `field`, is not one of them."""
    if name not in ACTIVATIONS:
        raise ValueError(f"{field} {name!r} is not known; known are {', '.join(ACTIVATIONS)}")
