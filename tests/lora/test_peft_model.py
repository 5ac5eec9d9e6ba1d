"""PeftModel: the same numbers as PEFT, adapters that come and go, merging that can always be undone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import (
    TARGETS,
    TwoLayers,
    copy_parameters,
    fuzz,
    peft_model,
    peft_twin,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_model,
)

from lora_np import GPT2Config, GPT2LMHeadModel, LoraConfig, PeftModel, get_peft_model, manual_seed, nn, no_grad
from lora_np.lora import LoraLinear

BIASES = ["none", "all", "lora_only"]


def logits(model, ids=None):
    """The logits as a NumPy array, of some ids that are always the same."""
    return model(some_ids(model.config) if ids is None else ids).logits.numpy().copy()


def gradients(model):
    """{name: gradient} after one backward pass, for the parameters that got one."""
    ids = some_ids(model.config)
    model.zero_grad()
    model(ids, labels=ids).loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def classes(model):
    """[(name, class)] of every module."""
    return [(name, type(module)) for name, module in model.named_modules()]


def config_for(targets, **options):
    options = {"r": 3, "lora_alpha": 5, "init_lora_weights": False, "fan_in_fan_out": True, **options}
    return LoraConfig(target_modules=targets, **options)


def two_adapters(**options):
    """A PeftModel with "default" on the attention, active, and "second" on attention and MLP."""
    model = peft_model(["c_attn"], **options)
    model.add_adapter("second", config_for(["c_attn", "c_fc"], r=2))
    return model


@pytest.mark.parity
class TestAgainstPeft:
    """Every number and every name against PEFT on Transformers' GPT-2."""

    @staticmethod
    def both(targets, model=None, **options):
        model = tiny_model() if model is None else model
        config = config_for(targets, **options)
        twin = peft_twin(model, config)
        ours = get_peft_model(model, config)
        copy_parameters(twin, ours)
        return ours, twin

    @pytest.mark.parametrize("alpha", [1, 16, 0.5])
    @pytest.mark.parametrize("bias", BIASES)
    @pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
    def test_logits_loss_and_gradients(self, targets, bias, alpha):
        import torch

        ours, twin = self.both(targets, bias=bias, lora_alpha=alpha)
        ids = some_ids(ours.config)
        expected = twin(input_ids=torch.tensor(ids), labels=torch.tensor(ids))
        expected.loss.backward()
        out = ours(input_ids=ids, labels=ids)
        assert relative(out.loss.item(), expected.loss.item()) < 2e-5
        assert relative(out.logits.data, expected.logits.detach()) < 2e-5
        theirs = {name: p.grad.numpy() for name, p in twin.named_parameters() if p.grad is not None}
        found = gradients(ours)
        assert set(found) == set(theirs)
        for name, gradient in found.items():
            assert relative(gradient, theirs[name]) < 2e-5, name

    @pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
    def test_an_adapted_head(self, tied):
        import torch

        ours, twin = self.both(["c_attn", "lm_head"], tiny_model(tie_word_embeddings=tied))
        ids = some_ids(ours.config)
        expected = twin(input_ids=torch.tensor(ids), labels=torch.tensor(ids))
        expected.loss.backward()
        assert relative(ours(ids).logits.data, expected.logits.detach()) < 2e-5
        theirs = {name: p.grad.numpy() for name, p in twin.named_parameters() if p.grad is not None}
        found = gradients(ours)
        assert set(found) == set(theirs)
        assert all(relative(found[name], theirs[name]) < 2e-5 for name in found)

    @pytest.mark.parametrize("bias", BIASES)
    @pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
    def test_names_and_the_printed_line(self, targets, bias, capsys):
        ours, twin = self.both(targets, bias=bias)
        assert set(dict(ours.named_parameters())) == set(dict(twin.named_parameters()))
        trained = {name for name, p in ours.named_parameters() if p.requires_grad}
        assert trained == {name for name, p in twin.named_parameters() if p.requires_grad}
        assert any(".lora_A.default.weight" in name for name in trained)
        capsys.readouterr()
        twin.print_trainable_parameters()
        expected = capsys.readouterr().out
        ours.print_trainable_parameters()
        assert capsys.readouterr().out == expected
        assert ours.get_nb_trainable_parameters() == twin.get_nb_trainable_parameters()

    def test_two_active_adapters_and_their_merge(self):
        import peft
        import torch

        ours, twin = self.both(["c_attn"])
        options = {"r": 2, "lora_alpha": 7, "init_lora_weights": False, "fan_in_fan_out": True}
        twin.add_adapter("second", peft.LoraConfig(**options, target_modules=["c_attn", "c_fc"]))
        ours.add_adapter("second", LoraConfig(**options, target_modules=["c_attn", "c_fc"]))
        twin.base_model.set_adapter(["default", "second"])
        ours.set_adapter(["default", "second"])
        copy_parameters(twin, ours)
        ids = some_ids(ours.config)
        with torch.no_grad():
            expected = twin(torch.tensor(ids)).logits.numpy()
        assert relative(logits(ours), expected) < 2e-5
        ours.merge_adapter()
        twin.merge_adapter()
        theirs = dict(twin.named_parameters())
        for name, p in ours.named_parameters():
            assert relative(p.data, theirs[name].detach()) < 1e-6, name


