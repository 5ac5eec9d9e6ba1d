"""Optimizers, and what goes with them: groups of parameters, clipping, the learning rate's course.

Read in this order: optimizer.py (what all share), sgd.py, adamw.py.
"""

from ...nn.utils import clip_grad_norm_
from . import lr_scheduler
from .adam import Adam
from .adamw import AdamW
from .lr_scheduler import (
    LambdaLR,
    get_constant_schedule,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)
from .optimizer import Optimizer
from .parameter_groups import parameter_groups
from .schedule import warmup_cosine
from .sgd import SGD

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "LambdaLR",
    "Optimizer",
    "clip_grad_norm_",
    "get_constant_schedule",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_linear_schedule_with_warmup",
    "lr_scheduler",
    "parameter_groups",
    "warmup_cosine",
]
