"""The operations for NVIDIA GPUs, with the signatures that they have in `fused/` and `elementary.py`, for float32 and
for numbers in 16 bits (float16, bfloat16), with which they compute in float32.

`dispatch.py` has the table that says when they are used. Each file here stands beside one of the same name there, which
has the derivations and runs everywhere. Both are tested against the plain formulas in `fused/reference.py`. CuPy alone
would run the code in `fused/` too, as a chain of small kernels. These do each operation in one or a few, because on a
GPU every start costs and every pass over memory costs. Nothing here is imported before there is a CuPy array.
"""

from .activation import gelu_backward, gelu_forward, swiglu_backward, swiglu_forward
from .attention import attention_backward, attention_forward, self_attention_backward, self_attention_forward
from .bounded import bounded_attention_backward, bounded_attention_forward
from .dropout import dropout_mask
from .elementary import add, erf, matmul, sum_groups
from .linear import linear_backward, linear_forward, lora_linear_backward, lora_linear_forward
from .loss import (
    cross_entropy_backward,
    cross_entropy_forward,
    linear_cross_entropy_backward,
    linear_cross_entropy_forward,
)
from .nf4 import nf4_values
from .norm import layer_norm_backward, layer_norm_forward, rms_norm_backward, rms_norm_forward
from .optim import adamw, add_shares, clip
from .rotary import rotary_backward, rotary_forward
from .rows import lora_rows_in, lora_rows_out, lora_rows_ready, lora_rows_swiglu
from .texts import text_attention_backward, text_attention_forward

__all__ = [
    "adamw",
    "add",
    "add_shares",
    "attention_backward",
    "attention_forward",
    "bounded_attention_backward",
    "bounded_attention_forward",
    "clip",
    "cross_entropy_backward",
    "cross_entropy_forward",
    "dropout_mask",
    "erf",
    "gelu_backward",
    "gelu_forward",
    "layer_norm_backward",
    "layer_norm_forward",
    "linear_backward",
    "linear_cross_entropy_backward",
    "linear_cross_entropy_forward",
    "linear_forward",
    "lora_linear_backward",
    "lora_linear_forward",
    "lora_rows_in",
    "lora_rows_out",
    "lora_rows_ready",
    "lora_rows_swiglu",
    "matmul",
    "nf4_values",
    "rms_norm_backward",
    "rms_norm_forward",
    "rotary_backward",
    "rotary_forward",
    "self_attention_backward",
    "self_attention_forward",
    "sum_groups",
    "swiglu_backward",
    "swiglu_forward",
    "text_attention_backward",
    "text_attention_forward",
]
