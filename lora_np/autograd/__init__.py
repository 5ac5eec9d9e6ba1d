"""Arrays that remember how they were made.

Read in this order: tensor, accumulate, ops, shape_ops, methods, fused/, functional, dispatch, gradcheck.
"""

import os

from ..aliases import moved_names
from . import functional, methods, ops, shape_ops
from .allocator import keep_freed_memory
from .gradcheck import gradcheck
from .random import manual_seed, set_seed
from .tensor import Node, Tensor, is_grad_enabled, no_grad

__getattr__ = moved_names(__name__)

__all__ = [
    "Node",
    "Tensor",
    "functional",
    "gradcheck",
    "is_grad_enabled",
    "manual_seed",
    "methods",
    "no_grad",
    "ops",
    "set_seed",
    "shape_ops",
]

if os.environ.get("LORA_NP_KEEP_MEMORY", "1") != "0":
    keep_freed_memory()  # made a step of the 4-layer, 128-wide model 1.8 times as fast on two cores
