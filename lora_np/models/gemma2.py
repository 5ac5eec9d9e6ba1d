"""Gemma 2 (Gemma Team, 2024): a Llama with norms on both sides of attention and MLP, and soft caps.

Every other block sees the nearest tokens only. A norm's weight is stored less 1, and embeddings are multiplied by √C.
"""

from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any, ClassVar

import numpy as np

from .. import nn
from ..autograd import Tensor
from ..autograd import functional as F
from .config import Depth, OptionalId, Size, TokenIds
from .context import Context
from .llama import LlamaAttention, LlamaConfig, LlamaDecoderLayer, LlamaForCausalLM, LlamaModel
from .rope import POSITIVE
from .windows import settle_layer_types, window_of


@dataclass
class Gemma2Config(LlamaConfig):
    """The shape of a Gemma 2, under the names of Hugging Face's config.json. The defaults are Transformers'."""

    vocab_size: Size = 256000
    hidden_size: Size = 2304
    intermediate_size: Size = 9216
    num_hidden_layers: Depth = 26
    num_attention_heads: Size = 8
    num_key_value_heads: Size = 4
    head_dim: Size = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: Size = 8192
    tie_word_embeddings: bool = True
    bos_token_id: OptionalId = 2
    eos_token_id: TokenIds = 1
    pad_token_id: OptionalId = field(default=0, kw_only=True)
    query_pre_attn_scalar: Size = 256
    sliding_window: Size = 4096
    layer_types: list[str] | None = None
    final_logit_softcapping: POSITIVE | None = 30.0
    attn_logit_softcapping: POSITIVE | None = 50.0
    use_bidirectional_attention: bool | None = None
    hidden_act: ClassVar[Any] = property(attrgetter("hidden_activation"))  # type: ignore[misc]
    mlp_bias: ClassVar[bool] = False  # type: ignore[misc]

    model_type, architecture, activation_field = "gemma2", "Gemma2ForCausalLM", "hidden_activation"
    pattern = 2  # so many blocks, and then one of them sees the whole text

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use_bidirectional_attention:
            raise ValueError("use_bidirectional_attention: text that is read both ways is not supported")
        settle_layer_types(self, lambda layer: bool((layer + 1) % self.pattern))

    def window(self, layer: int) -> int | None:
        return window_of(self, layer)


class GemmaRMSNorm(nn.RMSNorm):
    """x̂ ∘ (1 + weight): the weight starts at 0."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__(width, eps)
        self.weight = nn.Parameter(nn.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight + 1.0, self.eps)


class Gemma2Attention(LlamaAttention):
    """Llama's attention with another scale and a cap on the scores."""

    def __init__(self, config: Gemma2Config, layer: int) -> None:
        super().__init__(config, layer)
        self.scale, self.softcap = config.query_pre_attn_scalar**-0.5, config.attn_logit_softcapping


class Gemma2DecoderLayer(LlamaDecoderLayer):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x))): what is added is normed, too."""

    def __init__(self, config: LlamaConfig, layer: int, parts: Any) -> None:
        super().__init__(config, layer, parts)
        self.pre_feedforward_layernorm = parts.Norm(config.hidden_size, config.rms_norm_eps)
        self.post_feedforward_layernorm = parts.Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, context: Context, angles: Any) -> Tensor:
        x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), context, angles))
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))


class Gemma2Model(LlamaModel):
    """Llama's transformer, with embeddings √C times as large. √C is rounded to float32, as in Transformers."""

    def embed(self, ids: np.ndarray) -> Any:
        x = self.embed_tokens(ids)
        return x * float(np.float32(x.shape[-1] ** 0.5))


class Gemma2ForCausalLM(LlamaForCausalLM):
    """Gemma 2 with its language-model head, whose logits are capped."""

    Model, Layer, Norm = Gemma2Model, Gemma2DecoderLayer, GemmaRMSNorm
    Attention: Any = Gemma2Attention

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__(config)
        self.softcap = config.final_logit_softcapping
