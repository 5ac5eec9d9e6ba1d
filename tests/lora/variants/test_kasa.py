"""KaSA: an update with singular values of its own, in the place of the smallest of W."""

import numpy as np
import pytest
from lora_helpers import (
    assert_equal_to_peft,
    assert_exchanged_with_peft,
    assert_loss_falls,
    assert_merges,
    logits_of,
    peft_twin,
    perturbed,
    refusal,
    relative,
    snapshot,
    tiny_llama,
    tiny_model,
)

from lora_np import KasaConfig, LoraConfig, PeftModel, Tensor, get_peft_model, gradcheck, nn
from lora_np.lora import LoraLinear
from lora_np.lora.base_layer import oriented

BASES = {"gpt2": (tiny_model, ["c_attn", "mlp.c_proj"]), "llama": (tiny_llama, ["q_proj", "down_proj"])}
each_base = pytest.mark.parametrize("base", BASES)


def config_of(base="llama", **options):
    options = {"r": 3, "lora_alpha": 5, "fan_in_fan_out": base == "gpt2", "kasa_config": KasaConfig(), **options}
    return LoraConfig(**{"target_modules": BASES[base][1], **options})


def kasa(base="llama", dtype=np.float32, **options):
    return perturbed(get_peft_model(BASES[base][0]().to(dtype=dtype), config_of(base, **options)), scale=0.3)


@each_base
def test_it_starts_at_the_base_without_its_smallest_singular_values(base):
    model = get_peft_model(BASES[base][0](), config_of(base))
    cut = BASES[base][0]()
    for name, layer in model.base_model.layers():
        plain = cut.get_submodule(name)
        U, S, Vt = np.linalg.svd(oriented(plain, plain.weight.data).astype(np.float64), full_matrices=False)
        S[-3:] = 0
        plain.weight.data = oriented(plain, (U * S) @ Vt).astype(np.float32)
        assert relative(layer.base_layer.weight.data, plain.weight.data) < 1e-6
    assert relative(logits_of(model), logits_of(cut)) < 1e-5
    with model.disable_adapter():
        assert np.array_equal(logits_of(model), logits_of(BASES[base][0]()))
    sizes = {"gpt2": (16 + 48 + 1) + (64 + 16 + 1), "llama": (16 + 16 + 1) + (24 + 16 + 1)}
    assert model.get_nb_trainable_parameters()[0] == 2 * 3 * sizes[base]
    assert np.array_equal(logits_of(model.unload()), logits_of(BASES[base][0]()))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@each_base
def test_merging(base, dtype, tolerance):
    assert_merges(kasa(base, dtype), tolerance)


def test_gradients_in_float64():
    base = nn.Linear(7, 5).to(dtype=np.float64).requires_grad_(False)
    layer = LoraLinear(base)
    layer.add_adapter("default", config_of(r=2, init_lora_weights=False))
    layer.active_adapters = ["default"]
    x = Tensor(np.random.default_rng(0).standard_normal((3, 7)), requires_grad=True)
    gradcheck(lambda x, *_: layer(x), [x, *layer.matrices("default"), layer.lora_diag["default"]])


@each_base
def test_it_comes_back_from_a_file_bit_for_bit(base, tmp_path):
    model = kasa(base)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(BASES[base][0](), tmp_path, is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    assert np.array_equal(logits_of(loaded), logits_of(model))


def test_the_loss_falls_with_its_terms():
    model = get_peft_model(tiny_llama(), config_of()).train()
    assert_loss_falls(model, lr=0.1, term=model._get_kasa_loss)
    assert get_peft_model(tiny_llama(), LoraConfig(r=2))._get_kasa_loss() == 0.0


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: KasaConfig(beta=-1), "beta must not be negative"),
        (lambda: KasaConfig(gamma="1"), "gamma must be a number"),
        (lambda: KasaConfig(gamma=float("nan")), "gamma must be finite"),
        (lambda: config_of(use_dora=True), "kasa_config and use_dora do not go together"),
        (lambda: kasa(r=16), "r = 16 must be below 16, the singular values of model.layers.0.self_attn.q_proj"),
        (lambda: kasa(lora_alpha=0), "kasa_config needs a lora_alpha other than 0"),
        (lambda: kasa(init_lora_weights="pissa"), "kasa_config does not go with init_lora_weights='pissa'"),
        (lambda: kasa(target_modules=["embed_tokens"]), "embed_tokens is an Embedding"),
        (
            lambda: get_peft_model(nn.quantize_model(tiny_llama()), config_of()),
            "kasa_config would change a 4-bit weight",
        ),
        (lambda: kasa().add_adapter("b", LoraConfig(target_modules=["q_proj"])), "must be alone on its layers"),
        (lambda: kasa().save_pretrained("/nowhere", as_plain_lora=True), "as_plain_lora"),
        (lambda: kasa().add_weighted_adapter(["default"], [1.0], "sum"), "only plain LoRA"),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


@pytest.mark.parity
class TestAgainstPeft:
    def test_names_logits_and_gradients(self):
        assert_equal_to_peft(config_of(), tiny_llama())

    def test_files(self, tmp_path):
        layout = assert_exchanged_with_peft(config_of(), tiny_llama(), tmp_path)
        assert layout["base_model.model.model.layers.0.mlp.down_proj.lora_diag"] == (3,)

    def test_the_terms_of_the_loss(self):
        import torch

        config = config_of(kasa_config=KasaConfig(beta=0.3, gamma=0.7))
        twin, ours = peft_twin(tiny_llama(), config), perturbed(get_peft_model(tiny_llama(), config))
        values = dict(ours.named_parameters())
        with torch.no_grad():
            for name, p in twin.named_parameters():
                p.copy_(torch.tensor(values[name].data))
        expected, found = twin.base_model._get_kasa_loss(), ours.base_model._get_kasa_loss("default")
        expected.backward()
        found.backward()
        assert relative(found.item(), expected.item()) < 2e-5
        for name, p in twin.named_parameters():
            if p.requires_grad:
                assert relative(values[name].grad, p.grad) < 2e-5
