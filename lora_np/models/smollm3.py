"""SmolLM3 (Bakouch et al., 2025): a Llama of whose layers each fourth does not turn queries and keys (NoPE)."""

from dataclasses import dataclass, field
from typing import Any

from ..autograd import Tensor
from .config import Depth, OptionalId, Size, TokenIds
from .llama import LlamaAttention, LlamaConfig, LlamaForCausalLM
from .windows import settle_layer_types, window_of


@dataclass
class SmolLM3Config(LlamaConfig):
    """The shape of a SmolLM3, under the names of Hugging Face's config.json. The defaults are Transformers'.

    no_rope_layers   for each layer 1 if it turns queries and keys, 0 if not (sic); None: 0 for each
                     `no_rope_layer_interval`th
    """

    vocab_size: Size = 128256
    hidden_size: Size = 2048
    num_hidden_layers: Depth = 36
    num_attention_heads: Size = 16
    num_key_value_heads: Size | None = 4  # type: ignore[assignment]
    max_position_embeddings: Size = 32768
    tie_word_embeddings: bool = True
    bos_token_id: OptionalId = 128000
    eos_token_id: TokenIds = 128001
    pad_token_id: OptionalId = field(default=128004, kw_only=True)
    use_sliding_window: bool = False
    sliding_window: Size | None = None
    no_rope_layers: list[int] | None = None
    no_rope_layer_interval: Size = 4
    layer_types: list[str] | None = None

    model_type, architecture, rope_theta = "smollm3", "SmolLM3ForCausalLM", 2000000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        depth, interval = self.num_hidden_layers, self.no_rope_layer_interval
        if self.no_rope_layers is None:
            self.no_rope_layers = [int((layer + 1) % interval != 0) for layer in range(depth)]
        turns = self.no_rope_layers
        if len(turns) < depth:
            raise ValueError(f"no_rope_layers has {len(turns)} entries for num_hidden_layers = {depth}")
        slides = self.use_sliding_window and self.sliding_window is not None
        settle_layer_types(self, lambda layer: slides and not turns[layer])

    def window(self, layer: int) -> int | None:
        return window_of(self, layer)


class SmolLM3Attention(LlamaAttention):
    """Llama's attention; in some layers queries and keys are told no positions."""

    def __init__(self, config: SmolLM3Config, layer: int) -> None:
        super().__init__(config, layer)
        self.turns = bool((config.no_rope_layers or ())[layer])

    def turn(self, x: Tensor, heads: int, angles: Any) -> Any:
        return super().turn(x, heads, angles) if self.turns else self.split(x, heads)


class SmolLM3ForCausalLM(LlamaForCausalLM):
    """SmolLM3 with its language-model head."""

    Attention = SmolLM3Attention
