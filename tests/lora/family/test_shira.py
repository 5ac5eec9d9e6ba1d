"""SHiRA: scattered numbers of a weight are trained, at places that a mask says."""

import numpy as np
import pytest
from family_checks import (
    adapted,
    assert_comes_back,
    assert_fields_are_peft_s,
    assert_gradients_are_slopes,
    assert_loss_falls,
    assert_peft_computes_the_same,
    assert_reads_peft,
    assert_starts_at_the_base,
    assert_switched,
    assert_two_are_peft_s,
    base_model,
    new,
    their_logits,
)
from lora_helpers import assert_merges, logits_of, perturbed, refusal, relative, some_ids, tiny_llama, tiny_model

from lora_np import PeftModel, Tensor, get_peft_model, manual_seed, nn
from lora_np.lora import ShiraConfig
from lora_np.storage import read_json, read_safetensors, write_json, write_safetensors

TARGETS = {"gpt2": ["c_attn", "mlp.c_proj"], "llama": ["q_proj", "down_proj"]}
each_base = pytest.mark.parametrize("base", TARGETS)
WEIGHTS = "adapter_model.safetensors"


def config(base="llama", **options):
    return ShiraConfig(**{"r": 3, "target_modules": TARGETS[base], "fan_in_fan_out": base == "gpt2", **options})


def first_rows(layer, r):
    """A mask of the user's: the first numbers of the weight as it is stored."""
    mask = np.zeros(layer.weight.shape, np.float32)
    mask.reshape(-1)[: r * (layer.in_features + layer.out_features)] = 1
    return mask


def custom(base="llama", mask_fn=first_rows, **options):
    made = config(base, mask_type="first rows", **options)
    made.mask_fn = mask_fn
    return made


def places(model):
    return {name: layer.shira_indices["default"].data for name, layer in model.base_model.layers()}


@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base):
    assert_starts_at_the_base(config(base), base)


def test_without_init_weights_it_does_not():
    assert relative(logits_of(new(config(init_weights=False), "llama")), logits_of(tiny_llama())) > 1e-2


@each_base
def test_as_many_numbers_as_lora_has_and_a_higher_rank(base):
    model = adapted(config(base), base)
    sizes = [(layer.in_features, layer.out_features) for _, layer in model.base_model.layers()]
    assert model.get_nb_trainable_parameters()[0] == sum(3 * (m + n) for m, n in sizes)
    for _, layer in model.base_model.layers():
        update = layer.get_delta_weight("default")
        assert np.count_nonzero(update) == 3 * sum(update.shape)
        assert np.linalg.matrix_rank(update) > 3


def test_places_follow_from_the_seed_or_from_manual_seed():
    one, again, other = (places(get_peft_model(tiny_llama(), config(random_seed=seed))) for seed in (7, 7, 8))
    for name in one:
        np.testing.assert_array_equal(one[name], again[name])
        assert (one[name] != other[name]).any()
    drawn = []
    for seed in (1, 1, 2):
        manual_seed(seed)
        drawn.append(places(get_peft_model(tiny_llama(), config())))
    first = "model.layers.0.mlp.down_proj"
    np.testing.assert_array_equal(drawn[0][first], drawn[1][first])
    assert (drawn[0][first] != drawn[2][first]).any()
    assert (drawn[0][first] != drawn[0]["model.layers.1.mlp.down_proj"]).any()


@pytest.mark.parametrize("kind", ["an array", "a Tensor"])
@each_base
def test_a_mask_of_the_users(base, kind, tmp_path):
    mask_fn = first_rows if kind == "an array" else lambda layer, r: Tensor(first_rows(layer, r))
    model = adapted(custom(base, mask_fn), base)
    for _, layer in model.base_model.layers():
        stored = layer.get_delta_weight("default").reshape(-1)
        n = 3 * (layer.in_features + layer.out_features)
        assert (stored[:n] != 0).all()
        assert not stored[n:].any()
    assert_comes_back(model, base, tmp_path)  # without the function


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@each_base
def test_merging(base, dtype, tolerance):
    assert_merges(adapted(config(base), base, dtype), tolerance)


def test_merging_changes_those_numbers_alone():
    model = adapted(config(), "llama")
    before = {name: layer.weight.data.copy() for name, layer in model.base_model.layers()}
    where = places(model)
    merged = model.merge_and_unload()
    for name, weight in before.items():
        changed = np.stack(np.nonzero(merged.get_submodule(name).weight.data != weight))
        np.testing.assert_array_equal(changed, where[name])


def test_scaling():
    model = adapted(config(), "llama")
    expected = [2.5 * layer.get_delta_weight("default") for _, layer in model.base_model.layers()]
    model.set_scale("default", 2.5)
    for (_, layer), update in zip(model.base_model.layers(), expected, strict=True):
        np.testing.assert_allclose(layer.get_delta_weight("default"), update, rtol=1e-6)
    assert_merges(model, 1e-5)


@each_base
def test_an_adapter_comes_back_bit_for_bit(base, tmp_path):
    model = adapted(config(base), base)
    assert_comes_back(model, base, tmp_path)
    found = PeftModel.from_pretrained(base_model(base), tmp_path)
    for name, expected in places(model).items():
        np.testing.assert_array_equal(places(found)[name], expected)


def test_beside_four_bits():
    model = perturbed(get_peft_model(nn.quantize_model(tiny_llama()), config()))
    with model.disable_adapter():
        base = logits_of(model)
    assert relative(logits_of(model), base) > 1e-3


def test_two_adapters():
    assert_switched(config(), "llama")


