"""PEFT's keywords of saving and loading, and of making a PeftModel."""

import inspect
import json

import numpy as np
import pytest
from lora_helpers import hugging_face_twin, logits_of, peft_model, refusal, snapshot, tiny_llama, tiny_model

from lora_np import LoraConfig, PeftModel, PeftModelForCausalLM, get_peft_model, get_peft_model_state_dict
from lora_np.storage import read_safetensors

CONFIG = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
EXTRA = {"as_plain_lora"}  # ours
METHODS = ("__init__", "from_pretrained", "load_adapter", "add_adapter", "save_pretrained", "set_adapter")
METHODS += ("delete_adapter", "set_requires_grad", "get_layer_status", "get_model_status")
TUNERS = ("merge_adapter", "unmerge_adapter", "merge_and_unload", "unload", "add_weighted_adapter")


@pytest.mark.parity
@pytest.mark.parametrize("name", [*METHODS, *TUNERS, "get_peft_model"])
def test_parameters_are_pefts_in_its_order(name):
    import peft

    ours = get_peft_model if name == "get_peft_model" else getattr(PeftModel, name)
    theirs = getattr(peft if name == "get_peft_model" else peft.LoraModel if name in TUNERS else peft.PeftModel, name)
    ours, theirs = (inspect.signature(function).parameters for function in (ours, theirs))
    assert [parameter for parameter in ours if parameter not in EXTRA] == list(theirs)
    defaults = [[p.default for n, p in both.items() if n not in EXTRA] for both in (ours, theirs)]
    assert defaults[0] == defaults[1]


@pytest.fixture
def folder(tmp_path):
    peft_model(["c_attn"], init_lora_weights=False).save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def loaded(folder, **options):
    return PeftModel.from_pretrained(tiny_model(), folder, **options)


CALLS = {
    "get_peft_model": lambda folder, **given: get_peft_model(tiny_model(), CONFIG, **given),
    "from_pretrained": loaded,
    "load_adapter": lambda folder, **given: loaded(folder).load_adapter(folder, "b", **given),
    "add_adapter": lambda folder, **given: loaded(folder).add_adapter("b", CONFIG, **given),
    "save_pretrained": lambda folder, **given: loaded(folder).save_pretrained(folder.parent / "new", **given),
    "set_adapter": lambda folder, **given: loaded(folder).set_adapter("default", **given),
    "merge_and_unload": lambda folder, **given: loaded(folder).merge_and_unload(**given),
    "merge_adapter": lambda folder, **given: loaded(folder).merge_adapter(**given),
}


@pytest.mark.parametrize(
    ("call", "given", "said"),
    [
        ("from_pretrained", {"ephemeral_gpu_offload": True}, "ephemeral_gpu_offload=True"),
        ("from_pretrained", {"key_mapping": {"a": "b"}}, "rename the tensors"),
        ("load_adapter", {"key_mapping": {"a": "b"}}, "rename the tensors"),
        ("from_pretrained", {"use_safetensors": False}, "pickle"),
        ("save_pretrained", {"safe_serialization": False}, "pickle"),
        ("save_pretrained", {"push_to_hub": True}, "nothing is uploaded"),
        ("save_pretrained", {"state_dict": {}}, "the weights that the model has"),
    ],
)
def test_what_would_do_something_is_refused_with_a_reason(folder, call, given, said):
    message = refusal(ValueError, lambda: CALLS[call](folder, **given))
    assert message.startswith(f"{call}: ")
    assert said in message


SAVED = "base_model.model.transformer.wte.weight", "base_model.model.lm_head.weight"


@pytest.mark.parametrize("resized", [False, True])
@pytest.mark.parametrize(("save", "written"), [(True, (True, True)), (False, (False, False)), ("auto", (False, True))])
def test_embeddings_are_saved_where_that_is_asked_for(tmp_path, save, written, resized):
    model = tiny_model()
    if resized:
        model.resize_token_embeddings(33)
    model = get_peft_model(model, CONFIG)
    model.save_pretrained(tmp_path, save_embedding_layers=save)
    arrays, _ = read_safetensors(tmp_path / "adapter_model.safetensors")
    assert {name in arrays for name in SAVED} == {written[resized]}
    assert get_peft_model_state_dict(model, save_embedding_layers=save).keys() == arrays.keys()
    if written[resized]:
        for name in SAVED:
            np.testing.assert_array_equal(arrays[name], model.get_input_embeddings().weight.data)


