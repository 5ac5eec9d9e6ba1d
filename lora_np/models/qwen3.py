"""Qwen3 (Yang et al., 2025): a Llama whose queries and keys pass a norm, head by head, before they are turned."""

from dataclasses import dataclass
from typing import Any

from .. import nn
from ..autograd import Tensor
from .config import Size
from .llama import LlamaAttention, LlamaConfig, LlamaForCausalLM
from .qwen2 import Qwen2Config


@dataclass
class Qwen3Config(Qwen2Config):
    """The shape of a Qwen3, under the names of Hugging Face's config.json. The defaults are Transformers'."""

    head_dim: Size = 128
    attention_bias: bool = False  # type: ignore[misc]

    model_type, architecture = "qwen3", "Qwen3ForCausalLM"


class Qwen3Attention(LlamaAttention):
    """Llama's attention, with a norm of each head's queries and keys."""

    Norm: Any = nn.RMSNorm

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.q_norm = self.Norm(config.head_dim, config.rms_norm_eps)
        self.k_norm = self.Norm(config.head_dim, config.rms_norm_eps)

    def project(self, x: Tensor) -> tuple[Any, Any, Any]:
        (B, T, _), (q, k, v) = x.shape, super().project(x)
        q = self.q_norm(q.reshape(B, T, self.heads, -1)).reshape(B, T, -1)
        k = self.k_norm(k.reshape(B, T, self.kv_heads, -1)).reshape(B, T, -1)
        return q, k, v


class Qwen3ForCausalLM(LlamaForCausalLM):
    """Qwen3 with its language-model head."""

    Attention = Qwen3Attention
