"""Llama as a whole: logits, loss and every gradient against Transformers; its configuration; what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz, hugging_face_twin, relative, some_ids, tiny_llama, tiny_llama_config
from model_helpers import (
    assert_a_position_sees_only_what_stands_before,
    assert_gradients_are_slopes,
    assert_is_transformers,
    assert_loads_in_transformers,
    loss_and_gradients,
    some_labels,
)

from lora_np import KVCache, no_grad
from lora_np.autograd import threads
from lora_np.models import LlamaConfig, LlamaForCausalLM
from lora_np.models.activations import ACTIVATIONS
from lora_np.models.loading.checkpoints import load_pretrained

LINEAR = {"rope_type": "linear", "factor": 3.0, "rope_theta": 100.0}
# With D = 16, a context of 8 and these factors, pairs of channels fall into each of the three regions.
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 50.0,
    "factor": 8.0,
    "low_freq_factor": 0.2,
    "high_freq_factor": 0.8,
    "original_max_position_embeddings": 8,
}
YARN = {"rope_type": "yarn", "rope_theta": 50.0, "factor": 3.0, "original_max_position_embeddings": 8}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 50.0,
    "short_factor": [1.0, 1.1, 1.3],
    "long_factor": [1.5, 2.0, 4.0],
    "original_max_position_embeddings": 6,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 50.0, "factor": 3.0}
# In those whose names say so, the 9 tokens of a test are more than the original context.
STRETCHED = {
    "rope dynamic": {"rope_parameters": DYNAMIC, "head_dim": 6},
    "rope dynamic, long": {"rope_parameters": DYNAMIC, "head_dim": 6, "max_position_embeddings": 5},
    "rope yarn": {"rope_parameters": YARN, "head_dim": 16},
    "rope yarn, ramp": {"rope_parameters": {**YARN, "beta_fast": 2.0, "beta_slow": 0.2}, "head_dim": 16},
    "rope yarn, as it is": {"rope_parameters": {**YARN, "beta_fast": 2.0, "truncate": False}, "head_dim": 16},
    "rope yarn, mscale": {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.4}, "head_dim": 16},
    "rope yarn, factor": {"rope_parameters": {**YARN, "attention_factor": 0.6}, "head_dim": 16},
    "rope longrope, long": {"rope_parameters": LONGROPE, "head_dim": 6},
    "rope longrope": {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": 10}, "head_dim": 6},
    "rope longrope, factor": {"rope_parameters": {**LONGROPE, "attention_factor": 1.4}, "head_dim": 6},
}
CONFIGS = {
    "usual": {},
    "multi-head": {"num_key_value_heads": 4},
    "multi-query": {"num_key_value_heads": 1},
    "one of each": {"num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "hidden_size": 6},
    "wide heads": {"head_dim": 10},
    "narrow heads": {"head_dim": 2},
    "attention_bias": {"attention_bias": True},
    "mlp_bias": {"mlp_bias": True},
    "both biases": {"attention_bias": True, "mlp_bias": True, "head_dim": 6},
    "tied": {"tie_word_embeddings": True},
    "rope theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}},
    "rope linear": {"rope_parameters": LINEAR},
    "rope llama3": {"rope_parameters": LLAMA3, "head_dim": 16},
    **STRETCHED,
    "large epsilon": {"rms_norm_eps": 0.1},
    **{f"activation {name}": {"hidden_act": name} for name in ACTIVATIONS if name != "silu"},
    "odd sizes": {
        "vocab_size": 61,
        "hidden_size": 21,
        "intermediate_size": 13,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 14,
        "max_position_embeddings": 13,
    },
}


@pytest.mark.parity
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_logits_loss_and_every_gradient_are_transformers(changes, dtype):
    assert_is_transformers(tiny_llama(**changes).to(dtype=dtype))


@st.composite
def configs(draw):
    """Small sizes of every kind, and every branch on or off."""
    kv_heads, group = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    heads, width = kv_heads * group, draw(st.integers(1, 7))
    rope = draw(st.sampled_from([{}, {"rope_theta": 20.0}, LINEAR, LLAMA3]))
    return {
        "vocab_size": draw(st.integers(2, 40)),
        "hidden_size": heads * width,
        "intermediate_size": draw(st.integers(1, 20)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": 2 * draw(st.integers(1, 6)),
        "max_position_embeddings": draw(st.integers(5, 12)),
        "rope_parameters": rope,
        "hidden_act": draw(st.sampled_from(["silu", "gelu", "relu"])),
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-3])),
        **{name: draw(st.booleans()) for name in ("attention_bias", "mlp_bias", "tie_word_embeddings")},
    }


@pytest.mark.parity
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("pad_token_id", [29, 0])
def test_the_embeddings_row_of_padding_gets_its_gradient_from_a_tied_head_alone(pad_token_id, tied):
    model = tiny_llama(pad_token_id=pad_token_id, tie_word_embeddings=tied)
    assert pad_token_id in some_ids(model.config, batch=3)
    assert_is_transformers(model)


@pytest.mark.parity
@pytest.mark.parametrize("pad_token_id", [None, 3, -1])
def test_which_row_is_paddings_is_transformers(pad_token_id):
    model = tiny_llama(pad_token_id=pad_token_id)
    twin = hugging_face_twin(model)
    assert model.model.embed_tokens.padding_idx == twin.model.embed_tokens.padding_idx
    new, theirs = LlamaForCausalLM(model.config), type(twin)(twin.config)
    weights = new.model.embed_tokens.weight.data, theirs.model.embed_tokens.weight.detach().numpy()
    np.testing.assert_array_equal(*[(weight == 0).all(axis=1) for weight in weights])


@pytest.mark.parity
@settings(fuzz, max_examples=15)
@given(configs(), st.integers(0, 1000))
def test_any_config_is_transformers(changes, seed):
    # In float64, so that small differences are no rounding errors that a strange config makes large.
    assert_is_transformers(tiny_llama(seed, **changes).to(dtype=np.float64))


@pytest.mark.parity
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_our_directory_loads_in_transformers(tmp_path, tied):
    changes = {"tie_word_embeddings": tied, "attention_bias": True, "rope_parameters": LLAMA3, "head_dim": 16}
    assert_loads_in_transformers(tiny_llama(**changes), tmp_path)


@pytest.mark.parity
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_transformers_directory_loads_here(tmp_path, tied):
    import torch

    twin = hugging_face_twin(tiny_llama(tie_word_embeddings=tied, mlp_bias=True, head_dim=6, rope_parameters=LINEAR))
    twin.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    ids = some_ids(loaded.config)
    with torch.no_grad():
        assert relative(loaded(ids).logits.data, twin(torch.tensor(ids)).logits) < 2e-5
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied


SLOPES = {
    "grouped": {},
    "tied": {"tie_word_embeddings": True},
    "llama3 and biases": {"rope_parameters": LLAMA3, "attention_bias": True, "mlp_bias": True, "hidden_act": "gelu"},
}


@pytest.mark.parametrize("changes", SLOPES.values(), ids=SLOPES.keys())
def test_gradients_are_those_of_finite_differences(changes):
    small = {"hidden_size": 4, "intermediate_size": 5, "num_hidden_layers": 1, "vocab_size": 7, "head_dim": 4}
    assert_gradients_are_slopes(tiny_llama(**{**small, **changes}))


def test_a_position_sees_only_what_stands_before_it():
    assert_a_position_sees_only_what_stands_before(tiny_llama())


def test_only_the_distances_between_positions_count():
    """What rotary positions are for: the whole text moved by three is the same text."""
    model = tiny_llama().to(dtype=np.float64)
    ids = some_ids(model.config)
    moved = model(ids, position_ids=np.arange(9) + 3).logits.data
    assert relative(moved, model(ids).logits.data) < 1e-5
    assert relative(model(ids, position_ids=np.zeros(9, int)).logits.data, moved) > 1e-3


def test_dropout_of_attention_works_in_training_only():
    model, plain = tiny_llama(attention_dropout=0.5), tiny_llama()
    ids = some_ids(model.config)
    expected = plain(ids).logits.data
    np.testing.assert_array_equal(model(ids).logits.data, expected)
    first, second = (model.train()(ids).logits.data for _ in range(2))
    assert relative(first, expected) > 1e-3
    assert relative(first, second) > 1e-3
    np.testing.assert_array_equal(model.eval()(ids).logits.data, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 10, "num_attention_heads": 4}, "hidden_size = 10 cannot be shared equally by 4 heads"),
        ({"num_key_value_heads": 3}, "num_attention_heads = 4 cannot be shared equally by num_key_value_heads = 3"),
        ({"num_key_value_heads": -1}, "num_key_value_heads must be a positive integer, got -1"),
        ({"head_dim": 5}, "head_dim must be even.* got 5"),
        ({"head_dim": 0}, "head_dim must be a positive integer, got 0"),
        ({"vocab_size": 0}, "vocab_size must be a positive integer, got 0"),
        ({"intermediate_size": 2.5}, "intermediate_size must be a positive integer, got 2.5"),
        ({"num_hidden_layers": None}, "num_hidden_layers must be a positive integer, got None"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings must be a positive integer, got 'many'"),
        ({"hidden_act": "prelu"}, "hidden_act 'prelu' is not known; known are gelu, "),
        ({"rope_parameters": {"rope_type": "su"}}, "rope_type 'su' is not supported"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_llama_config(**changes)


def test_heads_are_as_wide_and_as_many_as_the_others_say():
    config = LlamaConfig(hidden_size=24, num_attention_heads=3)
    assert (config.num_key_value_heads, config.head_dim) == (3, 8)


@pytest.mark.parity
def test_the_defaults_are_transformers():
    import transformers

    ours, theirs = LlamaConfig().to_dict(), transformers.LlamaConfig().to_dict()
    known = {name: theirs[name] for name in ours if name != "architectures"}
    assert {name: value for name, value in ours.items() if name != "architectures"} == known


def test_a_config_comes_back_from_its_dictionary():
    config = tiny_llama_config(rope_parameters=LLAMA3, attention_bias=True, eos_token_id=[1, 2], head_dim=16)
    fields = config.to_dict()
    assert fields["model_type"] == "llama"
    assert fields["architectures"] == ["LlamaForCausalLM"]
    assert LlamaConfig.from_dict({**fields, "pretraining_tp": 1, "use_cache": True}) == config


def test_the_start_is_normal_weights_and_no_biases():
    config = tiny_llama_config(hidden_size=64, intermediate_size=96, initializer_range=0.1, attention_bias=True)
    model = LlamaForCausalLM(config)
    layer = model.model.layers[1]
    for p in (layer.self_attn.q_proj.weight, layer.mlp.down_proj.weight, model.model.embed_tokens.weight):
        assert abs(p.data.std() / 0.1 - 1) < 0.1
    assert not layer.self_attn.q_proj.bias.data.any()
    assert (layer.input_layernorm.weight.data == 1).all()
    assert (model.model.norm.weight.data == 1).all()
    assert model.lm_head.weight is not model.model.embed_tokens.weight


@pytest.mark.gpu
@pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())
def test_the_gpu_gives_the_same_logits_loss_and_gradients(changes):
    model = tiny_llama(**changes)
    ids = some_ids(model.config, batch=3)
    labels = some_labels(ids)
    logits = model(ids).logits.numpy()
    loss, gradients = loss_and_gradients(model, ids, labels)
    model.zero_grad()
    model.to("cuda")
    assert relative(model(ids).logits.numpy(), logits) < 1e-4
    on_gpu, gpu_gradients = loss_and_gradients(model, ids, labels)
    assert relative(on_gpu, loss) < 1e-4
    for name, gradient in gradients.items():
        assert relative(gpu_gradients[name].get(), gradient) < 1e-4, name


@pytest.mark.parity
@pytest.mark.parametrize("changes", STRETCHED.values(), ids=STRETCHED)
def test_a_growing_cache_gives_transformers_logits_with_stretched_positions(changes):
    """Frequencies that change with the length turn the new tokens; keys in the cache stay as they were turned."""
    import torch

    model = tiny_llama(**changes)
    twin, ids, cache = hugging_face_twin(model), some_ids(model.config), KVCache(9)
    theirs = None
    for i, j in ((0, 3), (3, 4), (4, 6), (6, 7), (7, 8), (8, 9)):
        with torch.no_grad(), no_grad():
            out = twin(torch.tensor(ids[:, i:j]), past_key_values=theirs, use_cache=True)
            found = model(ids[:, i:j], past_key_values=cache).logits.data
        theirs = out.past_key_values
        assert relative(found, out.logits) < 2e-5


@pytest.mark.parity
@pytest.mark.parametrize("name", ["rope dynamic, long", "rope yarn", "rope longrope, long"])
def test_generation_with_stretched_positions_is_transformers(name):
    import torch

    model = tiny_llama(**{"max_position_embeddings": 20, **STRETCHED[name]})
    ids = some_ids(model.config)[:, :3]
    options = {"max_new_tokens": 11, "do_sample": False}
    mask = torch.tensor(np.ones_like(ids))
    expected = hugging_face_twin(model).generate(torch.tensor(ids), attention_mask=mask, pad_token_id=0, **options)
    np.testing.assert_array_equal(model.generate(ids, **options), expected)


@pytest.mark.parametrize(
    "told",
    [
        {"position_ids": np.arange(9) + np.array([0, 1, 2, 6])[:, None]},
        {"seq_idx": np.arange(9) > np.array([2, 3, 4, 8])[:, None]},
    ],
    ids=["positions", "texts"],
)
def test_rows_of_other_lengths_turn_alike_in_every_number_of_threads(monkeypatch, told):
    """The longest row, or text, says how long the text is: also where each thread has other rows."""
    model, told = tiny_llama(**STRETCHED["rope dynamic, long"]), {name: x.astype(int) for name, x in told.items()}
    ids = np.repeat(some_ids(model.config), 2, axis=0)
    expected = model(ids, labels=ids, **told).loss.item()
    monkeypatch.setattr(threads, "shard_count", lambda rows, columns: 2)
    assert model(ids, labels=ids, **told).loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_text_may_be_as_long_as_the_context_was_stretched():
    model = tiny_llama(**STRETCHED["rope dynamic, long"])
    assert np.isfinite(model(some_ids(model.config, time=15)).logits.data).all()
    with pytest.raises(ValueError, match="16 tokens are more than the model's context of 15"):
        model(np.ones((1, 16), int))