def test_gpt2_has_the_numbers_that_every_tutorial_prints(capsys):
    model = get_peft_model(GPT2LMHeadModel(GPT2Config()), LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    model.print_trainable_parameters()
    line = "trainable params: 294,912 || all params: 124,734,720 || trainable%: 0.2364\n"
    assert capsys.readouterr().out == line
    model = model.unload()
    assert model.num_parameters() == 124_439_808
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", fan_in_fan_out=True))
    assert model.get_nb_trainable_parameters() == (1_179_648, 124_439_808 + 1_179_648)


class TestAdapters:
    """Adding, switching, deleting, switching off."""

    @pytest.mark.parametrize("targets", [*TARGETS.values(), "lm_head"], ids=[*TARGETS, "lm_head"])
    def test_only_the_adapter_gets_gradients(self, targets):
        model = peft_model(targets)
        found = gradients(model)
        assert set(found) == {name for name, _ in model.named_parameters() if ".lora_" in name}
        assert all(gradient.any() for gradient in found.values())

    @pytest.mark.parametrize("bias", ["all", "lora_only"])
    def test_biases_are_trained_when_asked_for(self, bias):
        model = peft_model(["c_attn"], bias=bias)
        found = {name for name in gradients(model) if ".lora_" not in name}
        biases = {name for name, _ in model.named_parameters() if name.endswith(".bias")}
        assert found == (biases if bias == "all" else {name for name in biases if ".base_layer." in name})
        assert found

    def test_training_the_adapter_leaves_the_base_as_it_was(self):
        model = peft_model(["c_attn"], init_lora_weights=True)
        ids, losses = some_ids(model.config), []
        base, expected = snapshot(tiny_model()), logits(model)
        for _ in range(20):
            model.zero_grad()
            loss = model(ids, labels=ids).loss
            loss.backward()
            losses.append(loss.item())
            for p in model.parameters():
                if p.grad is not None:
                    p.data -= 0.1 * p.grad
        assert losses[-1] < losses[0] - 0.1
        assert relative(logits(model), expected) > 1e-3
        assert snapshot(model.unload().requires_grad_()) == base

    def test_a_new_adapter_is_not_active_until_it_is_set(self):
        model = peft_model(["c_attn"])
        expected = logits(model)
        model.add_adapter("second", config_for("all-linear"))
        assert model.active_adapters == ["default"]
        np.testing.assert_array_equal(logits(model), expected)
        assert {name.split(".")[-2] for name in gradients(model)} == {"default"}
        model.set_adapter("second")
        assert relative(logits(model), expected) > 1e-3
        assert {name.split(".")[-2] for name in gradients(model)} == {"second"}
        model.set_adapter("default")
        np.testing.assert_array_equal(logits(model), expected)

    @pytest.mark.parametrize("active", [["default"], ["second"], ["default", "second"]], ids=str)
    def test_the_model_computes_with_w_plus_the_sum_of_all_s_b_a(self, active):
        """The oracle is a plain GPT-2 with weights summed up by hand; its layers store them (in, out)."""
        model, plain = two_adapters(), tiny_model()
        model.set_adapter(active)
        arrays = {name.removeprefix("base_model.model."): p.data for name, p in model.named_parameters()}
        scaling = {"default": 8 / 4, "second": 5 / 2}
        for name, p in plain.named_parameters():
            layer = name.removesuffix(".weight")
            for adapter in active:
                A, B = (arrays.get(f"{layer}.lora_{X}.{adapter}.weight") for X in "AB")
                p.data = p.data if A is None else p.data + scaling[adapter] * (B @ A).T
        assert relative(logits(model), logits(plain)) < 2e-6
        assert relative(logits(model), logits(tiny_model())) > 1e-2
        assert {name.split(".")[-2] for name in gradients(model)} == set(active)

    def test_inactive_adapters_count_among_all(self):
        model = peft_model(["c_attn"])
        trainable, total = model.get_nb_trainable_parameters()
        model.add_adapter("second", config_for(["c_attn"], r=4))
        assert model.get_nb_trainable_parameters() == (trainable, total + trainable)

    def test_deleting_the_active_adapter_activates_another(self):
        model = two_adapters()
        model.set_adapter("second")
        expected = logits(model)
        model.set_adapter("default")
        model.delete_adapter("default")
        assert model.active_adapters == ["second"]
        assert list(model.peft_config) == ["second"]
        np.testing.assert_array_equal(logits(model), expected)
        assert {name.split(".")[-2] for name in gradients(model)} == {"second"}

    def test_deleting_an_inactive_adapter_changes_no_result(self):
        model = two_adapters()
        expected = logits(model)
        model.delete_adapter("second")
        assert model.active_adapters == ["default"]
        np.testing.assert_array_equal(logits(model), expected)
        assert isinstance(model.get_base_model().transformer.h[0].mlp.c_fc, nn.Conv1D)

    def test_with_the_last_adapter_gone_the_model_is_the_base_model(self):
        model = peft_model("all-linear")
        model.delete_adapter("default")
        assert model.active_adapters == []
        np.testing.assert_array_equal(logits(model), logits(tiny_model()))
        assert not any(isinstance(module, LoraLinear) for module in model.modules())

    @pytest.mark.parametrize("action", ["set_adapter", "delete_adapter"])
    def test_an_unknown_adapter_is_named_with_those_there_are(self, action):
        model = two_adapters()
        before = snapshot(model)
        message = refusal(KeyError, lambda: getattr(model, action)("third"))
        assert message == "no adapter 'third'; there are 'default', 'second'"
        assert snapshot(model) == before
        assert model.active_adapters == ["default"]

    @pytest.mark.parametrize("name", ["", "a.b", "../up", " ", "forward", "training"])
    @pytest.mark.parametrize("how", ["get_peft_model", "add_adapter"])
    def test_a_name_that_can_not_be_one_is_refused_and_nothing_changes(self, name, how):
        model = tiny_model() if how == "get_peft_model" else peft_model(["c_attn"])
        config, before = config_for(["c_fc"]), snapshot(model)
        action = (lambda: get_peft_model(model, config, name)) if how == "get_peft_model" else None
        message = refusal(ValueError, action or (lambda: model.add_adapter(name, config)))
        assert repr(name) in message
        assert snapshot(model) == before

    def test_a_name_that_is_taken_is_refused(self):
        model = two_adapters()
        before = snapshot(model)
        message = refusal(ValueError, lambda: model.add_adapter("second", config_for(["c_attn"])))
        assert "there is an adapter 'second' already" in message
        assert snapshot(model) == before

    def test_a_model_that_has_adapters_is_not_wrapped_again(self):
        model = peft_model(["c_attn"])
        before = snapshot(model)
        for again in (model, model.get_base_model()):
            message = refusal(ValueError, lambda again=again: get_peft_model(again, config_for(["c_fc"])))
            assert "has adapters already: use add_adapter" in message
            assert "load_adapter(folder, name)" in message
            assert "load the base again, or take peft_model.unload()" in message
        assert snapshot(model) == before

    @pytest.mark.parametrize(("first", "second"), [("all", "none"), ("none", "lora_only"), ("all", "all")])
    def test_trained_biases_leave_no_room_for_a_second_adapter(self, first, second):
        model = peft_model(["c_attn"], bias=first)
        before = snapshot(model)
        message = refusal(ValueError, lambda: model.add_adapter("second", config_for(["c_attn"], bias=second)))
        assert "only one adapter at a time" in message
        assert snapshot(model) == before

    def test_a_wrong_fan_in_fan_out_is_set_right_with_a_warning(self):
        with pytest.warns(UserWarning, match="fan_in_fan_out set to True, as Conv1D layers need it"):
            model = peft_model(["c_attn"], fan_in_fan_out=False)
        assert model.peft_config["default"].fan_in_fan_out
        with pytest.warns(UserWarning, match="fan_in_fan_out set to False, as Linear layers need it"):
            peft_model(["lm_head"], fan_in_fan_out=True)

    def test_the_name_of_the_base_model_is_noted(self):
        base = tiny_model()
        base.config.name_or_path = "some/place"
        assert peft_model(["c_attn"], base).peft_config["default"].base_model_name_or_path == "some/place"
        named = peft_model(["c_attn"], tiny_model(), base_model_name_or_path="elsewhere")
        assert named.peft_config["default"].base_model_name_or_path == "elsewhere"

    def test_adapters_take_the_models_mode(self):
        ids = some_ids(tiny_model().config)
        model = peft_model(["c_attn"], tiny_model().eval(), lora_dropout=0.5)
        np.testing.assert_array_equal(logits(model), logits(model))
        model.add_adapter("second", config_for(["c_attn"], lora_dropout=0.5))
        model.set_adapter(["default", "second"])
        np.testing.assert_array_equal(logits(model), logits(model))
        model.train()
        assert relative(model(ids).logits.data, model(ids).logits.data) > 1e-4
        model = peft_model(["c_attn"], tiny_model().train(), lora_dropout=0.5)
        assert relative(model(ids).logits.data, model(ids).logits.data) > 1e-4

    def test_generate_uses_the_active_adapter(self):
        model = peft_model("all-linear", lora_alpha=40)
        ids = some_ids(model.config, time=3)
        with_adapter = model.generate(ids, max_new_tokens=8)
        np.testing.assert_array_equal(with_adapter[:, 3], logits(model, ids)[:, -1].argmax(-1))
        with model.disable_adapter():
            base = model.generate(ids, max_new_tokens=8)
        np.testing.assert_array_equal(base, tiny_model().generate(ids, max_new_tokens=8))
        assert (base != with_adapter).any()


class TestDisabling:
    @pytest.mark.parametrize("merged", [False, True])
    @pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
    def test_inside_the_block_the_model_is_the_base_model_bit_for_bit(self, targets, merged):
        model, base = peft_model(targets), logits(tiny_model())
        if merged:
            model.merge_adapter()
        before, expected = snapshot(model), logits(model)
        with model.disable_adapter():
            np.testing.assert_array_equal(logits(model), base)
            with model.disable_adapter():
                np.testing.assert_array_equal(logits(model), base)
            np.testing.assert_array_equal(logits(model), base)
        np.testing.assert_array_equal(logits(model), expected)
        assert snapshot(model) == before

    @pytest.mark.parametrize("merged", [False, True])
    def test_an_error_inside_the_block_switches_the_adapter_on_again(self, merged):
        model = peft_model(["c_attn"])
        if merged:
            model.merge_adapter()
        expected = logits(model)
        with pytest.raises(ZeroDivisionError), model.disable_adapter():
            raise ZeroDivisionError
        np.testing.assert_array_equal(logits(model), expected)

    def test_results_from_inside_the_block_are_the_base_models_also_outside(self):
        """The logits are made when first asked for: that may be later, but must not be otherwise."""
        base = tiny_model(tie_word_embeddings=False)
        expected = logits(base)
        model = peft_model(["lm_head"], base)
        with model.disable_adapter():
            out = model(some_ids(base.config))
        np.testing.assert_array_equal(out.logits.data, expected)


MERGED = {
    "saving": lambda model, path: model.save_pretrained(path / "out"),
    "deleting": lambda model, path: model.delete_adapter("default"),
    "deleting another": lambda model, path: model.delete_adapter("second"),
    "switching": lambda model, path: model.set_adapter("second"),
    "adding": lambda model, path: model.add_adapter("third", config_for(["c_attn"])),
    "loading": lambda model, path: model.load_adapter(path, "third"),
    "training": lambda model, path: model([[1, 2, 3]], labels=[[1, 2, 3]]),
    "merging": lambda model, path: model.merge_adapter(),
}


class TestMerging:
    @pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 2e-6), (np.float64, 1e-13)])
    @pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
    def test_merged_results_are_the_same(self, targets, dtype, tolerance):
        model = peft_model(targets, tiny_model().to(dtype=dtype))
        expected, before = logits(model), snapshot(model)
        model.merge_adapter()
        assert relative(logits(model), expected) < tolerance
        assert snapshot(model) != before
        model.unmerge_adapter()
        np.testing.assert_array_equal(logits(model), expected)
        assert snapshot(model) == before

    def test_all_active_adapters_are_merged(self):
        model = two_adapters()
        model.set_adapter(["default", "second"])
        expected = logits(model)
        model.merge_adapter()
        assert relative(logits(model), expected) < 2e-6

    @settings(fuzz, max_examples=15)
    @given(st.lists(st.sampled_from(["default", "second", "both", "disable", "safe"]), min_size=1, max_size=12))
    def test_any_number_of_cycles_leaves_every_bit_as_it_was(self, steps):
        model = two_adapters()
        before = {name: p.data.tobytes() for name, p in model.named_parameters()}
        for step in steps:
            model.set_adapter({"default": "default", "second": "second"}.get(step, ["default", "second"]))
            model.merge_adapter(safe_merge=step == "safe")
            if step == "disable":
                with model.disable_adapter():
                    pass
            model.unmerge_adapter()
        assert {name: p.data.tobytes() for name, p in model.named_parameters()} == before

    def test_unmerging_what_is_not_merged_does_nothing(self):
        model = two_adapters()
        before = snapshot(model)
        model.unmerge_adapter()
        assert snapshot(model) == before

    @pytest.mark.parametrize("what", MERGED)
    def test_while_merged_it_is_refused_with_the_way_out(self, what, tmp_path):
        model = two_adapters()
        model.save_pretrained(tmp_path)
        model.merge_adapter()
        model.train(what == "training")
        before, files = snapshot(model), sorted(tmp_path.rglob("*"))
        message = refusal(RuntimeError, lambda: MERGED[what](model, tmp_path))
        assert "unmerge_adapter()" in message
        assert "default" in message
        assert snapshot(model) == before
        assert sorted(tmp_path.rglob("*")) == files
        assert (list(model.peft_config), model.active_adapters) == (["default", "second"], ["default"])
        model.unmerge_adapter()
        MERGED[what](model, tmp_path)

    def test_a_merged_model_may_be_asked_without_training_it(self):
        model = peft_model(["c_attn"])
        expected = logits(model)
        model.merge_adapter()
        assert relative(logits(model.eval()), expected) < 2e-6
        with no_grad():
            assert relative(logits(model.train()), expected) < 2e-6

    @pytest.mark.parametrize("targets", [["lm_head"], ["c_attn", "lm_head"]], ids=str)
    @pytest.mark.parametrize("action", ["merge_adapter", "merge_and_unload"])
    def test_a_shared_weight_is_not_merged(self, targets, action):
        model = peft_model(targets)
        before, expected = snapshot(model), logits(model)
        message = refusal(ValueError, getattr(model, action))
        assert "lm_head shares its weight" in message
        assert snapshot(model) == before
        np.testing.assert_array_equal(logits(model), expected)

    def test_a_head_of_its_own_is_merged(self):
        model = peft_model(["lm_head"], tiny_model(tie_word_embeddings=False))
        expected = logits(model)
        model.merge_adapter()
        assert relative(logits(model), expected) < 2e-6

    @pytest.mark.parametrize("action", ["merge_adapter", "merge_and_unload"])
    def test_safe_merge_refuses_nan_and_changes_nothing(self, action):
        model = peft_model("all-linear")
        model.get_base_model().transformer.h[1].mlp.c_proj.lora_A["default"].weight.data[0, 0] = np.nan
        before = snapshot(model)
        message = refusal(ValueError, lambda: getattr(model, action)(safe_merge=True))
        assert "NaN or infinity in transformer.h.1.mlp.c_proj" in message
        assert snapshot(model) == before

    @pytest.mark.parametrize("merged_before", [False, True])
    def test_merge_and_unload_gives_a_plain_model(self, merged_before, tmp_path):
        base = tiny_model()
        names, kinds = [name for name, _ in base.named_parameters()], classes(base)
        model = peft_model("all-linear", base)
        expected = logits(model)
        if merged_before:
            model.merge_adapter()
        plain = model.merge_and_unload()
        assert plain is base
        assert [name for name, _ in plain.named_parameters()] == names
        assert classes(plain) == kinds
        assert relative(logits(plain), expected) < 2e-6
        plain.save_pretrained(tmp_path)
        again = get_peft_model(plain, config_for(["c_attn"], init_lora_weights=True))  # the plain model starts over
        assert relative(logits(again), expected) < 2e-6

    @pytest.mark.parametrize("merged_before", [False, True])
    def test_unload_gives_the_base_model_bit_for_bit(self, merged_before):
        model = peft_model("all-linear")
        if merged_before:
            model.merge_adapter()
        plain = model.unload()
        np.testing.assert_array_equal(logits(plain), logits(tiny_model()))
        assert classes(plain) == classes(tiny_model())

    def test_unmerging_after_a_change_of_dtype_keeps_the_new_one(self):
        model = peft_model(["c_attn"])
        model.merge_adapter()
        model.to(dtype=np.float64)
        model.unmerge_adapter()
        assert {p.dtype for p in model.parameters()} == {np.dtype(np.float64)}


