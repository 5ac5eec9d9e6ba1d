"""The activations that a config.json can name, as in Transformers. Several names mean the same function."""

from ..autograd import functional as F
from ..autograd import ops


def gelu_tanh(x):
    """GPT-2's approximate GELU."""
    return F.gelu(x, approximate="tanh")


ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_python": F.gelu,
    "gelu_new": gelu_tanh,
    "gelu_fast": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python_tanh": gelu_tanh,
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "tanh": ops.tanh,
    "linear": lambda x: x,
}


def check_activation(name, field):
    """ValueError, with the known names, if `name`, the value of the config's `field`, is not one of them."""
    if name not in ACTIVATIONS:
        raise ValueError(f"{field} {name!r} is not known; known are {', '.join(ACTIVATIONS)}")
