"""Arrays that remember how they were made.

Read in this order: backend, tensor, ops, layout, fused/, functional, check.
"""

import os

from ..aliases import moved_names
from . import functional, layout, ops
from .backend import keep_freed_memory, manual_seed
from .check import gradcheck
from .tensor import Node, Tensor, is_grad_enabled, no_grad

__getattr__ = moved_names(__name__)

__all__ = ["Node", "Tensor", "functional", "gradcheck", "is_grad_enabled", "layout", "manual_seed", "no_grad", "ops"]

if os.environ.get("LORA_NP_KEEP_MEMORY", "1") != "0":
    keep_freed_memory()  # made a step of the 4-layer, 128-wide model 1.8 times as fast on two cores
