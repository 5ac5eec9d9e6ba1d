"""Arrays that remember how they were made.

Read in this order: backend, tensor, ops, layout, fused/, functional, check.
"""

from . import functional, layout, ops
from .backend import manual_seed
from .check import gradcheck
from .tensor import Node, Tensor, is_grad_enabled, no_grad

__all__ = ["Node", "Tensor", "functional", "gradcheck", "is_grad_enabled", "layout", "manual_seed", "no_grad", "ops"]
