"""add_weighted_adapter: several adapters of a model made into one."""

import numpy as np
import pytest
from lora_helpers import (
    load_in_peft,
    logits_of,
    peft_model,
    refusal,
    relative,
    snapshot,
    tiny_llama,
    tiny_model,
)

from lora_np import LoraConfig, PeftModel
from lora_np.lora.combine import KINDS, clamp


def adapters(first=None, second=None):
    """A model with the adapters "default" on c_attn and c_fc, and "other" on c_attn alone; both do something."""
    model = peft_model(["c_attn", "c_fc"], **(first or {}))
    options = {"r": 4, "lora_alpha": 6, "init_lora_weights": False, "fan_in_fan_out": True, **(second or {})}
    model.add_adapter("other", LoraConfig(target_modules=["c_attn"], **options))
    return model


def both_active(model, weights):
    """The logits with both adapters active, each scaled by its weight."""
    for name, weight in zip(("default", "other"), weights, strict=True):
        model.set_scale(name, weight)
    model.set_adapter(["default", "other"])
    expected = logits_of(model)
    for name in ("default", "other"):
        model.set_scale(name, 1)
    return expected


def combined(model, kind, weights, **options):
    """The logits with their combination active."""
    model.add_weighted_adapter(["default", "other"], weights, "sum", kind, **options)
    model.set_adapter("sum")
    return logits_of(model)


EXACT = [("cat", {}), ("svd", {"svd_rank": 12})]


@pytest.mark.parametrize("weights", [(1, 1), (0.5, 2), (-1, 0.7), (0, 1)], ids=str)
@pytest.mark.parametrize(("kind", "options"), EXACT, ids=["cat", "svd"])
def test_cat_and_an_svd_of_full_rank_are_the_sum(kind, options, weights):
    model = adapters(second={"r": 7})
    expected = both_active(model, weights)
    assert relative(combined(model, kind, weights, **options), expected) < 1e-5
    for _, layer in model.base_model.layers():
        deltas = [
            w * layer.delta_weight(n) for n, w in zip(("default", "other"), weights, strict=True) if n in layer.adapters
        ]
        np.testing.assert_allclose(layer.delta_weight("sum"), sum(deltas), atol=1e-5)


def test_the_combination_has_scaling_one_and_the_ranks_of_its_layers():
    model = adapters(second={"r": 7})
    combined(model, "cat", (1, 1))
    ranks = {name.split(".")[-1]: layer.r["sum"] for name, layer in model.base_model.layers()}
    assert ranks == {"c_attn": 11, "c_fc": 4}
    assert {layer.scaling["sum"] for _, layer in model.base_model.layers()} == {1.0}


@pytest.mark.parametrize(("kind", "options"), EXACT, ids=["cat", "svd"])
def test_rslora_adapters_have_scaling_one_too(kind, options):
    model = adapters({"use_rslora": True}, {"use_rslora": True, "r": 3})
    expected = both_active(model, (1, 2))
    assert relative(combined(model, kind, (1, 2), **options), expected) < 1e-5
    for _, layer in model.base_model.layers():
        assert layer.scaling["sum"] == pytest.approx(1)


def test_the_order_and_the_sources_do_not_change():
    model = adapters()
    before = snapshot(model)
    model.add_weighted_adapter(["other", "default"], [2, 1], "sum", "cat")
    after = snapshot(model)
    assert {name: after[name] for name in before} == before
    assert model.active_adapters == ["default"]
    expected = both_active(model, (1, 2))
    model.set_adapter("sum")
    assert relative(logits_of(model), expected) < 1e-5


@pytest.mark.parametrize("kind", ["linear", "ties", "magnitude_prune", "dare_linear", "dare_ties", "ties_svd"])
def test_every_kind_gives_an_adapter_that_can_be_used(kind):
    model = adapters()
    assert np.isfinite(combined(model, kind, (1, -0.5), density=0.6)).all()
    model.merge_adapter()
    model.unmerge_adapter()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["default", "other"], [1, 1], "sum", "average"), "unknown kind of combination 'average'"),
        ((["default", "other"], [1, 1], "other", "cat"), "an adapter 'other' already"),
        ((["default", "other"], [1], "sum", "cat"), "2 adapters and 1 weights"),
        (([], [], "sum", "cat"), "0 adapters"),
        ((["default", "default"], [1, 1], "sum", "cat"), "named twice"),
        ((["default", "other"], [1, 1], "sum", "linear"), "'linear' needs adapters of equal rank, not 4, 7"),
        ((["default", "other"], [1, 1], "sum", "ties"), "'ties' needs adapters of equal rank"),
        ((["default", "other"], [1, 1], "a.b", "cat"), "no dot or slash"),
    ],
    ids=str,
)
def test_what_can_not_be_combined_is_refused_and_nothing_changes(arguments, message):
    model = adapters(second={"r": 7})
    before = snapshot(model)
    assert message in refusal(ValueError, lambda: model.add_weighted_adapter(*arguments))
    assert snapshot(model) == before
    assert list(model.peft_config) == ["default", "other"]


@pytest.mark.parametrize("second", [{"use_dora": True}, {"lora_bias": True}], ids=lambda o: next(iter(o)))
def test_only_plain_lora_is_combined(second):
    model = adapters(second=second)
    before = snapshot(model)
    message = refusal(ValueError, lambda: model.add_weighted_adapter(["default", "other"], [1, 1], "sum", "cat"))
    assert "only plain LoRA can be combined" in message
    assert snapshot(model) == before


def test_unknown_and_merged_adapters_are_refused():
    model = adapters()
    assert "'third'" in refusal(KeyError, lambda: model.add_weighted_adapter(["third"], [1], "sum", "cat"))
    model.merge_adapter()
    message = refusal(RuntimeError, lambda: model.add_weighted_adapter(["default"], [1], "sum", "cat"))
    assert "unmerge_adapter() first" in message


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("ranks", [(4, 4), (4, 7)], ids=str)
def test_saved_and_loaded_again(tmp_path, ranks, rslora):
    model = adapters({"r": ranks[0], "use_rslora": rslora}, {"r": ranks[1], "use_rslora": rslora})
    expected = combined(model, "cat", (1, -0.5))
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "sum")
    np.testing.assert_array_equal(logits_of(loaded), expected)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_loads_the_combination(tmp_path, rslora):
    model = adapters({"use_rslora": rslora}, {"r": 7, "use_rslora": rslora})
    expected = combined(model, "cat", (1, -0.5))
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    assert relative(logits_of(load_in_peft(tiny_model(), tmp_path / "sum")), expected) < 2e-5


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("weights", [(1, 1), (0.5, 2), (0.7, -0.4)], ids=str)
@pytest.mark.parametrize("kind", ["linear", "cat"])
def test_peft_gives_the_same_combination(tmp_path, kind, weights):
    model = adapters()
    model.save_pretrained(tmp_path)
    twin = load_in_peft(tiny_model(), tmp_path)
    twin.load_adapter(tmp_path / "other", "other")
    twin.add_weighted_adapter(["default", "other"], list(weights), "sum", kind)
    twin.set_adapter("sum")
    assert relative(combined(model, kind, weights), logits_of(twin)) < 2e-5


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("kind", "names", "weights"),
    [
        ("linear", ["default"], [-1]),
        ("svd", ["default"], [-1]),
        ("cat", ["default", "other"], [1, -1]),
        ("svd", ["default", "other"], [-1, -1]),
        ("ties", ["default", "other"], [1, -1]),
        ("magnitude_prune_svd", ["default", "other"], [-1, 0.5]),
    ],
    ids=str,
)
def test_negated_adapters_are_pefts(tmp_path, kind, names, weights):
    model = adapters()
    model.save_pretrained(tmp_path)
    twin = load_in_peft(tiny_model(), tmp_path)
    twin.load_adapter(tmp_path / "other", "other")
    for one in (model, twin):
        one.add_weighted_adapter(names, weights, "sum", kind, density=0.6, svd_rank=8 if "svd" in kind else None)
        one.set_adapter("sum")
    assert relative(logits_of(model), logits_of(twin)) < 2e-5


