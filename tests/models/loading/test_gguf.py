"""GGUF files of both architectures: llama.cpp's layouts and settings, every coding, and what is refused."""

import logging

import numpy as np
import pytest
from fuzz_gguf import file_of, parts
from gguf_helpers import gguf_architecture, gguf_tensors, rows_side_by_side, the_gguf_package, write_gguf
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz, hugging_face_twin, logits_of, randomize, relative, some_ids, tiny_llama, tiny_model

from lora_np import GPTNeoXConfig, GPTNeoXForCausalLM
from lora_np.models.loading.checkpoints import load_pretrained
from lora_np.models.loading.gguf import hugging_face_name, rows_for_halves
from lora_np.models.rope import inverse_frequencies

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def llama(**changes):
    """A Llama whose rows are whole blocks of 32, as most codings want."""
    return tiny_llama(**{"hidden_size": 32, "intermediate_size": 64, **changes})


def gpt2(**changes):
    return tiny_model(**{"n_embd": 32, **changes})


def neox(**changes):
    small = {"vocab_size": 31, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    rest = {"num_attention_heads": 2, "max_position_embeddings": 12}
    return randomize(GPTNeoXForCausalLM(GPTNeoXConfig(**{**small, **rest, **changes}))).eval()


# What Transformers reads from GGUF too.
COMMON = {
    "llama": lambda: llama(),
    "llama, tied": lambda: llama(tie_word_embeddings=True),
    "llama, multi-head": lambda: llama(num_key_value_heads=4),
    "llama, multi-query": lambda: llama(num_key_value_heads=1),
    "llama, wide heads": lambda: llama(head_dim=16),
    "llama, theta": lambda: llama(rope_parameters={"rope_theta": 321.0}),
    "gpt2": lambda: gpt2(),
    "gpt2, untied": lambda: gpt2(tie_word_embeddings=False),
    "gpt2, n_inner": lambda: gpt2(n_inner=96),
}
ALL = {
    **COMMON,
    "llama, attention_bias": lambda: llama(attention_bias=True),
    "llama, mlp_bias": lambda: llama(mlp_bias=True),
    "gptneox": neox,  # Transformers reads none
    "gptneox, one after the other": lambda: neox(use_parallel_residual=False),
    "gptneox, odd part": lambda: neox(hidden_size=64, num_attention_heads=1, rotary_pct=31 / 64),
    "gptneox, as a whole": lambda: neox(rotary_pct=1.0),
    "gptneox, nothing turned": lambda: neox(rotary_pct=0.0),
    "gptneox, tied, no attention_bias": lambda: neox(tie_word_embeddings=True, attention_bias=False),
    "llama, large epsilon": lambda: llama(rms_norm_eps=0.125),
}
TOLERANCE = {"F32": 2e-6, "F16": 2e-3, "Q8_0": 3e-2, "Q4_1": 0.6, "Q4_0": 0.6}


@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_an_f32_file_is_the_model_bit_for_bit(tmp_path, make):
    model = make()
    loaded = load_pretrained(write_gguf(tmp_path / "model.gguf", model))
    found, expected = loaded.state_dict(), model.state_dict()
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert relative(logits_of(loaded), logits_of(model)) < 2e-7  # epsilons are float32 in the file
    assert not loaded.training
    assert loaded.config.name_or_path == str(tmp_path / "model.gguf")
    assert loaded.config.eos_token_id == 2


@pytest.mark.parity
@pytest.mark.parametrize("coding", TOLERANCE)
@pytest.mark.parametrize("make", COMMON.values(), ids=COMMON)
def test_logits_are_transformers_from_the_same_file(tmp_path, make, coding):
    import torch
    import transformers

    model = make()
    write_gguf(tmp_path / "model.gguf", model, coding)
    logging.getLogger("transformers").setLevel(logging.ERROR)
    twin = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32, config=hugging_face_twin(model).config
    )
    loaded = load_pretrained(tmp_path, "model.gguf")
    ids = some_ids(model.config)
    assert relative(logits_of(loaded), logits_of(twin.eval(), ids)) < 2e-5
    assert relative(logits_of(loaded), logits_of(model)) < TOLERANCE[coding]


