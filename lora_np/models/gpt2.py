"""GPT-2 (Radford et al., 2019), bottom up: attention, MLP, block, transformer, language model.

Configuration fields and parameter names are Hugging Face's, so that checkpoints need no translation.
Shapes: B batch, T time, C channels (n_embd), H heads, D head size (C = H·D), V vocabulary.
"""

from dataclasses import dataclass

import numpy as np

from .. import nn
from ..autograd import functional as F
from ..autograd.fused import head_views
from ..autograd.tensor import Tensor, data
from .activations import ACTIVATIONS, check_activation
from .base import CausalLM
from .config import Chance, Depth, Fraction, ModelConfig, OptionalId, Size, TokenIds
from .context import Context, run_block
from .initialisation import init_weights


@dataclass
class GPT2Config(ModelConfig):
    """The shape of a GPT-2, under the names of Hugging Face's config.json. The defaults are the 124M model's."""

    vocab_size: Size = 50257
    n_positions: Size = 1024
    n_embd: Size = 768
    n_layer: Depth = 12
    n_head: Size = 12
    n_inner: Size | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: Chance = 0.1
    embd_pdrop: Chance = 0.1
    attn_pdrop: Chance = 0.1
    layer_norm_epsilon: Fraction = 1e-5
    initializer_range: Fraction = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: OptionalId = 50256
    eos_token_id: TokenIds = 50256

    model_type = "gpt2"
    architecture = "GPT2LMHeadModel"

    # What other models call some of these fields: `config.hidden_size` is `config.n_embd`, to read it and to set it,
    # and in files.
    attribute_map = {"hidden_size": "n_embd", "max_position_embeddings": "n_positions"}
    attribute_map |= {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd = {self.n_embd} cannot be shared equally by n_head = {self.n_head} heads")
        check_activation(self.activation_function, "activation_function")


class GPT2Attention(nn.Module):
    """Causal self-attention: c_attn makes queries, keys and values in one product, c_proj mixes the heads."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        C = config.n_embd
        self.layer, self.heads, self.dropout = layer, config.n_head, config.attn_pdrop
        self.scale = (C // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.c_attn = nn.Conv1D(3 * C, C)
        self.c_attn.parts = dict.fromkeys("qkv", C)
        self.c_proj = nn.Conv1D(C, C)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        qkv = self.c_attn(x)  # (B, T, 3C)
        dropout = self.dropout if self.training else 0.0
        if context.cache is None:
            y = F.self_attention(qkv, self.heads, scale=self.scale, dropout=dropout, **context.seen)  # (B, T, C)
        else:
            y = self._attend_to_cache(qkv, context)
        return self.resid_dropout(self.c_proj(y))

    def _attend_to_cache(self, qkv, context):
        """The same for the next tokens of a text, whose earlier keys and values the cache has."""
        q, k, v = head_views(data(qkv), self.heads, 3)  # (B, H, T, D) each; arrays: a cache has no gradients
        k, v = context.extend(self.layer, k, v)
        y = F.attention(q, k, v, scale=self.scale, **context.seen)  # (B, H, T, D)
        return y.swapaxes(1, 2).reshape(*qkv.shape[:2], -1)


class GPT2MLP(nn.Module):
    """Each position by itself: expand, bend, narrow."""

    def __init__(self, config: GPT2Config) -> None:
        C, inner = config.n_embd, config.n_inner or 4 * config.n_embd
        self.c_fc = nn.Conv1D(inner, C)
        self.c_proj = nn.Conv1D(C, inner)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))


class GPT2Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the residual stream is only ever added to."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        x = x + self.attn(self.ln_1(x), context)
        return x + self.mlp(self.ln_2(x))


class GPT2Model(nn.Module):
    """Token and position embeddings, the blocks, a last layer norm: ids (B, T) -> hidden states (B, T, C)."""

    def __init__(self, config: GPT2Config) -> None:
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(GPT2Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def forward(self, ids: np.ndarray, context: Context) -> Tensor:
        x = self.wte(ids) + self.wpe(context.positions)
        x = self.drop(x)
        for block in self.h:
            x = run_block(block, x, context)
        return self.ln_f(x)


class GPT2LMHeadModel(CausalLM):
    """GPT-2 with its language-model head, which shares its weight with the token embedding when the config says so.

    A call gives logits, and with labels the loss; that and generation are the same for all models: `base.py`.
    """

    base_model_prefix = "transformer"

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.transformer = GPT2Model(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self._tie_weights()
        self._init_weights()

    def _init_weights(self) -> None:
        """Normal weights; where a layer writes to the residual stream, std is divided by √(number of such layers)."""
        std, depth = self.config.initializer_range, self.config.n_layer
        residual = [layer for block in self.transformer.h for layer in (block.attn.c_proj, block.mlp.c_proj)]
        init_weights(self, std, dict.fromkeys(residual, std / (2 * depth) ** 0.5))

    def get_input_embeddings(self) -> nn.Embedding:
        return self.transformer.wte
