"""The settings of a GGUF file as the fields of a config.json."""

import math
from typing import Any

import numpy as np

from ...storage.tensors import TensorFile
from ..rope import ORIGINAL, PART, check_rope, inverse_frequencies
from ..windows import FULL, SLIDING
from .gguf_names import LONG_FACTORS, MODEL_TYPES, ROPE_FACTORS, TENSOR_NAMES

# Llama 3's stretching in GGUF is one number for each pair of channels; these are the settings it was made from.
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LARGEST_GEMMA = {"gemma2": 46, "gemma3": 62}  # blocks of those with 27 billion parameters


def config_from_gguf(file: TensorFile) -> dict[str, Any]:
    """The fields of config.json that an open GGUF file stands for. ValueError if one is missing or not supported."""
    settings = _Settings(file)
    return CONFIGS.get(settings.architecture, _llama_config)(settings, file)


class _Settings:
    """The settings of a file's architecture: `get("block_count")` is llama.block_count of a Llama."""

    def __init__(self, file):
        self.metadata, self.architecture = file.metadata, file.metadata.get("general.architecture")
        if not isinstance(self.architecture, str) or self.architecture not in TENSOR_NAMES:
            known = ", ".join(TENSOR_NAMES)
            raise ValueError(f"general.architecture {self.architecture!r} is not known ({known})")
        if experts := self.metadata.get(f"{self.architecture}.expert_count"):
            raise ValueError(f"{self.architecture}.expert_count is {experts}: a mixture of experts is not supported")

    def get(self, name, kind=int, default=None):
        """The setting's value, of this kind. ValueError if it is of another, or missing without a default."""
        value = self.metadata.get(f"{self.architecture}.{name}", default)
        wrong = isinstance(value, bool) is not (kind is bool)
        if wrong or not isinstance(value, (int, float) if kind is float else kind):
            raise ValueError(f"{self.architecture}.{name} must be of type {kind.__name__}, got {value!r}")
        return kind(value)

    def has(self, name):
        return f"{self.architecture}.{name}" in self.metadata

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
    """Llama's, and that of its relatives: fields that one does not have are passed over."""
    hidden, heads = settings.get("embedding_length"), settings.get("attention.head_count")
    turned = settings.get("rope.dimension_count", default=hidden // max(1, heads))
    size = settings.get("attention.key_length", default=turned)
    if turned != size and settings.has("rope.dimension_count"):
        raise ValueError(f"rotary positions on {turned} of the {size} channels of each head are not supported")
    return _family(settings, file, size, _rope(settings, file, size))


def _family(settings, file, head_dim, rope):
    heads = settings.get("attention.head_count")
    return {
        **_shared_fields(settings, file),
        "hidden_size": settings.get("embedding_length"),
        "intermediate_size": settings.get("feed_forward_length"),
        "num_hidden_layers": settings.get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": settings.get("attention.head_count_kv", default=heads),
        "head_dim": head_dim,
        "max_position_embeddings": settings.get("context_length"),
        "rms_norm_eps": settings.get("attention.layer_norm_rms_epsilon", float),
        "rope_parameters": rope,
        "attention_bias": "blk.0.attn_q.bias" in file.shapes,
        "mlp_bias": "blk.0.ffn_up.bias" in file.shapes,
    }


def _gemma2_config(settings, file):
    """The scale of the scores is not in the file: it is that of the heads' size, but in the largest model, of C / H."""
    fields = _llama_config(settings, file)
    largest = fields["num_hidden_layers"] == LARGEST_GEMMA[settings.architecture]
    of_width = fields["hidden_size"] // max(1, fields["num_attention_heads"])
    return {
        **fields,
        "query_pre_attn_scalar": of_width if largest else fields["head_dim"],
        "sliding_window": settings.get("attention.sliding_window", default=4096),
        "attn_logit_softcapping": settings.get("attn_logit_softcapping", float, 50.0),
        "final_logit_softcapping": settings.get("final_logit_softcapping", float, 30.0),
    }


def _gemma3_config(settings, file):
    fields = _gemma2_config(settings, file)
    capped = settings.has("final_logit_softcapping")
    theta = {"rope_theta": settings.get("rope.freq_base", float, 1e6)}
    local = {"rope_theta": settings.get("rope.freq_base_swa", float, 10000.0)}
    return {
        **fields,
        "attn_logit_softcapping": None,
        "final_logit_softcapping": fields["final_logit_softcapping"] if capped else None,
        "rope_parameters": {FULL: fields["rope_parameters"] | theta, SLIDING: local},
    }


def _phi3_config(settings, file):
    """Phi-3's long models have their factors beside the weights."""
    size = settings.get("embedding_length") // max(1, settings.get("attention.head_count"))
    turned = settings.get("rope.dimension_count", default=size)
    if not 0 < turned <= size:
        raise ValueError(f"rotary positions on {turned} channels do not fit a head of {size}")
    original = settings.get("rope.scaling.original_context_length", default=settings.get("context_length"))
    rope = {"rope_theta": settings.get("rope.freq_base", float, 10000.0), PART: _part(turned, size)}
    if any(name in file.shapes for name in LONG_FACTORS.values()):
        if missing := [name for name in LONG_FACTORS.values() if name not in file.shapes]:
            raise ValueError(f"the file has no tensor {missing[0]}")
        rope |= {"rope_type": "longrope", **{key: file.read(name).tolist() for key, name in LONG_FACTORS.items()}}
        if settings.has("rope.scaling.attn_factor"):
            rope["attention_factor"] = settings.get("rope.scaling.attn_factor", float)
    window = settings.get("attention.sliding_window", default=0) or None
    return {**_family(settings, file, size, rope), ORIGINAL: original, "sliding_window": window}


CONFIGS = {
    "gpt2": _gpt2_config,
    "gptneox": _gpt_neox_config,
    "gemma2": _gemma2_config,
    "gemma3": _gemma3_config,
    "phi3": _phi3_config,
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
