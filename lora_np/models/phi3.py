"""Phi-3 (Abdin et al., 2024): a Llama with one product for queries, keys and values, and one for its MLP's two inputs.

The parts can be adapted alone: target_modules=["qkv_proj.q", "gate_up_proj.up"].
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .. import nn
from ..autograd import Tensor
from ..storage.fields import check_fields, short
from .config import Chance, Fraction, OptionalId, Size, TokenIds
from .context import Context
from .llama import LlamaAttention, LlamaConfig, LlamaDecoderLayer, LlamaForCausalLM, LlamaMLP
from .rope import ORIGINAL, PART

OLDER_NAMES = ("su", "yarn")  # what files called longrope


@dataclass
class Phi3Config(LlamaConfig):
    """The shape of a Phi-3, under the names of Hugging Face's config.json. The defaults are Transformers'."""

    vocab_size: Size = 32064
    hidden_size: Size = 3072
    intermediate_size: Size = 8192
    resid_pdrop: Chance = 0.0
    embd_pdrop: Chance = 0.0  # read and, as in Transformers, not used
    max_position_embeddings: Size = 4096
    original_max_position_embeddings: Size = 4096
    rms_norm_eps: Fraction = 1e-5
    eos_token_id: TokenIds = 32000
    pad_token_id: OptionalId = field(default=32000, kw_only=True)
    sliding_window: Size | None = None
    attention_bias: ClassVar[bool] = False  # type: ignore[misc]
    mlp_bias: ClassVar[bool] = False  # type: ignore[misc]

    model_type, architecture, turns_a_part = "phi3", "Phi3ForCausalLM", True

    def window(self, layer: int) -> int | None:
        return self.sliding_window

    def checked_rope(self, given: dict[str, Any]) -> dict[str, Any]:
        given, kind = {PART: 1.0, **given}, given.get("rope_type", "default")
        if kind not in ("default", "longrope"):
            raise ValueError(f"rope_type of a phi3 model is 'default' or 'longrope', got {short(kind)}")
        original = {ORIGINAL: self.original_max_position_embeddings} if kind == "longrope" else {}
        return super().checked_rope({**given, **original})

    @classmethod
    def rope_of(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        check_fields(fields, {"rope_parameters": dict | None, "rope_scaling": dict | None})
        given = dict(fields.get("rope_scaling") or fields.get("rope_parameters") or {})
        if given.get("rope_type", given.get("type")) in OLDER_NAMES:
            given["rope_type"] = "longrope"
        return super().rope_of({**fields, "rope_scaling": None, "rope_parameters": given})


class Phi3Attention(LlamaAttention):
    """Llama's attention, with one product for queries, keys and values."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__(config, layer)
        del self.q_proj, self.k_proj, self.v_proj
        kv = self.kv_heads * config.head_dim
        self.widths = {"q": self.heads * config.head_dim, "k": kv, "v": kv}
        self.qkv_proj = nn.Linear(config.hidden_size, sum(self.widths.values()), bias=False)
        self.qkv_proj.parts = self.widths

    def project(self, x: Tensor) -> tuple[Any, Any, Any]:
        qkv, q, kv = self.qkv_proj(x), self.widths["q"], self.widths["k"]
        return qkv[..., :q], qkv[..., q : q + kv], qkv[..., q + kv :]


class Phi3MLP(LlamaMLP):
    """Llama's MLP, with one product for what gates and what is gated."""

    def __init__(self, config: LlamaConfig) -> None:
        C, inner = config.hidden_size, config.intermediate_size
        self.gate_up_proj = nn.Linear(C, 2 * inner, bias=False)
        self.gate_up_proj.parts = {"gate": inner, "up": inner}
        self.down_proj = nn.Linear(inner, C, bias=False)
        self.activation = config.hidden_act

    def expand(self, x: Tensor, gated: Any) -> Any:
        y = self.gate_up_proj(x)
        inner = y.shape[-1] // 2
        return gated(y[..., :inner], y[..., inner:])


class Phi3DecoderLayer(LlamaDecoderLayer):
    """Llama's block, with dropout of what is added."""

    def __init__(self, config: Phi3Config, layer: int, parts: Any) -> None:
        super().__init__(config, layer, parts)
        self.resid_dropout = nn.Dropout(config.resid_pdrop)

    def forward(self, x: Tensor, context: Context, angles: Any) -> Tensor:
        x = x + self.resid_dropout(self.self_attn(self.input_layernorm(x), context, angles))
        return x + self.resid_dropout(self.mlp(self.post_attention_layernorm(x)))


class Phi3ForCausalLM(LlamaForCausalLM):
    """Phi-3 with its language-model head."""

    Layer, Attention, MLP = Phi3DecoderLayer, Phi3Attention, Phi3MLP

    def reads_anew(self, held: int, length: int) -> bool:
        """Once, where it outgrows the original context: from then on all of it turns by the long factors."""
        stretched = self.config.rope_parameters["rope_type"] == "longrope"
        return stretched and 0 < held <= self.config.original_max_position_embeddings < length
