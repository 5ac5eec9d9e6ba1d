"""OLMo 2 (OLMo Team, 2024): a Llama with norms behind attention and MLP, and on queries and keys, none in front."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from .. import nn
from ..autograd import Tensor
from .config import Fraction, OptionalId, Size, TokenIds
from .context import Context
from .llama import LlamaAttention, LlamaConfig, LlamaDecoderLayer, LlamaForCausalLM


@dataclass
class Olmo2Config(LlamaConfig):
    """The shape of an OLMo 2, under the names of Hugging Face's config.json. The defaults are Transformers'."""

    vocab_size: Size = 50304
    rms_norm_eps: Fraction = 1e-5
    bos_token_id: OptionalId = None
    eos_token_id: TokenIds = 50279
    pad_token_id: OptionalId = field(default=1, kw_only=True)
    mlp_bias: ClassVar[bool] = False  # type: ignore[misc]

    model_type, architecture = "olmo2", "Olmo2ForCausalLM"


class Olmo2Attention(LlamaAttention):
    """Llama's attention, with a norm of all queries and one of all keys, each over all heads together."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.q_norm = nn.RMSNorm(self.heads * config.head_dim, config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(self.kv_heads * config.head_dim, config.rms_norm_eps)

    def project(self, x: Tensor) -> tuple[Any, Any, Any]:
        q, k, v = super().project(x)
        return self.q_norm(q), self.k_norm(k), v


class Olmo2DecoderLayer(LlamaDecoderLayer):
    """x + norm(attention(x)), then x + norm(mlp(x)): what is added is normed, not what is read."""

    def __init__(self, config: LlamaConfig, layer: int, parts: Any) -> None:
        super().__init__(config, layer, parts)
        del self.input_layernorm
        self.post_feedforward_layernorm = parts.Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, context: Context, angles: Any) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(x, context, angles))
        return x + self.post_feedforward_layernorm(self.mlp(x))


class Olmo2ForCausalLM(LlamaForCausalLM):
    """OLMo 2 with its language-model head."""

    Layer, Attention = Olmo2DecoderLayer, Olmo2Attention