@each_base
def test_gradients(base):
    model = adapted(config(base), base, np.float64)
    model.set_scale("default", 1.5)
    assert_gradients_are_slopes(model)
    model.add_adapter("b", config(base))
    model.set_adapter(["default", "b"])  # each beside the layer, and not in its product
    assert_gradients_are_slopes(model)


def test_the_loss_falls():
    assert_loss_falls(new(config(), "llama"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"r": -1}, "r must be an integer of at least 1"),
        ({"r": 9}, "r = 9 trains r·(16 + 16) numbers of model.layers.0.self_attn.q_proj, which has 16·16: r must be"),
        ({"r": 2**31 - 1}, "r must be at most 8"),
        ({"mask_type": None}, "mask_type must be 'random' or a word"),
        ({"random_seed": -3}, "random_seed must be None or an integer of at least 0, got -3"),
        ({"random_seed": 1.5}, "random_seed must be None or an integer"),
        ({"init_weights": "random"}, "init_weights must be True or False"),
        ({"fan_in_fan_out": 2}, "fan_in_fan_out must be True or False"),
    ],
)
def test_wrong_settings_are_refused_by_name(options, message, tmp_path):
    assert message in refusal(ValueError, lambda: get_peft_model(tiny_llama(), config(**options)))
    adapted(config(), "llama").save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    write_json(file, {**read_json(file), **options})
    found = refusal(ValueError, lambda: PeftModel.from_pretrained(tiny_llama(), tmp_path))
    assert found.startswith(f"{file}: ")
    assert message in found


@pytest.mark.parametrize(
    ("mask_fn", "message"),
    [
        (None, "mask_type='first rows' needs a function: set config.mask_fn = f"),
        (lambda layer, r: None, "mask_fn must give an array (16, 16) for model.layers.0.self_attn.q_proj"),
        (lambda layer, r: np.ones((2, 2)), "mask_fn must give an array (16, 16)"),
        (lambda layer, r: first_rows(layer, r + 1), "r (in + out) = 96 ones, got 128"),
        (lambda layer, r: 2 * first_rows(layer, r), "must have zeros, and r (in + out) = 96 ones"),
    ],
)
def test_wrong_masks_are_refused(mask_fn, message):
    model = tiny_llama()
    assert message in refusal(ValueError, lambda: get_peft_model(model, custom(mask_fn=mask_fn)))
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_llama()))


@pytest.mark.parametrize(
    ("place", "message"),
    [((0, 16), "has 16, which is no place in a weight (16, 16)"), ((1, -1), "has -1, which"), (None, "a place twice")],
)
def test_places_outside_of_the_weight(place, message, tmp_path):
    adapted(config(), "llama").save_pretrained(tmp_path)
    arrays, _ = read_safetensors(tmp_path / WEIGHTS)
    key = next(name for name in arrays if name.endswith("q_proj.shira_indices"))
    wrong = arrays[key].copy()
    if place is None:
        wrong[:, 0] = wrong[:, 1]
    else:
        wrong[place[0], 5] = place[1]
    write_safetensors(tmp_path / WEIGHTS, {**arrays, key: wrong})
    found = refusal(ValueError, lambda: PeftModel.from_pretrained(tiny_llama(), tmp_path))
    assert found.startswith(f"{tmp_path / WEIGHTS}: {key} has ")
    assert message in found


def test_places_as_floats(tmp_path):
    """As PEFT writes them on Windows."""
    model = adapted(config(), "llama")
    model.save_pretrained(tmp_path)
    arrays, _ = read_safetensors(tmp_path / WEIGHTS)
    write_safetensors(tmp_path / WEIGHTS, {name: array.astype(np.float32) for name, array in arrays.items()})
    np.testing.assert_array_equal(logits_of(PeftModel.from_pretrained(tiny_llama(), tmp_path)), logits_of(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"target_modules": ["wte"]}, "wte is an Embedding"), ({"target_modules": ["c_attn.q"]}, "adapts whole layers")],
)
def test_layers_that_it_does_not_adapt(options, message):
    assert message in refusal(ValueError, lambda: get_peft_model(tiny_model(), config(r=1, **options)))


@pytest.mark.parity
class TestAgainstPeft:
    def test_fields(self):
        import peft

        assert_fields_are_peft_s(ShiraConfig, peft.ShiraConfig)

    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_our_files_there(self, dtype, tmp_path):
        assert_peft_computes_the_same(adapted(config(), "llama", dtype), "llama", tmp_path, dtype)

    @pytest.mark.parametrize("options", [{}, {"random_seed": 5}, {"init_weights": False}])
    def test_their_files_here(self, options, tmp_path):
        assert_reads_peft(config(**options), "llama", tmp_path)

    def test_two_adapters(self, tmp_path):
        assert_two_are_peft_s([config(), config(r=2)], "llama", tmp_path)

    def test_their_mask_function_here(self, tmp_path):
        """A file of PEFT's with a mask of the user's."""
        import peft
        import torch
        from lora_helpers import hugging_face_twin

        options = peft.ShiraConfig(r=3, target_modules=TARGETS["llama"], init_weights=False)
        options.mask_type = "mine"
        options.mask_fn = lambda layer, r, **_: torch.tensor(first_rows(layer, r))
        theirs = peft.get_peft_model(hugging_face_twin(tiny_llama()), options).eval()
        theirs.save_pretrained(tmp_path)
        ours = PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=True)
        assert relative(logits_of(ours), their_logits(theirs, some_ids(ours.config))) < 2e-5
