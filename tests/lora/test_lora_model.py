"""LoraModel: adapters go into a model's layers, are switched and merged, and come out again without a trace."""

import numpy as np
import pytest
from lora_helpers import snapshot, some_ids, tiny_model

from lora_np import LoraConfig, nn
from lora_np.lora import LoraLinear, LoraModel

ATTENTION = LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=False)
MLP = LoraConfig(r=3, target_modules=["mlp.c_fc", "mlp.c_proj"], init_lora_weights=False)


def tuned(**adapters):
    """A LoraModel with these adapters, the first one active."""
    tuner = LoraModel(tiny_model())
    for name, config in adapters.items():
        tuner.add_adapter(name, config)
    tuner.activate(list(adapters)[:1])
    return tuner


def test_the_model_is_frozen_and_changed_in_place():
    model = tiny_model()
    before = {name: p.data for name, p in model.named_parameters()}
    tuner = LoraModel(model)
    assert tuner.model is model
    assert not any(p.requires_grad for p in model.parameters())
    tuner.add_adapter("a", ATTENTION)
    assert [name for name, _ in tuner.layers()] == ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]
    assert not any(p.requires_grad for p in model.parameters())  # until it is active
    after = {name.replace(".base_layer", ""): p.data for name, p in model.named_parameters() if "lora_" not in name}
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)


def test_layers_come_in_the_models_order():
    tuner = tuned(m=MLP, a=ATTENTION)
    assert [name.partition("h.")[2] for name, _ in tuner.layers()] == [
        f"{i}.{name}" for i in (0, 1) for name in ("attn.c_attn", "mlp.c_fc", "mlp.c_proj")
    ]
    assert all(isinstance(layer, LoraLinear) for _, layer in tuner.layers())


def test_only_active_adapters_are_trained():
    tuner = tuned(a=ATTENTION, m=MLP)
    for names in (["a"], ["m"], ["a", "m"], []):
        tuner.activate(names)
        trained = {name.split(".")[-2] for name, p in tuner.named_parameters() if p.requires_grad}
        assert trained == set(names)
        assert all("lora_" in name for name, p in tuner.named_parameters() if p.requires_grad)
        assert all(set(layer.active_adapters) <= set(names) for _, layer in tuner.layers())


def test_two_adapters_on_one_layer_are_added_up():
    tuner, ids = tuned(a=ATTENTION, b=ATTENTION), some_ids(tiny_model().config)
    tuner.activate(["a", "b"])
    layer = tuner.layers()[0][1]
    layer.base_layer.weight.data = layer.base_layer.weight.data.astype(np.float64)
    expected = layer.base_layer.weight.data + layer.get_delta_weight("a") + layer.get_delta_weight("b")
    np.testing.assert_allclose(layer.merged_parameters()[0], expected, rtol=1e-6)
    assert tuner(ids).logits.shape[:2] == ids.shape


def test_deleting_an_adapter_restores_layers_that_have_no_other():
    tuner = tuned(a=ATTENTION, both=LoraConfig(target_modules=["c_attn", "mlp.c_fc"]), m=MLP)
    block = tuner.model.transformer.h[0]
    held = block.mlp.c_proj.base_layer
    tuner.detach("m")
    assert block.mlp.c_proj is held
    assert list(block.mlp.c_fc.lora_A) == ["both"]
    assert list(block.attn.c_attn.lora_A) == ["a", "both"]
    tuner.detach("both")
    tuner.detach("a")
    assert tuner.layers() == []
    assert isinstance(block.attn.c_attn, nn.Conv1D)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("none", []),
        ("lora_only", ["attn.c_attn.base_layer.bias"]),
        (
            "all",
            [
                *("ln_1.bias", "attn.c_attn.base_layer.bias", "attn.c_proj.bias"),
                *("ln_2.bias", "mlp.c_fc.bias", "mlp.c_proj.bias"),
            ],
        ),
    ],
)
def test_which_biases_are_trained(kind, expected):
    tuner = tuned(a=ATTENTION)
    wanted = [f"transformer.h.{i}.{name}" for i in (0, 1) for name in expected]
    found = tuner.biases(kind)
    assert list(found) == wanted + ["transformer.ln_f.bias"] * (kind == "all")
    assert all(p is dict(tuner.model.named_parameters())[name] for name, p in found.items())


def test_merged_tells_what_is_merged():
    tuner = tuned(a=ATTENTION, m=MLP)
    assert tuner.merged == []
    tuner.merge()
    assert tuner.merged == ["a"]
    with pytest.raises(RuntimeError, match=r"already merged: a; call unmerge_adapter\(\) first"):
        tuner.merge()
    tuner.unmerge()
    assert tuner.merged == []
    tuner.activate(["m"])
    tuner.merge()
    assert tuner.merged == ["m"]


def test_merging_touches_only_layers_with_an_active_adapter():
    tuner = tuned(a=ATTENTION, m=MLP)
    before = {name: p.data for name, p in tuner.named_parameters()}
    tuner.merge()
    changed = [name for name, p in tuner.named_parameters() if p.data is not before[name]]
    assert changed == [f"model.transformer.h.{i}.attn.c_attn.base_layer.weight" for i in (0, 1)]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, -1], ids=["first layer", "last layer"])
@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")
def test_safe_merge_refuses_a_broken_adapter_and_changes_nothing(value, place):
    tuner = tuned(a=LoraConfig(target_modules="all-linear", init_lora_weights=False))
    name, layer = tuner.layers()[place]
    layer.lora_B["a"].weight.data[0, 0] = value
    before = snapshot(tuner)
    with pytest.raises(ValueError, match=f"NaN or infinity in {name}"):
        tuner.merge(safe_merge=True)
    assert snapshot(tuner) == before
    assert tuner.merged == []


def test_unload_gives_back_the_very_layers():
    tuner = tuned(a=ATTENTION, m=MLP)
    layers = {name: layer.base_layer for name, layer in tuner.layers()}
    model = tuner.plain()
    assert model is tuner.model
    assert all(model.get_submodule(name) is layer for name, layer in layers.items())
    assert not any(isinstance(module, LoraLinear) for module in model.modules())


def with_a_bias():
    """Half precision, and a bias on the branch that is finite beside the layer, but not in it."""
    tuner = LoraModel(tiny_model().to(dtype=np.float16))
    tuner.add_adapter("a", LoraConfig(target_modules=["c_attn"], lora_bias=True, fan_in_fan_out=True))
    tuner.activate(["a"])
    tuner.layers()[0][1].lora_B["a"].bias.data[3] = 1e6
    return tuner, "transformer.h.0.attn.c_attn"


def with_a_copy():
    tuner = tuned(a=LoraConfig(target_modules=["c_attn"], modules_to_save=["ln_f"], fan_in_fan_out=True))
    tuner.saved["transformer.ln_f"].modules_to_save["a"].bias.data[2] = np.nan
    return tuner, "transformer.ln_f"


@pytest.mark.parametrize("broken", [with_a_bias, with_a_copy])
def test_safe_merge_looks_at_all_that_a_merge_changes(broken):
    tuner, place = broken()
    before = snapshot(tuner)
    for names in (None, ["a"]):
        with pytest.raises(ValueError, match=f"NaN or infinity in {place}"):
            tuner.merge(safe_merge=True, names=names)
    assert snapshot(tuner) == before
    assert tuner.merged == []


def test_safe_merge_leaves_the_copies_of_other_adapters_aside():
    tuner, _ = with_a_copy()
    tuner.add_adapter("m", MLP)
    tuner.activate(["m"])
    tuner.merge(safe_merge=True)
    assert tuner.merged == ["m"]
