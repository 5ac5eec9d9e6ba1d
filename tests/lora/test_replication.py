"""layer_replication: blocks that are listed twice share the base's weights and have adapters of their own."""

import numpy as np
import pytest
from lora_helpers import (
    assert_equal_to_peft,
    gradients,
    logits_of,
    perturbed,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import AutoModelForCausalLM, LoraConfig, PeftModel, get_peft_model, nn
from lora_np.models import SmolLM3Config, SmolLM3ForCausalLM
from lora_np.training import SGD

MAP = [(0, 2), (1, 2), (0, 1)]  # blocks 0 1 1 0
LONG = {"max_position_embeddings": 30}
BASES = {"gpt2": (tiny_model, ["c_attn"]), "llama": (tiny_llama, ["q_proj", "down_proj"])}


def config_of(base="llama", **options):
    options = {"r": 3, "layer_replication": MAP, "fan_in_fan_out": base == "gpt2", **options}
    return LoraConfig(**{"target_modules": BASES[base][1], **options})


def replicated(base="llama", changes=(), **options):
    return get_peft_model(BASES[base][0](**dict(changes)), config_of(base, **options))


def by_hand(base="llama", numbers=(0, 1, 1, 0), **changes):
    """A model as deep, with copies of the blocks."""
    model, prefix = BASES[base][0](**changes), {"llama": "model.layers.", "gpt2": "transformer.h."}[base]
    depth = {"llama": "num_hidden_layers", "gpt2": "n_layer"}[base]
    deep = BASES[base][0](**{depth: len(numbers)}, **changes)
    state = model.state_dict()
    for place, i in enumerate(numbers):
        inside = {name: array for name, array in model.state_dict().items() if name.startswith(f"{prefix}{i}.")}
        state |= {name.replace(f"{prefix}{i}.", f"{prefix}{place}.", 1): array for name, array in inside.items()}
    deep.load_state_dict(state)
    return deep


@pytest.mark.parametrize("base", BASES)
def test_it_is_the_model_with_its_blocks_copied(base):
    model = replicated(base)
    assert np.array_equal(logits_of(model), logits_of(by_hand(base)))
    assert relative(logits_of(model), logits_of(BASES[base][0]())) > 1e-3
    assert model.config.depth[1] == 4
    assert model.num_parameters() - model.num_parameters(only_trainable=True) == BASES[base][0]().num_parameters()


def test_each_block_has_adapters_of_its_own_and_all_are_trained():
    model = perturbed(replicated()).train()
    names = {f"base_model.model.model.layers.{i}.mlp.down_proj.lora_A.default.weight" for i in range(4)}
    assert names <= set(gradients(model))
    ids = some_ids(model.config)
    optimizer, losses = SGD([p for p in model.parameters() if p.requires_grad], lr=0.3), []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1e-3


def test_gradients_are_those_of_the_copied_blocks():
    ours, other = replicated(), get_peft_model(by_hand(), config_of(layer_replication=None))
    other.load_state_dict(perturbed(ours).state_dict(), strict=False)
    found, expected = gradients(ours), gradients(other)
    assert set(found) == set(expected)
    for name, gradient in found.items():
        assert relative(gradient, expected[name]) < 1e-6


@pytest.mark.parametrize("base", BASES)
def test_the_cache_has_room_for_each(base):
    model = perturbed(replicated(base, {"llama": LONG, "gpt2": {"n_positions": 30}}[base]))
    ids = some_ids(model.config)
    texts = [model.generate(ids, max_new_tokens=15, do_sample=False, use_cache=cached) for cached in (True, False)]
    assert np.array_equal(*texts)


def test_a_model_may_become_shorter_and_merge():
    model = perturbed(replicated(layer_replication=[(1, 2)]))
    assert model.config.num_hidden_layers == 1
    expected = logits_of(model)
    assert relative(logits_of(model.merge_and_unload()), expected) < 1e-5


def test_merging_needs_weights_of_ones_own(tmp_path):
    model = perturbed(replicated())
    expected, before = logits_of(model), snapshot(model)
    assert "shares its weight with another layer" in refusal(ValueError, model.merge_adapter)
    assert snapshot(model) == before
    model.untie_weights()
    plain = model.merge_and_unload()
    assert relative(logits_of(plain), expected) < 1e-5
    plain.save_pretrained(tmp_path)
    assert np.array_equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path)), logits_of(plain))


