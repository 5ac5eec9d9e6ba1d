"""The config in an adapter's file names the layers that the adapter is on."""

import json

import numpy as np
import pytest
from lora_helpers import load_in_peft, logits_of, peft_model, peft_twin, perturbed, relative, tiny_llama, tiny_model

from lora_np import LoraConfig, PeftModel

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CASES = {
    "all of a Llama": (tiny_llama, {"target_modules": "all-linear"}, LINEAR),
    "all of a GPT-2": (tiny_model, {"target_modules": "All-Linear"}, ["c_attn", "c_proj", "c_fc"]),
    "the usual ones of a GPT-2": (tiny_model, {"target_modules": None}, ["c_attn"]),
    "the usual ones of a Llama": (tiny_llama, {"target_modules": None}, ["q_proj", "v_proj"]),
    "without some": (tiny_llama, {"target_modules": "all-linear", "exclude_modules": ["down_proj"]}, LINEAR[:-1]),
    "without one block": (tiny_model, {"target_modules": "all-linear", "exclude_modules": r".*\.h\.1\..*"}, None),
    "without one layer": (tiny_model, {"target_modules": "all-linear", "exclude_modules": ["h.1.attn.c_proj"]}, None),
    "one block": (tiny_model, {"target_modules": None, "layers_to_transform": 0}, ["c_attn"]),
    "beside a whole part": (tiny_model, {"target_modules": "all-linear", "modules_to_save": ["h.1.mlp"]}, None),
    "names stay": (tiny_model, {"target_modules": ["h.0.attn.c_attn"]}, ["h.0.attn.c_attn"]),
    "an expression stays": (tiny_model, {"target_modules": r".*\.c_(attn|fc)"}, r".*\.c_(attn|fc)"),
}


def saved(folder, case):
    """(the adapted model, the config in its file)."""
    base, fields, _ = CASES[case]
    model = peft_model(fields["target_modules"], base(), **{k: v for k, v in fields.items() if k != "target_modules"})
    model.save_pretrained(folder)
    return model, json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize("case", CASES)
def test_the_file_names_layers_and_the_config_in_memory_stays(tmp_path, case):
    base, fields, expected = CASES[case]
    model, written = saved(tmp_path, case)
    assert expected is None or written["target_modules"] == expected
    assert written["target_modules"] not in (None, "all-linear", "All-Linear")
    assert model.peft_config["default"].target_modules == fields["target_modules"]
    back = PeftModel.from_pretrained(base(), tmp_path)
    assert [name for name, _ in back.base_model.layers()] == [name for name, _ in model.base_model.layers()]
    assert np.array_equal(logits_of(back), logits_of(model))


@pytest.mark.parametrize("case", CASES)
def test_beside_another_adapter_the_same_layers_are_meant(tmp_path, case):
    base, _, _ = CASES[case]
    model, _ = saved(tmp_path, case)
    other = peft_model(["lm_head"], base())
    other.load_adapter(tmp_path, "second")
    layers = [name for name, layer in other.base_model.layers() if "second" in layer.adapters]
    assert layers == [name for name, _ in model.base_model.layers()]


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_peft_adapts_the_same_layers_with_it(tmp_path, case):
    model, _ = saved(tmp_path, case)
    twin = load_in_peft(CASES[case][0](), tmp_path)
    layers = {name.removeprefix("base_model.model.") for name, m in twin.named_modules() if hasattr(m, "lora_A")}
    assert layers == {name for name, _ in model.base_model.layers()}
    assert relative(logits_of(twin), logits_of(model)) < 1e-5


@pytest.mark.parity
@pytest.mark.parametrize("case", [case for case, (_, fields, _) in CASES.items() if "linear" in str(fields).lower()])
def test_peft_writes_names_too(tmp_path, case):
    base, fields, _ = CASES[case]
    peft_twin(base(), LoraConfig(**fields)).save_pretrained(tmp_path)
    theirs = json.loads((tmp_path / "adapter_config.json").read_text())["target_modules"]
    assert isinstance(theirs, list)


BESIDE = {  # what names layers of its own, beside a word for layers or parts of them
    "rows": {"trainable_token_indices": [1, 5]},
    "rows and usual ones": {"target_modules": None, "trainable_token_indices": [1, 5]},
    "rows and parts": {
        "target_modules": ["c_attn.q", "c_fc"],
        "exclude_modules": ["h.0.mlp.c_fc"],
        "trainable_token_indices": [1, 5],
    },
    "rows and a part of the base": {"init_lora_weights": "pissa", "trainable_token_indices": [1, 5]},
    "a parameter of its own rank and parts": {
        "target_modules": ["c_attn.q", "c_attn.v"],
        "target_parameters": ["c_fc.weight"],
        "rank_pattern": {"c_fc.weight": 3},
        "alpha_pattern": {"c_fc.weight": 5},
    },
    "a parameter and parts": {
        "target_modules": ["c_attn.q"],
        "exclude_modules": ["h.0.attn.c_attn.q"],
        "target_parameters": ["c_fc.weight"],
    },
}


@pytest.mark.parity
@pytest.mark.parametrize("case", BESIDE)
def test_layers_that_other_settings_name_are_not_among_the_targets(tmp_path, case):
    fields = {"target_modules": "all-linear", **BESIDE[case]}
    model = perturbed(peft_model(fields.pop("target_modules"), **fields))
    model.save_pretrained(tmp_path, as_plain_lora="init_lora_weights" in fields)
    expected = logits_of(model)
    assert relative(logits_of(PeftModel.from_pretrained(tiny_model(), tmp_path)), expected) < 1e-6
    if "target_parameters" not in fields:  # PEFT has none of them on a Conv1D
        assert relative(logits_of(load_in_peft(tiny_model(), tmp_path)), expected) < 1e-5
