"""modules_to_save: modules that an adapter trains whole, as a copy beside the frozen original."""

import numpy as np
import pytest
from lora_helpers import (
    hugging_face_twin,
    load_in_peft,
    logits_of,
    peft_model,
    peft_twin,
    perturbed,
    refusal,
    relative,
    snapshot,
    tiny_llama,
    tiny_model,
)

from lora_np import AutoModelForCausalLM, LoraConfig, PeftModel, nn
from lora_np.storage import read_safetensors

WEIGHTS = "adapter_model.safetensors"
MODULES = pytest.mark.parametrize("saved", [["lm_head"], ["ln_f"], ["lm_head", "ln_f"]], ids=str)


def trained(saved, **options):
    """A PeftModel whose adapter and saved modules have moved away from where they started."""
    model = peft_model(["c_attn"], modules_to_save=saved, **options)
    perturbed(model)
    return model


@MODULES
def test_the_copy_starts_as_the_module_and_is_trained_in_its_place(saved):
    model = peft_model(["c_attn"], modules_to_save=saved, init_lora_weights=True)
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    names = [name for name, p in model.named_parameters() if p.requires_grad and ".lora_" not in name]
    assert len(names) == sum(2 if name == "ln_f" else 1 for name in saved)
    assert all(".modules_to_save.default." in name for name in names)
    perturbed(model)
    assert relative(logits_of(model), logits_of(tiny_model())) > 1e-2


@MODULES
def test_the_base_is_untouched(saved):
    model = trained(saved)
    plain = tiny_model()
    with model.disable_adapter():
        np.testing.assert_array_equal(logits_of(model), logits_of(plain))
    assert snapshot(model.unload().requires_grad_(True)) == snapshot(plain)


@MODULES
def test_a_merged_model_keeps_the_trained_copy(saved):
    model = trained(saved)
    expected = logits_of(model)
    copies = [module.chosen() for _, module in model.base_model.saved_modules()]
    plain = model.merge_and_unload()
    assert relative(logits_of(plain), expected) < 1e-5
    assert [plain.get_submodule(name) for name, _ in plain.named_modules() if name.endswith(tuple(saved))] == copies
    assert type(plain.lm_head) is nn.Linear


def test_a_tied_head_is_tied_no_longer_once_it_is_trained():
    model = trained(["lm_head"])
    base = model.get_base_model()
    head = base.lm_head
    assert head.original_module.weight is base.transformer.wte.weight
    assert not np.shares_memory(head.chosen().weight.data, base.transformer.wte.weight.data)


def test_each_adapter_has_a_copy_of_its_own_and_the_active_one_counts():
    model = trained(["ln_f"])
    first = logits_of(model)
    config = LoraConfig(r=4, target_modules=["c_attn"], modules_to_save=["ln_f"], fan_in_fan_out=True)
    model.add_adapter("second", config)
    model.set_adapter("second")
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    perturbed(model, seed=6)
    model.rename_adapter("second", "third")
    second = logits_of(model)
    model.set_adapter("default")
    np.testing.assert_array_equal(logits_of(model), first)
    model.delete_adapter("default")
    np.testing.assert_array_equal(logits_of(model), second)
    model.delete_adapter("third")
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    assert not model.base_model.saved_modules()


@MODULES
def test_saved_and_loaded_again(tmp_path, saved):
    model = trained(saved)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path, is_trainable=True)
    assert snapshot(loaded) == snapshot(model)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))
    second = peft_model(["c_fc"], modules_to_save=saved)  # beside another adapter with a copy of the same module
    second.load_adapter(tmp_path, "loaded")
    second.set_adapter("loaded")
    np.testing.assert_array_equal(logits_of(second), logits_of(model))


