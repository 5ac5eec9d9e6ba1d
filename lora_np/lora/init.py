"""How A and B start. With B = 0 the adapted model is the base model, bit for bit, whatever A is."""

import numpy as np

from ..nn.layers import normal, uniform


def init_lora(kind, r, fan_in, fan_out):
    """(A (r, fan_in), B (fan_out, r)), float32, for one value of `init_lora_weights`.

    True        A uniform in ±1/√fan_in (PyTorch's kaiming_uniform with a = √5), B zero
    "gaussian"  A normal with standard deviation 1/r, B zero
    False       A as with True, B uniform in ±1/√r. Not for training: it makes visible what B = 0 hides
    """
    A = normal((r, fan_in), 1 / r) if kind == "gaussian" else uniform((r, fan_in), 1 / np.sqrt(fan_in))
    B = uniform((fan_out, r), 1 / np.sqrt(r)) if kind is False else np.zeros((fan_out, r), np.float32)
    return A, B
