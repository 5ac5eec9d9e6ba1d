"""Qwen2 (Yang et al., 2024): a Llama with biases on queries, keys and values, and on nothing else.

From block `max_window_layers` on, its blocks may see the nearest tokens only.
"""

from dataclasses import dataclass
from typing import ClassVar

from .. import nn
from .config import Count, OptionalId, Size, TokenIds
from .llama import LlamaAttention, LlamaConfig, LlamaForCausalLM
from .windows import settle_layer_types, window_of


@dataclass
class Qwen2Config(LlamaConfig):
    """The shape of a Qwen2, under the names of Hugging Face's config.json. The defaults are Transformers'."""

    vocab_size: Size = 151936
    intermediate_size: Size = 22016
    num_key_value_heads: Size | None = 32  # type: ignore[assignment]
    max_position_embeddings: Size = 32768
    bos_token_id: OptionalId = None
    eos_token_id: TokenIds = None
    use_sliding_window: bool = False
    sliding_window: Size | None = 4096
    max_window_layers: Count = 28
    layer_types: list[str] | None = None
    attention_bias: ClassVar[bool] = True  # type: ignore[misc]
    mlp_bias: ClassVar[bool] = False  # type: ignore[misc]

    model_type, architecture = "qwen2", "Qwen2ForCausalLM"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sliding_window = self.sliding_window if self.use_sliding_window else None
        settle_layer_types(self, lambda layer: self.sliding_window is not None and layer >= self.max_window_layers)

    def window(self, layer: int) -> int | None:
        return window_of(self, layer)


class Qwen2Attention(LlamaAttention):
    """Llama's attention, without a bias where the heads are mixed."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.o_proj = nn.Linear(self.heads * config.head_dim, config.hidden_size, bias=False)


class Qwen2ForCausalLM(LlamaForCausalLM):
    """Qwen2 with its language-model head."""

    Attention = Qwen2Attention