def test_an_unknown_module_is_named_and_changes_nothing():
    model = tiny_model()
    before = snapshot(model)
    with pytest.raises(ValueError, match="'lm_haed'"):
        peft_model(["c_attn"], model, modules_to_save=["lm_haed"])
    assert snapshot(model) == before


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@MODULES
class TestAgainstPeft:
    def config(self, saved):
        return LoraConfig(
            r=3, target_modules=["c_attn"], modules_to_save=saved, init_lora_weights=False, fan_in_fan_out=True
        )

    def test_the_same_numbers_are_trained_and_counted(self, saved, capsys):
        peft_twin(tiny_model(), self.config(saved)).print_trainable_parameters()
        theirs = capsys.readouterr().out
        PeftModel(tiny_model(), self.config(saved)).print_trainable_parameters()
        assert capsys.readouterr().out == theirs

    def test_pefts_file_loads_here(self, tmp_path, saved):
        import torch

        twin = peft_twin(tiny_model(), self.config(saved))
        with torch.no_grad():
            for p in twin.parameters():
                if p.requires_grad:
                    p += 0.1 * torch.randn(p.shape)
        twin.save_pretrained(tmp_path)
        loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
        assert relative(logits_of(loaded), logits_of(twin)) < 2e-5

    def test_our_file_has_pefts_keys_and_loads_there(self, tmp_path, saved):
        model = PeftModel(tiny_model(), self.config(saved))
        perturbed(model)
        model.save_pretrained(tmp_path / "ours")
        peft_twin(tiny_model(), self.config(saved)).save_pretrained(tmp_path / "theirs")
        ours, theirs = (read_safetensors(tmp_path / who / WEIGHTS)[0] for who in ("ours", "theirs"))
        assert {key: a.shape for key, a in ours.items()} == {key: a.shape for key, a in theirs.items()}
        assert relative(logits_of(load_in_peft(tiny_model(), tmp_path / "ours")), logits_of(model)) < 2e-5


def test_a_head_that_was_tied_is_saved_as_untied_after_unloading(tmp_path):
    model = perturbed(peft_model(modules_to_save=["lm_head"]))
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    np.testing.assert_allclose(logits_of(loaded), logits_of(merged), rtol=1e-6, atol=1e-6)


def test_biases_are_saved_once_beside_a_module_trained_whole(tmp_path):
    model = perturbed(peft_model(modules_to_save=["ln_f"], bias="all"))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    np.testing.assert_allclose(logits_of(loaded), logits_of(model), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("targets", "saved"), [(["c_fc"], ["mlp"]), (["wte"], ["wte"])])
def test_a_module_is_adapted_or_trained_whole_but_not_both(targets, saved):
    assert "choose one" in refusal(ValueError, lambda: peft_model(targets, modules_to_save=saved))


def test_two_active_adapters_cannot_both_train_one_module():
    model = trained(["lm_head"])
    model.add_adapter("b", LoraConfig(target_modules=["c_fc"], modules_to_save=["lm_head"], fan_in_fan_out=True))
    model.add_adapter("c", LoraConfig(target_modules=["c_fc"], fan_in_fan_out=True))
    before = snapshot(model)
    for action in (model.set_adapter, model.merge_adapter, lambda n: model.merge_and_unload(adapter_names=n)):
        message = refusal(ValueError, lambda: action(["default", "b"]))  # noqa: B023
        assert "default and b each train lm_head whole" in message
    assert snapshot(model) == before
    assert model.active_adapters == ["default"]
    model.set_adapter(["default", "c"])


