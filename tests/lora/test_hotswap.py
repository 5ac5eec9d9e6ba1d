"""An adapter's numbers replaced by another file's: wholly or not at all."""

import numpy as np
import pytest
from lora_helpers import gradients, logits_of, peft_model, refusal, relative, snapshot, some_ids, tiny_model

from lora_np import BdLoraConfig, LoraConfig, PeftModel, hotswap_adapter, inject_adapter_in_model


@pytest.fixture
def folder(tmp_path):
    """make(targets, **options): the folder of an adapter with random numbers."""

    def make(name="new", targets=("c_attn",), seed=5, **options):
        model = peft_model(list(targets), **options)
        for i, p in enumerate(p for p in model.parameters() if p.requires_grad):
            p.data = np.random.default_rng(seed + i).standard_normal(p.shape).astype(np.float32) * 0.1
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return make


@pytest.mark.parametrize(
    "options", [{"r": 4}, {"r": 1}, {"r": 7, "lora_alpha": 3}, {"r": 4, "rank_pattern": {"h.0": 2}}]
)
def test_it_computes_as_the_adapter_loaded_by_itself(folder, options):
    model = peft_model(["c_attn"], init_lora_weights=False, r=4)
    before = [id(p) for p in model.parameters()]
    hotswap_adapter(model, folder(**options), "default")
    assert [id(p) for p in model.parameters()] == before  # so an optimizer goes on with them
    expected = PeftModel.from_pretrained(tiny_model(), folder(**options))
    np.testing.assert_array_equal(logits_of(model), logits_of(expected))
    assert model.get_nb_trainable_parameters()[0] > 0


def test_it_is_saved_as_what_it_is_now(folder, tmp_path):
    model = peft_model(["c_attn"], init_lora_weights=False, r=4)
    hotswap_adapter(model, folder(r=2, lora_alpha=6), "default")
    model.save_pretrained(tmp_path / "again")
    again = PeftModel.from_pretrained(tiny_model(), tmp_path / "again")
    np.testing.assert_array_equal(logits_of(again), logits_of(model))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"r": 2}),
        ({"r": 2, "init_lora_weights": "mica"}, {}),
        ({"use_dora": True}, {"use_dora": True, "lora_alpha": 3}),
        ({"lora_bias": True}, {"lora_bias": True, "r": 3, "rank_pattern": {"c_fc": 2}}),
        ({"targets": ["c_attn.q", "c_fc"]}, {"targets": ["c_fc"]}),
        ({"targets": ["wte", "c_fc"]}, {"targets": ["c_fc"], "layers_to_transform": [1]}),
    ],
)
def test_layers_that_the_new_one_leaves_out_are_as_the_base(folder, tmp_path, before, after):
    model = peft_model(**{"targets": ["c_attn", "c_fc"], **before})
    new = folder(**{"targets": ["c_attn"], **after})
    hotswap_adapter(model, new, "default")
    expected = logits_of(PeftModel.from_pretrained(tiny_model(), new))
    assert relative(logits_of(model), expected) < 1e-6
    model.save_pretrained(tmp_path / "again")  # the file names those layers, too, so that it can be read
    again = PeftModel.from_pretrained(tiny_model(), tmp_path / "again")
    np.testing.assert_array_equal(logits_of(again), logits_of(model))
    hotswap_adapter(again, tmp_path / "again", "default")
    np.testing.assert_array_equal(logits_of(again), logits_of(model))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"targets": ["c_attn.q"]}, {"targets": ["c_attn.v"]}),
        ({"targets": ["c_attn.q", "c_attn.v"]}, {"targets": ["c_attn.v"]}),
        ({}, {"alora_invocation_tokens": [3]}),
        ({"alora_invocation_tokens": [3]}, {}),
        ({}, {"use_qalora": True, "qalora_group_size": 8}),
        ({"use_bdlora": BdLoraConfig(["c_attn"], nblocks=2)}, {"use_bdlora": BdLoraConfig([], ["c_attn"], 2)}),
        ({"trainable_token_indices": [1, 2]}, {"trainable_token_indices": [3, 4]}),
    ],
)
def test_all_that_the_new_one_is_comes_with_its_numbers(folder, before, after):
    model, new = peft_model(**{"targets": ["c_attn"], **before}), folder(**after)
    parameters, trained = [id(p) for p in model.parameters()], len(gradients(model))
    hotswap_adapter(model, new, "default")
    ids = np.where(some_ids(model.config) % 5 == 0, 3, some_ids(model.config))
    expected = PeftModel.from_pretrained(tiny_model(), new)
    np.testing.assert_array_equal(logits_of(model, ids), logits_of(expected, ids))
    assert [id(p) for p in model.parameters()] == parameters
    assert len(gradients(model)) == trained


def test_a_model_without_a_peft_model(folder):
    config = LoraConfig(r=4, target_modules=["c_attn"], init_lora_weights=False)
    model, new = inject_adapter_in_model(config, tiny_model()), folder(r=2)
    hotswap_adapter(model, new, "default")
    assert model.peft_config["default"].r == 2
    np.testing.assert_array_equal(logits_of(model), logits_of(PeftModel.from_pretrained(tiny_model(), new)))


def test_mica_keeps_its_b_frozen(folder):
    model = peft_model(["c_attn"])
    hotswap_adapter(model, folder(init_lora_weights="mica"), "default")
    assert {name.split(".")[-3] for name in gradients(model)} == {"lora_A"}


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"use_rslora": True}, ValueError, "use_rslora=True, and the adapter False"),
        ({"use_dora": True}, ValueError, "use_dora"),
        ({"lora_dropout": 0.5}, ValueError, "lora_dropout"),
        ({"alpha_pattern": {"h.0": 1}}, ValueError, "alpha_pattern"),
        ({"targets": ["c_attn", "c_fc"]}, RuntimeError, "adapts transformer.h.0.mlp.c_fc in another way"),
        ({"lora_bias": True}, RuntimeError, "in another way"),
        ({"modules_to_save": ["ln_f"]}, RuntimeError, "weights of the model's own"),
        ({"bias": "all"}, RuntimeError, "weights of the model's own"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(folder, options, kind, said):
    model = peft_model(["c_attn"], init_lora_weights=False)
    before, new = snapshot(model), folder(**options)
    message = refusal(kind, lambda: hotswap_adapter(model, new, "default"))
    assert message.startswith("hotswap_adapter: ")
    assert said in message
    assert snapshot(model) == before


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ({"bias": "all"}, "weights of the model's own"),
        ({"trainable_token_indices": [1]}, "leaves out transformer.wte, which cannot start anew"),
        ({"target_parameters": ["c_fc.weight"]}, "leaves out transformer.h.0.mlp.c_fc, which cannot start anew"),
    ],
)
def test_what_cannot_be_left_out_is_refused(folder, before, said):
    model, new = peft_model(["c_attn"], **before), folder()
    state = snapshot(model)
    assert said in refusal(RuntimeError, lambda: hotswap_adapter(model, new, "default"))
    assert snapshot(model) == state


def test_a_merged_adapter_stays(folder):
    model = peft_model(["c_attn"], init_lora_weights=False)
    new = folder()
    model.merge_adapter()
    assert "unmerge_adapter() first" in refusal(ValueError, lambda: hotswap_adapter(model, new, "default"))


def test_misspelt_keywords(folder):
    model, new = peft_model(["c_attn"]), folder()
    message = refusal(TypeError, lambda: hotswap_adapter(model, new, "default", subfolde="x"))
    assert "did you mean 'subfolder'?" in message
