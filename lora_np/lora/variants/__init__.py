"""What settings of `LoraConfig` make of plain LoRA, one file each, and the table of layers that can have adapters.

A kind says in one class what its tensors are, how they are initialised, what it adds to a layer's result, its ΔW, and
what it refuses: see `adapter.Adapter`. Of those in the line below, the first that says it is `wanted` is taken.
Kinds that one field of LoraConfig asks for (alora, arrow, bdlora, kasa, monteclora, qalora, velora) are in the table
`kinds.SPECIAL`, and read when asked for. LoRA's relatives, which have configurations of their own, are in `family/`.
(parameter.py, tokens.py and tied.py are kinds that a config has beside those: `model_adapter.new_adapter`.)
"""

from ... import nn
from ..config import LoraConfig
from ..kinds import WRAPPERS, register
from ..layer import LoraAdapter, LoraLinear
from .bias import BranchBias
from .dora import Dora, DoraEmbedding
from .embedding import EmbeddingAdapter, LoraEmbedding
from .mica import Mica, MicaEmbedding
from .projection import PartialProjection

register(
    "LORA",
    LoraConfig,
    *(PartialProjection, DoraEmbedding, MicaEmbedding, EmbeddingAdapter, Dora, Mica, BranchBias, LoraAdapter),
)

WRAPPERS.update(dict.fromkeys((nn.Linear, nn.Conv1D, nn.FourBitLayer), LoraLinear))
WRAPPERS[nn.Embedding] = LoraEmbedding
