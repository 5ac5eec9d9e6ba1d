"""GGUF files of Llama's relatives, as llama.cpp's converter lays them out. The names are the gguf package's."""

import logging

import numpy as np
import pytest
from gguf_helpers import architecture_in_gguf, gguf_architecture, gguf_tensors, the_gguf_package, write_gguf
from lora_helpers import hugging_face_twin, logits_of, relative, some_ids
from relative_helpers import tiny_relative

from lora_np.models.architectures import ARCHITECTURES
from lora_np.models.loading.checkpoints import load_pretrained
from lora_np.models.loading.gguf_names import NO_WEIGHTS, TENSOR_NAMES, hugging_face_name
from lora_np.models.windows import FULL, SLIDING

LONG = {"rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [2.0, 3.0], "rope_theta": 100.0}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 3, "norms_around": 0.0}
SCALED = {FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}, SLIDING: {"rope_theta": 10000.0}}
MODELS = {
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {"rope_parameters": {"rope_theta": 1e6}}),
    "qwen2, tied": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "gemma2": ("gemma2", GEMMA),
    "gemma3": ("gemma3_text", {**GEMMA, "num_hidden_layers": 7}),
    "gemma3, scaled": ("gemma3_text", {**GEMMA, "rope_parameters": SCALED, "num_hidden_layers": 6}),
    "smollm3": ("smollm3", {"num_hidden_layers": 5}),
    "olmo2": ("olmo2", {}),
    "phi3": ("phi3", {"sliding_window": 3}),
    "phi3, partial": ("phi3", {"rope_parameters": {"partial_rotary_factor": 0.75}, "head_dim": 8}),
}
each_model = pytest.mark.parametrize(("kind", "changes"), MODELS.values(), ids=MODELS)


def tiny(kind, changes):
    """A model whose rows are whole blocks of 32, as most codings want."""
    return tiny_relative(kind, **{"hidden_size": 32, "intermediate_size": 64, **changes})


@each_model
def test_an_f32_file_is_the_model(tmp_path, kind, changes):
    model = tiny(kind, changes)
    scaling = {"gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": 8.0}
    metadata = scaling if changes.get("rope_parameters") is SCALED else None
    loaded = load_pretrained(write_gguf(tmp_path / "model.gguf", model, metadata=metadata))
    found, expected = loaded.state_dict(), model.state_dict()
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert relative(found[name], array) < 2e-7, name
    assert relative(logits_of(loaded), logits_of(model)) < 2e-6
    assert type(loaded).__name__ == ("LlamaForCausalLM" if kind == "mistral" else type(model).__name__)


@pytest.mark.parity
@pytest.mark.parametrize("coding", ["F32", "Q8_0"])
@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "gemma2", "gemma3", "phi3"])
def test_logits_are_transformers_from_the_same_file(tmp_path, kind, coding):
    import torch
    import transformers

    model = tiny(*MODELS[kind])
    write_gguf(tmp_path / "model.gguf", model, coding)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    config = hugging_face_twin(model).config
    options = {"dtype": torch.float32, "config": config, "attn_implementation": "eager"}
    twin = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", **options)
    loaded, ids = load_pretrained(tmp_path, "model.gguf"), some_ids(model.config)
    with torch.no_grad():
        assert relative(logits_of(loaded, ids), twin.eval()(torch.tensor(ids)).logits) < 2e-5


@pytest.mark.parametrize("kind", [kind for kind in TENSOR_NAMES if kind not in ("gpt2", "gptneox")])
def test_every_tensor_of_the_gguf_package_has_a_name(kind):
    """But for experts, and what a configuration says."""
    gguf = the_gguf_package()
    arch = architecture_in_gguf(kind)
    joint = {"attn_q", "attn_k", "attn_v"} if kind == "phi3" else set()  # of other converters' files
    passed_over = ("attn_rot_embd", "exps", "gate_inp", "rope_")
    for tensor in gguf.MODEL_TENSORS[arch]:
        name = f"{gguf.TENSOR_NAMES[tensor]}.weight".format(bid=0)
        part = name.split(".")[-2]
        if not any(sign in name for sign in passed_over) and part not in joint and name not in NO_WEIGHTS:
            assert hugging_face_name(kind, name).endswith(".weight")


def test_phi3s_long_factors(tmp_path):
    rope = {**LONG, "attention_factor": 1.25}
    model = tiny("phi3", {"rope_parameters": rope, "hidden_size": 16, "original_max_position_embeddings": 6})
    factors = {f"rope_factors_{kind}.weight": np.array(LONG[f"{kind}_factor"], "f4") for kind in ("long", "short")}
    more = {"phi3.rope.scaling.attn_factor": 1.25}
    loaded = load_pretrained(write_gguf(tmp_path / "model.gguf", model, metadata=more, tensors=factors))
    for length in (6, 9):
        ids = some_ids(model.config)[:, :length]
        assert relative(logits_of(loaded, ids), logits_of(model, ids)) < 2e-6
    one = {"rope_factors_long.weight": factors["rope_factors_long.weight"]}
    with pytest.raises(ValueError, match=r"model\.gguf: the file has no tensor rope_factors_short\.weight"):
        load_pretrained(write_gguf(tmp_path / "model.gguf", model, tensors=one))


@pytest.mark.parametrize(("kind", "blocks"), [("gemma2", 46), ("gemma3_text", 62)])
def test_the_scale_of_the_largest_gemma_is_of_its_width(tmp_path, kind, blocks):
    small = {"vocab_size": 3, "hidden_size": 4, "intermediate_size": 2, "num_attention_heads": 2, "head_dim": 4}
    model = tiny_relative(kind, **{**small, "num_hidden_layers": blocks, "num_key_value_heads": 1, "sliding_window": 2})
    loaded = load_pretrained(write_gguf(tmp_path / "model.gguf", model))
    assert loaded.config.query_pre_attn_scalar == 2


@pytest.mark.parametrize(
    ("kind", "metadata", "message"),
    [
        ("qwen2", {"qwen2.expert_count": 8}, r"qwen2\.expert_count is 8: a mixture of experts is not supported"),
        ("gemma2", {"gemma2.attention.sliding_window": 0}, "sliding_window must be a positive integer, got 0"),
        ("gemma2", {"gemma2.attn_logit_softcapping": "x"}, "attn_logit_softcapping must be of type float, got 'x'"),
        ("phi3", {"phi3.rope.dimension_count": 99}, "rotary positions on 99 channels do not fit a head of 8"),
        ("qwen3", {"qwen3.attention.key_length": 0}, "head_dim must be a positive integer, got 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, kind, metadata, message):
    with pytest.raises(ValueError, match=rf"model\.gguf: .*{message}"):
        load_pretrained(write_gguf(tmp_path / "model.gguf", tiny(*MODELS[kind]), metadata=metadata))


def test_every_architecture_has_names_in_gguf():
    named = {gguf_architecture(tiny_relative(kind)) for kind in ARCHITECTURES if kind not in ("gpt2", "gpt_neox")}
    assert named <= set(TENSOR_NAMES)
    assert gguf_tensors(tiny_relative("olmo2"))