class TestFailures:
    """With any error, the model is as it was."""

    @pytest.mark.parametrize(
        "targets", [["q_attn", "v_attn"], ["c_attn", "nowhere"], ["ln_f"], r".*\.nowhere"], ids=str
    )
    def test_a_wrong_target(self, targets):
        model = tiny_model().train()
        before = snapshot(model)
        with pytest.raises(ValueError, match=r"nowhere|q_attn|ln_f"):
            get_peft_model(model, LoraConfig(target_modules=targets))
        assert snapshot(model) == before
        assert list(gradients(model))  # still trained as before

    def test_an_alpha_that_is_no_number(self):
        model = tiny_model()
        before = snapshot(model)
        with pytest.raises((TypeError, ValueError)):
            get_peft_model(model, LoraConfig(lora_alpha="16", fan_in_fan_out=True))
        assert snapshot(model) == before

    def test_a_model_of_another_kind_without_targets(self):
        model = TwoLayers()
        before = snapshot(model)
        with pytest.raises(ValueError, match="no usual target_modules"):
            PeftModel(model, LoraConfig())
        assert snapshot(model) == before

    @pytest.mark.filterwarnings("error")
    def test_a_warning_turned_into_an_error(self):
        model = tiny_model()
        before = snapshot(model)
        with pytest.raises(UserWarning, match="fan_in_fan_out"):
            get_peft_model(model, LoraConfig(target_modules=["c_attn"]))
        assert snapshot(model) == before