@pytest.mark.parametrize("coding", TOLERANCE)
@pytest.mark.parametrize(
    "make", [lambda: llama(attention_bias=True, mlp_bias=True), gpt2, neox], ids=("llama", "gpt2", "neox")
)
def test_each_coding_is_read_as_the_gguf_package_writes_it(tmp_path, make, coding):
    """Biases too, which Transformers leaves out. The order of the rows is the F32 test's matter."""
    gguf = the_gguf_package()
    model = make()
    loaded = load_pretrained(write_gguf(tmp_path / "model.gguf", model, coding)).state_dict()
    kind = gguf.GGMLQuantizationType[coding]
    architecture = gguf_architecture(model)
    lossy = {name: array for name, array in gguf_tensors(model).items() if array.ndim == 2}
    for name, array in lossy.items():
        expected = gguf.quants.dequantize(gguf.quants.quantize(array, kind), kind)
        found = loaded[hugging_face_name(architecture, name)]
        assert relative(np.sort(found, axis=None), np.sort(expected, axis=None)) == 0, name
    assert relative(logits_of(load_pretrained(tmp_path / "model.gguf")), logits_of(model)) < TOLERANCE[coding]


@settings(fuzz, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 6), st.sampled_from([(), (1,), (3,)]))
def test_rows_return_to_halves(heads, half, rest):
    weight = np.arange(heads * 2 * half * max(1, int(np.prod(rest)))).reshape(heads * 2 * half, *rest)
    mixed = rows_side_by_side(weight, heads)
    np.testing.assert_array_equal(rows_for_halves(mixed, heads), weight)


def test_partners_stand_side_by_side_in_a_gguf_file():
    np.testing.assert_array_equal(rows_side_by_side(np.arange(8), 2), [0, 2, 1, 3, 4, 6, 5, 7])
    np.testing.assert_array_equal(rows_for_halves(np.array([0, 2, 1, 3, 4, 6, 5, 7]), 2), np.arange(8))


# Settings


def loaded_with(path, model, metadata=None, **options):
    return load_pretrained(write_gguf(path / "model.gguf", model, metadata=metadata, **options))


def test_linear_scaling(tmp_path):
    model = llama(rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 100.0})
    scaling = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.5}
    loaded = loaded_with(tmp_path, model, scaling)
    assert loaded.config.rope_parameters == model.config.rope_parameters
    assert relative(logits_of(loaded), logits_of(model)) < 2e-7
    assert relative(logits_of(loaded_with(tmp_path, model)), logits_of(model)) > 1e-3


def factors(head_dim, parameters):
    """What llama.cpp's converter stores of Llama 3's stretching: plain frequencies over stretched ones."""
    plain = {"rope_type": "default", "rope_theta": parameters["rope_theta"]}
    return inverse_frequencies(head_dim, plain) / inverse_frequencies(head_dim, parameters)


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_llama3s_factors_are_recognised(tmp_path, factor):
    parameters = {**LLAMA3, "factor": factor}
    model = llama(rope_parameters=parameters, head_dim=16, max_position_embeddings=40)
    stored = factors(16, parameters)
    assert ((stored > 1.01) & (stored < factor - 0.01)).any()  # one pair at least lies in between
    loaded = loaded_with(tmp_path, model, tensors={"rope_freqs.weight": stored})
    found = dict(loaded.config.rope_parameters)
    assert found.pop("factor") == pytest.approx(factor, rel=1e-5)
    assert found == {name: value for name, value in parameters.items() if name != "factor"}
    ids = some_ids(model.config, time=40)
    assert relative(logits_of(loaded, ids), logits_of(model, ids)) < 2e-6


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (factors(16, {**LLAMA3, "high_freq_factor": 8.0}), "are not those of Llama 3"),
        (factors(16, LLAMA3) * 1.01, "are not those of Llama 3"),
        (factors(16, LLAMA3)[:-1], "are not those of Llama 3"),
        (np.linspace(1, 30, 8, dtype=np.float32), "are not those of Llama 3"),
    ],
)
def test_other_factors_are_refused(tmp_path, stored, message):
    model = llama(rope_parameters=LLAMA3, head_dim=16)
    with pytest.raises(ValueError, match=rf"model\.gguf: the rotary factors in rope_freqs.weight {message}"):
        loaded_with(tmp_path, model, tensors={"rope_freqs.weight": stored})


