"""QLoRA: adapters in float32 beside a frozen base in 4 bits."""

import re

import numpy as np
import pytest
from lora_helpers import relative, snapshot, some_ids, tiny_model

from lora_np import AdamW, LoraConfig, PeftModel, get_peft_model
from lora_np.lora.four_bit import requantization_error
from lora_np.nn import Linear4bit, dequantize_nf4, memory_footprint, quantize_model, quantize_nf4


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


@pytest.mark.parametrize("options", [{}, {"group_size": 16}])
def test_weights_in_4_bits_are_counted_as_what_they_stand_for(options, capsys):
    counts, lines = [], []
    for base in (tiny_model(), quantize_model(tiny_model(), **options)):
        counts.append([base.num_parameters()])
        model = get_peft_model(base, LoraConfig(r=2, target_modules="all-linear"))
        counts[-1] += model.get_nb_trainable_parameters()
        model.print_trainable_parameters()
        lines.append(capsys.readouterr().out)
    assert counts[0] == counts[1]
    assert lines[0] == lines[1]


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


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}], ids=["plain", "dora"])
def test_merging_rounds_again_says_how_much_and_is_undone_bit_for_bit(settings):
    model = four_bit(init_lora_weights=False, **settings)
    ids = some_ids(model.config)
    before, expected = snapshot(model), model(ids).logits.data.copy()
    with model.disable_adapter():
        base = model(ids).logits.data.copy()
    layers, sums, errors = model.base_model.adapted, {}, {}
    for name, layer in layers.items():
        weight = layer.base_layer.weight.data.copy()
        sums[name], _ = layer.merged_parameters()
        again = dequantize_nf4(quantize_nf4(sums[name]))
        errors[name] = np.linalg.norm(again - sums[name]) / np.linalg.norm(sums[name] - weight)
        found = requantization_error(weight, sums[name] - weight)
        np.testing.assert_allclose(found[1], errors[name], rtol=1e-4)
        np.testing.assert_allclose(found[0], np.linalg.norm(again - sums[name]) / np.linalg.norm(sums[name]), rtol=1e-4)
    worst = max(errors, key=errors.get)
    message = (
        f"is {np.mean(list(errors.values())):.0%} of the update's size on average, and {errors[worst]:.0%} in {worst}"
    )
    with pytest.warns(UserWarning, match=re.escape(message)):
        model.merge_adapter(safe_merge=True)
    for name, layer in layers.items():
        assert isinstance(layer.base_layer, Linear4bit)
        np.testing.assert_array_equal(layer.base_layer.weight.data, dequantize_nf4(quantize_nf4(sums[name])))
    assert 0 < relative(model(ids).logits.data, expected) < 0.3
    with model.disable_adapter():
        np.testing.assert_array_equal(model(ids).logits.data, base)
    model.unmerge_adapter()
    assert snapshot(model) == before
    np.testing.assert_array_equal(model(ids).logits.data, expected)


def test_merged_and_unloaded_it_is_a_plain_4_bit_model():
    model = four_bit(init_lora_weights=False)
    ids = some_ids(model.config)
    with pytest.warns(UserWarning, match="merging into 4 bits rounds"):
        model.merge_adapter()
    expected = model(ids).logits.data.copy()
    plain = model.merge_and_unload()
    np.testing.assert_array_equal(plain(ids).logits.data, expected)
    assert any(isinstance(module, Linear4bit) for module in plain.modules())
    assert not any(".lora_" in name for name in plain.state_dict())


def test_a_new_adapter_is_merged_without_any_loss(recwarn):
    """Its B is zero. Quantised once more, a weight with scales in 8 bits would not be the same."""
    model = four_bit()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    model.merge_adapter()
    assert not [warning for warning in recwarn.list if "rounds" in str(warning.message)]
    for name, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


@pytest.mark.parametrize("name", ["c_fc", "mlp"])
def test_what_is_in_4_bits_is_not_trained_whole(name):
    """PEFT's copy of such a layer is an error in torch: only floating-point numbers can require gradients."""
    config = LoraConfig(r=2, target_modules=["c_attn"], modules_to_save=[name], fan_in_fan_out=True)
    with pytest.raises(
        ValueError, match=f"modules_to_save: transformer.h.0.mlp.* is in 4 bits, .* skip=\\['{name}', ..."
    ):
        get_peft_model(quantize_model(tiny_model()), config)
    get_peft_model(quantize_model(tiny_model(), skip=[name]), config)


def test_a_single_weight_that_is_in_4_bits_is_named():
    with pytest.raises(ValueError, match=r"'c_attn.weight' is in 4 bits: name its layer in target_modules"):
        get_peft_model(quantize_model(tiny_model()), LoraConfig(r=2, target_parameters=["c_attn.weight"]))


def test_a_merge_that_fails_leaves_the_codes():
    model = four_bit(init_lora_weights=False)
    layer = model.base_model.layers()[-1][1]
    layer.lora_B["default"].weight.data[0, 0] = np.nan
    before = {name: array.tobytes() for name, array in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"h\.1\.mlp\.c_proj: quantize_nf4: the weight holds NaN"):
        model.merge_adapter()
    assert {name: array.tobytes() for name, array in model.state_dict().items()} == before
    assert not model.base_model.merged


def test_what_lies_on_the_grid_loses_nothing(rng):
    """In an exact case: absmax kept as they are, and an update that doubles every number."""
    W = dequantize_nf4(quantize_nf4(rng.standard_normal((8, 64)).astype(np.float32), double_quant=False))
    assert requantization_error(W, W, double_quant=False) == (0.0, 0.0)
    assert requantization_error(W, 0 * W, double_quant=False) == (0.0, 0.0)
    small = requantization_error(W, 1e-4 * rng.standard_normal(W.shape).astype(np.float32), double_quant=False)
    assert small[0] < 2e-4
    assert 0.5 < small[1] < 1.5  # an update that is smaller than the grid's steps is what is lost
    with pytest.raises(ValueError, match=r"must have one shape, got \(8, 64\) and \(64, 8\)"):
        requantization_error(W, W.T)


def test_the_file_loads_on_a_full_base(tmp_path):
    model = four_bit(init_lora_weights=False)
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