def test_an_adapter_is_taken_out_again_by_its_negation():
    """Task arithmetic: θ + τ and θ - τ lie on opposite sides of θ, and θ + τ - τ is θ."""
    model = adapters()
    with model.disable_adapter():
        base = logits_of(model)
    model.add_weighted_adapter(["default"], [-1], "against", "linear")
    model.add_weighted_adapter(["default", "against"], [1, 1], "nothing", "cat")
    model.set_adapter("nothing")
    assert relative(logits_of(model), base) < 1e-5
    model.set_adapter("against")
    assert relative(logits_of(model), base) > 1e-2
    plus, minus = ({n: layer.delta_weight(a) for n, layer in model.base_model.layers()} for a in ("default", "against"))
    for name, delta in plus.items():
        np.testing.assert_allclose(minus[name], -delta, atol=1e-6)
    model.set_adapter(["default", "against"])
    assert relative(logits_of(model), base) < 1e-5


@pytest.mark.parametrize("density", [None, 0.2])
@pytest.mark.parametrize("kind", KINDS)
def test_of_a_single_adapter_nothing_is_pruned(kind, density):
    model = adapters()
    model.add_weighted_adapter(["default"], [-0.7], "sum", kind, density=density)
    for _, layer in model.base_model.layers():
        np.testing.assert_allclose(layer.delta_weight("sum"), -0.7 * layer.delta_weight("default"), atol=1e-6)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "1", None, 1j], ids=str)
def test_weights_are_finite_numbers(weight):
    model = adapters()
    before = snapshot(model)
    message = refusal(ValueError, lambda: model.add_weighted_adapter(["default", "other"], [1, weight], "sum", "cat"))
    assert "finite numbers" in message
    assert snapshot(model) == before


@pytest.mark.parametrize("rank", [2.0, "2", 0, -1], ids=repr)
def test_svd_rank_is_a_whole_number(rank):
    model = adapters()
    action = lambda: model.add_weighted_adapter(["default", "other"], [1, 1], "sum", "svd", svd_rank=rank)  # noqa: E731
    assert "svd_rank" in refusal(ValueError, action)


def test_an_adapter_with_a_head_of_its_own_is_refused_and_not_halved():
    model = peft_model(["c_attn"], modules_to_save=["lm_head"])
    before = snapshot(model)
    assert "trains modules whole" in refusal(
        ValueError, lambda: model.add_weighted_adapter(["default"], [1.0], "sum", "cat")
    )
    assert snapshot(model) == before


ONE = [(kind, {"density": 0.5}) for kind in KINDS] + [("ties_svd", {"density": 0.5, "svd_rank": 2})]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("kind", "options"), ONE, ids=str)
def test_one_adapter_alone_is_only_scaled_as_in_peft(tmp_path, kind, options):
    model = adapters()
    model.save_pretrained(tmp_path)
    twin = load_in_peft(tiny_model(), tmp_path)
    for each in (model, twin):
        each.add_weighted_adapter(["default"], [-0.7], "sum", kind, **options)
        each.set_adapter("sum")
    assert relative(logits_of(model), logits_of(twin)) < 2e-5


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("quantile", [0.5, 0.8, 0.99, 1.0])
@pytest.mark.parametrize("kind", ["svd", "ties_svd", "magnitude_prune_svd"])
def test_clamped_as_in_peft(tmp_path, kind, quantile):
    """The signs of singular vectors are each library's own, so PEFT's unclamped matrices are clamped here."""
    model = adapters()
    model.save_pretrained(tmp_path)
    twin = load_in_peft(tiny_model(), tmp_path)
    twin.load_adapter(tmp_path / "other", "other")
    for name, limits in (("free", {}), ("sum", {"svd_clamp": quantile})):
        options = {"density": 0.6, "svd_full_matrices": False, "svd_driver": None, **limits}
        for each in (model, twin):
            each.add_weighted_adapter(["default", "other"], [1.0, -0.5], name, kind, **options)
    for target, layer in model.base_model.layers():
        theirs = twin.get_submodule(f"base_model.model.{target}")
        free, expected = (
            [X[name].weight.detach().numpy() for X in (theirs.lora_A, theirs.lora_B)] for name in ("free", "sum")
        )
        for X, Y in zip(clamp(*free, quantile), expected, strict=True):
            np.testing.assert_allclose(X, Y, atol=1e-6)
        own, limited = ([X.data for X in layer.adapters[name].matrices()] for name in ("free", "sum"))
        if kind != "svd":  # unclamped, that is computed from the factors, and has signs of its own
            for X, Y in zip(clamp(*own, quantile), limited, strict=True):
                np.testing.assert_allclose(X, Y, atol=1e-6)


