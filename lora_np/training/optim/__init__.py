"""Optimizers, and what goes with them: groups of parameters, clipping, the learning rate's course.

Read in this order: optimizer.py (what all share), sgd.py, adamw.py.
"""

from ...nn.utils import clip_grad_norm_
from .adamw import AdamW
from .optimizer import Optimizer
from .parameter_groups import parameter_groups
from .schedule import warmup_cosine
from .sgd import SGD

__all__ = ["SGD", "AdamW", "Optimizer", "clip_grad_norm_", "parameter_groups", "warmup_cosine"]
