"""LoRA. Read `layer.py` first: it is the idea, on one page. Then, for LoRA on a whole model:

    adapter.py, kinds.py               what a kind of adapter says about itself, and which kinds there are
    config.py, init.py, targets.py     the settings, how A and B are initialised, which layers get an adapter
    patterns.py                        names and regular expressions in the settings
    model_adapter.py, lora_model.py, peft_model.py     one adapter on a model, all of them, and PEFT's names
    files.py, written.py, stored.py    PEFT's files, what their config says, and what is unusual in some of them
    foreign.py                         folders of other programs
    call.py                            adapters for one call: none, or others for each row

What goes beyond it:

    variants/                          the other kinds, one file each
    saved_modules.py                   modules trained whole
    combine.py, weighted.py            several adapters made into one
    status.py, analysis.py             what is there, and what was learned
    types.py                           short names for annotations
"""

from ..aliases import moved_names
from . import variants
from .config import LoraConfig, PeftConfig, TaskType
from .layer import LoraLinear
from .lora_model import LoraModel
from .peft_model import PeftModel, get_peft_model
from .variants.embedding import LoraEmbedding
from .variants.vera import VeraConfig

__getattr__ = moved_names(__name__)

__all__ = [
    "LoraConfig",
    "LoraEmbedding",
    "LoraLinear",
    "LoraModel",
    "PeftConfig",
    "PeftModel",
    "TaskType",
    "VeraConfig",
    "get_peft_model",
    "variants",
]
