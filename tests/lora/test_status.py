"""What is adapted and what is switched on, as data and as text."""

import dataclasses
import warnings

import pytest
from lora_helpers import hugging_face_twin, peft_model, tiny_llama

import lora_np
from lora_np import LoraConfig

NAMES = [f"model.transformer.h.{i}.{name}" for i in (0, 1) for name in ("attn.c_attn", "mlp.c_fc")]


def two_adapters():
    """ "default" on c_attn and c_fc, and "other" on c_attn alone, at rest."""
    model = peft_model(["c_attn", "c_fc"], rank_pattern={"c_fc": 2})
    model.add_adapter("other", LoraConfig(r=3, lora_alpha=6, target_modules=["c_attn"], fan_in_fan_out=True))
    return model


def states(model):
    """{(layer, adapter): state} as the printed table has it."""
    rows = [line.split(maxsplit=5) for line in str(model).splitlines()[2:]]
    return {(row[0].removeprefix("transformer.h."), row[2]): row[5] for row in rows}


def test_the_status_of_each_layer():
    status = two_adapters().get_layer_status()
    assert [s.name for s in status] == NAMES
    attention, mlp = status[:2]
    assert attention.module_type == mlp.module_type == "lora.Linear"
    assert attention.available_adapters == ["default", "other"]
    assert mlp.available_adapters == ["default"]
    assert attention.active_adapters == ["default"]
    assert attention.r == {"default": 4, "other": 3}
    assert mlp.r == {"default": 2}
    assert attention.scaling == {"default": 2.0, "other": 2.0}
    assert mlp.scaling == {"default": 4.0}
    assert attention.requires_grad == {"default": True, "other": False}
    assert attention.enabled
    assert attention.merged_adapters == []


def test_the_status_follows_merging_and_disabling():
    model = two_adapters()
    model.merge_adapter()
    assert [s.merged_adapters for s in model.get_layer_status()] == [["default"]] * 4
    model.unmerge_adapter()
    assert [s.merged_adapters for s in model.get_layer_status()] == [[]] * 4
    with model.disable_adapter():
        assert not any(s.enabled for s in model.get_layer_status())
    assert all(s.enabled for s in model.get_layer_status())


def test_a_status_is_a_copy():
    model = two_adapters()
    status = model.get_layer_status()[0]
    status.r["default"] = status.scaling["default"] = 99
    status.active_adapters.clear()
    status.available_adapters.clear()
    assert model.get_layer_status()[0].r["default"] == 4
    assert model.get_layer_status()[0].active_adapters == ["default"]


def test_the_printed_table():
    model = two_adapters()
    trained, total = model.get_nb_trainable_parameters()
    head, titles, *rows = str(model).splitlines()
    assert head == f"PeftModel of GPT2LMHeadModel: {trained:,d} of {total:,d} parameters are trained"
    assert titles.split() == ["layer", "kind", "adapter", "rank", "scaling", "state"]
    assert rows[0].split() == [NAMES[0].removeprefix("model."), "Conv1D", "default", "4", "2", "active,", "trained"]
    assert rows[1].split() == [NAMES[0].removeprefix("model."), "Conv1D", "other", "3", "2", "inactive"]
    assert rows[2].split() == [NAMES[1].removeprefix("model."), "Conv1D", "default", "2", "4", "active,", "trained"]
    assert len(rows) == 6
    print(model)  # the table is also what print shows


def test_the_state_in_the_table():
    model = two_adapters()
    key, other = ("0.attn.c_attn", "default"), ("0.attn.c_attn", "other")
    assert (states(model)[key], states(model)[other]) == ("active, trained", "inactive")
    with model.disable_adapter():
        assert (states(model)[key], states(model)[other]) == ("switched off", "inactive")
    model.merge_adapter()
    assert (states(model)[key], states(model)[other]) == ("merged", "inactive")
    with model.disable_adapter():
        assert states(model)[key] == "switched off"  # the weights are those of the base
    model.unmerge_adapter()
    model.set_adapter(["default", "other"])
    assert set(states(model).values()) == {"active, trained"}
    model.requires_grad_(False)
    assert set(states(model).values()) == {"active"}


KINDS = {
    "LoraConfig": {},
    "LoHaConfig": {},
    "LoKrConfig": {},
    "OFTConfig": {"oft_block_size": 4},
    "IA3Config": {"feedforward_modules": []},
    "AdaLoraConfig": {"total_step": 10},
    "VeraConfig": {},
    "HRAConfig": {},
    "MissConfig": {"r": 4},
    "DeloraConfig": {},
    "FourierFTConfig": {"n_frequency": 4},
    "HiraConfig": {"r": 4},
    "RandLoraConfig": {"r": 4},
    "ShiraConfig": {"r": 2},
    "TinyLoraConfig": {},
    "VBLoRAConfig": {"r": 2, "num_vectors": 4, "vector_length": 4},
}
SETTINGS = [
    {"trainable_token_indices": [1, 3]},
    {"target_parameters": ["o_proj.weight"]},
    {"ensure_weight_tying": True, "target_modules": ["embed_tokens", "q_proj"]},
    {"modules_to_save": ["lm_head"]},
]


def reports(library, model, name, settings):
    """(what is said of the layers, by name; of the model)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = getattr(library, name)(**{"target_modules": ["q_proj"], **settings})
        model = library.get_peft_model(model, config)
    layers = {status.name: dataclasses.asdict(status) for status in model.get_layer_status()}
    for layer in layers.values():
        layer.pop("r", None), layer.pop("scaling", None)
    return layers, dataclasses.asdict(model.get_model_status())


@pytest.mark.parity
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("name", "settings"), [*KINDS.items(), *(("LoraConfig", settings) for settings in SETTINGS)], ids=str
)
def test_all_kinds_are_reported_as_in_peft(name, settings, tied):
    peft = pytest.importorskip("peft")
    base = tiny_llama(tie_word_embeddings=tied)
    layers, model = reports(peft, hugging_face_twin(base), name, settings)
    found, whole = reports(lora_np, base, name, settings)
    assert found == layers
    del model["total_params"], whole["total_params"]  # PEFT has parameters for some of what is not trained
    if tied and "ensure_weight_tying" in settings:  # PEFT counts A and B of the head, which are the embedding's
        del model["trainable_params"], whole["trainable_params"]
    assert whole == model
