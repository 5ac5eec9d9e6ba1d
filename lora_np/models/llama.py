"""Llama (Touvron et al., 2023), bottom up: rotary positions, attention, MLP, block, transformer, language model.

SmolLM2 is one. Configuration fields and parameter names are Hugging Face's, so that checkpoints need no translation.
Shapes: B batch, T time, C channels (hidden_size), H heads of queries, K heads of keys and values, D head size
(H·D need not be C), V vocabulary. What differs from GPT-2: norms without mean or bias, positions told by turning
queries and keys, a gated MLP, and one head of keys and values for several heads of queries.

Many models are a Llama but for a detail or two: mistral.py, qwen2.py, gemma2.py, ... derive from what is here, and say
the details alone. `LlamaForCausalLM` has the list of classes in whose place they put their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from .. import nn
from ..autograd import Tensor
from ..autograd import functional as F
from ..autograd.devices import to_device
from ..autograd.float_types import is_bfloat16
from .activations import ACTIVATIONS, check_activation
from .base import CausalLM
from .config import Chance, Depth, Fraction, ModelConfig, OptionalId, Size, TokenIds
from .context import Context, run_block
from .initialisation import init_weights
from .rope import CHANGING, PART, attention_factor, check_rope, inverse_frequencies, rope_parameters

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
    rope_theta = 10000.0  # where a file says none
    activation_field = "hidden_act"  # what names the activation
    turns_a_part = False  # may rotary positions turn a part of each head only? (partial_rotary_factor)

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
        check_activation(self.hidden_act, self.activation_field)
        self.rope_parameters = self.checked_rope(self.rope_parameters or {})

    def checked_rope(self, given: dict[str, Any]) -> dict[str, Any]:
        """`given` rope_parameters with their defaults; ValueError if they are not such as this model turns by."""
        parameters = check_rope({"rope_theta": self.rope_theta, **given}, self.head_dim)
        if parameters.get(PART) not in (None, 1.0) and not self.turns_a_part:
            raise ValueError(f"rotary positions on a part of each head ({PART}) are not a {self.model_type} model's")
        return parameters

    def window(self, layer: int) -> int | None:
        """How many keys, its own the last, a query sees in this layer; None for all."""
        return None

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields of a config.json; those that say nothing about the computation are passed over."""
        defaults = {"max_position_embeddings": cls.max_position_embeddings, "rope_theta": cls.rope_theta}
        return super().from_dict({**fields, "rope_parameters": cls.rope_of({**defaults, **fields})})

    @classmethod
    def rope_of(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        """rope_parameters as files of any age say them."""
        return rope_parameters(fields)


class LlamaRotaryEmbedding:
    """Cosines and sines of each position's angles, position · inverse frequency for each pair of channels of a head.

    Some kinds turn otherwise in a long text than in a short one. How long it is says the largest position of the call,
    and nothing that was read before: keys in a cache stay as they were turned, as in Transformers.
    """

    def __init__(self, config, parameters=None):
        parameters = config.rope_parameters if parameters is None else parameters
        self.settings = config.head_dim, parameters, config.max_position_embeddings
        self.frequencies = inverse_frequencies(*self.settings)
        self.changing = parameters["rope_type"] in CHANGING
        self.factor = np.float32(attention_factor(*self.settings[1:]))

    def __call__(self, positions, like):
        """positions (..., T) -> cos and sin (..., T, pairs), on the device of the Tensor `like`, and in its dtype.

        Beside bfloat16 they are in float32: an angle's cosine in 8 bits would be another angle's.
        """
        kind = np.float32 if is_bfloat16(like.dtype) else like.dtype
        now = getattr(positions, "now", None)  # in a recorded step: the positions of the one that is replayed

        def turns(f, positions):
            length = int(positions.max()) + 1
            frequencies = inverse_frequencies(*self.settings, length) if self.changing else self.frequencies
            angles = np.asarray(positions)[..., None].astype(np.float32) * frequencies
            return (f(angles) * self.factor).astype(kind, copy=False)

        again = {f: None if now is None else lambda f=f: turns(f, now()) for f in (np.cos, np.sin)}
        return [to_device(turns(f, positions), like.device, refresh) for f, refresh in again.items()]


class LlamaAttention(nn.Module):
    """Causal self-attention: queries, keys and values by a product each, turned by their positions."""

    scale: float | None = None  # of the scores; None for 1/√D
    softcap: float | None = None  # what caps them (Gemma 2)

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        C, D, bias = config.hidden_size, config.head_dim, config.attention_bias
        self.layer, self.dropout, self.window = layer, config.attention_dropout, config.window(layer)
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(C, self.heads * D, bias)
        self.k_proj = nn.Linear(C, self.kv_heads * D, bias)
        self.v_proj = nn.Linear(C, self.kv_heads * D, bias)
        self.o_proj = nn.Linear(self.heads * D, C, bias)

    def project(self, x: Tensor) -> tuple[Any, Any, Any]:
        """x (B, T, C) -> queries (B, T, H·D), keys and values (B, T, K·D)."""
        q, k, v = nn.beside(x, self.q_proj, self.k_proj, self.v_proj)
        return q, k, v

    def turn(self, x: Tensor, heads: int, angles: Any) -> Any:
        """Queries or keys (B, T, heads·D) -> (B, heads, T, D), turned by the angles of their positions."""
        cos, sin = angles
        return F.rotary(x, cos, sin, heads)

    def split(self, x: Any, heads: int) -> Any:
        """(B, T, heads·D) -> (B, heads, T, D)."""
        return x.reshape(*x.shape[:2], heads, -1).swapaxes(1, 2)

    def forward(self, x: Tensor, context: Context, angles: Any) -> Tensor:
        B, T, _ = x.shape
        q, k, v = self.project(x)
        q, k = self.turn(q, self.heads, angles), self.turn(k, self.kv_heads, angles)  # (B, H, T, D), (B, K, T, D)
        v = self.split(v, self.kv_heads)  # (B, K, T, D)
        if context.cache is not None:
            k, v = context.extend(self.layer, k, v)
        dropout = self.dropout if self.training else 0.0
        bounds = {"window": self.window, "softcap": self.softcap}
        y = F.attention(q, k, v, scale=self.scale, dropout=dropout, **bounds, **context.seen)  # (B, H, T, D)
        return self.o_proj(y.swapaxes(1, 2).reshape(B, T, -1))


class LlamaMLP(nn.Module):
    """Each position by itself: expand twice, let one gate the other, narrow."""

    def __init__(self, config: LlamaConfig) -> None:
        C, inner, bias = config.hidden_size, config.intermediate_size, config.mlp_bias
        self.gate_proj = nn.Linear(C, inner, bias)
        self.up_proj = nn.Linear(C, inner, bias)
        self.down_proj = nn.Linear(inner, C, bias)
        self.activation = config.hidden_act

    def expand(self, x: Tensor, gated: Any) -> Any:
        """x (B, T, C) -> gated(what gates, what is gated), all (B, T, inner)."""
        return nn.beside(x, self.gate_proj, self.up_proj, then=gated)

    def gated(self, gate: Any, up: Any) -> Any:
        """activation(gate) ∘ up."""
        return ACTIVATIONS[self.activation](gate) * up

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.expand(x, F.swiglu if self.activation in ("silu", "swish") else self.gated))


class LlamaDecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the residual stream is only ever added to.

    parts: the classes that `LlamaForCausalLM` lists.
    """

    def __init__(self, config: LlamaConfig, layer: int, parts: Any) -> None:
        self.self_attn = parts.Attention(config, layer)
        self.mlp = parts.MLP(config)
        self.input_layernorm = parts.Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = parts.Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, context: Context, angles: Any) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), context, angles)
        return x + self.mlp(self.post_attention_layernorm(x))


def padding_row(config: LlamaConfig) -> int | None:
    """Which row of the embedding gets no gradient, as in Transformers: pad_token_id's, the last for -1."""
    row = config.pad_token_id
    return row if row is not None and row < config.vocab_size else None


class LlamaModel(nn.Module):
    """Token embedding, the blocks, a last norm: ids (B, T) -> hidden states (B, T, C)."""

    def __init__(self, config: LlamaConfig, parts: Any = None) -> None:
        parts = LlamaForCausalLM if parts is None else parts
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_row(config))
        self.layers = nn.ModuleList(parts.Layer(config, layer, parts) for layer in range(config.num_hidden_layers))
        self.norm = parts.Norm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = parts.Positions(config)

    def embed(self, ids: np.ndarray) -> Tensor:
        """ids (B, T) -> (B, T, C), what the first block reads."""
        return self.embed_tokens(ids)

    def forward(self, ids: np.ndarray, context: Context) -> Tensor:
        x = self.embed(ids)
        angles = self.rotary_emb(context.positions, like=x)
        for layer in self.layers:
            x = run_block(layer, x, context, angles)
        return self.norm(x)


class LlamaForCausalLM(CausalLM):
    """Llama with its language-model head, which shares its weight with the token embedding when the config says so.

    The classes of its parts stand here, so that a model that is a Llama but for some of them names those.
    """

    base_model_prefix = "model"
    Model: Any = LlamaModel
    Layer: Any = LlamaDecoderLayer
    Attention: Any = LlamaAttention
    MLP: Any = LlamaMLP
    Norm: Any = nn.RMSNorm
    Positions: Any = LlamaRotaryEmbedding

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.model = self.Model(config, type(self))
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._tie_weights()
        init_weights(self, config.initializer_range)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens
