"""VeLoRA: LoRA whose A is trained from smaller activations."""

import itertools

import numpy as np
import pytest
from lora_helpers import (
    assert_exchanged_with_peft,
    assert_loss_falls,
    assert_merges,
    assert_state_comes_back,
    gradients,
    logits_of,
    peft_model,
    peft_twin,
    perturbed,
    refusal,
    relative,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import LoraConfig, Tensor, VeloraConfig, get_peft_model, gradcheck, no_grad
from lora_np.autograd.changes import watch
from lora_np.lora.variants.velora import compressed_linear

BASES = {"gpt2": (tiny_model, ["c_attn", "mlp.c_proj"]), "llama": (tiny_llama, ["q_proj", "down_proj"])}
each_base = pytest.mark.parametrize("base", BASES)
DIRECTIONS = ("batch_average", "batch_average_once", "random")


def config_of(base="llama", velora=(), **options):
    given = VeloraConfig(**{"num_groups": 5, "scale": 1.5, **dict(velora)})  # 5 does not divide 16
    options = {"r": 3, "lora_alpha": 5, "fan_in_fan_out": base == "gpt2", "velora_config": given, **options}
    return LoraConfig(**{"target_modules": BASES[base][1], **options})


def velora(base="llama", dtype=np.float32, **options):
    return perturbed(get_peft_model(BASES[base][0]().to(dtype=dtype), config_of(base, **options)), scale=0.3)


@each_base
def test_it_computes_what_lora_does(base):
    model = get_peft_model(BASES[base][0](), config_of(base)).train()
    assert np.array_equal(logits_of(model), logits_of(BASES[base][0]()))
    plain = peft_model(BASES[base][1], BASES[base][0](), r=3, lora_alpha=5)
    moved = velora(base)
    plain.load_state_dict({name: p.data for name, p in moved.named_parameters()})
    assert relative(logits_of(moved), logits_of(plain)) < 1e-6
    assert moved.get_nb_trainable_parameters() == plain.get_nb_trainable_parameters()


def test_only_the_gradient_of_a_differs_from_loras():
    plain = peft_model(BASES["llama"][1], tiny_llama(), r=3, lora_alpha=5)
    model = velora().train()
    plain.load_state_dict({name: p.data for name, p in model.named_parameters()})
    found, expected = gradients(model), gradients(plain)
    for name, gradient in found.items():
        if "lora_B" in name:
            assert relative(gradient, expected[name]) < 1e-5
        elif "layers.1.mlp" in name:
            assert 0.05 < relative(gradient, expected[name]) < 2
    found = gradients(model.eval())  # outside of training it is LoRA's
    assert all(relative(gradient, expected[name]) < 1e-5 for name, gradient in found.items())


def test_with_groups_of_one_number_nothing_is_lost():
    plain = peft_model(BASES["llama"][1], tiny_llama(), r=3, lora_alpha=5)
    model = velora(velora={"num_groups": 24, "scale": 1}).train()
    plain.load_state_dict({name: p.data for name, p in model.named_parameters()})
    found, expected = gradients(model), gradients(plain)
    assert all(relative(gradient, expected[name]) < 1e-5 for name, gradient in found.items())


def test_the_products_gradient_is_the_formulas():
    rng = np.random.default_rng(0)
    x, A, v = (
        Tensor(rng.standard_normal((2, 3, 7)), requires_grad=True),
        rng.standard_normal((2, 7)),
        np.array([0.6, 0.8, 0]),
    )
    gradcheck(lambda x: compressed_linear(x, A, v, 3, 2.0), [x])
    weight, dy = Tensor(A, requires_grad=True), rng.standard_normal((2, 3, 2))
    (compressed_linear(x, weight, v, 3, 2.0) * dy).sum().backward()
    rows = np.pad(x.data.reshape(6, 7), ((0, 0), (0, 2))).reshape(6, 3, 3)
    again = ((rows @ v)[..., None] * v).reshape(6, 9)[:, :7] * 2.0
    assert relative(weight.grad, dy.reshape(6, 2).T @ again) < 1e-12


def test_when_the_direction_is_found():
    ids = some_ids(tiny_llama().config)
    for init_type, changes in zip(DIRECTIONS, ([True, True], [True, False], [False, False]), strict=True):
        model = velora(velora={"init_type": init_type}).train()
        buffer = next(iter(model.base_model.adapted.values())).lora_velora_embed["default"]
        seen = [buffer.data.copy()]
        with no_grad():
            model(ids)
        model.eval()(ids)
        assert np.array_equal(buffer.data, seen[0])
        for batch in (ids, ids[:, ::-1] // 2):
            model.train()(batch, labels=batch)
            seen.append(buffer.data.copy())
            assert abs(np.linalg.norm(seen[-1]) - 1) < 1e-6
        assert [bool((a != b).any()) for a, b in itertools.pairwise(seen)] == changes


@each_base
def test_merging(base):
    assert_merges(velora(base), 1e-5)


@each_base
def test_it_comes_back_from_a_file_bit_for_bit(base, tmp_path):
    assert_state_comes_back(velora(base), BASES[base][0](), tmp_path, "lora_velora_embed")


def test_the_loss_falls():
    assert_loss_falls(get_peft_model(tiny_llama(), config_of()).train())


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: VeloraConfig(num_groups=0), "num_groups must be an integer of at least 1"),
        (lambda: VeloraConfig(scale=0), "scale must be above 0"),
        (lambda: VeloraConfig(scale="1"), "scale must be a number"),
        (lambda: VeloraConfig(init_type="mean"), "init_type must be one of 'batch_average'"),
        (lambda: VeloraConfig(init_type=["random"]), "init_type must be one of"),
        (lambda: config_of(use_dora=True), "velora_config and use_dora do not go together"),
        (lambda: velora(target_modules=["embed_tokens"]), "embed_tokens is an Embedding"),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


@pytest.mark.parity
class TestAgainstPeft:
    @pytest.mark.parametrize("init_type", DIRECTIONS)
    @each_base
    def test_gradients_in_training(self, base, init_type):
        import torch

        config = config_of(base, {"init_type": init_type}, init_lora_weights=False)
        twin = peft_twin(BASES[base][0](), config).train()
        ours = get_peft_model(BASES[base][0](), config).train()
        values = dict(ours.named_parameters())
        with torch.no_grad():
            for name, p in twin.named_parameters():
                p.copy_(torch.tensor(values[name].data))
        for (_, layer), theirs in zip(
            ours.base_model.layers(), [m for m in twin.modules() if hasattr(m, "lora_velora_embed")], strict=True
        ):
            layer.lora_velora_embed["default"].data = theirs.lora_velora_embed["default"].numpy().copy()
        ids = torch.tensor(some_ids(ours.config))
        out = twin(input_ids=ids, labels=ids)
        out.loss.backward()
        found = gradients(ours)
        theirs = {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
        assert set(found) == set(theirs)
        for name, gradient in found.items():
            assert relative(gradient, theirs[name]) < 2e-5, name

    @each_base
    def test_files(self, base, tmp_path):
        layout = assert_exchanged_with_peft(config_of(base), BASES[base][0](), tmp_path)
        assert sum(name.endswith("lora_velora_embed") for name in layout) == 4


def test_on_a_gpu_the_direction_stays_in_its_place(monkeypatch):
    """A step that is recorded there writes the directions of later batches to the same memory."""
    model = velora().train()
    buffers, ids = list(model.buffers()), some_ids(model.config)
    places = [b.data for b in buffers]
    monkeypatch.setattr("lora_np.lora.variants.velora.on_gpu", lambda x: True)
    gradients(model)
    unchanged, first = watch(), [b.data.copy() for b in buffers]
    model(ids[:, ::-1], labels=ids).loss.backward()
    assert unchanged()
    assert all(b.data is place for b, place in zip(buffers, places, strict=True))
    found = [b.data.copy() for b in buffers]
    monkeypatch.undo()
    model(ids[:, ::-1], labels=ids).loss.backward()
    for b, v, before in zip(buffers, found, first, strict=True):
        np.testing.assert_array_equal(v, b.data)
        assert (v != before).any()
