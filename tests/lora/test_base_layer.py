"""What PEFT's users call on an adapted layer."""

import numpy as np
import pytest
from lora_helpers import tiny_model

from lora_np import LoraConfig, Tensor, get_peft_model, nn
from lora_np.lora import inject_adapter_in_model
from lora_np.lora.layer import AdaptedLayer

OPTIONS = {"r": 4, "lora_alpha": 12, "target_modules": ["c_attn"], "fan_in_fan_out": True}
STEPS = [
    lambda layer: layer.set_scale("default", 0.5),
    lambda layer: layer.scale_layer(3),
    lambda layer: layer.scale_layer(1),
    lambda layer: layer.unscale_layer(2),
    lambda layer: layer.set_scale("nobody", 7),
    lambda layer: layer.unscale_layer(),
    lambda layer: layer.unscale_layer(0.25),
]


def layer_of(model):
    return next(module for module in model.modules() if isinstance(module, AdaptedLayer))


def model_and_layer(**changes):
    model = get_peft_model(tiny_model(), LoraConfig(**{**OPTIONS, **changes}))
    return model, layer_of(model)


@pytest.mark.parity
@pytest.mark.parametrize("use_rslora", [False, True])
def test_scales_of_layers_are_pefts(use_rslora):
    import peft
    import torch

    host = torch.nn.ModuleDict({"c_attn": torch.nn.Linear(16, 48)})
    options = {name: value for name, value in OPTIONS.items() if name != "fan_in_fan_out"}
    twin = peft.inject_adapter_in_model(peft.LoraConfig(**options, use_rslora=use_rslora), host)["c_attn"]
    _, layer = model_and_layer(use_rslora=use_rslora)
    for step in STEPS:
        step(layer)
        step(twin)
        assert layer.scaling["default"] == pytest.approx(twin.scaling["default"])


def test_only_active_adapters_are_scaled():
    model, layer = model_and_layer()
    model.add_adapter("other", LoraConfig(**OPTIONS))
    layer.scale_layer(2)
    assert dict(layer.scaling) == {"default": 6.0, "other": 3.0}


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda layer: layer.scale_layer("two"), TypeError, "scale should be a number, got a str: 'two'"),
        (lambda layer: layer.set_scale("default", -1), ValueError, "scale must not be negative, got -1"),
        (lambda layer: layer.unscale_layer(0), ValueError, "scale must be positive, got 0"),
        (lambda layer: layer.scale_layers(2), AttributeError, "have no attribute 'scale_layers'"),
    ],
)
def test_bad_scales_are_refused(call, error, message):
    _, layer = model_and_layer()
    with pytest.raises(error, match=message):
        call(layer)
    assert dict(layer.scaling) == {"default": 3.0}


def test_a_merged_layer_is_not_rescaled():
    model, layer = model_and_layer()
    model.merge_adapter()
    for step in STEPS:
        with pytest.raises(RuntimeError, match=r"unmerge_adapter\(\) first"):
            step(layer)


def test_the_nearest_attribute_is_known_to_python():
    """Which then shows "Did you mean" below the traceback."""
    model, layer = model_and_layer()
    for thing, name in ((model, "rename_adaptor"), (layer, "lora_a")):
        with pytest.raises(AttributeError) as caught:
            getattr(thing, name)
        assert (caught.value.name, caught.value.obj) == (name, thing)


def test_the_layer_itself():
    _, layer = model_and_layer()
    assert layer.get_base_layer() is layer.base_layer


def test_a_layer_that_computes_something_else_does_so_under_an_adapter():
    """A class derived from Linear: its forward is called, and not only its weight read."""

    class Doubled(nn.Linear):
        def forward(self, x):
            return super().forward(x) * 2.0

    model, x = nn.Sequential(Doubled(6, 4)), np.ones((2, 6), np.float32)
    expected = model(Tensor(x)).numpy()
    adapted = inject_adapter_in_model(LoraConfig(r=2, target_modules=["0"]), model)
    np.testing.assert_array_equal(adapted(Tensor(x)).numpy(), expected)
