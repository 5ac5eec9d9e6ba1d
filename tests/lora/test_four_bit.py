"""QLoRA: adapters in float32 beside a frozen base in 4 bits."""

import numpy as np
import pytest
from lora_helpers import relative, some_ids, tiny_model

from lora_np import AdamW, LoraConfig, PeftModel, get_peft_model
from lora_np.nn import Linear4bit, memory_footprint, quantize_model


def four_bit(**settings):
    model = quantize_model(tiny_model().eval())
    config = LoraConfig(r=2, target_modules="all-linear", fan_in_fan_out=True, **settings)
    return get_peft_model(model, config)


def dequantised_twin():
    """The model whose float32 weights are exactly what the 4 bits stand for."""
    quantised, plain = quantize_model(tiny_model().eval()), tiny_model().eval()
    for name, module in quantised.named_modules():
        if isinstance(module, Linear4bit):
            plain.get_submodule(name).weight.data = module.weight.data
    return plain


def test_it_computes_what_lora_on_the_rounded_weights_computes():
    model = four_bit(init_lora_weights=False)
    twin = get_peft_model(dequantised_twin(), model.peft_config["default"])
    own = dict(model.named_parameters())
    for name, p in twin.named_parameters():
        if p.requires_grad:
            p.data = own[name].data.copy()
    ids = some_ids(model.config)
    losses = [m(ids, labels=ids).loss for m in (model, twin)]
    for loss in losses:
        loss.backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for name, p in twin.named_parameters():
        if p.requires_grad:
            assert relative(own[name].grad, p.grad) < 1e-5


def test_training_moves_the_adapters_and_not_the_codes():
    model = four_bit()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    ids = some_ids(model.config)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(5):
        loss = model(ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    moved = {name for name, array in model.state_dict().items() if not np.array_equal(array, before[name])}
    assert moved == {name for name in before if ".lora_" in name}


def test_the_base_takes_a_fraction_of_the_memory():
    whole, model = memory_footprint(tiny_model()), quantize_model(tiny_model())
    assert memory_footprint(model) < whole
    layer = model.transformer.h[0].attn.c_attn
    assert isinstance(layer, Linear4bit)
    assert layer.parts == {"q": 16, "k": 16, "v": 16}


@pytest.mark.parametrize("settings", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}])
def test_starts_that_would_change_a_4_bit_weight_are_refused(settings):
    with pytest.raises(ValueError, match="4-bit weight"):
        four_bit(**settings)


def test_merging_is_refused_and_the_file_loads_on_a_full_base(tmp_path):
    model = four_bit(init_lora_weights=False)
    with pytest.raises(ValueError, match="in 4 bits, too coarse for the update"):
        model.merge_adapter()
    model.save_pretrained(tmp_path)
    full = PeftModel.from_pretrained(tiny_model().eval(), tmp_path)
    ids = some_ids(model.config)
    full.merge_adapter()
    assert relative(full(ids).logits.data, model(ids).logits.data) < 0.3  # the base's rounding, nothing worse


def test_switched_off_it_is_the_4_bit_base():
    ids = some_ids(tiny_model().config)
    base = quantize_model(tiny_model().eval())(ids).logits.data
    model = four_bit(init_lora_weights=False)
    assert not np.array_equal(model(ids).logits.data, base)
    with model.disable_adapter():
        np.testing.assert_array_equal(model(ids).logits.data, base)