def test_another_value_for_embeddings_is_an_error(tmp_path):
    model = get_peft_model(tiny_model(), CONFIG)
    for call in (
        lambda: model.save_pretrained(tmp_path, save_embedding_layers="yes"),
        lambda: get_peft_model_state_dict(model, save_embedding_layers="yes"),
    ):
        assert "must be True, False or \"auto\", got 'yes'" in refusal(ValueError, call)
    assert not list(tmp_path.iterdir())


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("save", [True, False, "auto"])
@pytest.mark.parametrize("resized", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_embeddings_are_saved_as_in_peft(tmp_path, tied, resized, save):
    import peft

    base = tiny_llama(tie_word_embeddings=tied)
    twin, config = hugging_face_twin(base), {"r": 2, "target_modules": ["q_proj"]}
    theirs = peft.get_peft_model(twin, peft.LoraConfig(**config))
    base.save_pretrained(tmp_path / "base")  # whose config.json tells PEFT that there was a resize
    theirs.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    ours = get_peft_model(base, LoraConfig(**config))
    for model in (theirs, ours) if resized else ():
        model.resize_token_embeddings(35, mean_resizing=False)
    expected = peft.get_peft_model_state_dict(theirs, save_embedding_layers=save)
    assert get_peft_model_state_dict(ours, save_embedding_layers=save).keys() == expected.keys()
    theirs.save_pretrained(tmp_path / "theirs", save_embedding_layers=save)
    ours.save_pretrained(tmp_path / "ours", save_embedding_layers=save)
    keys = [read_safetensors(tmp_path / who / "adapter_model.safetensors")[0].keys() for who in ("theirs", "ours")]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    ("call", "given", "meant"),
    [
        ("get_peft_model", "config", "peft_config"),
        ("from_pretrained", "is_trainble", "is_trainable"),
        ("from_pretrained", "sub_folder", "subfolder"),
        ("load_adapter", "adaptername", "adapter_name"),
        ("add_adapter", "config", "peft_config"),
        ("save_pretrained", "selected_adapter", "selected_adapters"),
        ("set_adapter", "inference", "inference_mode"),
        ("merge_and_unload", "safe", "safe_merge"),
        ("merge_adapter", "adapters", "adapter_names"),
    ],
)
def test_a_misspelt_keyword_gets_the_nearest(folder, call, given, meant):
    message = refusal(TypeError, lambda: CALLS[call](folder, **{given: None}))
    assert f"did you mean {meant!r}?" in message
    assert "Persistent" not in message


@pytest.mark.parametrize("call", ["get_peft_model", "from_pretrained", "load_adapter", "add_adapter"])
def test_adapters_in_16_bits_are_refused_and_only_those(folder, monkeypatch, call):
    CALLS[call](folder, autocast_adapter_dtype=False)
    half = tiny_model().to(dtype=np.float16)
    monkeypatch.setitem(globals(), "tiny_model", lambda: half)
    message = refusal(ValueError, lambda: CALLS[call](folder, autocast_adapter_dtype=False))
    assert "adapters are in float32 here" in message or call in ("load_adapter", "add_adapter")


@pytest.mark.parametrize("name", ["adapter", "default"])
def test_the_class_follows_the_task_and_files_keep_it(tmp_path, name):
    config = LoraConfig(r=2, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True)
    model = get_peft_model(tiny_model(), config, name)
    assert type(model) is PeftModelForCausalLM
    model.save_pretrained(tmp_path)
    folder = tmp_path if name == "default" else tmp_path / name
    assert type(loaded(folder)) is PeftModelForCausalLM
    assert type(get_peft_model(tiny_model(), CONFIG)) is PeftModel
    assert type(PeftModelForCausalLM(tiny_model(), CONFIG)) is PeftModelForCausalLM


def test_a_config_in_the_place_of_the_folders(folder):
    config = LoraConfig(r=4, lora_alpha=0, target_modules=["c_attn"], fan_in_fan_out=True)
    model = loaded(folder, config=config)
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    assert not config.inference_mode  # it is the caller's, and stays as it was
    wrong = LoraConfig(r=5, target_modules=["c_attn"], fan_in_fan_out=True)
    assert "instead of" in refusal(ValueError, lambda: loaded(folder, config=wrong))


def test_the_result_of_loading(folder):
    result = loaded(folder).load_adapter(folder, "b", torch_device="cpu", low_cpu_mem_usage=True)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])


def test_a_revision_is_noted_and_saved(tmp_path):
    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    get_peft_model(tiny_model(), config, revision="v2").save_pretrained(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["revision"] == "v2"


def test_a_selection_that_is_wrong_writes_nothing(folder, tmp_path):
    model = loaded(folder)
    with pytest.raises(KeyError, match="no adapter 'x'"):
        model.save_pretrained(tmp_path / "new", selected_adapters=["default", "x"])
    assert not (tmp_path / "new").exists()


def test_a_failed_start_leaves_the_model(folder):
    model = tiny_model()
    before = snapshot(model)
    refusal(ValueError, lambda: PeftModel.from_pretrained(model, folder, adapter_name="no.name"))
    assert snapshot(model) == before


def test_an_adapter_from_the_hub(folder, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub,
        "snapshot_download",
        lambda name, **options: asked.append((name, options)) or str(folder.parent),
    )
    model = PeftModel.from_pretrained(tiny_model(), "owner/lora", subfolder="adapter", revision="v1", token="t")
    np.testing.assert_array_equal(logits_of(model), logits_of(loaded(folder)))
    patterns = ["adapter/adapter_config.json", "adapter/adapter_model.safetensors"]
    assert asked == [("owner/lora", {"allow_patterns": patterns, "revision": "v1", "token": "t"})]