def test_merging_by_name_takes_that_adapters_copy():
    model = trained(["lm_head"])
    model.add_adapter("b", LoraConfig(target_modules=["c_fc"], modules_to_save=["lm_head"], fan_in_fan_out=True))
    head = model.base_model.saved["lm_head"].modules_to_save["b"]
    head.weight.data = head.weight.data * 2
    model.set_adapter("b")
    expected = logits_of(model)
    model.set_adapter("default")
    assert relative(logits_of(model.merge_and_unload(adapter_names=["b"])), expected) < 1e-5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"target_modules": ["c_proj"]}, {"target_modules": ["c_attn"], "modules_to_save": ["mlp"]}),
        ({"target_modules": ["c_attn"], "modules_to_save": ["mlp"]}, {"target_modules": ["c_proj"]}),
        (
            {"target_modules": ["c_attn"], "modules_to_save": ["mlp.c_fc"]},
            {"target_modules": ["c_attn"], "modules_to_save": ["mlp"]},
        ),
        ({"target_modules": ["c_attn"], "modules_to_save": ["mlp"]}, {"target_modules": "all-linear"}),
        ({"target_modules": ["c_fc"]}, {"target_modules": ["c_attn"], "modules_to_save": ["c_fc"]}),
    ],
    ids=str,
)
def test_what_one_adapter_trains_whole_no_other_may_adapt(first, second, tmp_path):
    model = perturbed(
        peft_model(
            model=tiny_model(),
            targets=first["target_modules"],
            **{k: v for k, v in first.items() if k != "target_modules"},
        )
    )
    before, logits = snapshot(model), logits_of(model)
    assert "choose one" in refusal(
        ValueError, lambda: model.add_adapter("b", LoraConfig(**second, fan_in_fan_out=True))
    )
    targets, saved = second["target_modules"], second.get("modules_to_save")
    peft_model(targets, modules_to_save=saved).save_pretrained(tmp_path)
    assert "choose one" in refusal(ValueError, lambda: model.load_adapter(tmp_path, "b"))
    assert snapshot(model) == before
    assert list(model.peft_config) == ["default"]
    np.testing.assert_array_equal(logits_of(model), logits)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "saved", [["norm"], ["proj"], ["layernorm"], ["mlp"], ["1.mlp"], ["model.norm", "head"]], ids=str
)
def test_a_name_means_what_it_means_in_peft(saved):
    """All modules that end so, with or without a dot; targets in them get no adapter."""
    import peft

    targets = ["q_proj", "up_proj"] if saved != ["proj"] else ["lm_head"]
    twin = peft.get_peft_model(
        hugging_face_twin(tiny_llama()), peft.LoraConfig(target_modules=targets, modules_to_save=saved)
    )
    ours = peft_model(targets, tiny_llama(), modules_to_save=saved).base_model
    wrappers = {n: m for n, m in twin.base_model.model.named_modules() if type(m).__name__ == "ModulesToSaveWrapper"}
    assert [name for name, _ in ours.saved_modules()] == list(wrappers)
    assert [name for name, _ in ours.layers()] == twin.base_model.targeted_module_names


@pytest.mark.parametrize("saved", [["attn"], ["mlp", "c_fc"], ["h.0", "h.0.mlp", "ln_1"]], ids=str)
def test_of_modules_inside_each_other_the_outer_one_is_saved(saved):
    names = [name for name, _ in peft_model(["wte"], modules_to_save=saved).base_model.saved_modules()]
    assert (
        names
        == {
            "attn": ["transformer.h.0.attn", "transformer.h.1.attn"],
            "mlp": ["transformer.h.0.mlp", "transformer.h.1.mlp"],
            "h.0": ["transformer.h.0", "transformer.h.1.ln_1"],
        }[saved[0]]
    )


def test_where_nothing_is_left_to_adapt_that_is_an_error():
    model = tiny_model()
    before = snapshot(model)
    message = refusal(ValueError, lambda: peft_model(["c_fc"], model, modules_to_save=["mlp"]))
    assert "modules_to_save trains transformer.h.0.mlp.c_fc, transformer.h.1.mlp.c_fc whole" in message
    assert snapshot(model) == before


def test_a_list_of_modules_is_refused():
    model = tiny_model()
    before = snapshot(model)
    assert "cannot be called" in refusal(ValueError, lambda: peft_model(["wte"], model, modules_to_save=["h"]))
    assert snapshot(model) == before
