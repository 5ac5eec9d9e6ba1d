"""GPT-2 (Radford et al., 2019), bottom up: attention, MLP, block, transformer, language model.

Configuration fields and parameter names are Hugging Face's, so that checkpoints need no translation.
Shapes: B batch, T time, C channels (n_embd), H heads, D head size (C = H·D), V vocabulary.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import nn
from ..autograd import functional as F
from ..autograd.backend import to_numpy
from ..autograd.layout import check_ids
from ..autograd.tensor import data
from ..nn.layers import normal
from ..storage import write_json, write_safetensors
from .generation import generate
from .output import CausalLMOutput, shift_labels

ACTIVATIONS = {
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": lambda x: F.gelu(x, approximate="none"),
}


@dataclass
class GPT2Config:
    """The shape of a GPT-2, under the names of Hugging Face's config.json. The defaults are the 124M model's."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    activation_function: str = "gelu_new"
    resid_pdrop: float = 0.1
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    model_type = "gpt2"

    def __post_init__(self):
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ValueError(f"{name} must be a positive integer, got {getattr(self, name)!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd = {self.n_embd} can not be shared equally by n_head = {self.n_head} heads")
        if self.activation_function not in ACTIVATIONS:
            known = ", ".join(ACTIVATIONS)
            raise ValueError(f"activation_function {self.activation_function!r} is not known; known are {known}")

    def to_dict(self):
        """The fields of config.json."""
        return {"model_type": self.model_type, "architectures": ["GPT2LMHeadModel"], **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, fields):
        """From the fields of a config.json; those that say nothing about the computation are passed over."""
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in fields.items() if name in names})


class GPT2Attention(nn.Module):
    """Causal self-attention: c_attn makes queries, keys and values in one product, c_proj mixes the heads."""

    def __init__(self, config, layer):
        C = config.n_embd
        self.heads, self.dropout = config.n_head, config.attn_pdrop
        self.scale = (C // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer + 1
        self.c_attn = nn.Conv1D(3 * C, C)
        self.c_attn.parts = ("q", "k", "v")
        self.c_proj = nn.Conv1D(C, C)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x):
        qkv = self.c_attn(x)  # (B, T, 3C)
        dropout = self.dropout if self.training else 0.0
        y = F.self_attention(qkv, self.heads, scale=self.scale, dropout=dropout)  # (B, T, C)
        return self.resid_dropout(self.c_proj(y))


class GPT2MLP(nn.Module):
    """Each position by itself: widen, bend, narrow."""

    def __init__(self, config):
        C, inner = config.n_embd, config.n_inner or 4 * config.n_embd
        self.c_fc = nn.Conv1D(inner, C)
        self.c_proj = nn.Conv1D(C, inner)
        self.activation = ACTIVATIONS[config.activation_function]
        self.dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x):
        return self.dropout(self.c_proj(self.activation(self.c_fc(x))))


class GPT2Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)): the residual stream is only ever added to."""

    def __init__(self, config, layer):
        self.ln_1 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config)

    def forward(self, x):
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2Model(nn.Module):
    """Token and position embeddings, the blocks, a last layer norm: ids (B, T) -> hidden states (B, T, C)."""

    def __init__(self, config):
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(GPT2Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, config.layer_norm_epsilon)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe(np.arange(ids.shape[1]))
        x = self.drop(x)
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class GPT2LMHeadModel(nn.Module):
    """GPT-2 with its language-model head, which shares its weight with the token embedding when the config says so."""

    def __init__(self, config):
        self.config = config
        self.transformer = GPT2Model(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.transformer.wte.weight
        self._init_weights()

    def _init_weights(self):
        """GPT-2's start: normal weights, those that write to the residual stream smaller the more of them there are."""
        std, depth = self.config.initializer_range, self.config.n_layer
        for name, p in self.named_parameters():
            if name.endswith("weight") and p.ndim == 2:
                residual = name.endswith("c_proj.weight")
                p.data = normal(p.shape, std / (2 * depth) ** 0.5 if residual else std)

    def generate(self, ids, **options):
        """Continue `ids`; see `generation.generate` for the options."""
        return generate(self, ids, **options)

    def save_pretrained(self, directory):
        """Write config.json and model.safetensors, which Transformers loads too."""
        write_safetensors(Path(directory) / "model.safetensors", self.state_dict())
        write_json(Path(directory) / "config.json", self.config.to_dict())

    def get_output_embeddings(self):
        """The head: the layer that turns hidden states into logits."""
        return self.lm_head

    def forward(self, input_ids, labels=None):
        """input_ids (B, T) integers -> an output with .logits (B, T, V) and, if labels are given, .loss.

        labels (B, T): usually the ids themselves. They are shifted here: position t is judged by label t + 1.
        Positions labelled -100 do not count.
        """
        ids = self._check_ids(input_ids)
        targets = None if labels is None else shift_labels(labels, ids.shape)
        return CausalLMOutput(self.transformer(ids), self.lm_head, targets)

    def _check_ids(self, ids):
        """The ids as a NumPy array (B, T): checking them is the host's work, a GPU would have to be waited for."""
        ids = to_numpy(data(ids))
        if ids.ndim != 2 or ids.size == 0:
            raise ValueError(f"input_ids must be (batch, time) with at least one token, got shape {ids.shape}")
        if ids.shape[1] > self.config.n_positions:
            raise ValueError(f"{ids.shape[1]} tokens are more than the model's context of {self.config.n_positions}")
        check_ids(ids, self.config.vocab_size)
        return ids
