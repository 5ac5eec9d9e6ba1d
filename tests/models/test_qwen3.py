"""Qwen3: a Llama with norms of queries and keys. Logits and gradients against Transformers, LoRA against PEFT."""

import json

import numpy as np
import pytest
from lora_helpers import (
    assert_equal_to_peft,
    assert_exchanged_with_peft,
    hugging_face_twin,
    logits_of,
    randomize,
    relative,
    some_ids,
)
from model_helpers import (
    assert_a_position_sees_only_what_stands_before,
    assert_gradients_are_slopes,
    assert_is_transformers,
    assert_loads_in_transformers,
    loss_and_gradients,
    padded,
    some_labels,
)

from lora_np import AutoModelForCausalLM, KVCache, LoraConfig, no_grad
from lora_np.models.qwen3 import Qwen3Config, Qwen3ForCausalLM

CONFIGS = {
    "usual": {},
    "multi-head": {"num_key_value_heads": 4},
    "narrow heads": {"head_dim": 2},
    "attention_bias": {"attention_bias": True},
    "tied": {"tie_word_embeddings": True},
    "large epsilon": {"rms_norm_eps": 0.1},
    "rope theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
}
each_config = pytest.mark.parametrize("changes", CONFIGS.values(), ids=CONFIGS.keys())


def tiny_qwen3(**changes):
    """A tiny Qwen3 with random weights, in evaluation mode. Its heads are wider than C/H."""
    small = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "head_dim": 6}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 12}
    return randomize(Qwen3ForCausalLM(Qwen3Config(**{**small, **heads, **changes}))).eval()


@pytest.mark.parity
@each_config
def test_logits_loss_and_every_gradient_are_transformers(changes):
    assert_is_transformers(tiny_qwen3(**changes))


@pytest.mark.parity
def test_so_they_are_with_padding_and_positions():
    mask, positions = padded("right")
    assert_is_transformers(tiny_qwen3(), attention_mask=mask, position_ids=positions + 2)


def test_gradients_are_those_of_finite_differences():
    assert_gradients_are_slopes(tiny_qwen3())


def test_a_position_sees_only_what_stands_before():
    assert_a_position_sees_only_what_stands_before(tiny_qwen3())


@pytest.mark.parametrize("name", ["q_norm", "k_norm"])
def test_the_norms_matter(name):
    model = tiny_qwen3()
    before = logits_of(model)
    getattr(model.model.layers[0].self_attn, name).weight.data[:2] *= 3
    assert relative(logits_of(model), before) > 1e-3


def test_read_part_by_part_the_logits_are_those_of_one_pass():
    model, cache = tiny_qwen3(), KVCache(9)
    ids = some_ids(model.config)
    with no_grad():
        parts = [model(ids[:, i:j], past_key_values=cache).logits.data for i, j in ((0, 4), (4, 5), (5, 9))]
    assert relative(np.concatenate(parts, axis=1), model(ids).logits.data) < 2e-6


def test_checkpointed_gradients_are_the_same():
    model = tiny_qwen3()
    ids = some_ids(model.config)
    _, expected = loss_and_gradients(model, ids, some_labels(ids))
    model.gradient_checkpointing_enable()
    _, found = loss_and_gradients(model, ids, some_labels(ids))
    for name, gradient in found.items():
        assert relative(gradient, expected[name]) < 1e-6, name


@pytest.mark.parity
@each_config
def test_transformers_loads_what_is_saved(changes, tmp_path):
    assert_loads_in_transformers(tiny_qwen3(**changes), tmp_path)


@pytest.mark.parity
@each_config
def test_what_transformers_saves_is_loaded(changes, tmp_path):
    model = tiny_qwen3(**changes)
    hugging_face_twin(model).save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is Qwen3ForCausalLM
    assert relative(logits_of(loaded), logits_of(model)) < 1e-6


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], "all-linear"], ids=str)
class TestLora:
    def config(self, targets):
        return LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, target_modules=targets)

    def test_names_logits_loss_and_gradients_are_pefts(self, targets):
        assert_equal_to_peft(self.config(targets), tiny_qwen3())

    def test_files_are_exchanged_with_peft(self, targets, tmp_path):
        assert_exchanged_with_peft(self.config(targets), tiny_qwen3(), tmp_path)


@pytest.mark.parity
def test_the_defaults_are_transformers():
    import transformers

    ours, theirs = Qwen3Config().to_dict(), transformers.Qwen3Config().to_dict()
    different = {name for name, value in ours.items() if name in theirs and theirs[name] != value}
    assert different <= {"architectures"}
    assert set(ours) - set(theirs) == {"mlp_bias"}


def test_attention_to_the_nearest_tokens_only_is_refused(tmp_path):
    tiny_qwen3().save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**fields, "use_sliding_window": True}))
    with pytest.raises(ValueError, match=r"config\.json: use_sliding_window: .* is not supported"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
