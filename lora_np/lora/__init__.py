"""LoRA. Read `layer.py` first: it is the idea, on one page. Then, for LoRA on a whole model:

    adapter.py, kinds.py               what a kind of adapter says about itself, and which kinds there are
    peft_config.py, config.py          the settings of all kinds, and of LoRA
    special.py, sub_configs.py         settings that make another kind of LoRA, and what they hold
    routing.py                         a router among adapters from files
    replication.py, invocations.py     blocks listed anew, and tokens from which on an adapter acts
    init.py, targets.py                how A and B are initialised, which layers get an adapter
    patterns.py                        names and regular expressions in the settings
    model_adapter.py, lora_model.py, peft_model.py     one adapter on a model, all of them, and PEFT's names
    files.py, written.py, stored.py    PEFT's files, what their config says, and what is unusual in some of them
    foreign.py                         folders of other programs
    checks.py, persistent.py, forwarding.py, tasks.py  parts of a PeftModel: what it refuses, files, others' attributes
    accepted.py                        PEFT's keywords that mean nothing here
    call.py                            adapters for one call: none, or others for each row

What goes beyond it:

    variants/                          what settings of LoraConfig make of LoRA, one file each
    family/                            LoRA's relatives, with configurations of their own, one file each
    saved_modules.py, tied_heads.py    modules trained whole, and heads that follow an embedding whose rows are trained
    tasks.py                           PeftModels by what they are for
    combine.py, weighted.py            several adapters made into one
    status.py, analysis.py             what is there, and what was learned
    state.py, hotswap.py, helpers.py   what PEFT's users call beside a PeftModel
    types.py                           short names for annotations
"""

import importlib
from typing import TYPE_CHECKING

from ..aliases import moved_names
from . import variants
from .config import LoraConfig
from .errors import UnknownAdapterError
from .family import FAMILY
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
from .peft_config import PeftConfig, PeftType, TaskType
from .peft_model import PeftModel, get_peft_model
from .routing import create_arrow_model
from .state import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from .status import TunerLayerStatus, TunerModelStatus, get_layer_status, get_model_status
from .sub_configs import ArrowConfig, BdLoraConfig, KasaConfig, LoraRuntimeConfig, VeloraConfig
from .tasks import PeftModelForCausalLM, PeftModelForSequenceClassification
from .variants.embedding import LoraEmbedding

if TYPE_CHECKING:
    from .family.adalora import AdaLoraConfig
    from .family.delora import DeloraConfig
    from .family.fourierft import FourierFTConfig
    from .family.hira import HiraConfig
    from .family.hra import HRAConfig
    from .family.ia3 import IA3Config
    from .family.loha import LoHaConfig
    from .family.lokr import LoKrConfig
    from .family.miss import MissConfig
    from .family.oft import OFTConfig
    from .family.randlora import RandLoraConfig
    from .family.shira import ShiraConfig
    from .family.tinylora import TinyLoraConfig
    from .family.vblora import VBLoRAConfig
    from .family.vera import VeraConfig

_moved = moved_names(__name__)


def __getattr__(name):
    """The configuration of one of LoRA's relatives, whose file is read now; or a name that has moved."""
    for module, config, *_ in FAMILY.values():
        if name == config:
            found = globals()[name] = getattr(importlib.import_module(f".family.{module}", __name__), name)
            return found
    return _moved(name)


__all__ = [
    "AdaLoraConfig",
    "ArrowConfig",
    "BdLoraConfig",
    "DeloraConfig",
    "FourierFTConfig",
    "HRAConfig",
    "HiraConfig",
    "IA3Config",
    "KasaConfig",
    "LoHaConfig",
    "LoKrConfig",
    "LoraConfig",
    "LoraEmbedding",
    "LoraLinear",
    "LoraModel",
    "LoraRuntimeConfig",
    "MissConfig",
    "OFTConfig",
    "PeftConfig",
    "PeftModel",
    "PeftModelForCausalLM",
    "PeftModelForSequenceClassification",
    "PeftType",
    "RandLoraConfig",
    "ShiraConfig",
    "TaskType",
    "TinyLoraConfig",
    "TunerLayerStatus",
    "TunerModelStatus",
    "UnknownAdapterError",
    "VBLoRAConfig",
    "VeloraConfig",
    "VeraConfig",
    "cast_mixed_precision_params",
    "check_if_peft_model",
    "create_arrow_model",
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
