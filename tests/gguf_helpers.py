"""GGUF files of small models, written with the gguf package in the way that llama.cpp's converter lays them out."""

import numpy as np
import pytest


def the_gguf_package():
    """The package, with its codings; without it, the test or the file of tests is skipped by its name."""
    pytest.importorskip("gguf.quants", reason="needs gguf: pip install -e '.[gguf]'")
    import gguf

    return gguf


def architecture_in_gguf(name):
    """The package's architecture of this name; the test is skipped where the installed one is older than that."""
    gguf = the_gguf_package()
    found = next((arch for arch, known in gguf.MODEL_ARCH_NAMES.items() if known == name), None)
    if found is None:
        pytest.skip(f"the installed gguf knows no {name}: pip install -U gguf")
    return found


def rows_side_by_side(weight, heads):
    """llama.cpp's order of a Llama's query and key rows: the two halves of each head shuffled into each other."""
    return np.concatenate([np.stack(np.split(head, 2), 1).reshape(head.shape) for head in np.split(weight, heads)])


def all_queries_first(weight, heads):
    """llama.cpp's order of GPT-NeoX's joint projection: queries of all heads, then keys, then values."""
    parts = [np.split(head, 3) for head in np.split(weight, heads)]
    return np.concatenate([head[i] for i in range(3) for head in parts])


def gguf_tensors(model):
    """{name: array} as they stand in the file. The names are the gguf package's for Hugging Face's."""
    gguf = the_gguf_package()
    config, kind = model.config, model.config.model_type
    architecture = architecture_in_gguf(gguf_architecture(model))
    names = gguf.get_tensor_name_map(architecture, config.depth[1])
    tensors = {}
    for name, array in model.state_dict().items():
        if kind == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            array = array.T
        if "query_key_value" in name:
            array = all_queries_first(array, config.num_attention_heads)
        for part, heads in (("q_proj", "num_attention_heads"), ("k_proj", "num_key_value_heads")):
            turned = part in name and kind in ("llama", "mistral", "smollm3")
            array = rows_side_by_side(array, getattr(config, heads)) if turned else array
        if kind.startswith("gemma") and name.endswith("norm.weight"):
            array = array + 1
        tensors[names.get_name(name, (".weight", ".bias"))] = np.ascontiguousarray(array)
    return tensors


def gguf_architecture(model):
    """What llama.cpp calls the architecture."""
    other = {"gpt_neox": "gptneox", "mistral": "llama", "gemma3_text": "gemma3"}
    return other.get(model.config.model_type, model.config.model_type)


def gguf_metadata(model):
    """{key: value} that llama.cpp's converter writes for this model, without a tokenizer."""
    config = model.config
    if config.model_type == "gpt2":
        fields = {
            "context_length": config.n_positions,
            "embedding_length": config.n_embd,
            "block_count": config.n_layer,
            "attention.head_count": config.n_head,
            "feed_forward_length": config.n_inner or 4 * config.n_embd,
            "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        }
    elif config.model_type == "gpt_neox":
        fields = {
            "context_length": config.max_position_embeddings,
            "embedding_length": config.hidden_size,
            "block_count": config.num_hidden_layers,
            "attention.head_count": config.num_attention_heads,
            "feed_forward_length": config.intermediate_size,
            "rope.dimension_count": int(config.head_dim * config.rope_parameters["partial_rotary_factor"]),
            "use_parallel_residual": config.use_parallel_residual,
            "attention.layer_norm_epsilon": config.layer_norm_eps,
        }
    else:
        fields = {
            "context_length": config.max_position_embeddings,
            "embedding_length": config.hidden_size,
            "block_count": config.num_hidden_layers,
            "attention.head_count": config.num_attention_heads,
            "attention.head_count_kv": config.num_key_value_heads,
            "feed_forward_length": config.intermediate_size,
            "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
            "vocab_size": config.vocab_size,
            **_heads_and_bounds(config),
        }
    fields = {f"{gguf_architecture(model)}.{name}": value for name, value in fields.items()}
    return {**fields, "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2}


def _heads_and_bounds(config):
    """What differs among Llama's relatives."""
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    found = {"rope.freq_base": float(rope["rope_theta"])}
    if config.model_type in ("llama", "mistral", "smollm3"):
        return {**found, "rope.dimension_count": config.head_dim}
    if config.model_type == "phi3":
        turned = int(config.head_dim * rope["partial_rotary_factor"])
        original = config.original_max_position_embeddings
        found |= {"rope.dimension_count": turned, "rope.scaling.original_context_length": original}
        return {**found, "attention.sliding_window": config.sliding_window or 0}
    found |= {"attention.key_length": config.head_dim, "attention.value_length": config.head_dim}
    if config.model_type.startswith("gemma"):
        found["attention.sliding_window"] = config.sliding_window
        caps = {"attn_logit_softcapping", "final_logit_softcapping"}
        found |= {name: getattr(config, name) for name in caps if getattr(config, name) is not None}
    return found


def write_gguf(path, model, coding="F32", metadata=None, tensors=None):
    """A GGUF file of `model`; weights coded as said, biases and norms F32. Returns the path.

    metadata, tensors: changes to what the file would hold; None takes a key or a tensor out.
    """
    gguf = the_gguf_package()
    coding = gguf.GGMLQuantizationType[coding]
    fields = {**gguf_metadata(model), **(metadata or {})}
    architecture = fields.pop("general.architecture", gguf_architecture(model))
    writer = gguf.GGUFWriter(path, architecture or "none", use_temp_file=False)
    if architecture is None:
        writer.kv_data[0].pop("general.architecture")
    for key, value in fields.items():
        _add(writer, key, value)
    for name, array in {**gguf_tensors(model), **(tensors or {})}.items():
        if array is not None:
            kind = coding if array.ndim == 2 else gguf.GGMLQuantizationType.F32
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    return path


def _add(writer, key, value):
    adders = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, bool: writer.add_bool}
    if isinstance(value, list):
        writer.add_array(key, value)
    elif value is not None:
        adders[type(value)](key, value)
