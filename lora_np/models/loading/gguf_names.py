"""What tensors are called in GGUF, for each architecture, and in Hugging Face's files."""

import re

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
HEAD_NORMS = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
GEMMA2_NAMES = {
    **LLAMA_NAMES,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
OLMO2_NAMES = {name: to for name, to in (GEMMA2_NAMES | HEAD_NORMS).items() if name not in ("attn_norm", "ffn_norm")}
PHI3_NAMES = {**LLAMA_NAMES, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
TENSOR_NAMES = {
    **dict.fromkeys(("llama", "qwen2", "smollm3"), (LLAMA_NAMES, "model.layers")),
    "qwen3": (LLAMA_NAMES | HEAD_NORMS, "model.layers"),
    "gemma2": (GEMMA2_NAMES, "model.layers"),
    "gemma3": (GEMMA2_NAMES | HEAD_NORMS, "model.layers"),
    "olmo2": (OLMO2_NAMES, "model.layers"),
    "phi3": (PHI3_NAMES, "model.layers"),
    "gpt2": (GPT2_NAMES, "transformer.h"),
    "gptneox": (GPT_NEOX_NAMES, "gpt_neox.layers"),
}
MODEL_TYPES = {"gptneox": "gpt_neox", "gemma3": "gemma3_text"}  # where config.json has another name
ROPE_FACTORS = "rope_freqs.weight"
LONG_FACTORS = {"long_factor": "rope_factors_long.weight", "short_factor": "rope_factors_short.weight"}
NO_WEIGHTS = (ROPE_FACTORS, *LONG_FACTORS.values())  # tensors that belong to the configuration


def hugging_face_name(architecture: str, name: str) -> str:
    """ "blk.3.attn_q.weight" -> "model.layers.3.self_attn.q_proj.weight". ValueError for a name that is not known."""
    names, blocks = TENSOR_NAMES[architecture]
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if not found or found[2] not in names:
        raise ValueError(f"tensor {name!r} is not one of a {architecture} model")
    block, part, kind = found.groups()
    return f"{names[part]}.{kind}" if block is None else f"{blocks}.{block}.{names[part]}.{kind}"
