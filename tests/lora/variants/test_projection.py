"""q, k or v alone: parts of GPT-2's joint projection, and the one adapter on c_attn that PEFT reads."""

import json
import warnings

import numpy as np
import pytest
from lora_helpers import (
    assert_merges,
    gradients,
    hugging_face_twin,
    logits_of,
    peft_model,
    perturbed,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_model,
)

from lora_np import LoraConfig, PeftModel, get_peft_model
from lora_np.storage import read_safetensors

C = 16  # the width of the tiny model, so c_attn has rows 0-15 for q, 16-31 for k, 32-47 for v
QV = ["c_attn.q", "c_attn.v"]
MIXED = [*QV, "c_proj"]
TARGETS = {"q": ["c_attn.q"], "v": ["c_attn.v"], "qv": QV, "qkv": [*QV, "c_attn.k"], "mixed": MIXED}
ONE = ["h.0.attn.c_attn.q", "h.1.attn.c_attn.k", "h.1.attn.c_attn.v"]  # other parts in each block
B0 = "base_model.model.transformer.h.0.attn.c_attn.lora_B.weight"


def saved(model, directory):
    """(config, arrays) as they stand in the files."""
    model.save_pretrained(directory)
    config = json.loads((directory / "adapter_config.json").read_text())
    return config, read_safetensors(directory / "adapter_model.safetensors")[0]


@pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
def test_each_part_has_matrices_of_its_own(targets):
    model = peft_model(targets)
    parts = sum("c_attn" in target for target in targets)
    layer = model.get_base_model().transformer.h[0].attn.c_attn
    assert layer.lora_A["default"].weight.shape == (4 * parts, C)
    assert layer.lora_B["default"].weight.shape == (C * parts, 4)
    others = 4 * (C + C) + 4 * (4 * C + C) if "c_proj" in targets else 0
    assert model.get_nb_trainable_parameters()[0] == 2 * (parts * 4 * (C + C) + others)


@pytest.mark.parametrize("targets", [QV, ["c_attn.v", "c_attn.q"]], ids=str)
def test_only_the_chosen_thirds_change_each_by_its_own_product(targets):
    model = peft_model(targets)
    layer = model.get_base_model().transformer.h[0].attn.c_attn
    x = np.random.default_rng(3).standard_normal((5, C)).astype(np.float32)
    change = layer(x).data - layer.base_layer(x).data
    A, B = (p.data for p in layer.matrices("default"))
    np.testing.assert_array_equal(change[:, C : 2 * C], 0)
    places = [targets.index(part) for part in QV]  # A and B hold their blocks in the targets' own order, q first
    assert sorted(places) == [0, 1]
    q, v = (2.0 * x @ A[4 * i : 4 * i + 4].T @ B[C * i : C * i + C].T for i in (0, 1))
    assert relative(change[:, :C], q) < 1e-5
    assert relative(change[:, 2 * C :], v) < 1e-5


