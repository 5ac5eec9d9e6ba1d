"""FourierFT: the change of a weight is a sum of waves at places drawn at random."""

import numpy as np
import pytest
from family_tests import FamilyTests
from lora_helpers import hugging_face_twin, logits_of, refusal, tiny_llama, tiny_model

from lora_np import PeftModel, get_peft_model
from lora_np.autograd import changes
from lora_np.lora import FourierFTConfig
from lora_np.lora.family.fourierft import drawn


class TestFourierFT(FamilyTests):
    name = "FourierFTConfig"
    options = {"n_frequency": 40}
    fewer = {"n_frequency": 7}
    at_rest = {"init_weights": True}
    variants = [{"scaling": 12.5}, {"random_loc_seed": 3}, {"n_frequency_pattern": {"c_proj": 9, "down_proj": 5}}]
    exact = None  # PEFT forms ΔW in float32


def config(**options):
    return FourierFTConfig(fan_in_fan_out=True, **{"n_frequency": 30, **options})


def test_the_places_are_all_different_and_those_of_the_seed():
    places = drawn(777, 48, 48)
    assert sorted(places) == list(range(48))
    np.testing.assert_array_equal(drawn(777, 48, 5), places[:5])
    assert (drawn(778, 48, 48) != places).any()


@pytest.mark.parity
@pytest.mark.parametrize("seed", [777, 0, -3, 2**40 + 17, 2**64 - 1])
def test_the_places_are_those_that_torch_deals(seed):
    import torch

    for count, n in ((768, 768), (12, 5), (1, 1), (3_000_000, 1000)):
        expected = torch.randperm(count, generator=torch.Generator().manual_seed(seed))[:n]
        np.testing.assert_array_equal(drawn(seed, count, n), expected)


def test_the_usual_layers():
    model = get_peft_model(tiny_model(), config())
    assert [name for name, _ in model.base_model.layers()] == [f"transformer.h.{i}.mlp.c_proj" for i in (0, 1)]
    assert model.get_nb_trainable_parameters()[0] == 2 * 30
    model = get_peft_model(tiny_llama(), FourierFTConfig(n_frequency=30))
    assert {name.rpartition(".")[2] for name, _ in model.base_model.layers()} == {"q_proj", "v_proj"}


def test_layers_with_a_number_of_their_own():
    pattern = {r"h\.0\.mlp\.c_proj": 11, "c_attn": 7}
    model = get_peft_model(tiny_model(), config(target_modules=["c_attn", "mlp.c_proj"], n_frequency_pattern=pattern))
    sizes = [layer.fourierft_spectrum["default"].size for _, layer in model.base_model.layers()]
    assert sizes == [7, 11, 7, 30]


@pytest.mark.parity
@pytest.mark.parametrize(
    "key", ["q_proj|v_proj", "(q|v)_proj", "^q_proj", "lm_head", "lm_.*", "0.self_attn.q_proj", ".*"]
)
def test_an_expression_means_the_layers_that_it_means_in_peft(key):
    peft = pytest.importorskip("peft")
    settings = {"n_frequency": 5, "target_modules": ["q_proj", "v_proj", "lm_head"], "n_frequency_pattern": {key: 9}}
    ours = get_peft_model(tiny_llama(), FourierFTConfig(**settings))
    theirs = peft.get_peft_model(hugging_face_twin(tiny_llama()), peft.FourierFTConfig(**settings))
    expected = {name: p.numel() for name, p in theirs.named_parameters() if "spectrum" in name}
    assert {name: p.size for name, p in ours.named_parameters() if "spectrum" in name} == expected


def test_the_scaling_can_be_changed(tmp_path):
    model = get_peft_model(tiny_model(), config())
    first = next(layer for _, layer in model.base_model.layers())
    delta = first.get_delta_weight("default")
    model.set_scale("default", 0.5)
    np.testing.assert_allclose(first.get_delta_weight("default"), delta / 2, rtol=1e-5, atol=1e-7)
    model.save_pretrained(tmp_path)
    assert PeftModel.from_pretrained(tiny_model(), tmp_path).peft_config["default"].scaling == 150.0


def test_with_the_spectrum_at_zero_a_file_does_nothing(tmp_path):
    get_peft_model(tiny_model(), config(init_weights=True)).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="change nothing"):
        loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(tiny_model()))


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (lambda: config(n_frequency=0), "n_frequency must be an integer of at least 1"),
        (lambda: config(n_frequency=2.5), "n_frequency must be an integer"),
        (lambda: config(n_frequency_pattern={"c_attn": 0}), "n_frequency_pattern['c_attn']"),
        (lambda: config(n_frequency_pattern=["c_attn"]), "n_frequency_pattern must be a dict"),
        (lambda: config(scaling="large"), "scaling must be a number"),
        (lambda: config(random_loc_seed=None), "random_loc_seed must be an integer"),
        (lambda: config(random_loc_seed=2**64), "random_loc_seed must be an integer"),
        (lambda: config(bias="fourier_only"), "'fourierft_only'"),
        (lambda: get_peft_model(tiny_model(), config(n_frequency=1025)), "has 1024 entries"),
    ],
)
def test_what_is_refused(action, message):
    assert message in refusal(ValueError, action)


def test_computing_changes_nothing():
    """What is kept until a module changes, as a recorded step of generation, is kept."""
    model = get_peft_model(tiny_model(), config(target_modules=["c_attn"]))
    unchanged = changes.watch()
    logits_of(model)
    assert unchanged()
