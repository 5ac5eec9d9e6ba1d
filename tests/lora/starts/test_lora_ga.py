"""LoRA-GA: A and B from the singular vectors of the first gradient."""

import numpy as np
import pytest
from lora_helpers import load_in_peft, logits_of, perturbed, refusal, relative, snapshot, some_ids, tiny_model
from start_helpers import (
    MAKE,
    fresh_twin,
    losses_of,
    no_layer_listens,
    some_batches,
    start_config,
    start_fields,
    up_to_sign,
)

from lora_np import LoraGAConfig, PeftModel, get_peft_model, nn, preprocess_loraga

each_base = pytest.mark.parametrize("base", MAKE)
BATCHES = [batch["input_ids"] for batch in some_batches()]
OPTIONS = [{"direction": d} for d in ("ArB2r", "A2rBr", "ArBr")] + [{"scale": s} for s in ("unit", "weight_svd")]
OPTIONS += [{"scale": "gd_scale"}, {"stable_gamma": 4}]


def ga_config(base="gpt2", ga=None, **options):
    return start_config(base, init_lora_weights="lora_ga", lora_ga_config=LoraGAConfig(**(ga or {})), **options)


def steps(model):
    return lambda: [model(ids, labels=ids).loss.backward() for ids in BATCHES]


def ga_model(base="gpt2", ga=None, **options):
    model, config = MAKE[base](), ga_config(base, ga, **options)
    preprocess_loraga(model, config, steps(model))
    return get_peft_model(model, config)


def gradient(name):
    """The mean gradient of a GPT-2's weight, (out, in)."""
    model = tiny_model()
    steps(model)()
    return model.get_submodule(name).weight.grad.T / len(BATCHES)


@pytest.mark.parametrize("ga", [*OPTIONS, {"direction": "random"}], ids=str)
def test_training_starts_at_the_base_model(ga):
    model = ga_model(ga=ga)
    assert relative(logits_of(model), logits_of(tiny_model())) < 2e-6
    assert all(layer.adapters["default"].lora_B.weight.data.any() for _, layer in model.base_model.layers())
    assert not any(hasattr(module, "prepared") for module in model.modules())
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))


def test_a_and_b_are_singular_vectors_of_the_mean_gradient():
    name = "transformer.h.1.mlp.c_fc"
    adapter = dict(ga_model().base_model.layers())[name].adapters["default"]
    U, S, V = np.linalg.svd(gradient(name), full_matrices=False)
    assert up_to_sign(adapter.lora_A.weight.data, V[:3], axis=1) < 1e-3
    assert up_to_sign(adapter.lora_B.weight.data, U[:, 3:6] * S[3:6] * 64**0.25 / 4, axis=0) < 1e-3


def test_random_takes_the_same_for_both():
    name = "transformer.h.1.mlp.c_fc"
    adapter = dict(ga_model(ga={"direction": "random", "scale": "unit"}).base_model.layers())[name].adapters["default"]
    U, _, V = np.linalg.svd(gradient(name), full_matrices=False)
    of_A = abs(adapter.lora_A.weight.data @ V[:6].T).argmax(axis=1)
    of_B = abs(adapter.lora_B.weight.data.T @ U[:, :6]).argmax(axis=1)
    assert len(set(of_A)) == 3
    assert list(of_A) == list(of_B)


def test_preparing_leaves_everything_as_it_was():
    model = tiny_model()
    model.requires_grad_(False)
    model.lm_head.weight.requires_grad = True
    kept = model.lm_head.weight.grad = np.ones_like(model.lm_head.weight.data)
    before = snapshot(model)
    preprocess_loraga(model, ga_config(), steps(model))
    assert snapshot(model) == before
    assert model.lm_head.weight.grad is kept
    assert all(p.grad is None for _, p in model.named_parameters() if p is not model.lm_head.weight)
    assert no_layer_listens(model)


class BrokenError(Exception):
    pass


def test_an_error_in_a_step_changes_nothing():
    model = tiny_model()
    model.requires_grad_(False)
    before = snapshot(model)

    def step():
        model(BATCHES[0], labels=BATCHES[0]).loss.backward()
        raise BrokenError

    with pytest.raises(BrokenError):
        preprocess_loraga(model, ga_config(), step)
    assert snapshot(model) == before
    assert all(p.grad is None for _, p in model.named_parameters())
    assert no_layer_listens(model)