@pytest.mark.parametrize("clamp", [0, -1, 1.5, "x", float("nan")], ids=str)
def test_a_clamp_is_a_quantile(clamp):
    model = adapters()
    arguments = ["default", "other"], [1, 1], "sum", "svd"
    assert "svd_clamp" in refusal(ValueError, lambda: model.add_weighted_adapter(*arguments, svd_clamp=clamp))


def test_an_svd_rank_makes_one_adapter_smaller():
    model = adapters()
    model.add_weighted_adapter(["default"], [1], "small", "svd", svd_rank=1)
    assert all(len(layer.lora_A["small"].weight.data) == 1 for _, layer in model.base_model.layers())


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_svd_rank_above_the_layers_size_as_in_peft(tmp_path):
    model = adapters(second={"r": 7})
    model.save_pretrained(tmp_path)
    twin = load_in_peft(tiny_model(), tmp_path)
    twin.load_adapter(tmp_path / "other", "other")
    for each, options in ((model, {}), (twin, {"svd_full_matrices": False})):
        each.add_weighted_adapter(["default", "other"], [1.0, 0.5], "sum", "svd", svd_rank=100, **options)
        each.set_adapter("sum")
    assert relative(logits_of(model), logits_of(twin)) < 2e-5
    model.save_pretrained(tmp_path / "again", selected_adapters=["sum"])
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "again" / "sum")
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))


@pytest.mark.parametrize("density", ["1", None, 1j, 2.0], ids=str)
def test_a_density_is_a_fraction(density):
    action = lambda: adapters().add_weighted_adapter(["default", "other"], [1, 1], "s", "ties", density=density)  # noqa: E731
    assert "density" in refusal(ValueError, action)


def test_an_svd_rank_of_numpys_is_one():
    model = adapters()
    model.add_weighted_adapter(["default", "other"], [1, 1], "sum", "svd", svd_rank=np.int64(2))
    assert model.peft_config["sum"].r == 2
    assert type(model.peft_config["sum"].r) is int
    assert "svd_rank = True" in refusal(
        ValueError, lambda: model.add_weighted_adapter(["default", "other"], [1, 1], "no", "svd", svd_rank=True)
    )


PRUNING = {"density": 0.6}
WITH_EMBEDDINGS = [("linear", {}), ("cat", {}), ("svd", {}), ("ties", PRUNING), ("magnitude_prune_svd", PRUNING)]
RANKS = [{"r": 4}, {"r": 2, "rank_pattern": {"layers.0.self_attn.q_proj": 5}}]  # PEFT's "svd" has 5 in each layer


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("second", RANKS, ids=str)
@pytest.mark.parametrize(("kind", "options"), WITH_EMBEDDINGS, ids=[kind for kind, _ in WITH_EMBEDDINGS])
def test_embeddings_and_layers_of_other_ranks_are_combined_as_in_peft(tmp_path, kind, options, second):
    targets = ["embed_tokens", "q_proj", "down_proj"]
    model = peft_model(targets, tiny_llama(tie_word_embeddings=False))
    other = {"target_modules": targets, "lora_alpha": 3, "init_lora_weights": False, **second}
    model.add_adapter("other", LoraConfig(**other))
    model.save_pretrained(tmp_path)
    twin = load_in_peft(tiny_llama(tie_word_embeddings=False), tmp_path)
    twin.load_adapter(tmp_path / "other", "other")
    combine = lambda one: one.add_weighted_adapter(["default", "other"], [0.7, -0.4], "sum", kind, **options)  # noqa: E731
    if second["r"] != 4 and kind in ("linear", "ties"):
        assert "equal rank" in refusal(ValueError, lambda: combine(model))
        return
    for one in (model, twin):
        combine(one)
        one.set_adapter("sum")
    assert relative(logits_of(model), logits_of(twin)) < 2e-5
    for name, layer in model.base_model.layers():
        theirs = twin.get_submodule(f"base_model.model.{name}").get_delta_weight("sum").detach().numpy()
        assert relative(layer.oriented(layer.delta_weight("sum")), theirs) < 1e-4, name
    model.save_pretrained(tmp_path, selected_adapters=["sum"])
    loaded = PeftModel.from_pretrained(tiny_llama(tie_word_embeddings=False), tmp_path / "sum")
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))
