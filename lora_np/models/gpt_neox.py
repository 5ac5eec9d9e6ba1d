"""GPT-NeoX (Black et al., 2022), bottom up: attention, MLP, block, transformer, language model. Pythia is one.

Configuration fields and parameter names are Hugging Face's, so that checkpoints need no translation.
Shapes: B batch, T time, C channels (hidden_size), H heads, D head size (C = H·D), V vocabulary. What differs from
GPT-2: positions told by turning a part of each head, queries, keys and values side by side for each head, and a block
whose attention and MLP read the same input.
"""

from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from typing import Any, Self

import numpy as np

from .. import nn
from ..autograd import Tensor
from ..autograd import functional as F
from ..nn.parts import Parts
from .activations import ACTIVATIONS, check_activation
from .base import CausalLM
from .config import Chance, Depth, Fraction, ModelConfig, OptionalId, Size, TokenIds
from .context import Context, run_block
from .initialisation import init_weights
from .llama import LARGEST_HEAD, LlamaRotaryEmbedding
from .rope import PART, check_rope, rope_parameters, turning_pairs


@dataclass
class GPTNeoXConfig(ModelConfig):
    """The shape of a GPT-NeoX, under the names of Hugging Face's config.json. The defaults are Transformers'.

    rotary_pct, rotary_emb_base    the part of each head that turns and θ, as older files have them: what
                                   `rope_parameters` says goes before
    """

    vocab_size: Size = 50432
    hidden_size: Size = 6144
    num_hidden_layers: Depth = 44
    num_attention_heads: Size = 64
    intermediate_size: Size = 24576
    hidden_act: str = "gelu"
    attention_dropout: Chance = 0.0
    hidden_dropout: Chance = 0.0
    max_position_embeddings: Size = 2048
    initializer_range: Fraction = 0.02
    layer_norm_eps: Fraction = 1e-5
    bos_token_id: OptionalId = 0
    eos_token_id: TokenIds = 2
    tie_word_embeddings: bool = False
    use_parallel_residual: bool = True
    rope_parameters: dict | None = None
    attention_bias: bool = True
    rotary_pct: InitVar[float | None] = None
    rotary_emb_base: InitVar[float | None] = None

    model_type = "gpt_neox"
    architecture = "GPTNeoXForCausalLM"

    def __post_init__(self, rotary_pct: float | None, rotary_emb_base: float | None) -> None:
        super().__post_init__()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size = {self.hidden_size} cannot be shared equally by {self.num_attention_heads} heads"
            )
        if self.head_dim > LARGEST_HEAD:
            raise ValueError(f"a head of {self.head_dim} channels is too wide; at most {LARGEST_HEAD}")
        check_activation(self.hidden_act, "hidden_act")
        older = {PART: 0.25 if rotary_pct is None else rotary_pct}
        older |= {} if rotary_emb_base is None else {"rope_theta": rotary_emb_base}
        self.rope_parameters = check_rope({**older, **(self.rope_parameters or {})}, self.head_dim)
        if 2 * turning_pairs(self.head_dim, self.rope_parameters) > self.head_dim:
            raise ValueError(
                f"rotary positions turn pairs of channels: a head of {self.head_dim} cannot turn as a whole"
            )

    @property
    def head_dim(self) -> int:
        """D, the channels of each head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        """From the fields of a config.json; those that say nothing about the computation are passed over."""
        older = {"rope_theta": fields.get("rotary_emb_base"), PART: fields.get("rotary_pct")}
        older = {"max_position_embeddings": cls.max_position_embeddings, PART: 0.25} | {
            name: value for name, value in older.items() if value is not None
        }
        given = {name: value for name, value in fields.items() if name not in ("rope_theta", PART)}  # others' names
        return super().from_dict({**fields, "rope_parameters": rope_parameters({**older, **given})})


class GPTNeoXAttention(nn.Module):
    """Causal self-attention: query_key_value gives each head its query, key and value, dense mixes the heads."""

    def __init__(self, config: GPTNeoXConfig, layer: int) -> None:
        C, bias = config.hidden_size, config.attention_bias
        self.layer, self.heads, self.dropout = layer, config.num_attention_heads, config.attention_dropout
        self.query_key_value = nn.Linear(C, 3 * C, bias)
        self.query_key_value.parts = Parts(dict.fromkeys("qkv", C), groups=self.heads)
        self.dense = nn.Linear(C, C, bias)

    def forward(self, x: Tensor, context: Context, angles: Sequence[np.ndarray]) -> Tensor:
        (B, T, C), (cos, sin) = x.shape, angles
        qkv = self.query_key_value(x).reshape(B, T, self.heads, 3, -1)  # (B, T, H, 3, D)
        q, k, v = (qkv[:, :, :, i] for i in range(3))
        q, k = (F.rotary(part.reshape(B, T, C), cos, sin, self.heads) for part in (q, k))  # (B, H, T, D)
        v = v.swapaxes(1, 2)
        if context.cache is not None:
            k, v = context.extend(self.layer, k, v)
        dropout = self.dropout if self.training else 0.0
        y = F.attention(q, k, v, dropout=dropout, **context.seen)  # (B, H, T, D)
        return self.dense(y.swapaxes(1, 2).reshape(B, T, C))


class GPTNeoXMLP(nn.Module):
    """Each position by itself: expand, bend, narrow."""

    def __init__(self, config: GPTNeoXConfig) -> None:
        C, inner = config.hidden_size, config.intermediate_size
        self.dense_h_to_4h = nn.Linear(C, inner)
        self.dense_4h_to_h = nn.Linear(inner, C)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.activation(self.dense_h_to_4h(x)))


class GPTNeoXLayer(nn.Module):
    """x + attention(norm(x)) + mlp(norm(x)), each with a norm of its own; or, not in parallel, one after the other."""

    def __init__(self, config: GPTNeoXConfig, layer: int) -> None:
        self.parallel = config.use_parallel_residual
        self.input_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.attention = GPTNeoXAttention(config, layer)
        self.mlp = GPTNeoXMLP(config)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, x: Tensor, context: Context, angles: Sequence[np.ndarray]) -> Tensor:
        attended = x + self.dropout(self.attention(self.input_layernorm(x), context, angles))
        return attended + self.dropout(self.mlp(self.post_attention_layernorm(x if self.parallel else attended)))


class GPTNeoXModel(nn.Module):
    """Token embedding, the blocks, a last layer norm: ids (B, T) -> hidden states (B, T, C)."""

    def __init__(self, config: GPTNeoXConfig) -> None:
        self.embed_in = nn.Embedding(config.vocab_size, config.hidden_size)
        self.emb_dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(GPTNeoXLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config)

    def forward(self, ids: np.ndarray, context: Context) -> Tensor:
        x = self.emb_dropout(self.embed_in(ids))
        angles = self.rotary_emb(context.positions, like=x)
        for layer in self.layers:
            x = run_block(layer, x, context, angles)
        return self.final_layer_norm(x)


class GPTNeoXForCausalLM(CausalLM):
    """GPT-NeoX with its language-model head, which files call embed_out, as in Transformers."""

    base_model_prefix, head_in_files = "gpt_neox", "embed_out"

    def __init__(self, config: GPTNeoXConfig) -> None:
        super().__init__(config)
        self.gpt_neox = GPTNeoXModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self._tie_weights()
        init_weights(self, config.initializer_range)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.gpt_neox.embed_in