@pytest.mark.gpu
class TestOnTheGpu:
    @pytest.mark.parametrize("bias", ["none", "all"])
    @pytest.mark.parametrize("targets", TARGETS.values(), ids=TARGETS.keys())
    def test_logits_and_gradients_are_those_of_the_cpu(self, targets, bias):
        model = peft_model(targets, bias=bias)
        expected, expected_gradients = logits(model), gradients(model)
        model.zero_grad()
        model.to("cuda")
        assert relative(logits(model), expected) < 1e-4
        found = gradients(model)
        assert list(found) == list(expected_gradients)
        for name, gradient in found.items():
            assert relative(gradient.get(), expected_gradients[name]) < 1e-4, name

    def test_an_adapter_is_made_where_its_model_is(self):
        model = peft_model("all-linear", tiny_model().to("cuda"))
        assert {p.device for p in model.parameters()} == {"cuda:0"}
        cpu = peft_model("all-linear", tiny_model())
        cpu.load_state_dict({name: p.numpy() for name, p in model.named_parameters()})
        assert relative(logits(model), logits(cpu)) < 1e-4

    def test_merge_moves_along_and_unmerge_is_exact(self):
        model = peft_model("all-linear")
        before, expected = {name: p.numpy() for name, p in model.named_parameters()}, logits(model)
        model.merge_adapter()
        model.to("cuda")
        assert relative(logits(model), expected) < 1e-4
        model.unmerge_adapter()
        assert {p.device for p in model.parameters()} == {"cuda:0"}
        model.merge_adapter()
        model.unmerge_adapter()
        for name, p in model.named_parameters():
            np.testing.assert_array_equal(p.numpy(), before[name])

    def test_an_adapter_saved_on_the_gpu_loads_on_the_cpu_and_back(self, tmp_path):
        model = peft_model("all-linear").to("cuda")
        model.save_pretrained(tmp_path)
        on_cpu = PeftModel.from_pretrained(tiny_model(), tmp_path)
        on_gpu = PeftModel.from_pretrained(tiny_model().to("cuda"), tmp_path)
        assert {p.device for p in on_cpu.parameters()} == {"cpu"}
        assert {p.device for p in on_gpu.parameters()} == {"cuda:0"}
        assert relative(logits(on_gpu), logits(on_cpu)) < 1e-4


