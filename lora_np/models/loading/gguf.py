"""GGUF's names, layouts and settings in Hugging Face's terms, for the architectures "llama", "gpt2" and "gptneox".

What differs, besides names: the rows of Llama's query and key weights stand in another order, because there the
channels that turn together are neighbours; GPT-2's weights are stored (out, in), not (in, out) as Conv1D wants; and
GPT-NeoX's joint projection has the queries of all heads first, then all keys, then all values.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...storage.tensors import TensorFile
from ..rope import PART, check_rope, inverse_frequencies

LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GPT2_NAMES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
GPT_NEOX_NAMES = {
    "token_embd": "gpt_neox.embed_in",
    "output_norm": "gpt_neox.final_layer_norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_qkv": "attention.query_key_value",
    "attn_output": "attention.dense",
    "ffn_norm": "post_attention_layernorm",
    "ffn_up": "mlp.dense_h_to_4h",
    "ffn_down": "mlp.dense_4h_to_h",
}
TENSOR_NAMES = {
    "llama": (LLAMA_NAMES, "model.layers"),
    "gpt2": (GPT2_NAMES, "transformer.h"),
    "gptneox": (GPT_NEOX_NAMES, "gpt_neox.layers"),
}
MODEL_TYPES = {"gptneox": "gpt_neox"}  # where config.json has another name
ROPE_FACTORS = "rope_freqs.weight"
# Llama 3's stretching in GGUF is one number for each pair of channels; these are the settings it was made from.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def hugging_face_name(architecture: str, name: str) -> str:
    """ "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight". ValueError for a name that is not known."""
    names, blocks = TENSOR_NAMES[architecture]
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if not found or found[2] not in names:
        raise ValueError(f"tensor {name!r} is not one of a {architecture} model")
    block, part, kind = found.groups()
    return f"{names[part]}.{kind}" if block is None else f"{blocks}.{block}.{names[part]}.{kind}"


class GGUFWeights:
    """The tensors of an open GGUF file as the model wants them: `shapes` {name: shape} and `read_into(name, out)`."""

    def __init__(self, file: TensorFile, fields: Mapping[str, Any]) -> None:
        self.file, self.fields = file, fields
        kind, architecture = fields["model_type"], file.metadata["general.architecture"]
        self.names = {hugging_face_name(architecture, name): name for name in file.shapes if name != ROPE_FACTORS}
        self.transposed = re.compile(r"c_(attn|proj|fc)\.weight$" if kind == "gpt2" else "(?!)")
        heads = {"q_proj": fields.get("num_attention_heads"), "k_proj": fields.get("num_key_value_heads")}
        self.heads = heads if "num_key_value_heads" in fields else {}
        self.joint = {"query_key_value": fields.get("num_attention_heads")}
        self.shapes = {name: self._shape(name) for name in self.names}

    def _shape(self, name):
        shape = self.file.shapes[self.names[name]]
        return shape[::-1] if self.transposed.search(name) else shape

    def read_into(self, name: str, out: np.ndarray) -> None:
        """Fill `out` with a tensor."""
        layer = name.split(".")[-2]
        if heads := self.heads.get(layer):
            out[...] = rows_for_halves(self.file.read(self.names[name]), heads)
        elif heads := self.joint.get(layer):
            out[...] = rows_by_head(self.file.read(self.names[name]), heads)
        else:
            self.file.read_into(self.names[name], out.T if self.transposed.search(name) else out)


def rows_for_halves(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from the order 0, D/2, 1, D/2 + 1, ... (partners side by side) to 0, 1, ..., D - 1 (in halves).

    weight (H·D, in), or a bias (H·D,).
    """
    shape = weight.shape
    return weight.reshape(heads, -1, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def rows_by_head(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of all queries, then all keys, then all values, to those of each head side by side.

    weight (3·H·D, in), or a bias (3·H·D,).
    """
    shape = weight.shape
    return weight.reshape(3, heads, -1, *shape[1:]).swapaxes(0, 1).reshape(shape)


def config_from_gguf(file: TensorFile) -> dict[str, Any]:
    """The fields of config.json that an open GGUF file stands for. ValueError if one is missing or not supported."""
    settings = _Settings(file)
    return {"gpt2": _gpt2_config, "gptneox": _gpt_neox_config}.get(settings.architecture, _llama_config)(settings, file)


class _Settings:
    """The settings of a file's architecture: `get("block_count")` is llama.block_count of a Llama."""

    def __init__(self, file):
        self.metadata, self.architecture = file.metadata, file.metadata.get("general.architecture")
        if not isinstance(self.architecture, str) or self.architecture not in TENSOR_NAMES:
            known = ", ".join(TENSOR_NAMES)
            raise ValueError(f"general.architecture {self.architecture!r} is not known ({known})")

    def get(self, name, kind=int, default=None):
        """The setting's value, of this kind. ValueError if it is of another, or missing without a default."""
        value = self.metadata.get(f"{self.architecture}.{name}", default)
        wrong = isinstance(value, bool) is not (kind is bool)
        if wrong or not isinstance(value, (int, float) if kind is float else kind):
            raise ValueError(f"{self.architecture}.{name} must be of type {kind.__name__}, got {value!r}")
        return kind(value)

    def text(self, name, default):
        value = self.metadata.get(f"{self.architecture}.{name}", default)
        if not isinstance(value, str):
            raise ValueError(f"{self.architecture}.{name} must be a text, got {value!r}")
        return value


def _shared_fields(settings, file):
    """Vocabulary, special tokens, and whether the head is the embedding."""
    vocabulary = file.shapes.get("token_embd.weight", (0,))[0]
    tokens = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}
    said = {name: settings.metadata.get(f"tokenizer.ggml.{short}_token_id") for name, short in tokens.items()}
    return {
        "model_type": MODEL_TYPES.get(settings.architecture, settings.architecture),
        "vocab_size": vocabulary,
        "tie_word_embeddings": "output.weight" not in file.shapes,
        **{name: value for name, value in said.items() if value is not None},  # else the architecture's own
    }


def _gpt2_config(settings, file):
    shared = _shared_fields(settings, file)
    shared.pop("pad_token_id", None)
    return {
        **shared,
        "n_positions": settings.get("context_length"),
        "n_embd": settings.get("embedding_length"),
        "n_layer": settings.get("block_count"),
        "n_head": settings.get("attention.head_count"),
        "n_inner": settings.get("feed_forward_length"),
        "layer_norm_epsilon": settings.get("attention.layer_norm_epsilon", float),
    }


def _gpt_neox_config(settings, file):
    hidden, heads = settings.get("embedding_length"), settings.get("attention.head_count")
    size = hidden // max(1, heads)
    turned = settings.get("rope.dimension_count")
    if not 0 <= turned <= size:
        raise ValueError(f"rotary positions on {turned} channels do not fit a head of {size}")
    return {
        **_shared_fields(settings, file),
        "hidden_size": hidden,
        "intermediate_size": settings.get("feed_forward_length"),
        "num_hidden_layers": settings.get("block_count"),
        "num_attention_heads": heads,
        "max_position_embeddings": settings.get("context_length"),
        "layer_norm_eps": settings.get("attention.layer_norm_epsilon", float),
        "use_parallel_residual": settings.get("use_parallel_residual", bool, True),
        "attention_bias": "blk.0.attn_qkv.bias" in file.shapes,
        "rope_parameters": {**_rope(settings, file, turned), PART: _part(turned, max(1, size))},
    }


def _part(turned, size):
    """turned / size, or the next number above, where rounding would make one channel less of it."""
    part = turned / size
    return part if int(size * part) == turned else math.nextafter(part, 1.0)


def _llama_config(settings, file):
    hidden, heads = settings.get("embedding_length"), settings.get("attention.head_count")
    turned = settings.get("rope.dimension_count", default=hidden // max(1, heads))
    size = settings.get("attention.key_length", default=turned)
    if turned != size and "llama.rope.dimension_count" in file.metadata:
        raise ValueError(f"rotary positions on {turned} of the {size} channels of each head are not supported")
    return {
        **_shared_fields(settings, file),
        "hidden_size": hidden,
        "intermediate_size": settings.get("feed_forward_length"),
        "num_hidden_layers": settings.get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": settings.get("attention.head_count_kv", default=heads),
        "head_dim": size,
        "max_position_embeddings": settings.get("context_length"),
        "rms_norm_eps": settings.get("attention.layer_norm_rms_epsilon", float),
        "rope_parameters": _rope(settings, file, size),
        "attention_bias": "blk.0.attn_q.bias" in file.shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in file.shapes,
    }


def _rope(settings, file, head_dim):
    """rope_parameters: plain, linear, or Llama 3's, which is told by its factors."""
    plain = {"rope_type": "default", "rope_theta": settings.get("rope.freq_base", float, 10000.0)}
    kind = settings.text("rope.scaling.type", "linear")  # where nothing is said, a factor means linear
    if kind not in ("none", "linear"):
        raise ValueError(f"rope.scaling.type {kind!r} is not supported; supported are none and linear")
    older = settings.get("rope.scale_linear", float, 1.0)
    factor = settings.get("rope.scaling.factor", float, older) if kind == "linear" else 1.0
    stretched = factor not in (0.0, 1.0)
    if ROPE_FACTORS in file.shapes:
        if stretched:
            raise ValueError(f"a rope.scaling.factor of {factor} beside {ROPE_FACTORS} is not supported")
        return _llama3(plain, file.read(ROPE_FACTORS), head_dim)
    return {**plain, "rope_type": "linear", "factor": factor} if stretched else plain


def _llama3(plain, factors, head_dim):
    """The settings whose frequencies are the plain ones divided by `factors`. ValueError if Llama 3's are not."""
    settings = {**plain, **LLAMA3, "rope_type": "llama3", "factor": float(factors.max())}
    if factors.shape == (head_dim // 2,):
        expected = inverse_frequencies(head_dim, plain) / inverse_frequencies(head_dim, check_rope(settings))
        if np.allclose(factors, expected, rtol=1e-3):
            return settings
    raise ValueError(f"the rotary factors in {ROPE_FACTORS} are not those of Llama 3, which are the ones supported")
