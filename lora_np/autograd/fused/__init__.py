"""Larger operations as pairs of plain functions on arrays: no Tensor, no graph.

`name_forward(inputs..., options, needs) -> (out, cache)` and `name_backward(dout, cache) -> gradients`. `needs` says
for each differentiable input whether its gradient will be asked for: the forward keeps in `cache` only what those
gradients require, the backward returns None for the others. `functional.py` puts each pair on Tensors.

Written as one piece, an operation saves less and runs faster than as a chain of small ones, and its gradient is a
formula that can be derived on paper. Each docstring gives that derivation.

Read `reference.py` first: it has every pair again, as plain formulas without a thought for speed. The pairs here, and
those for GPUs in `cuda/`, are tested against it.
"""

from .activation import (
    gelu_backward,
    gelu_forward,
    relu_backward,
    relu_forward,
    silu_backward,
    silu_forward,
    swiglu_backward,
    swiglu_forward,
)
from .attention import (
    attention_backward,
    attention_forward,
    head_views,
    self_attention_backward,
    self_attention_forward,
)
from .bounded import (
    bounded_attention_backward,
    bounded_attention_forward,
    capped_cross_entropy_backward,
    capped_cross_entropy_forward,
)
from .linear import linear_backward, linear_forward, lora_linear_backward, lora_linear_forward
from .loss import (
    cross_entropy_backward,
    cross_entropy_forward,
    linear_cross_entropy_backward,
    linear_cross_entropy_forward,
)
from .norm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward
from .rotary import rotary_backward, rotary_forward
from .rows import lora_rows_backward, lora_rows_forward, lora_rows_into
from .texts import text_attention_backward, text_attention_forward

__all__ = [
    "attention_backward",
    "attention_forward",
    "bounded_attention_backward",
    "bounded_attention_forward",
    "capped_cross_entropy_backward",
    "capped_cross_entropy_forward",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "gelu_backward",
    "gelu_forward",
    "head_views",
    "layer_norm_backward",
    "layer_norm_forward",
    "linear_backward",
    "linear_cross_entropy_backward",
    "linear_cross_entropy_forward",
    "linear_forward",
    "lora_linear_backward",
    "lora_linear_forward",
    "lora_rows_backward",
    "lora_rows_forward",
    "lora_rows_into",
    "relu_backward",
    "relu_forward",
    "rms_norm_backward",
    "rms_norm_forward",
    "rotary_backward",
    "rotary_forward",
    "self_attention_backward",
    "self_attention_forward",
    "silu_backward",
    "silu_forward",
    "swiglu_backward",
    "swiglu_forward",
    "text_attention_backward",
    "text_attention_forward",
]