def test_streaming_with_an_adapter_is_generating_with_it():
    model = peft_model()
    ids = some_ids(model.config, time=3)
    text = model.generate(ids, max_new_tokens=6)
    np.testing.assert_array_equal(np.stack(list(model.stream(ids, max_new_tokens=6)), axis=1), text[:, 3:])
    with model.disable_adapter():
        assert (model.generate(ids, max_new_tokens=6) != text).any()


@pytest.mark.parametrize("options", [{}, {"bias": "all"}, {"modules_to_save": ["lm_head"]}], ids=str)
def test_inference_mode_trains_nothing_until_an_adapter_is_set(options):
    model = peft_model(["c_attn"], inference_mode=True, **options)
    assert model.get_nb_trainable_parameters()[0] == 0
    model.set_adapter("default")  # as in PEFT: this makes it trainable
    assert model.get_nb_trainable_parameters()[0] == peft_model(["c_attn"], **options).get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        (["c_attn"], {}),
        (["c_attn"], {"use_dora": True}),
        (["c_attn"], {"lora_bias": True}),
        (["c_attn.q"], {}),
        (["wte"], {}),
        (["lm_head"], {}),
    ],
    ids=str,
)
@pytest.mark.parametrize("count", [1, 2])
def test_beside_a_base_in_float16_logits_are_float16_and_adapters_learn_in_float32(targets, options, count):
    def of(dtype):
        base = tiny_model(tie_word_embeddings=False)
        for p in base.parameters():
            p.data = p.data.astype(dtype)
        manual_seed(0)
        model = peft_model(targets, base, **options)
        if count == 2:
            model.add_adapter("b", model.peft_config["default"])
            model.set_adapter(["default", "b"])
        return model

    half, single = of(np.float16), of(np.float32)
    ids = some_ids(half.config)
    logits = half(ids).logits
    assert logits.dtype == np.float16
    assert relative(logits.data, single(ids).logits.data) < 1e-2
    half(ids, labels=ids).loss.backward()
    gradients = {name: p.grad for name, p in half.named_parameters() if p.requires_grad}
    assert all(g.dtype == np.float32 and np.isfinite(g).all() for g in gradients.values())