def test_it_starts_at_the_base_model_bit_for_bit():
    model = peft_model(MIXED, init_lora_weights=True)
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    assert set(gradients(model)) == {name for name, _ in model.named_parameters() if ".lora_" in name}


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("targets", [*TARGETS.values(), ONE], ids=[*TARGETS, "one"])
def test_merging(targets, dtype, tolerance):
    assert_merges(perturbed(peft_model(targets, tiny_model().to(dtype=dtype))), tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradients_are_those_of_the_whole_with_zeros_left_out(dtype, tmp_path):
    """The oracle is the saved adapter: plain LoRA on all of c_attn, whose B has zeros in it."""
    model = peft_model(QV, tiny_model().to(dtype=dtype))
    model.save_pretrained(tmp_path)
    whole = PeftModel.from_pretrained(tiny_model().to(dtype=dtype), tmp_path, is_trainable=True)
    found, expected = gradients(model), gradients(whole)
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        if ".lora_B." in name:
            gradient = np.concatenate([gradient[:C, :4], gradient[2 * C :, 4:]])
        assert relative(found[name], gradient) < (2e-5 if dtype == np.float32 else 1e-12), name


VARIOUS = {
    **{name: (targets, {}) for name, targets in TARGETS.items()},
    "one": (ONE, {}),
    "rslora": (MIXED, {"use_rslora": True}),
    "lora_only": (QV, {"bias": "lora_only"}),
    "some blocks": (QV, {"layers_to_transform": [1]}),
    "ranks": (MIXED, {"rank_pattern": {"h.0.attn.c_attn": 2}, "alpha_pattern": {"c_proj": 3}}),
    "one rank": (QV, {"rank_pattern": {r"transformer\.h\.0\.attn\.c_attn": 2}}),
    "without one": (QV, {"exclude_modules": ["h.0.attn.c_attn.q", "h.0.attn.c_attn.v"]}),
}


class TestFiles:
    @pytest.mark.parametrize(("targets", "options"), VARIOUS.values(), ids=VARIOUS.keys())
    def test_a_saved_adapter_loads_here_as_one_on_the_whole(self, targets, options, tmp_path):
        model = perturbed(peft_model(targets, **options))
        model.save_pretrained(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
        assert relative(logits_of(loaded), logits_of(model)) < 2e-6

    @pytest.mark.parity
    @pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
    @pytest.mark.parametrize(("targets", "options"), VARIOUS.values(), ids=VARIOUS.keys())
    def test_a_saved_adapter_loads_in_peft(self, targets, options, tmp_path):
        import peft
        import torch

        model = perturbed(peft_model(targets, **options))
        model.save_pretrained(tmp_path)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # PEFT warns about missing keys and unknown fields
            twin = peft.PeftModel.from_pretrained(hugging_face_twin(tiny_model()), tmp_path)
        with torch.no_grad():
            expected = twin(torch.tensor(some_ids(model.config))).logits.numpy()
        assert relative(logits_of(model), expected) < 2e-5

    def test_what_is_in_them(self, tmp_path):
        config, arrays = saved(peft_model(QV), tmp_path)
        assert (config["target_modules"], config["r"], config["lora_alpha"]) == (["c_attn"], 8, 16)
        assert not config["rank_pattern"]
        B = arrays[B0]
        assert B.shape == (3 * C, 8)
        assert B[:C, :4].all()
        assert B[2 * C :, 4:].all()
        assert np.count_nonzero(B) == 2 * C * 4  # every other block is exactly zero

    def test_other_layers_keep_their_rank(self, tmp_path):
        config, arrays = saved(peft_model(MIXED), tmp_path)
        assert sorted(config["target_modules"]) == ["c_attn", "c_proj"]
        assert (config["r"], config["lora_alpha"]) == (4, 8)
        assert set(config["rank_pattern"].values()) == {8}
        assert set(config["alpha_pattern"].values()) == {16}
        assert arrays[B0].shape == (3 * C, 8)
        assert arrays[B0.replace("c_attn", "c_proj")].shape == (C, 4)

    def test_saving_does_not_change_the_adapters_own_config(self, tmp_path):
        model = peft_model(MIXED)
        before = model.peft_config["default"].to_dict()
        saved(model, tmp_path)
        assert model.peft_config["default"].to_dict() == before


REFUSED = {
    "unknown part": (["c_attn.x"], {}, "no layer matches 'c_attn.x'"),
    "unknown among known": ([*QV, "c_attn.w"], {}, "no layer matches 'c_attn.w'"),
    "part of what has none": (["c_fc.q"], {}, "no layer matches 'c_fc.q'"),
    "whole and part": (["c_attn", "c_attn.q"], {}, "both as a whole and by its parts"),
    "pissa": (QV, {"init_lora_weights": "pissa"}, "take plain LoRA"),
    "olora": (QV, {"init_lora_weights": "olora"}, "take plain LoRA"),
    "dora": (QV, {"use_dora": True}, "take plain LoRA"),
    "lora_bias": (QV, {"lora_bias": True}, "take plain LoRA"),
}


class TestRefusals:
    @pytest.mark.parametrize("what", REFUSED)
    def test_a_new_model_stays_as_it_was(self, what):
        targets, options, part = REFUSED[what]
        model = tiny_model()
        before = snapshot(model)
        assert part in refusal(ValueError, lambda: peft_model(targets, model, **options))
        assert snapshot(model) == before

    @pytest.mark.parametrize("what", REFUSED)
    def test_a_model_with_an_adapter_stays_as_it_was(self, what):
        targets, options, part = REFUSED[what]
        model = peft_model(["c_attn"])
        before, expected = snapshot(model), logits_of(model)
        config = LoraConfig(target_modules=targets, fan_in_fan_out=True, **options)
        assert part in refusal(ValueError, lambda: model.add_adapter("second", config))
        assert snapshot(model) == before
        np.testing.assert_array_equal(logits_of(model), expected)


def test_parts_beside_the_whole_in_another_adapter():
    model = peft_model(["c_attn"])
    model.add_adapter("parts", LoraConfig(r=2, target_modules=QV, init_lora_weights=False, fan_in_fan_out=True))
    model.set_adapter(["default", "parts"])
    assert_merges(perturbed(model), 1e-5)


def test_gpt2_with_q_and_v_has_two_thirds_of_the_projections_numbers():
    model = get_peft_model(tiny_model(), LoraConfig(r=8, target_modules=QV, fan_in_fan_out=True))
    assert model.get_nb_trainable_parameters()[0] == 2 * 2 * 8 * (C + C)