def test_what_may_be_left_out_of_a_llama(tmp_path):
    """Theta 10000, as many heads of keys as of queries, head_dim C/H: llama.cpp's defaults."""
    model = llama(num_key_value_heads=4)
    names = ("attention.head_count_kv", "rope.dimension_count", "rope.freq_base", "vocab_size")
    loaded = loaded_with(tmp_path, model, {f"llama.{name}": None for name in names})
    assert relative(logits_of(loaded), logits_of(model)) < 2e-7


def test_special_tokens_come_along(tmp_path):
    tokens = {"tokenizer.ggml.bos_token_id": 5, "tokenizer.ggml.eos_token_id": 6, "tokenizer.ggml.padding_token_id": 7}
    config = loaded_with(tmp_path, llama(), tokens).config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (5, 6, 7)


def test_key_length_says_how_wide_heads_are(tmp_path):
    model, key_length = llama(head_dim=16), {"llama.attention.key_length": 16}
    loaded = loaded_with(tmp_path, model, key_length)
    assert relative(logits_of(loaded), logits_of(model)) < 2e-7
    loaded = loaded_with(tmp_path, model, {**key_length, "llama.rope.dimension_count": None})
    assert relative(logits_of(loaded), logits_of(model)) < 2e-7
    message = r"model\.gguf: rotary positions on 8 of the 16 channels of each head are not supported"
    with pytest.raises(ValueError, match=message):
        loaded_with(tmp_path, model, {**key_length, "llama.rope.dimension_count": 8})


NEEDED = {
    "llama": [
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
    ],
    "gpt2": [
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_epsilon",
    ],
    "gptneox": [
        "context_length",
        "embedding_length",
        "block_count",
        "feed_forward_length",
        "attention.head_count",
        "attention.layer_norm_epsilon",
        "rope.dimension_count",
    ],
}
MAKERS = {"llama": llama, "gpt2": gpt2, "gptneox": neox}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NEEDED.items() for name in names])
@pytest.mark.parametrize("value", [None, "two", [2, 2], True], ids=["missing", "text", "array", "boolean"])
def test_a_setting_that_is_missing_or_of_the_wrong_type_is_named(tmp_path, kind, name, value):
    expected = "float" if "epsilon" in name else "int"
    message = rf"model\.gguf: {kind}\.{name} must be of type {expected}, got "
    with pytest.raises(ValueError, match=message):
        loaded_with(tmp_path, MAKERS[kind](), {f"{kind}.{name}": value})


