"""Qwen3 (Yang et al., 2025): a Llama whose queries and keys pass a norm, head by head, before they are turned."""

from dataclasses import dataclass

from .config import OptionalId, Size, TokenIds
from .llama import LlamaConfig, LlamaForCausalLM


@dataclass
class Qwen3Config(LlamaConfig):
    """The shape of a Qwen3, under the names of Hugging Face's config.json. The defaults are Transformers'."""

    vocab_size: Size = 151936
    intermediate_size: Size = 22016
    head_dim: Size = 128
    max_position_embeddings: Size = 32768
    bos_token_id: OptionalId = None
    eos_token_id: TokenIds = None
    use_sliding_window: bool = False

    model_type, architecture, norms_of_heads = "qwen3", "Qwen3ForCausalLM", True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_sliding_window:
            raise ValueError("use_sliding_window: attention to the nearest tokens only is not supported")


class Qwen3ForCausalLM(LlamaForCausalLM):
    """Qwen3 with its language-model head: all is Llama's but what the configuration says."""
