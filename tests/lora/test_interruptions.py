"""All or nothing: what is interrupted leaves the model as it was."""

import dataclasses

import numpy as np
import pytest
from interruption_helpers import assert_all_or_nothing
from lora_helpers import logits_of, peft_model, snapshot, tiny_llama, tiny_model

from lora_np import LoraConfig, PeftModel, get_peft_model, manual_seed
from lora_np.lora.layer import AdaptedLayer
from lora_np.storage import read_safetensors, write_safetensors

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def two_adapters(**options):
    """A tiny Llama with two adapters, both of which do something, and a head that the second trains."""
    manual_seed(0)
    model = peft_model(["q_proj", "down_proj"], tiny_llama(num_hidden_layers=1), **options)
    model.add_adapter("other", new(target_modules=["q_proj"], modules_to_save=["lm_head"]))
    return model


def merged():
    model = two_adapters()
    model.merge_adapter()
    return model


def plain():
    return tiny_model(n_layer=1)


def on_gpt2():
    manual_seed(0)
    return peft_model(["c_attn", "lm_head"], plain())


def with_pissa():
    model = two_adapters()
    model.add_adapter("p", LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights="pissa"))
    return model


def state(model):
    """All that may be changed: parts, bits, what is trained, names, scales, what is merged, and what is computed."""
    lines = snapshot(model)
    lines["grads"] = [name for name, p in model.named_parameters() if p.grad is not None]
    lines["logits"] = logits_of(model).tobytes()
    for name, module in model.named_modules():
        if isinstance(module, AdaptedLayer):
            scales = {adapter: one.scaling for adapter, one in module.adapters.items()}
            lines[f"{name} adapters"] = (scales, module.active_adapters, module.merged_adapters)
            lines[f"{name} without"] = module.without_adapters().weight.data.tobytes()
    if isinstance(model, PeftModel):
        lines["configs"] = {name: dataclasses.asdict(config) for name, config in model.peft_config.items()}
        lines["active"], lines["merged"] = model.active_adapters, model.base_model.merged
        lines["layers"] = list(model.base_model.adapted), list(model.base_model.saved), list(model.base_model.shared)
        lines["disabled"] = model.base_model.is_disabled
    return lines


def disabled(model):
    with model.disable_adapter():
        logits_of(model)


def row_by_row(model):
    ids = np.arange(6).reshape(2, 3)
    model(ids, adapter_names=["default", "__base__"])


def new(**options):
    return LoraConfig(r=2, init_lora_weights=False, **options)


OPERATIONS = {
    "get_peft_model": (plain, lambda m: get_peft_model(m, new(target_modules=["c_attn"], modules_to_save=["ln_f"]))),
    "add_adapter": (two_adapters, lambda m: m.add_adapter("new", new(target_modules=["up_proj", "q_proj"]))),
    "add_adapter, PiSSA": (
        two_adapters,
        lambda m: m.add_adapter("new", LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights="pissa")),
    ),
    "set_adapter": (two_adapters, lambda m: m.set_adapter("other")),
    "set_adapter, two": (two_adapters, lambda m: m.set_adapter(["default", "other"])),
    "rename_adapter": (two_adapters, lambda m: m.rename_adapter("other", "new")),
    "delete_adapter": (two_adapters, lambda m: m.delete_adapter("default")),
    "delete_adapter, PiSSA": (with_pissa, lambda m: m.delete_adapter("p")),
    "set_scale": (two_adapters, lambda m: m.set_scale("default", 3.0)),
    "merge_adapter": (two_adapters, lambda m: m.merge_adapter(safe_merge=True)),
    "merge_adapter, another": (two_adapters, lambda m: m.merge_adapter(["other"])),
    "merge_adapter, DoRA": (lambda: two_adapters(use_dora=True), lambda m: m.merge_adapter()),
    "unmerge_adapter": (merged, lambda m: m.unmerge_adapter()),
    "merge_and_unload": (two_adapters, lambda m: m.merge_and_unload()),
    "unload": (with_pissa, lambda m: m.unload()),
    "add_weighted_adapter": (
        two_adapters,
        lambda m: m.add_weighted_adapter(["default"], [0.5], "half", "svd", svd_rank=2),
    ),
    "disable_adapter": (two_adapters, disabled),
    "untie_weights": (on_gpt2, lambda m: m.untie_weights()),
    "adapter_names": (on_gpt2, row_by_row),
}


def seeded(action):
    """The action with the same random numbers each time."""

    def run(model):
        manual_seed(1)
        action(model)

    return run


@pytest.mark.parametrize(("make", "action"), OPERATIONS.values(), ids=OPERATIONS)
def test_interrupted_anywhere_the_model_is_as_it_was(make, action):
    assert_all_or_nothing(make, seeded(action), state)


def test_out_of_memory_anywhere_the_model_is_as_it_was():
    make, action = OPERATIONS["merge_adapter"]
    assert_all_or_nothing(make, action, state, MemoryError)


@pytest.mark.parametrize("first", [False, True])
def test_interrupted_while_loading(tmp_path, first):
    two_adapters().save_pretrained(tmp_path)
    if first:
        make, action = (
            lambda: tiny_llama(num_hidden_layers=1),
            lambda model: PeftModel.from_pretrained(model, tmp_path, is_trainable=True),
        )
    else:
        make, action = two_adapters, lambda model: model.load_adapter(tmp_path / "other", "loaded")
    assert_all_or_nothing(make, action, state)


@pytest.mark.parametrize("first", [False, True], ids=["load_adapter", "from_pretrained"])
@pytest.mark.parametrize("what", ["biases", "base weights"])
def test_interrupted_while_loading_what_changes_the_base(tmp_path, what, first):
    """A file may have other biases, or a rounded base weight, for the model's own."""

    def model_without():
        manual_seed(0)
        model = get_peft_model(plain(), LoraConfig(target_modules=["c_fc"]))
        model.delete_adapter("default")
        return model

    adapter = peft_model(["c_attn"], tiny_model(seed=1, n_layer=1), bias="all" if what == "biases" else "none")
    if what == "base weights":
        adapter = peft_model(["c_attn"], plain())
    adapter.save_pretrained(tmp_path)
    if what == "base weights":
        name = "transformer.h.0.attn.c_attn"
        weight = plain().get_submodule(name).weight.data * np.float32(1.001)
        arrays, _ = read_safetensors(tmp_path / "adapter_model.safetensors")
        key = f"base_model.model.{name}.base_layer.weight"
        write_safetensors(tmp_path / "adapter_model.safetensors", {**arrays, key: weight})
    if first:
        make, action = plain, lambda model: PeftModel.from_pretrained(model, tmp_path)
    else:
        make, action = model_without, lambda model: model.load_adapter(tmp_path, "loaded")
    assert_all_or_nothing(make, action, state)
