"""LoRA. Read `layer.py` first: it is the idea, on one page. Then, for LoRA on a whole model:

    adapter.py, kinds.py               what a kind of adapter says about itself, and which kinds there are
    config.py, init.py, targets.py     the settings, how A and B are initialised, which layers get an adapter
    patterns.py                        names and regular expressions in the settings
    model_adapter.py, lora_model.py, peft_model.py     one adapter on a model, all of them, and PEFT's names
    files.py, written.py, stored.py    PEFT's files, what their config says, and what is unusual in some of them
    foreign.py                         folders of other programs
    checks.py, persistent.py, forwarding.py, tasks.py  parts of a PeftModel: what it refuses, files, others' attributes
    accepted.py                        PEFT's keywords that mean nothing here
    call.py                            adapters for one call: none, or others for each row

What goes beyond it:

    variants/                          the other kinds, one file each
    saved_modules.py, tied_heads.py    modules trained whole, and heads that follow an embedding whose rows are trained
    tasks.py                           PeftModels by what they are for
    combine.py, weighted.py            several adapters made into one
    status.py, analysis.py             what is there, and what was learned
    state.py, hotswap.py, helpers.py   what PEFT's users call beside a PeftModel
    types.py                           short names for annotations
"""

from ..aliases import moved_names
from . import variants
from .config import LoraConfig, PeftConfig, PeftType, TaskType
from .errors import UnknownAdapterError
from .helpers import (
    cast_mixed_precision_params,
    check_if_peft_model,
    inject_adapter_in_model,
    prepare_model_for_kbit_training,
    rescale_adapter_scale,
)
from .hotswap import hotswap_adapter
from .layer import LoraLinear
from .lora_model import LoraModel
from .peft_model import PeftModel, get_peft_model
from .state import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from .status import TunerLayerStatus, TunerModelStatus, get_layer_status, get_model_status
from .tasks import PeftModelForCausalLM, PeftModelForSequenceClassification
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
    "PeftModelForCausalLM",
    "PeftModelForSequenceClassification",
    "PeftType",
    "TaskType",
    "TunerLayerStatus",
    "TunerModelStatus",
    "UnknownAdapterError",
    "VeraConfig",
    "cast_mixed_precision_params",
    "check_if_peft_model",
    "get_layer_status",
    "get_model_status",
    "get_peft_model",
    "get_peft_model_state_dict",
    "hotswap_adapter",
    "inject_adapter_in_model",
    "load_peft_weights",
    "prepare_model_for_kbit_training",
    "rescale_adapter_scale",
    "set_peft_model_state_dict",
    "variants",
]
