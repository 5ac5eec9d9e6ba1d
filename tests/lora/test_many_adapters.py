"""Several adapters on one model: their sum, their names and scales, one for each row, and merging any set of them."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lora_helpers import (
    fuzz,
    load_in_peft,
    logits_of,
    peft_model,
    perturbed,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_model,
)

from lora_np import LoraConfig, PeftModel, nn

# Layers of each kind: Conv1D, Linear (the head, of its own here), and both embeddings.
KINDS = {"Conv1D": ["c_attn", "c_fc"], "Linear": ["lm_head"], "Embedding": ["wte", "wpe"], "all": ["c_attn", "wte"]}
NAMES = ["a", "b", "c"]


def config(targets=("c_attn",), **options):
    fan_in_fan_out = list(targets) != ["lm_head"]
    options = {"r": 3, "lora_alpha": 5, "init_lora_weights": False, "fan_in_fan_out": fan_in_fan_out, **options}
    return LoraConfig(target_modules=list(targets), **options)


def three_adapters(targets=("c_attn",), order=NAMES, **options):
    """A model with adapters "a", "b" and "c", whose values do not depend on the order in which they were added."""
    model = None
    for name in order:
        if model is None:
            model = peft_model(targets, tiny_model(tie_word_embeddings=False), name, r=3, lora_alpha=5, **options)
        else:
            model.add_adapter(name, config(targets, **options))
    for seed, name in enumerate(NAMES):
        for _, layer in model.base_model.layers():
            for i, p in enumerate(layer.parameters_of(name).values()):
                rng = np.random.default_rng([seed, i])
                p.data = (0.3 * rng.standard_normal(p.shape)).astype(p.dtype)
    return model


def with_active(model, names):
    model.set_adapter(names)
    return logits_of(model)


class TestNamesAndScales:
    @pytest.mark.parametrize("targets", KINDS.values(), ids=KINDS)
    def test_several_active_adapters_add_up_in_any_order(self, targets):
        model = three_adapters(targets)
        expected = with_active(model, NAMES)
        assert relative(with_active(model, NAMES[::-1]), expected) < 1e-5
        assert relative(with_active(three_adapters(targets, NAMES[::-1]), NAMES), expected) < 1e-5
        for _, layer in model.base_model.layers():
            weight = layer.base_layer.weight.data + sum(layer.get_delta_weight(name) for name in NAMES)
            layer.base_layer.weight = nn.Parameter(weight)
        assert relative(logits_of(model.base_model.unload()), expected) < 1e-5

    @pytest.mark.parametrize("targets", KINDS.values(), ids=KINDS)
    def test_a_renamed_adapter_computes_what_it_did(self, targets):
        model = three_adapters(targets)
        expected = with_active(model, ["a", "c"])
        model.rename_adapter("a", "new")
        assert list(model.peft_config) == ["new", "b", "c"]
        assert model.active_adapters == ["new", "c"]
        np.testing.assert_array_equal(logits_of(model), expected)
        np.testing.assert_array_equal(with_active(model, ["new", "c"]), expected)
        assert not [name for name, _ in model.named_parameters() if ".a." in name or name.endswith(".a")]

    def test_a_new_name_must_be_free_and_the_old_one_known(self):
        model = three_adapters()
        before = snapshot(model)
        assert "'b' already" in refusal(ValueError, lambda: model.rename_adapter("a", "b"))
        assert "'d'" in refusal(KeyError, lambda: model.rename_adapter("d", "e"))
        assert "no dot or slash" in refusal(ValueError, lambda: model.rename_adapter("a", "x.y"))
        assert "'__base__'" in refusal(ValueError, lambda: model.rename_adapter("a", "__base__"))
        model.merge_adapter()
        assert "unmerge_adapter() first" in refusal(RuntimeError, lambda: model.rename_adapter("a", "d"))
        model.unmerge_adapter()
        assert snapshot(model) == before

    @pytest.mark.parametrize("targets", KINDS.values(), ids=KINDS)
    def test_a_scale_multiplies_the_configured_scaling(self, targets):
        model = three_adapters(targets)
        expected = logits_of(model)
        model.set_scale("a", 0)
        np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model(tie_word_embeddings=False)))
        model.set_scale("a", 3)
        model.set_scale("a", 2)
        assert {layer.scaling["a"] for _, layer in model.base_model.layers()} == {2 * 5 / 3}
        model.set_scale("a", 1)
        np.testing.assert_array_equal(logits_of(model), expected)

    @pytest.mark.parametrize("targets", KINDS.values(), ids=KINDS)
    def test_deleting_one_of_three_leaves_the_others(self, targets):
        model = three_adapters(targets)
        expected = with_active(model, ["a", "c"])
        model.set_adapter(NAMES)
        model.delete_adapter("b")
        assert model.active_adapters == ["a", "c"]
        np.testing.assert_array_equal(logits_of(model), expected)


ROWS = ["a", "__base__", "c", "a", "b", "__base__"]


class TestOneAdapterForEachRow:
    @pytest.mark.parametrize("active", [["a"], NAMES], ids=str)
    @pytest.mark.parametrize("options", [{}, {"use_rslora": True}], ids=["plain", "rslora"])
    @pytest.mark.parametrize("targets", KINDS.values(), ids=KINDS)
    def test_each_row_is_what_it_is_alone(self, targets, options, active):
        model = three_adapters(targets, **options)
        ids = some_ids(model.config, batch=len(ROWS), time=len(ROWS))
        model.set_adapter(active)
        rows = model(ids, adapter_names=ROWS).logits.numpy().copy()
        assert model.active_adapters == active
        for i, name in enumerate(ROWS):
            if name == "__base__":
                with model.disable_adapter():
                    alone = logits_of(model, ids[i : i + 1])
            else:
                model.set_adapter(name)
                alone = logits_of(model, ids[i : i + 1])
            assert relative(rows[i : i + 1], alone) < 1e-5, (i, name)

    def test_dora_and_parts_of_a_projection_go_row_by_row_too(self):
        model = peft_model(["c_attn"], adapter_name="a", use_dora=True)
        model.add_adapter("b", config(["c_attn.q", "c_attn.v"]))
        model.add_adapter("c", config(["c_fc"]))
        perturbed(model)
        ids = some_ids(model.config, batch=4)
        rows = model(ids, adapter_names=["c", "b", "a", "b"]).logits.numpy().copy()
        for i, name in enumerate("cbab"):
            model.set_adapter(name)
            assert relative(rows[i : i + 1], logits_of(model, ids[i : i + 1])) < 1e-5

    def test_the_rows_can_be_given_by_keyword(self):
        model = three_adapters()
        ids = some_ids(model.config)
        rows = model(input_ids=ids, adapter_names=("a", "b")).logits.numpy()
        np.testing.assert_array_equal(rows, model(ids, adapter_names=["a", "b"]).logits.numpy())

    def test_gradients_go_to_the_adapters_of_the_rows(self):
        model = three_adapters()
        model.set_adapter(["a", "b"])
        ids = some_ids(model.config)
        model(ids, labels=ids, adapter_names=["a", "__base__"]).loss.backward()
        for name, p in model.named_parameters():
            assert (p.grad is not None and p.grad.any()) == (".a." in name), name

    @pytest.mark.parametrize(
        ("names", "error", "message"),
        [
            (["a"], ValueError, "adapter_names has 1 names"),
            (["a", "b", "c"], ValueError, "adapter_names has 3 names"),
            (["a", "d"], KeyError, "no adapter 'd'"),
        ],
        ids=str,
    )
    def test_names_that_do_not_fit_are_refused_and_nothing_changes(self, names, error, message):
        model = three_adapters()
        before, expected = snapshot(model), logits_of(model)
        assert message in refusal(error, lambda: model(some_ids(model.config), adapter_names=names))
        assert snapshot(model) == before
        np.testing.assert_array_equal(logits_of(model), expected)

    def test_merged_weights_and_saved_modules_are_the_same_for_every_row(self):
        model = three_adapters()
        ids = some_ids(model.config)
        model.merge_adapter()
        assert "unmerge_adapter() first" in refusal(RuntimeError, lambda: model(ids, adapter_names=["a", "b"]))
        model = peft_model(["c_attn"], modules_to_save=["ln_f"])
        message = refusal(ValueError, lambda: model(ids, adapter_names=["default", "__base__"]))
        assert "does not go with modules_to_save" in message

    def test_after_an_error_inside_the_model_the_rows_are_forgotten(self):
        model = three_adapters()
        too_long = np.zeros((2, 50), int)
        expected = logits_of(model)
        with pytest.raises((ValueError, IndexError)):
            model(too_long, adapter_names=["b", "c"])
        np.testing.assert_array_equal(logits_of(model), expected)


class TestMergingSeveral:
    @pytest.mark.parametrize("targets", KINDS.values(), ids=KINDS)
    def test_all_active_ones_are_merged(self, targets):
        model = three_adapters(targets)
        expected = with_active(model, ["a", "c"])
        before = snapshot(model)
        model.merge_adapter()
        assert relative(logits_of(model), expected) < 1e-5
        model.unmerge_adapter()
        assert snapshot(model) == before
        assert relative(logits_of(model.merge_and_unload()), expected) < 1e-5

    @pytest.mark.parametrize("order", [["default", "dora"], ["dora", "default"]], ids=str)
    def test_plain_lora_beside_dora(self, order):
        model = peft_model(["c_attn"])
        model.add_adapter("dora", config(use_dora=True))
        model.set_adapter(order)
        perturbed(model)
        expected = logits_of(model)
        model.merge_adapter()
        assert relative(logits_of(model), expected) < 1e-5

    @pytest.mark.parametrize("targets", [["lm_head"], ["wte"], ["lm_head", "wte"]], ids=str)
    def test_a_tied_weight_can_be_untied_and_merged(self, targets):
        model = peft_model(targets, fan_in_fan_out=targets == ["wte"])
        expected = logits_of(model)
        assert "untie_weights() first" in refusal(ValueError, model.merge_adapter)
        model.untie_weights()
        np.testing.assert_array_equal(logits_of(model), expected)
        model.merge_adapter()
        assert relative(logits_of(model), expected) < 1e-5
        model.unmerge_adapter()
        np.testing.assert_array_equal(logits_of(model), expected)
        with model.disable_adapter():
            np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))

    def test_untying_leaves_other_weights_as_they_are(self):
        model = peft_model(["c_attn"])
        model.untie_weights()
        base = model.get_base_model()
        assert base.lm_head.weight is base.transformer.wte.weight

    def test_untying_beside_a_head_that_is_trained_whole_is_said_in_the_config(self):
        model = peft_model(["wte"], modules_to_save=["lm_head"], fan_in_fan_out=False)
        base = model.get_base_model()
        model.set_adapter("default")
        assert base.config.tie_word_embeddings  # the head's original still is
        model.untie_weights()
        assert base.lm_head.original_module.weight is not base.transformer.wte.base_layer.weight
        assert not base.config.tie_word_embeddings


# One adapter's options: plain LoRA, DoRA, rsLoRA, both, its own targets.
SOME_CONFIGS = st.builds(
    lambda r, alpha, dora, rslora, targets: config(targets, r=r, lora_alpha=alpha, use_dora=dora, use_rslora=rslora),
    r=st.integers(1, 5),
    alpha=st.sampled_from([0.5, 4, 100]),
    dora=st.booleans(),
    rslora=st.booleans(),
    targets=st.sampled_from([["c_attn"], ["c_attn", "c_fc"], ["mlp.c_proj"]]),
)


def model_with(configs, **options):
    model = peft_model(["c_attn"], adapter_name="a0", **options)
    for i, each in enumerate(configs, 1):
        model.add_adapter(f"a{i}", each)
    return model


@fuzz
@given(configs=st.lists(SOME_CONFIGS, max_size=3), cycles=st.integers(1, 3), data=st.data())
def test_merging_any_set_of_adapters_can_be_undone_to_the_bit(configs, cycles, data):
    model = model_with(configs)
    chosen = data.draw(st.lists(st.sampled_from(list(model.peft_config)), min_size=1, unique=True))
    model.set_adapter(chosen)
    perturbed(model)
    before, expected = snapshot(model), logits_of(model)
    for _ in range(cycles):
        model.merge_adapter()
        assert relative(logits_of(model), expected) < 1e-3
        model.unmerge_adapter()
    assert snapshot(model) == before
    np.testing.assert_array_equal(logits_of(model), expected)


@fuzz
@given(each=SOME_CONFIGS, kind=st.sampled_from([True, "gaussian"]))
def test_with_b_zero_training_starts_at_the_loss_of_the_base_model(each, kind):
    each.init_lora_weights = kind
    base, model = tiny_model(), model_with([each])
    model.set_adapter("a1")
    model.train()
    ids = some_ids(base.config)
    assert model(ids, labels=ids).loss.item() == base(ids, labels=ids).loss.item()


@pytest.mark.parametrize(
    "action",
    [
        lambda m: m.merge_adapter(),
        lambda m: m.unmerge_adapter(),
        lambda m: m.merge_and_unload(),
        lambda m: m.delete_adapter("default"),
        lambda m: m.rename_adapter("default", "other"),
        lambda m: m.set_adapter("default"),
        lambda m: m.add_adapter("other", LoraConfig(fan_in_fan_out=True)),
    ],
)
@pytest.mark.parametrize("merged", [False, True])
def test_what_the_end_of_a_disabled_block_would_undo_is_refused(action, merged):
    model = perturbed(peft_model())
    if merged:
        model.merge_adapter()
    expected = logits_of(model)
    with model.disable_adapter():
        assert "inside disable_adapter()" in refusal(RuntimeError, lambda: action(model))
        np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    np.testing.assert_array_equal(logits_of(model), expected)


def test_rows_are_the_base_models_while_adapters_are_disabled():
    model, ids = perturbed(peft_model()), some_ids(tiny_model().config)
    with model.disable_adapter():
        rows = model(ids, adapter_names=["default", "__base__"]).logits.data
    np.testing.assert_array_equal(rows, tiny_model()(ids).logits.data)


def test_an_adapter_named_twice_counts_once():
    model = perturbed(peft_model())
    expected = logits_of(model)
    model.set_adapter(["default", "default"])
    np.testing.assert_array_equal(logits_of(model), expected)


def test_deleting_a_resting_adapter_leaves_a_frozen_one_frozen(tmp_path):
    model = perturbed(peft_model())
    model.save_pretrained(tmp_path)
    model = PeftModel.from_pretrained(tiny_model(), tmp_path)
    model.load_adapter(tmp_path, "second")
    model.delete_adapter("second")
    assert model.get_nb_trainable_parameters()[0] == 0


def test_an_adapted_model_is_not_quantised():
    model = peft_model()
    before = snapshot(model)
    assert "quantise the model first" in refusal(ValueError, lambda: nn.quantize_model(model))
    assert snapshot(model) == before


class TestMergingByName:
    @pytest.mark.parametrize("targets", KINDS.values(), ids=KINDS)
    @pytest.mark.parametrize("names", [["b"], ["c", "a"], "b"], ids=str)
    def test_just_these_adapters_are_merged(self, targets, names):
        model = three_adapters(targets)
        wanted = [names] if isinstance(names, str) else names
        expected = with_active(model, wanted)
        model.set_adapter("a")
        before, own = snapshot(model), logits_of(model)
        model.merge_adapter(names)
        assert model.base_model.merged == wanted
        assert relative(logits_of(model), expected) < 1e-5
        model.unmerge_adapter()
        assert snapshot(model) == before
        np.testing.assert_array_equal(logits_of(model), own)
        assert relative(logits_of(model.merge_and_unload(adapter_names=names)), expected) < 1e-5

    def test_adapters_on_different_layers_are_all_named(self):
        model = peft_model(["c_attn"])
        model.add_adapter("b", config(["c_fc"]))
        model.set_adapter("default")
        model.merge_adapter(["b", "default"])
        assert sorted(model.base_model.merged) == ["b", "default"]

    @pytest.mark.parametrize("merge", ["merge_adapter", "merge_and_unload"])
    def test_an_unknown_name_changes_nothing(self, merge):
        model = three_adapters()
        before = snapshot(model)
        assert "no adapter 'd'" in refusal(KeyError, lambda: getattr(model, merge)(adapter_names=["a", "d"]))
        assert snapshot(model) == before
        assert not model.base_model.merged

    def test_true_is_no_name(self):
        assert "safe_merge=True" in refusal(TypeError, lambda: three_adapters().merge_adapter(True))

    @pytest.mark.parity
    @pytest.mark.parametrize("names", [["b"], ["default", "b"]], ids=str)
    def test_as_in_peft(self, tmp_path, names):
        import torch

        model = perturbed(peft_model(["c_attn"]))
        model.add_adapter("b", config(["c_fc"]))
        model.save_pretrained(tmp_path)
        twin = load_in_peft(tiny_model(), tmp_path)
        twin.load_adapter(tmp_path / "b", "b")
        twin.merge_adapter(names)
        model.merge_adapter(names)
        ids = some_ids(model.config)
        expected = twin(torch.from_numpy(ids)).logits.detach().numpy()
        assert relative(logits_of(model, ids), expected) < 1e-5


def test_dora_beside_others_acts_on_the_base_alone():
    """The order of the names does not matter, and merged the model computes the same; in PEFT neither holds."""
    model = perturbed(peft_model(["c_attn"], use_dora=True))
    for name, dora in (("b", True), ("c", False)):
        model.add_adapter(name, config(use_dora=dora))
        model.set_adapter(name)
        perturbed(model, seed=len(name))
    names = ["default", "b", "c"]
    expected = with_active(model, names)
    assert relative(with_active(model, names[::-1]), expected) < 1e-5
    model.merge_adapter()
    assert relative(logits_of(model), expected) < 1e-5


@pytest.mark.parametrize("kind", ["pissa", "olora"])
def test_what_an_inactive_adapter_took_out_of_the_base_is_told(kind):
    model = peft_model(["c_attn"])
    expected = logits_of(model)
    with pytest.warns(UserWarning, match="b is inactive, and its initialisation took a part out"):
        model.add_adapter("b", config(["c_fc"], init_lora_weights=kind))
    assert relative(logits_of(model), expected) > 1e-3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.set_adapter(["default", "b"])
    assert relative(logits_of(model), expected) < 1e-5
    with pytest.warns(UserWarning, match=r"until set_adapter\('b'\) or delete_adapter\('b'\)"):
        model.set_adapter("default")
    model.delete_adapter("b")
    np.testing.assert_array_equal(logits_of(model), expected)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 10**400, "2", None])
def test_a_scale_that_is_no_finite_number_is_refused(scale):
    model = peft_model()
    before = model.get_layer_status()
    with pytest.raises(ValueError, match="scale must be"):
        model.set_scale("default", scale)
    assert model.get_layer_status() == before


def test_one_name_is_no_list_of_names():
    model = peft_model(["c_attn"], adapter_name="bb")
    assert "a name for each row" in refusal(TypeError, lambda: model(some_ids(model.config), adapter_names="bb"))


@pytest.mark.parametrize("trainable", [True, False])
def test_safe_merge_looks_at_trained_biases(trainable):
    model = peft_model(["c_attn"], bias="all")
    dict(model.base_model.model.named_parameters())["transformer.ln_f.bias"].data[0] = np.nan
    model.requires_grad_(trainable)
    before = snapshot(model)
    assert "transformer.ln_f.bias" in refusal(ValueError, lambda: model.merge_adapter(safe_merge=True))
    assert snapshot(model) == before
