"""LoRA. Read `layer.py` first: it is the idea, on one page. Then, for LoRA on a whole model:

    adapter.py, kinds.py               what a kind of adapter says about itself, and which kinds there are
    peft_config.py, config.py          the settings of all kinds, and of LoRA
    special.py, sub_configs.py         settings that make another kind of LoRA, and what they hold
    routing.py                         a router among adapters from files
    replication.py, invocations.py     blocks listed anew, and tokens from which on an adapter acts
    init.py, starts/                   how A and B are initialised: of the weights alone, and of data
    targets.py                         which layers get an adapter
    patterns.py                        names and regular expressions in the settings
    model_adapter.py, lora_model.py, peft_model.py     one adapter on a model, all of them, and PEFT's names
    files.py, written.py, stored.py    PEFT's files, what their config says, and what is unusual in some of them
    foreign.py, reloading.py           folders of other programs, and an adapter read once more
    checks.py, persistent.py, forwarding.py, tasks.py  parts of a PeftModel: what it refuses, files, others' attributes
    accepted.py                        PEFT's keywords that mean nothing here
    call.py, row_calls.py, rows.py     adapters for one call: none, or others for each row
    joint.py                           adapted layers that read one input, in one operation

What goes beyond it:

    variants/                          what settings of LoraConfig make of LoRA, one file each
    family/                            LoRA's relatives, with configurations of their own, one file each
    saved_modules.py, tied_heads.py    modules trained whole, and heads that follow an embedding whose rows are trained
    tasks.py, mixed_model.py           PeftModels by what they are for, and one for several kinds of adapters
    combine.py, knots.py, weighted.py  several adapters made into one
    status.py, analysis.py             what is there, and what was learned
    intruders.py, conversion.py        what an update brings that W had not; any update as LoRA
    adapter_cache.py                   more adapters than there is room for at once
    state.py, hotswap.py, helpers.py   what PEFT's users call beside a PeftModel
    types.py                           short names for annotations
"""

import importlib
from typing import TYPE_CHECKING

from ..aliases import moved_names
from . import joint as _joint  # noqa: F401 (it tells nn.beside what adapted layers are)
from . import variants
from .adapter_cache import AdapterCache
from .config import LoraConfig
from .conversion import convert_to_lora, extract_lora, save_as_lora
from .errors import UnknownAdapterError
from .family import FAMILY
from .helpers import (
    cast_mixed_precision_params,
    check_if_peft_model,
    get_peft_config,
    inject_adapter_in_model,
    prepare_model_for_kbit_training,
    rescale_adapter_scale,
)
from .hotswap import hotswap_adapter
from .intruders import reduce_intruder_dimension
from .layer import AdaptedLayer, LoraLinear
from .lora_model import LoraModel
from .mixed_model import PeftMixedModel
from .peft_config import PeftConfig, PeftType, TaskType
from .peft_model import PeftModel, get_peft_model
from .routing import create_arrow_model
from .starts import STARTS
from .state import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict
from .status import TunerLayerStatus, TunerModelStatus, get_layer_status, get_model_status
from .sub_configs import ArrowConfig, BdLoraConfig, KasaConfig, LoraRuntimeConfig, MontecloraConfig, VeloraConfig
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
    from .starts.config import CordaConfig, EvaConfig, LoftQConfig, LoraGAConfig
    from .starts.corda import preprocess_corda
    from .starts.eva import get_eva_state_dict, initialize_lora_eva_weights
    from .starts.loftq import replace_lora_weights_loftq
    from .starts.lora_ga import preprocess_loraga

LoraLayer = BaseTunerLayer = AdaptedLayer  # PEFT's names, by which its users tell adapted layers from others

_moved = moved_names(__name__)


def __getattr__(name):
    """What is in a file that is read now: a relative's configuration, or of a start; or a name that has moved."""
    places = {config: f"family.{module}" for module, config, *_ in FAMILY.values()}
    places |= {start: f"starts.{module}" for module, names in STARTS.items() for start in names}
    if name not in places:
        return _moved(name)
    found = globals()[name] = getattr(importlib.import_module(f".{places[name]}", __name__), name)
    return found


__all__ = [
    "AdaLoraConfig",
    "AdapterCache",
    "ArrowConfig",
    "BdLoraConfig",
    "CordaConfig",
    "DeloraConfig",
    "EvaConfig",
    "FourierFTConfig",
    "HRAConfig",
    "HiraConfig",
    "IA3Config",
    "KasaConfig",
    "LoHaConfig",
    "LoKrConfig",
    "LoftQConfig",
    "LoraConfig",
    "LoraEmbedding",
    "LoraGAConfig",
    "LoraLinear",
    "LoraModel",
    "LoraRuntimeConfig",
    "MissConfig",
    "MontecloraConfig",
    "OFTConfig",
    "PeftConfig",
    "PeftMixedModel",
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
    "convert_to_lora",
    "create_arrow_model",
    "extract_lora",
    "get_eva_state_dict",
    "get_layer_status",
    "get_model_status",
    "get_peft_config",
    "get_peft_model",
    "get_peft_model_state_dict",
    "hotswap_adapter",
    "initialize_lora_eva_weights",
    "inject_adapter_in_model",
    "load_peft_weights",
    "prepare_model_for_kbit_training",
    "preprocess_corda",
    "preprocess_loraga",
    "reduce_intruder_dimension",
    "replace_lora_weights_loftq",
    "rescale_adapter_scale",
    "save_as_lora",
    "set_peft_model_state_dict",
    "variants",
]