def test_recomputed_blocks_count_once():
    model, config = tiny_model(), ga_config()
    model.gradient_checkpointing_enable()
    preprocess_loraga(model, config, steps(model))
    found = get_peft_model(model, config)
    expected = dict(ga_model().named_parameters())
    for name, p in found.named_parameters():
        if "lora_" in name:
            assert up_to_sign(p.data, expected[name].data, axis=1 if "lora_A" in name else 0) < 1e-3, name


def test_gradients_in_a_file(tmp_path):
    path = str(tmp_path / "gradients.safetensors")
    model, config = tiny_model(), ga_config()
    preprocess_loraga(model, config, steps(model), cache_file=path)
    again = tiny_model()
    preprocess_loraga(again, config, None, cache_file=path)  # nothing is run
    assert snapshot(get_peft_model(again, config)) == snapshot(get_peft_model(model, config))
    other = tiny_model(n_embd=32)
    assert "of another model" in refusal(ValueError, lambda: preprocess_loraga(other, config, None, path))


def test_files(tmp_path):
    model = perturbed(ga_model())
    assert "as_plain_lora=True" in refusal(ValueError, lambda: model.save_pretrained(tmp_path))
    model.save_pretrained(tmp_path, as_plain_lora=True)
    assert relative(logits_of(PeftModel.from_pretrained(tiny_model(), tmp_path)), logits_of(model)) < 1e-5


def test_a_short_training_run():
    losses = losses_of(ga_model())
    assert losses[-1] < 0.8 * losses[0]


def forgets():
    model = tiny_model()

    def step():
        model(BATCHES[0], labels=BATCHES[0]).loss.backward()
        model.zero_grad()

    preprocess_loraga(model, ga_config(), step)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: get_peft_model(tiny_model(), ga_config()), "call preprocess_loraga(model, config, train_step) first"),
        (lambda: ga_model(r=9), "with r = 9 takes 2r singular vectors"),
        (lambda: preprocess_loraga(tiny_model(), start_config(), None), "lora_ga_config"),
        (lambda: preprocess_loraga(nn.quantize_model(tiny_model()), ga_config(), None), "in 4 bits"),
        (lambda: preprocess_loraga(tiny_model(), ga_config(target_modules=["wte"]), None), "for linear layers"),
        (lambda: preprocess_loraga(tiny_model(), ga_config(), steps(tiny_model())), "was never called"),
        (forgets, "got no gradient"),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


@pytest.mark.parity
@each_base
@pytest.mark.parametrize("ga", OPTIONS, ids=str)
def test_peft_begins_with_the_same(base, ga, tmp_path):
    """Vectors up to sign; each pair of A's and B's has signs of its own, and so has what is taken out of W."""
    import peft
    import torch

    torch.manual_seed(0)
    twin = fresh_twin(base)
    options = {"init_lora_weights": "lora_ga", "lora_ga_config": peft.LoraGAConfig(**ga)}
    config = peft.LoraConfig(**start_fields(base, **options))

    def step():
        for ids in map(torch.tensor, BATCHES):
            twin(input_ids=ids, labels=ids).loss.backward()

    peft.preprocess_loraga(twin, config, step)
    theirs = {name: p.detach().numpy() for name, p in peft.get_peft_model(twin, config).named_parameters()}
    ours = ga_model(base, ga)
    for name, layer in ours.base_model.layers():
        A, B = (theirs[f"base_model.model.{name}.lora_{letter}.default.weight"] for letter in "AB")
        if base == "gpt2" and "scale" not in ga:  # PEFT takes the inputs of a Conv1D for its outputs
            B = B * (layer.out_features / layer.in_features) ** 0.25
        adapter = layer.adapters["default"]
        assert up_to_sign(adapter.lora_A.weight.data, A, axis=1) < 2e-3, name
        estimated = 1e-1 if ga.get("scale") == "weight_svd" else 2e-3  # W's largest singular value, by chance there
        assert up_to_sign(adapter.lora_B.weight.data, B, axis=0) < estimated, name
    perturbed(ours).save_pretrained(tmp_path, as_plain_lora=True)
    back = load_in_peft(MAKE[base](), tmp_path)
    assert relative(logits_of(back, some_ids(ours.config)), logits_of(ours)) < 2e-5
