"""Mistral 7B (Jiang et al., 2023): a Llama that, in its first version, sees the nearest tokens only."""

from dataclasses import dataclass
from typing import ClassVar

from .config import Size
from .llama import LlamaConfig, LlamaForCausalLM


@dataclass
class MistralConfig(LlamaConfig):
    """The shape of a Mistral, under the names of Hugging Face's config.json. The defaults are Transformers'."""

    intermediate_size: Size = 14336
    num_key_value_heads: Size | None = 8  # type: ignore[assignment]
    max_position_embeddings: Size = 131072
    sliding_window: Size | None = 4096
    attention_bias: ClassVar[bool] = False  # type: ignore[misc]
    mlp_bias: ClassVar[bool] = False  # type: ignore[misc]

    model_type, architecture = "mistral", "MistralForCausalLM"

    def window(self, layer: int) -> int | None:
        return self.sliding_window


class MistralForCausalLM(LlamaForCausalLM):
    """Mistral with its language-model head: all is Llama's but what the configuration says."""
