"""The text model of Gemma 3 (Gemma Team, 2025): a Gemma 2 with norms of queries and keys in the place of soft caps.

Of six blocks one sees the whole text, and turns more slowly there than the five that see the nearest tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np

from ..autograd import Tensor
from ..storage.fields import Between, check_fields
from .config import Size
from .gemma2 import Gemma2Config, Gemma2ForCausalLM, GemmaRMSNorm
from .llama import LlamaRotaryEmbedding
from .qwen3 import Qwen3Attention
from .rope import POSITIVE, rope_parameters
from .windows import FULL, SLIDING

LOCAL_THETA = 10000.0  # of the blocks with a window
PATTERN = {"sliding_window_pattern": Annotated[int, Between(1, 1024, "a positive integer")]}


@dataclass
class Gemma3TextConfig(Gemma2Config):
    """The shape of a Gemma 3, under the names of Hugging Face's config.json. The defaults are Transformers'.

    rope_parameters has those of each kind of layer: {"full_attention": {...}, "sliding_attention": {...}}.
    attn_logit_softcapping is read and, as in Transformers, not used.
    """

    vocab_size: Size = 262208
    max_position_embeddings: Size = 131072
    final_logit_softcapping: POSITIVE | None = None
    attn_logit_softcapping: POSITIVE | None = None
    use_bidirectional_attention: bool | None = False

    model_type, architecture, rope_theta, pattern = "gemma3_text", "Gemma3ForCausalLM", 1e6, 6

    def checked_rope(self, given: dict[str, Any]) -> dict[str, Any]:
        check_fields(given, dict.fromkeys((FULL, SLIDING), dict | None))
        check, thetas = super().checked_rope, {FULL: self.rope_theta, SLIDING: LOCAL_THETA}
        return {kind: check({"rope_theta": theta, **(given.get(kind) or {})}) for kind, theta in thetas.items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Self:
        pattern, depth = fields.get("sliding_window_pattern"), fields.get("num_hidden_layers", cls.num_hidden_layers)
        if pattern is not None and fields.get("layer_types") is None:  # as older files have it
            check_fields({"sliding_window_pattern": pattern, "num_hidden_layers": depth}, {**cls.kinds(), **PATTERN})
            kinds = [SLIDING if (layer + 1) % pattern else FULL for layer in range(depth)]
            fields = {**fields, "layer_types": kinds}
        return super().from_dict(fields)

    @classmethod
    def rope_of(cls, fields: Mapping[str, Any]) -> dict[str, Any]:
        check_fields(fields, {"rope_parameters": dict | None, "rope_scaling": dict | None})
        given, scaling = fields.get("rope_parameters") or {}, fields.get("rope_scaling") or {}
        check_fields(given, dict.fromkeys((FULL, SLIDING), dict | None))
        full = {**(given.get(FULL) or {"rope_type": "default"}), **scaling}  # older files scale the full ones
        theta = fields.get("rope_local_base_freq", LOCAL_THETA)
        return {
            FULL: rope_parameters({**fields, "rope_parameters": full, "rope_scaling": None}),
            SLIDING: rope_parameters(
                {**fields, "rope_parameters": given.get(SLIDING), "rope_scaling": None, "rope_theta": theta}
            ),
        }


class Gemma3RotaryEmbedding:
    """{kind of layer: cosines and sines of its angles}."""

    def __init__(self, config):
        ropes = config.rope_parameters.items()
        self.kinds = {kind: LlamaRotaryEmbedding(config, one) for kind, one in ropes if kind in config.layer_types}

    def __call__(self, positions, like):
        return {kind: rotary(positions, like) for kind, rotary in self.kinds.items()}


class Gemma3Attention(Qwen3Attention):
    """Qwen3's attention with another scale, turned by the angles of its kind of layer."""

    Norm = GemmaRMSNorm

    def __init__(self, config: Gemma3TextConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.scale, self.kind = config.query_pre_attn_scalar**-0.5, (config.layer_types or ())[layer]

    def turn(self, x: Tensor, heads: int, angles: Mapping[str, list[np.ndarray]]) -> Any:
        return super().turn(x, heads, angles[self.kind])


class Gemma3ForCausalLM(Gemma2ForCausalLM):
    """Gemma 3 with its language-model head."""

    Attention, Positions = Gemma3Attention, Gemma3RotaryEmbedding
