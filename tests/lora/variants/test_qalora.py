"""QA-LoRA: an update that is one number for each group of weights, which a 4-bit base's zero points take exactly."""

from types import SimpleNamespace

import numpy as np
import pytest
from lora_helpers import (
    assert_loss_falls,
    assert_merges,
    logits_of,
    perturbed,
    refusal,
    relative,
    snapshot,
    tiny_llama,
    tiny_model,
)

from lora_np import LoraConfig, PeftModel, Tensor, get_peft_model, gradcheck, nn
from lora_np.lora import LoraLinear

BASES = {"gpt2": (tiny_model, ["c_attn", "mlp.c_proj"]), "llama": (tiny_llama, ["q_proj", "down_proj"])}
each_base = pytest.mark.parametrize("base", BASES)


def config_of(base="llama", **options):
    options = {"r": 3, "lora_alpha": 5, "qalora_group_size": 8, "fan_in_fan_out": base == "gpt2", **options}
    return LoraConfig(**{"target_modules": BASES[base][1], "use_qalora": True, **options})


def qalora(base="llama", group_size=None, dtype=np.float32, **options):
    """group_size: of the base, which is then in 4 bits."""
    model = BASES[base][0]().to(dtype=dtype)
    if group_size:
        nn.quantize_model(model, group_size=group_size)
    return perturbed(get_peft_model(model, config_of(base, **options)), scale=0.3)


@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base):
    model = get_peft_model(BASES[base][0](), config_of(base))
    assert np.array_equal(logits_of(model), logits_of(BASES[base][0]()))
    assert (
        model.get_nb_trainable_parameters()[0]
        == {"gpt2": 2 * 3 * (2 + 48 + 8 + 16), "llama": 2 * 3 * (2 + 16 + 3 + 16)}[base]
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@each_base
def test_merging_into_a_float_base(base, dtype, tolerance):
    assert_merges(qalora(base, dtype=dtype), tolerance)


@pytest.mark.parametrize("group_size", [2, 8])
@each_base
def test_merging_into_zero_points(base, group_size):
    model = qalora(base, group_size)
    codes = [b.data for name, b in model.named_buffers() if name.endswith("codes")]
    assert_merges(model, 1e-5)
    merged = model.get_base_model()
    kept = [b.data for name, b in merged.named_buffers() if name.endswith("codes")]
    assert all(one is other for one, other in zip(codes, kept, strict=True))
    kinds = {type(module) for _, module in merged.named_modules() if hasattr(module, "in_features")}
    assert kinds == {nn.GroupedLinear4bit, nn.Linear, nn.Embedding}  # the head and the embeddings were left alone


def test_two_adapters_merge_and_a_plain_one_does_not():
    model = qalora(group_size=4)
    model.add_adapter("second", config_of(init_lora_weights=False))
    model.set_adapter(["default", "second"])
    assert_merges(model, 1e-5)
    model = qalora(group_size=4)
    model.add_adapter("plain", LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    model.set_adapter(["default", "plain"])
    before = snapshot(model)
    assert "take only QA-LoRA's update" in refusal(ValueError, model.merge_adapter)
    assert snapshot(model) == before


def test_groups_that_are_larger_than_the_adapters_take_no_update():
    base = nn.quantize_model(tiny_llama(), group_size=16, skip=("down_proj", "lm_head"))
    model = get_peft_model(base, config_of(target_modules=["q_proj"]))
    assert "take only QA-LoRA's update" in refusal(ValueError, model.merge_adapter)


def test_merged_into_other_four_bits_it_is_rounded():
    config = config_of(target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(nn.quantize_model(tiny_llama()), config)
    with pytest.warns(UserWarning, match="merging into 4 bits rounds"):
        model.merge_adapter()


def test_gradients_in_float64():
    base = nn.Linear(8, 5).to(dtype=np.float64).requires_grad_(False)
    layer = LoraLinear(base)
    layer.add_adapter("default", config_of(qalora_group_size=2, init_lora_weights=False))
    layer.active_adapters = ["default"]
    x = Tensor(np.random.default_rng(0).standard_normal((3, 4, 8)), requires_grad=True)
    A, B = layer.matrices("default")
    gradcheck(lambda x, A, B: layer(x), [x, A, B])
    weight = base.weight.data + layer.get_delta_weight("default")
    assert relative(layer(x).data, x.data @ weight.T + base.bias.data) < 1e-12


@pytest.mark.parametrize("group_size", [None, 8])
@each_base
def test_it_comes_back_from_a_file_bit_for_bit(base, group_size, tmp_path):
    model = qalora(base, group_size)
    model.save_pretrained(tmp_path)
    plain = BASES[base][0]()
    loaded = PeftModel.from_pretrained(
        nn.quantize_model(plain, group_size=8) if group_size else plain, tmp_path, is_trainable=True
    )
    assert loaded.peft_config["default"].qalora_group_size == 8
    assert snapshot(loaded) == snapshot(model)
    assert np.array_equal(logits_of(loaded), logits_of(model))


def test_the_loss_falls_beside_four_bits():
    assert_loss_falls(get_peft_model(nn.quantize_model(tiny_llama(), group_size=4), config_of()).train())


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: config_of(qalora_group_size=0), "qalora_group_size must be an integer of at least 1"),
        (lambda: config_of(qalora_group_size=2.0), "qalora_group_size must be an integer"),
        (lambda: config_of(use_qalora="yes"), "use_qalora must be True or False"),
        (lambda: config_of(use_dora=True), "use_qalora and use_dora do not go together"),
        (lambda: qalora(qalora_group_size=5), "qalora_group_size=5 does not divide the 16 inputs of model.layers.0"),
        (lambda: qalora(init_lora_weights="olora"), "use_qalora does not go with init_lora_weights='olora'"),
        (lambda: qalora(target_modules=["embed_tokens"]), "embed_tokens is an Embedding"),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


@pytest.mark.parity
def test_the_update_is_what_peft_adds_beside_gptq():
    import torch
    from peft.tuners.lora.variants import QALoraLinearVariant

    layer = LoraLinear(nn.Linear(16, 6))
    layer.add_adapter("default", config_of(init_lora_weights=False))
    layer.active_adapters = ["default"]
    x = np.random.default_rng(0).standard_normal((2, 3, 16)).astype(np.float32)
    A, B = (torch.nn.Parameter(torch.tensor(p.data)) for p in layer.matrices("default"))
    theirs = SimpleNamespace(training=True, in_features=16, qalora_group_size={"default": 8})
    theirs.lora_A, theirs.lora_B = {"default": SimpleNamespace(weight=A)}, {"default": SimpleNamespace(weight=B)}
    theirs.lora_dropout, theirs.scaling = {"default": torch.nn.Identity()}, {"default": 5 / 3}
    expected = QALoraLinearVariant.forward(theirs, "default", torch.tensor(x), torch.zeros(2, 3, 6))
    (expected**2).sum().backward()
    found = layer(Tensor(x)) - layer.base_layer(Tensor(x))
    (found**2).sum().backward()
    assert relative(found.data, expected.detach()) < 2e-5
    for p, q in zip(layer.matrices("default"), (A, B), strict=True):
        assert relative(p.grad, q.grad) < 2e-5
