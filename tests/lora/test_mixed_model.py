"""PeftMixedModel: adapters of several kinds on one model, each around those that were there before it."""

import importlib.util

import numpy as np
import pytest
from lora_helpers import (
    hugging_face_twin,
    logits_of,
    perturbed,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import LoraConfig, PeftMixedModel, PeftModel, get_peft_model, lora, nn
from lora_np.lora import IA3Config, OFTConfig, VeraConfig

SETTINGS = {
    "LoraConfig": {"r": 3, "lora_alpha": 6},
    "OFTConfig": {"oft_block_size": 4},
    "LoHaConfig": {"r": 2},
    "LoKrConfig": {"r": 2},
    "ShiraConfig": {"r": 2},
    "AdaLoraConfig": {"init_r": 3, "target_r": 2, "total_step": 10},
}
LORA_OFT = [("LoraConfig", "OFTConfig"), ("OFTConfig", "LoraConfig"), ("LoraConfig", "OFTConfig", "LoraConfig")]
OTHERS = [(name, "LoraConfig", "OFTConfig") for name in ("LoHaConfig", "LoKrConfig", "ShiraConfig", "AdaLoraConfig")]
ORDERS = [*LORA_OFT, ("LoraConfig", "OFTConfig", "OFTConfig"), ("OFTConfig", "LoraConfig", "OFTConfig"), *OTHERS]
NAMES = ["a", "b", "c"]


def config(name, targets=("q_proj", "down_proj")):
    modules = [module for module, kind, *_ in lora.FAMILY.values() if kind == name]
    if any(importlib.util.find_spec(f"lora_np.lora.family.{module}") is None for module in modules):
        pytest.skip(f"{name} is not here")
    return getattr(lora, name)(target_modules=list(targets), **SETTINGS[name])


def mixed(*kinds, dtype=np.float32, **targets):
    """A tiny Llama with adapters a, b, ... of these kinds, all active, their tensors moved."""
    first, *others = (
        config(kind, targets.get(name, ("q_proj", "down_proj"))) for name, kind in zip(NAMES, kinds, strict=False)
    )
    model = get_peft_model(tiny_llama().to(dtype=dtype), first, "a", mixed=True)
    for name, other in zip(NAMES[1:], others, strict=False):
        model.add_adapter(name, other)
    model.set_adapter(NAMES[: len(kinds)])
    return perturbed(model, scale=0.3)


@pytest.mark.parametrize("kinds", ORDERS, ids=" ".join)
def test_merged_they_compute_the_same(kinds):
    model = mixed(*kinds, dtype=np.float64)
    assert type(model) is PeftMixedModel
    expected, before = logits_of(model), snapshot(model)
    model.merge_adapter()
    assert relative(logits_of(model), expected) < 1e-12
    model.unmerge_adapter()
    assert snapshot(model) == before
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), logits_of(tiny_llama().to(dtype=np.float64)))
    assert relative(logits_of(model.merge_and_unload()), expected) < 1e-12


def test_what_multiplies_acts_on_all_that_was_there_before_it():
    x = np.random.default_rng(0).standard_normal((5, 16))
    for kinds in LORA_OFT[:2]:
        layer = mixed(*kinds, dtype=np.float64).base_model.layers()[0][1]
        R = layer.adapters[NAMES[kinds.index("OFTConfig")]].matrix()
        A, B = (p.data for p in layer.adapters[NAMES[kinds.index("LoraConfig")]].matrices())
        turned, W = x @ R, layer.base_layer.weight.data
        expected = turned @ W.T + (turned if kinds[0] == "LoraConfig" else x) @ A.T @ B.T * 2
        np.testing.assert_allclose(layer(nn.Parameter(x)).data, expected, atol=1e-12)


def test_the_order_is_that_of_adding_and_each_is_there_where_it_was_put():
    model = mixed("LoraConfig", "OFTConfig", a=["q_proj", "v_proj"], b=["q_proj", "o_proj"])
    expected = logits_of(model)
    for setter in (model.set_adapter, model.base_model.set_adapter):
        setter(["b", "a"])
        assert model.active_adapters == ["a", "b"]
        np.testing.assert_array_equal(logits_of(model), expected)
    model.set_adapter("b")
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {
        f"base_model.model.model.layers.{i}.self_attn.{layer}.oft_R.b.weight"
        for i in (0, 1)
        for layer in ("q_proj", "o_proj")
    }
    model.delete_adapter("b")
    assert model.active_adapters == ["a"]
    assert model.get_model_status().peft_types == {"a": "LORA"}