@pytest.mark.parametrize(
    ("kind", "metadata", "message"),
    [
        ("llama", {"llama.rope.scaling.type": "yarn"}, "rope.scaling.type 'yarn' is not supported; supported are none"),
        ("llama", {"llama.rope.scaling.type": 3}, "llama.rope.scaling.type must be a text, got 3"),
        ("llama", {"llama.rope.freq_base": "high"}, "llama.rope.freq_base must be of type float, got 'high'"),
        ("llama", {"llama.rope.freq_base": -1.0}, "needs a positive number rope_theta, got -1.0"),
        ("llama", {"llama.attention.head_count": 0}, "num_attention_heads must be a positive integer, got 0"),
        ("llama", {"llama.attention.head_count_kv": 3}, "cannot be shared equally by num_key_value_heads = 3"),
        ("llama", {"llama.block_count": 3}, r"missing model\.layers\.2"),
        ("llama", {"llama.block_count": 1}, r"unexpected model\.layers\.1"),
        ("llama", {"llama.feed_forward_length": 32}, r"gate_proj\.weight: \(64, 32\) instead of \(32, 32\)"),
        ("gpt2", {"gpt2.context_length": 11}, r"wpe\.weight: \(12, 32\) instead of \(11, 32\)"),
        ("gpt2", {"gpt2.attention.head_count": 3}, "n_embd = 32 cannot be shared equally by n_head = 3"),
        ("gptneox", {"gptneox.rope.dimension_count": 17}, "rotary positions on 17 channels do not fit a head of 16"),
        ("gptneox", {"gptneox.use_parallel_residual": 1}, "use_parallel_residual must be of type bool, got 1"),
        ("gptneox", {"gptneox.attention.head_count": 3}, "hidden_size = 32 cannot be shared equally by 3 heads"),
        ("gpt2", {"gpt2.block_count": 0}, "n_layer must be a positive integer, got 0"),
        (
            "llama",
            {"general.architecture": "mamba"},
            r"architecture 'mamba' is not known \(llama, ",
        ),
        ("llama", {"general.architecture": None}, "general.architecture None is not known"),
        ("llama", {"general.architecture": "gpt2"}, "must be of type|is not one of a gpt2 model"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_the_files_name(tmp_path, kind, metadata, message):
    with pytest.raises(ValueError, match=rf"model\.gguf: .*({message})"):
        loaded_with(tmp_path, MAKERS[kind](), metadata)


@pytest.mark.parametrize(
    ("kind", "tensors", "message"),
    [
        ("llama", {"blk.0.attn_q.weight": None}, r"missing model\.layers\.0\.self_attn\.q_proj\.weight"),
        ("llama", {"output_norm.weight": None}, r"missing model\.norm\.weight"),
        ("llama", {"blk.0.attn_q.bias": np.ones(32, "f4")}, r"missing .*self_attn\.k_proj\.bias"),
        ("llama", {"blk.0.ffn_gate_exps.weight": np.ones((2, 32), "f4")}, "'blk.0.ffn_gate_exps.weight' is not one of"),
        ("llama", {"blk.x.attn_q.weight": np.ones((2, 32), "f4")}, "'blk.x.attn_q.weight' is not one of a llama model"),
        ("llama", {"position_embd.weight": np.ones((2, 32), "f4")}, "'position_embd.weight' is not one of a llama"),
        ("gpt2", {"token_types.weight": np.ones((2, 32), "f4")}, "'token_types.weight' is not one of a gpt2 model"),
        ("gpt2", {"blk.0.attn_qkv.weight": np.ones((32, 96), "f4")}, r"c_attn\.weight: \(96, 32\) instead of \(32, 96"),
        ("gpt2", {"token_embd.weight": None}, "vocab_size must be a positive integer, got 0|missing transformer.wte"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_with_the_files_name(tmp_path, kind, tensors, message):
    with pytest.raises(ValueError, match=rf"model\.gguf: .*({message})"):
        loaded_with(tmp_path, MAKERS[kind](), tensors=tensors)


@pytest.mark.parametrize("size", [2**31, 2**63])
def test_a_huge_head_beside_rotary_factors_is_refused_before_its_frequencies_are_made(tmp_path, size):
    tensors = {"rope_freqs.weight": np.ones(4, "f4")}
    model = llama(num_hidden_layers=1)
    path = write_gguf(tmp_path / "model.gguf", model, tensors=tensors)
    sound = parts(path)
    metadata = {**sound[0], "llama.attention.key_length": size, "llama.rope.dimension_count": size}
    path.write_bytes(file_of(metadata, *sound[1:]))
    with pytest.raises(ValueError, match=r"model\.gguf: the rotary factors in rope_freqs\.weight are not those"):
        load_pretrained(path)


@pytest.mark.parametrize("maker", MAKERS.values(), ids=MAKERS)
def test_special_tokens_that_the_file_does_not_name_are_the_architectures(tmp_path, maker):
    model = maker()
    none = {"tokenizer.ggml.bos_token_id": None, "tokenizer.ggml.eos_token_id": None}
    loaded = load_pretrained(write_gguf(tmp_path / "model.gguf", model, metadata=none))
    assert loaded.config.eos_token_id == type(model.config)().eos_token_id is not None


@settings(fuzz, max_examples=40)
@given(st.data())
def test_a_truncated_file_is_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "whole.gguf"
    if not path.exists():
        write_gguf(path, llama(num_hidden_layers=1, vocab_size=5))
    content, cut = path.read_bytes(), path.with_name("cut.gguf")
    end = data.draw(st.integers(0, len(content) - 32))  # behind the last tensor may be nothing but padding
    cut.write_bytes(content[:end])
    with pytest.raises(ValueError, match=r"cut\.gguf"):
        load_pretrained(cut)
