"""The kinds of adapters beside plain LoRA, one file each, and the tables of all of them.

A kind says in one class what its tensors are, how they are initialised, what it adds to a layer's result, its ΔW, and
what it refuses: see `adapter.Adapter`. One line here makes it known. Of the kinds of one peft_type, the first that says
it is `wanted` is taken. (tokens.py and tied.py are kinds that a config has beside those: `model_adapter.new_adapter`.)
"""

from ... import nn
from ..config import LoraConfig
from ..kinds import WRAPPERS, register
from ..layer import LoraAdapter, LoraLinear
from .bias import BranchBias
from .dora import Dora, DoraEmbedding
from .embedding import EmbeddingAdapter, LoraEmbedding
from .projection import PartialProjection
from .vera import VeraAdapter, VeraConfig

register("LORA", LoraConfig, PartialProjection, DoraEmbedding, EmbeddingAdapter, Dora, BranchBias, LoraAdapter)
register("VERA", VeraConfig, VeraAdapter)

WRAPPERS.update(dict.fromkeys((nn.Linear, nn.Conv1D, nn.Linear4bit), LoraLinear))
WRAPPERS[nn.Embedding] = LoraEmbedding
