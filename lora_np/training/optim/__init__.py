"""Optimizers, and what goes with them: groups of parameters, clipping, the learning rate's course.

Read in this order: optimizer.py (what all share), sgd.py, adamw.py. Then for LoRA loraplus.py, lorafa.py and
riemannian.py, and for less memory adamw8bit.py (its numbers: dynamic8bit.py) and galore.py.
"""

from ...nn.utils import clip_grad_norm_
from . import lr_scheduler
from .adam import Adam
from .adamw import AdamW
from .adamw8bit import AdamW8bit
from .galore import GaLoreAdamW
from .lorafa import LoraFAOptimizer, create_lorafa_optimizer
from .loraplus import create_loraplus_optimizer
from .lr_scheduler import (
    LambdaLR,
    get_constant_schedule,
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_scheduler,
)
from .optimizer import Optimizer
from .parameter_groups import parameter_groups
from .riemannian import create_riemannian_optimizer
from .schedule import warmup_cosine
from .sgd import SGD

OPTIMIZERS = {"adamw": AdamW, "adamw_8bit": AdamW8bit, "galore_adamw": GaLoreAdamW}  # {TrainingArguments.optim: class}
SAME = {"adamw": ("adamw_torch", "adamw_torch_fused", "adamw_hf"), "adamw_8bit": ("adamw_bnb_8bit", "adamw_torch_8bit")}

__all__ = [
    "OPTIMIZERS",
    "SAME",
    "SGD",
    "Adam",
    "AdamW",
    "AdamW8bit",
    "GaLoreAdamW",
    "LambdaLR",
    "LoraFAOptimizer",
    "Optimizer",
    "clip_grad_norm_",
    "create_lorafa_optimizer",
    "create_loraplus_optimizer",
    "create_riemannian_optimizer",
    "get_constant_schedule",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_linear_schedule_with_warmup",
    "get_scheduler",
    "lr_scheduler",
    "parameter_groups",
    "warmup_cosine",
]