def test_each_comes_back_from_its_file(tmp_path):
    model = mixed("OFTConfig", "LoraConfig")
    model.save_pretrained(tmp_path)
    loaded = PeftMixedModel.from_pretrained(tiny_llama(), tmp_path / "a", "a")
    assert type(loaded) is PeftMixedModel
    loaded.load_adapter(tmp_path / "b", "b")
    loaded.set_adapter(["a", "b"])
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))
    alone = PeftModel.from_pretrained(tiny_llama(), tmp_path / "b", "b")
    model.set_adapter("b")
    np.testing.assert_array_equal(logits_of(alone), logits_of(model))


def test_each_row_through_another_kind():
    model = mixed("LoraConfig", "OFTConfig")
    ids = some_ids(model.config)
    found = model(ids, adapter_names=["a", "b"]).logits.data
    for row, name in enumerate("ab"):
        model.set_adapter(name)
        np.testing.assert_allclose(found[row], model(ids).logits.data[row], rtol=1e-4, atol=1e-5)


IA3 = IA3Config(target_modules=["q_proj"], feedforward_modules=[])
VERA = VeraConfig(r=2, target_modules=["q_proj"])


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (
            lambda: get_peft_model(tiny_llama(), IA3, mixed=True),
            "peft_type IA3 is not compatible with a PeftMixedModel",
        ),
        (lambda: mixed("LoraConfig").add_adapter("b", VERA), "peft_type VERA is not compatible"),
        (
            lambda: get_peft_model(tiny_llama(), config("LoraConfig")).add_adapter("b", config("OFTConfig")),
            "mixed=True",
        ),
        (
            lambda: mixed("LoraConfig").add_adapter("b", OFTConfig(target_modules=["q_proj"], bias="all")),
            "only one adapter at a time",
        ),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


def test_a_refused_file_changes_nothing(tmp_path):
    get_peft_model(tiny_llama(), VERA).save_pretrained(tmp_path)
    model = mixed("LoraConfig")
    before = snapshot(model)
    assert "VERA is not compatible" in refusal(ValueError, lambda: model.load_adapter(tmp_path, "b"))
    plain = tiny_llama()
    assert "VERA is not compatible" in refusal(ValueError, lambda: PeftMixedModel.from_pretrained(plain, tmp_path))
    assert snapshot(model) == before
    assert snapshot(plain) == snapshot(tiny_llama())


@pytest.mark.parity
class TestAgainstPeft:
    @pytest.mark.parametrize("kinds", ORDERS, ids=" ".join)
    def test_logits_and_gradients(self, kinds, tmp_path):
        import peft
        import torch

        ours = mixed(*kinds).eval()
        ours.save_pretrained(tmp_path)
        first, *others = (
            getattr(peft, kind)(**SETTINGS[kind], target_modules=["q_proj", "down_proj"]) for kind in kinds
        )
        twin = hugging_face_twin(tiny_llama())
        if kinds[0] == "OFTConfig":  # PEFT's from_pretrained lacks it; SHiRA's places are in its file alone
            theirs = peft.get_peft_model(twin, first, "a", mixed=True)
        else:
            theirs = peft.PeftMixedModel.from_pretrained(twin, tmp_path / "a", "a", is_trainable=True)
        for name, other in zip(NAMES[1:], others, strict=False):
            theirs.add_adapter(name, other)
        theirs.set_adapter(NAMES[: len(kinds)])
        values = {name.replace(".base_layer", ""): p.data for name, p in ours.named_parameters()}
        for name, p in theirs.named_parameters():
            if "ranknum" not in name:  # AdaLoRA's rank, which PEFT has among the parameters
                p.data = torch.tensor(values[name.replace(".base_layer", "")])
        ids = some_ids(ours.config)
        out = theirs.eval()(input_ids=torch.tensor(ids), labels=torch.tensor(ids))
        assert relative(logits_of(ours), out.logits.detach()) < 2e-5
        out.loss.backward()
        ours(ids, labels=ids).loss.backward()
        expected = {n.replace(".base_layer", ""): p.grad for n, p in theirs.named_parameters() if p.grad is not None}
        found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
        assert set(found) == set(expected)
        for name, gradient in found.items():
            assert relative(gradient, expected[name].numpy()) < 2e-5, name
        assert ours.get_nb_trainable_parameters()[0] == theirs.get_nb_trainable_parameters()[0]

    def test_which_kinds_it_takes(self):
        from peft.tuners.mixed import COMPATIBLE_TUNER_TYPES

        from lora_np.lora.mixed_model import MIXED

        assert [str(kind) for kind in MIXED] == [kind.value for kind in COMPATIBLE_TUNER_TYPES]


def test_plain_models_are_as_they_were():
    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    assert type(get_peft_model(tiny_model(), config, mixed=False)) is PeftModel
