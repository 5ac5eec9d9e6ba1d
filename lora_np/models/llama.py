"""Llama (Touvron et al., 2023), bottom up: rotary positions, attention, MLP, block, transformer, language model.

SmolLM2 is one. Configuration fields and parameter names are Hugging Face's, so that checkpoints need no translation.
Shapes: B batch, T time, C channels (hidden_size), H heads of queries, K heads of keys and values, D head size
(H·D need not be C), V vocabulary. What differs from GPT-2: norms without mean or bias, positions told by turning
queries and keys, a gated MLP, and one head of keys and values for several heads of queries.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .. import nn
from ..autograd import Tensor
from ..autograd import functional as F
from ..autograd.devices import to_device
from .activations import ACTIVATIONS, check_activation
from .base import CausalLM
from .config import Chance, Depth, Fraction, ModelConfig, OptionalId, Size, TokenIds
from .context import Context, run_block
from .initialisation import init_weights
from .rope import check_rope, inverse_frequencies, rope_parameters

LARGEST_HEAD = 2**16  # channels


@dataclass
class LlamaConfig(ModelConfig):
    """The shape of a Llama, under the names of Hugging Face's config.json. The defaults are Transformers'."""

    vocab_size: Size = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Depth = 32
    num_attention_heads: Size = 32
    num_key_value_heads: Size = None  # type: ignore[assignment]  # None: as many as num_attention_heads
    head_dim: Size = None  # type: ignore[assignment]  # None: hidden_size / num_attention_heads
    hidden_act: str = "silu"
    max_position_embeddings: Size = 2048
    initializer_range: Fraction = 0.02
    rms_norm_eps: Fraction = 1e-6
    rope_parameters: dict | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    attention_dropout: Chance = 0.0
    tie_word_embeddings: bool = False
    bos_token_id: OptionalId = 1
    eos_token_id: TokenIds = 2

    model_type = "llama"
    architecture = "LlamaForCausalLM"
    norms_of_heads = False  # are queries and keys normed, each head by itself? (Qwen3)

    def __post_init__(self) -> None:
        super().__post_init__()
        H = self.num_attention_heads
        K = self.num_key_value_heads = H if self.num_key_value_heads is None else self.num_key_value_heads
        if H % K:
            raise ValueError(f"num_attention_heads = {H} cannot be shared equally by num_key_value_heads = {K}")
        if self.head_dim is None:
            if self.hidden_size % H:
                raise ValueError(f"hidden_size = {self.hidden_size} cannot be shared equally by {H} heads")
            self.head_dim = self.hidden_size // H
        if not 2 <= self.head_dim <= LARGEST_HEAD or self.head_dim % 2:
            raise ValueError(
                f"head_dim must be even, rotary positions turn pairs of channels, and at most {LARGEST_HEAD}; "
                f"got {self.head_dim}"
            )
        check_activation(self.hidden_act, "hidden_act")
        self.rope_parameters = check_rope(self.rope_parameters or {})

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields of a config.json; those that say nothing about the computation are passed over."""
        context = {"max_position_embeddings": cls.max_position_embeddings}
        return super().from_dict({**fields, "rope_parameters": rope_parameters({**context, **fields})})


class LlamaRotaryEmbedding:
    """Cosines and sines of each position's angles, position · inverse frequency for each pair of channels of a head."""

    def __init__(self, config):
        self.frequencies = inverse_frequencies(config.head_dim, config.rope_parameters)

    def __call__(self, positions, like):
        """positions (..., T) -> cos and sin (..., T, D/2), of the dtype and on the device of the Tensor `like`."""
        angles = positions[..., None].astype(np.float32) * self.frequencies
        return [to_device(f(angles).astype(like.dtype, copy=False), like.device) for f in (np.cos, np.sin)]


class LlamaAttention(nn.Module):
    """Causal self-attention: queries, keys and values by a product each, turned by their positions."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        C, D, bias = config.hidden_size, config.head_dim, config.attention_bias
        self.layer, self.dropout = layer, config.attention_dropout
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(C, self.heads * D, bias)
        self.k_proj = nn.Linear(C, self.kv_heads * D, bias)
        self.v_proj = nn.Linear(C, self.kv_heads * D, bias)
        self.o_proj = nn.Linear(self.heads * D, C, bias)
        self.q_norm = nn.RMSNorm(D, config.rms_norm_eps) if config.norms_of_heads else None
        self.k_norm = nn.RMSNorm(D, config.rms_norm_eps) if config.norms_of_heads else None

    def forward(self, x: Tensor, context: Context, angles: Sequence[np.ndarray]) -> Tensor:
        (B, T, _), (cos, sin) = x.shape, angles
        q, k = self.q_proj(x), self.k_proj(x)
        if self.q_norm is not None and self.k_norm is not None:
            q = self.q_norm(q.reshape(B, T, self.heads, -1)).reshape(B, T, -1)
            k = self.k_norm(k.reshape(B, T, self.kv_heads, -1)).reshape(B, T, -1)
        q = F.rotary(q, cos, sin, self.heads)  # (B, H, T, D)
        k = F.rotary(k, cos, sin, self.kv_heads)  # (B, K, T, D)
        v = self.v_proj(x).reshape(B, T, self.kv_heads, -1).swapaxes(1, 2)  # (B, K, T, D)
        if context.cache is not None:
            k, v = context.extend(self.layer, k, v)
        dropout = self.dropout if self.training else 0.0
        y = F.attention(q, k, v, dropout=dropout, key_mask=context.key_mask)  # (B, H, T, D)
        return self.o_proj(y.swapaxes(1, 2).reshape(B, T, -1))


class LlamaMLP(nn.Module):
    """Each position by itself: expand twice, let one gate the other, narrow."""

    def __init__(self, config: LlamaConfig) -> None:
        C, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(C, inner, bias)
        self.up_proj = nn.Linear(C, inner, bias)
        self.down_proj = nn.Linear(inner, C, bias)
        self.activation = config.hidden_act

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_proj(x), self.up_proj(x)  # (B, T, inner)
        if self.activation in ("silu", "swish"):
            return self.down_proj(F.swiglu(gate, up))
        return self.down_proj(ACTIVATIONS[self.activation](gate) * up)


class LlamaDecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the residual stream is only ever added to."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        self.self_attn = LlamaAttention(config, layer)
        self.mlp = LlamaMLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, context: Context, angles: Sequence[np.ndarray]) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), context, angles)
        return x + self.mlp(self.post_attention_layernorm(x))


class LlamaModel(nn.Module):
    """Token embedding, the blocks, a last norm: ids (B, T) -> hidden states (B, T, C)."""

    def __init__(self, config: LlamaConfig) -> None:
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(LlamaDecoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)

    def forward(self, ids: np.ndarray, context: Context) -> Tensor:
        x = self.embed_tokens(ids)
        angles = self.rotary_emb(context.positions, like=x)
        for layer in self.layers:
            x = run_block(layer, x, context, angles)
        return self.norm(x)


class LlamaForCausalLM(CausalLM):
    """Llama with its language-model head, which shares its weight with the token embedding when the config says so."""

    base_model_prefix = "model"

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = LlamaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._tie_weights()
        init_weights(self, config.initializer_range)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens
