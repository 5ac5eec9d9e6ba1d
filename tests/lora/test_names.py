"""Names of adapters that are none: one sentence that names the argument and the value, and nothing changed."""

import re

import numpy as np
import pytest
from lora_helpers import some_ids, tiny_model

from lora_np import LoraConfig, PeftModel, get_peft_model
from lora_np.lora import (
    UnknownAdapterError,
    cast_mixed_precision_params,
    get_layer_status,
    get_model_status,
    get_peft_model_state_dict,
    hotswap_adapter,
    inject_adapter_in_model,
    prepare_model_for_kbit_training,
    rescale_adapter_scale,
    set_peft_model_state_dict,
)
from lora_np.lora.layer import AdaptedLayer

NO_NAMES = [3, True, 1.5, b"a", ["a"], [["a"]], {"a": 1}, ("a",), {"a"}, None, object(), type, np.array(["a"])]
NO_LISTS = [3, 1.5, b"a", [["a"]], ["a", 3], [None], {3: "a"}, object(), type]
CONFIG = {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True}


@pytest.fixture
def model():
    """A model with two adapters."""
    model = get_peft_model(tiny_model(), LoraConfig(**CONFIG), "a")
    model.add_adapter("b", LoraConfig(**CONFIG))
    return model


@pytest.fixture
def folder(model, tmp_path):
    """Where the adapter b is saved."""
    model.save_pretrained(tmp_path, selected_adapters=["b"])
    return tmp_path / "b"


def a_config():
    """A config of its own for each call."""
    return LoraConfig(**CONFIG)


ONE = {  # what takes one name
    "add_adapter": lambda model, name, _: model.add_adapter(name, a_config()),
    "load_adapter": lambda model, name, folder: model.load_adapter(folder, name),
    "delete_adapter": lambda model, name, _: model.delete_adapter(name),
    "rename_adapter": lambda model, name, _: model.rename_adapter(name, "c"),
    "rename_adapter to": lambda model, name, _: model.rename_adapter("a", name),
    "set_scale": lambda model, name, _: model.set_scale(name, 2.0),
    "add_weighted_adapter": lambda model, name, _: model.add_weighted_adapter(["a", "b"], [1, 1], name),
    "get_peft_model_state_dict": lambda model, name, _: get_peft_model_state_dict(model, adapter_name=name),
    "set_peft_model_state_dict": lambda model, name, _: set_peft_model_state_dict(model, {}, name),
    "hotswap_adapter": lambda model, name, folder: hotswap_adapter(model, folder, name),
    "get_peft_model": lambda _, name, __: get_peft_model(tiny_model(), a_config(), name),
    "from_pretrained": lambda _, name, folder: PeftModel.from_pretrained(tiny_model(), folder, name),
    "inject_adapter_in_model": lambda _, name, __: inject_adapter_in_model(a_config(), tiny_model(), name),
}
SEVERAL = {  # what takes several
    "set_adapter": ("adapter_name", lambda model, names: model.set_adapter(names)),
    "base_model.set_adapter": ("adapter_name", lambda model, names: model.base_model.set_adapter(names)),
    "merge_adapter": ("adapter_names", lambda model, names: model.merge_adapter(names)),
    "merge_and_unload": ("adapter_names", lambda model, names: model.merge_and_unload(adapter_names=names)),
    "set_requires_grad": ("adapter_names", lambda model, names: model.set_requires_grad(names)),
    "save_pretrained": ("selected_adapters", lambda model, names: model.save_pretrained("x", selected_adapters=names)),
    "add_weighted_adapter": ("adapters", lambda model, names: model.add_weighted_adapter(names, [1, 1], "c")),
    "forward": ("adapter_names", lambda model, names: model(some_ids(model.config), adapter_names=names)),
    "generate": ("adapter_names", lambda model, names: model.generate(some_ids(model.config), adapter_names=names)),
}


def state_of(model):
    """What must be as it was after a refusal."""
    return list(model.peft_config), model.active_adapters, model.base_model.merged, len(list(model.named_parameters()))


@pytest.mark.parametrize("call", ONE)
def test_what_is_no_name_is_refused(call, model, folder):
    before = state_of(model)
    for value in NO_NAMES:
        with pytest.raises(TypeError, match="adapter_name should be the name of an adapter, a str, got ") as caught:
            ONE[call](model, value, folder)
        assert value is None or " ".join(repr(value).split())[:40] in str(caught.value) or value is type
    assert state_of(model) == before


@pytest.mark.parametrize("name", ["en-fr", "1", "v2 final", "sft+3", "für"])
def test_a_name_may_have_what_a_folders_has(name, model, tmp_path):
    for adapter in model.base_model.adapter("a").adapters.values():
        adapter.lora_B.weight.data[...] = 0.1
    expected = model(some_ids(model.config)).logits.numpy()
    model.rename_adapter("a", name)
    model.add_weighted_adapter([name, "b"], [1, 1], f"{name}+b", "cat")
    assert model.active_adapter == name
    assert next(iter(model.base_model.adapted.values())).lora_A[name].weight.shape == (2, 16)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / name, name)
    loaded.load_adapter(tmp_path / f"{name}+b", "b")
    np.testing.assert_array_equal(loaded(some_ids(model.config)).logits.numpy(), expected)
    rows = model(some_ids(model.config), adapter_names=[name, "__base__"]).logits.numpy()
    np.testing.assert_allclose(rows[0], expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["", " ", " a", "a ", "a.b", "a/b", "a\\b", "..", "a\n", "train", "__base__"])
def test_a_name_that_no_folder_has_is_refused(name, model):
    before = state_of(model)
    for call in ("add_adapter", "rename_adapter to"):
        with pytest.raises(ValueError, match=r"no dot or slash|stands for the model"):
            ONE[call](model, name, None)
    assert state_of(model) == before


@pytest.mark.parametrize("call", SEVERAL)
def test_what_are_no_names_is_refused(call, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before, (argument, action) = state_of(model), SEVERAL[call]
    for value in NO_LISTS:
        with pytest.raises(TypeError, match=rf"^{argument}(\[\d\])? should be .*adapter.*, got "):
            action(model, value)
    assert state_of(model) == before
    assert list(tmp_path.iterdir()) == []


def test_names_may_come_in_any_collection(model):
    for names in (("a", "b"), {"a": 1, "b": 2}, np.array(["a", "b"]), (name for name in "ab"), ["a", "a", "b"]):
        model.set_adapter("a")
        model.set_adapter(names)
        assert model.active_adapters == ["a", "b"]


def test_a_layer_names_the_adapters_that_it_has(model):
    layer = next(module for module in model.modules() if isinstance(module, AdaptedLayer))
    calls = [
        lambda name: layer.get_delta_weight(name),
        lambda name: layer.scaling[name],
        lambda name: layer.lora_A[name],
        lambda name: layer.matrices(name),
        lambda name: layer.scaling.__setitem__(name, 2.0),
    ]
    for call in calls[:2] + calls[3:]:
        with pytest.raises(UnknownAdapterError, match="no adapter 'c'; there are 'a', 'b'"):
            call("c")
    for call in calls:
        with pytest.raises(KeyError):
            call("c")


@pytest.mark.parametrize(
    ("call", "option"),
    [
        (lambda model: model.rename_adapter("a", new_name="c"), "rename_adapter has no option 'new_name'"),
        (lambda model: model.set_scale("a", scaling=2), "set_scale has no option 'scaling'; did you mean 'scale'"),
        (
            lambda model: model.add_weighted_adapter(["a", "b"], [1, 1], "c", densities=0.5),
            "PeftModel.add_weighted_adapter has no option 'densities'; did you mean 'density'",
        ),
        (
            lambda model: model.base_model.add_weighted_adapter(["a", "b"], [1, 1], "c", kind="cat"),
            "PeftModel.add_weighted_adapter has no option 'kind'",
        ),
    ],
)
def test_misspelt_options_name_the_nearest(call, option, model):
    with pytest.raises(TypeError, match=re.escape(option)):
        call(model)


@pytest.mark.parametrize("weights", [3, None, 1.5, "11", [1, "x"], [1, None], [1, float("nan")], [True, object()]])
def test_weights_that_are_no_numbers(weights, model):
    with pytest.raises((TypeError, ValueError), match=r"weights (should|must) be"):
        model.add_weighted_adapter(["a", "b"], weights, "c")


NO_MODELS = {
    "get_peft_model": lambda value: get_peft_model(value, a_config()),
    "inject_adapter_in_model": lambda value: inject_adapter_in_model(a_config(), value),
    "get_peft_model_state_dict": get_peft_model_state_dict,
    "set_peft_model_state_dict": lambda value: set_peft_model_state_dict(value, {}),
    "hotswap_adapter": lambda value: hotswap_adapter(value, "folder", "a"),
    "get_layer_status": get_layer_status,
    "get_model_status": get_model_status,
    "prepare_model_for_kbit_training": prepare_model_for_kbit_training,
    "cast_mixed_precision_params": lambda value: cast_mixed_precision_params(value, "float16"),
    "rescale_adapter_scale": lambda value: rescale_adapter_scale(value, 2.0).__enter__(),
}


@pytest.mark.parametrize("call", NO_MODELS)
def test_what_is_no_model_is_refused(call):
    for value in (3, None, "gpt2", {}, object(), LoraConfig):
        with pytest.raises(TypeError, match="model should be a model, such as AutoModelForCausalLM"):
            NO_MODELS[call](value)


NO_CONFIGS = {
    "add_adapter": lambda model, value, _: model.add_adapter("c", value),
    "base_model.add_adapter": lambda model, value, _: model.base_model.add_adapter("c", value),
    "get_peft_model": lambda _, value, __: get_peft_model(tiny_model(), value),
    "inject_adapter_in_model": lambda _, value, __: inject_adapter_in_model(value, tiny_model()),
    "from_pretrained": lambda _, value, folder: PeftModel.from_pretrained(tiny_model(), folder, config=value),
}


@pytest.mark.parametrize("call", NO_CONFIGS)
def test_what_is_no_config_is_refused(call, model, folder):
    for value in (3, "LORA", {"r": 8}, [], LoraConfig):
        with pytest.raises(TypeError, match="config should be a "):
            NO_CONFIGS[call](model, value, folder)


@pytest.mark.parametrize("state", [3, "x", ["a"], {"x": 3}, {"x": "y"}, {3: np.zeros(2)}])
def test_what_is_no_state_is_refused(state, model):
    with pytest.raises(TypeError, match="peft_model_state_dict"):
        set_peft_model_state_dict(model, state, "a")
    with pytest.raises(KeyError if isinstance(state, dict) else TypeError, match="state_dict"):
        get_peft_model_state_dict(model, state, "a")