def test_it_comes_back_from_a_file_bit_for_bit(tmp_path):
    model = perturbed(replicated())
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    assert np.array_equal(logits_of(loaded), logits_of(model))
    loaded.load_adapter(tmp_path, "second")  # the blocks are so already
    loaded.set_adapter("second")
    assert np.array_equal(logits_of(loaded), logits_of(model))
    with loaded.disable_adapter():
        assert np.array_equal(logits_of(loaded), logits_of(by_hand()))


@pytest.mark.parametrize("base", BASES)
def test_unloaded_it_stays_as_deep_and_is_saved_whole(base, tmp_path):
    plain = replicated(base).unload()
    assert np.array_equal(logits_of(plain), logits_of(by_hand(base)))
    plain.save_pretrained(tmp_path)
    assert np.array_equal(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path)), logits_of(plain))


def test_unloaded_it_takes_the_same_again():
    plain = replicated().unload()
    assert get_peft_model(plain, config_of()).config.num_hidden_layers == 4


def test_what_a_config_says_of_each_block_follows():
    small = {"vocab_size": 31, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "eos_token_id": None, "pad_token_id": None}
    model = SmolLM3ForCausalLM(SmolLM3Config(**small, **heads, no_rope_layers=[1, 0, 1, 1]))
    before = model.config
    config = LoraConfig(target_modules=["q_proj"], layer_replication=[(0, 3), (1, 4)])
    assert get_peft_model(model, config).config.no_rope_layers == [1, 0, 1, 0, 1, 1]
    assert (before.num_hidden_layers, before.no_rope_layers) == (4, [1, 0, 1, 1])


@pytest.mark.parametrize(
    "wrong", [3, "ab", [3], [(0,)], [(0, 1, 2)], [(1, 1)], [(2, 1)], [(-1, 1)], [(0, 1.0)], [(True, 2)]]
)
def test_lists_that_are_none(wrong):
    assert "layer_replication must be a list of pairs" in refusal(
        ValueError, lambda: config_of(layer_replication=wrong)
    )


def test_what_is_refused_leaves_the_model_as_it_was():
    model = tiny_llama()
    before, config = snapshot(model), model.config
    assert "the model has 2 blocks" in refusal(
        ValueError, lambda: get_peft_model(model, config_of(layer_replication=[(0, 3)]))
    )
    assert "matches 'c_attn'" in refusal(
        ValueError, lambda: get_peft_model(model, config_of(target_modules=["c_attn"]))
    )
    assert "has no list of blocks" in refusal(
        ValueError, lambda: get_peft_model(nn.Sequential(nn.Linear(2, 2)).get_submodule("0"), config_of())
    )
    assert snapshot(model) == before
    assert model.config is config
    assert config.num_hidden_layers == 2
    adapted = get_peft_model(model, config_of(layer_replication=None))
    assert "the first adapter of a model decides that" in refusal(
        ValueError, lambda: adapted.add_adapter("other", config_of())
    )


@pytest.mark.parity
class TestAgainstPeft:
    def test_names_logits_and_gradients(self):
        assert_equal_to_peft(config_of(), tiny_llama())

    def test_files(self, tmp_path):
        import peft
        import torch
        from lora_helpers import hugging_face_twin

        model = perturbed(replicated())
        model.save_pretrained(tmp_path / "ours")
        ids = torch.tensor(some_ids(model.config))
        theirs = peft.PeftModel.from_pretrained(hugging_face_twin(tiny_llama()), tmp_path / "ours")
        assert relative(logits_of(model), theirs(ids).logits.detach()) < 2e-5
        theirs.save_pretrained(tmp_path / "theirs")
        back = PeftModel.from_pretrained(tiny_llama(), tmp_path / "theirs")
        assert np.array_equal(logits_of(back), logits_of(model))
        assert back.get_nb_trainable_parameters()[1] == theirs.get_nb_trainable_parameters()[1]
