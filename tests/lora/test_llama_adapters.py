"""LoRA on a Llama: what is targeted, PEFT's numbers and files where heads are grouped, embeddings, a trained head."""

import numpy as np
import pytest
from lora_helpers import (
    assert_equal_to_peft,
    assert_exchanged_with_peft,
    assert_merges,
    logits_of,
    peft_model,
    perturbed,
    relative,
    snapshot,
    some_ids,
    tiny_llama,
)

from lora_np import LoraConfig, PeftModel, get_peft_model

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "the default": {},
    "all-linear": {"target_modules": "all-linear"},
    "keys and values": {"target_modules": ["k_proj", "v_proj"], "use_rslora": True},
    "DoRA": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "bias": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "the embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "the head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "a norm": {"target_modules": ["q_proj"], "modules_to_save": ["model.norm"]},
}
each_case = pytest.mark.parametrize("options", CASES.values(), ids=CASES.keys())


def base(**changes):
    """Grouped heads that are wider than C/H, and biases: nothing is square."""
    return tiny_llama(head_dim=6, attention_bias=True, **changes)


def config_of(options):
    return LoraConfig(r=3, lora_alpha=5, init_lora_weights=False, **options)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
@each_case
class TestAgainstPeft:
    def test_names_logits_loss_and_gradients(self, options):
        assert_equal_to_peft(config_of(options), base())

    @pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`")
    def test_files(self, options, tmp_path):
        assert_exchanged_with_peft(config_of(options), base(), tmp_path)


def adapted_names(model):
    """The leaf names of the layers that have an adapter."""
    return {name.split(".lora_")[0].rpartition(".")[2] for name, _ in model.named_parameters() if ".lora_" in name}


def test_the_default_targets_are_pefts():
    model = get_peft_model(base(), LoraConfig(r=3))
    assert adapted_names(model) == {"q_proj", "v_proj"}
    shapes = {name: p.shape for name, p in model.named_parameters() if ".layers.1." in name and ".lora_" in name}
    path = "base_model.model.model.layers.1.self_attn"
    assert shapes == {
        f"{path}.q_proj.lora_A.default.weight": (3, 16),
        f"{path}.q_proj.lora_B.default.weight": (24, 3),
        f"{path}.v_proj.lora_A.default.weight": (3, 16),
        f"{path}.v_proj.lora_B.default.weight": (12, 3),
    }


def test_all_linear_leaves_the_head_out():
    assert adapted_names(get_peft_model(base(), LoraConfig(target_modules="all-linear"))) == set(LINEAR)


def test_it_starts_at_the_base_model_bit_for_bit():
    model = get_peft_model(base(), LoraConfig(target_modules="all-linear"))
    np.testing.assert_array_equal(logits_of(model), logits_of(base()))


@pytest.mark.parametrize("targets", ["all-linear", ["embed_tokens", "v_proj"]], ids=str)
def test_it_merges(targets):
    assert_merges(perturbed(peft_model(targets, base())), 1e-5)


def test_only_the_adapter_has_gradients():
    model = peft_model("all-linear", base())
    ids = some_ids(model.config)
    model(ids, labels=ids).loss.backward()
    for name, p in model.named_parameters():
        assert (p.grad is not None) == (".lora_" in name), name


def test_an_adapter_comes_back_bit_for_bit(tmp_path):
    model = perturbed(peft_model(["embed_tokens", "k_proj"], base(), modules_to_save=["lm_head"]))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base(), tmp_path, is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


def test_an_adapter_on_the_embedding_of_a_tied_llama_leaves_its_head_alone():
    model = perturbed(peft_model(["embed_tokens"], base(tie_word_embeddings=True)))
    weight = model.get_base_model().lm_head.weight
    np.testing.assert_array_equal(weight.data, base(tie_word_embeddings=True).lm_head.weight.data)
    assert relative(logits_of(model), logits_of(base(tie_word_embeddings=True))) > 1e-3


def test_masks_and_positions_reach_the_model_under_the_adapter():
    model = perturbed(peft_model("all-linear", base()))
    ids, mask = some_ids(model.config), np.array([[0] * 4 + [1] * 5, [1] * 9])
    positions = np.maximum(mask.cumsum(1) - 1, 0)
    found = model(ids, attention_mask=mask, position_ids=positions).logits.data
    assert relative(found[0, 4:], model(ids[:1, 4:]).logits.data[0]) < 2e-6


OF_AN_EMBEDDING = [
    {"target_modules": ["embed_tokens"]},
    {"target_modules": ["embed_tokens"], "use_dora": True},
    {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    {"target_modules": ["q_proj"], "trainable_token_indices": [4, 29]},
    {"target_modules": ["q_proj"], "trainable_token_indices": [4]},
    {"target_modules": [], "target_parameters": ["embed_tokens.weight"]},
]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("options", OF_AN_EMBEDDING, ids=str)
def test_where_the_model_has_a_token_for_padding_its_row_gets_pefts_gradient(options):
    model = tiny_llama(pad_token_id=29, tie_word_embeddings=False)
    assert 29 in some_ids(model.config)
    assert_equal_to_peft(config_of(options), model)
