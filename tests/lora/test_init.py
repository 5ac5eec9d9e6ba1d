"""How A and B start: their distributions, by a Kolmogorov-Smirnov test; starts that leave the output as it was."""

import numpy as np
import pytest
from lora_helpers import (
    load_in_peft,
    logits_of,
    peft_model,
    peft_twin,
    perturbed,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_model,
)
from scipy import stats

from lora_np import LoraConfig, PeftModel, get_peft_model, manual_seed
from lora_np.lora.init import init_lora

R, IN, OUT = 16, 400, 300
A_UNIFORM = stats.uniform(-1 / 20, 2 / 20)  # ±1/√in
B_UNIFORM = stats.uniform(-1 / 4, 2 / 4)  # ±1/√r
A_NORMAL = stats.norm(0, 1 / 16)  # standard deviation 1/r


def pvalue(array, distribution):
    return stats.kstest(np.asarray(array, np.float64).reshape(-1), distribution.cdf).pvalue


@pytest.mark.parametrize(
    ("kind", "expected_A", "expected_B"),
    [(True, A_UNIFORM, None), ("gaussian", A_NORMAL, None), (False, A_UNIFORM, B_UNIFORM)],
)
def test_a_and_b_start_as_stated(kind, expected_A, expected_B):
    A, B = init_lora(kind, np.ones((OUT, IN), np.float32), R, 1.0)
    assert (A.shape, B.shape) == ((R, IN), (OUT, R))
    assert A.dtype == B.dtype == np.float32
    assert pvalue(A, expected_A) > 1e-3
    if expected_B is None:
        assert not B.any()
    else:
        assert pvalue(B, expected_B) > 1e-3


def test_the_test_tells_the_distributions_apart():
    A, B = init_lora(False, np.ones((OUT, IN), np.float32), R, 1.0)
    assert pvalue(A, A_NORMAL) < 1e-6
    assert pvalue(A, stats.uniform(-1 / 19, 2 / 19)) < 1e-3
    assert pvalue(B, A_UNIFORM) < 1e-6


@pytest.mark.parity
@pytest.mark.parametrize("kind", [True, "gaussian", False])
def test_peft_draws_from_the_same_distributions(kind):
    import torch
    from peft.tuners.lora import layer

    torch.manual_seed(0)
    theirs = layer.Linear(
        torch.nn.Linear(IN, OUT), "default", config=layer.LoraConfig(r=R, lora_alpha=R, init_lora_weights=kind), r=R
    )
    A, B = init_lora(kind, np.ones((OUT, IN), np.float32), R, 1.0)
    for ours, parts in ((A, theirs.lora_A), (B, theirs.lora_B)):
        theirs_too = parts["default"].weight.detach().numpy()
        assert theirs_too.shape == ours.shape
        assert stats.ks_2samp(ours.reshape(-1), theirs_too.reshape(-1)).pvalue > 1e-3


@pytest.mark.parametrize("kind", [True, "gaussian", False])
def test_an_adapter_starts_as_its_config_says(kind):
    adapted = peft_model("all-linear", tiny_model(n_embd=32), r=16, init_lora_weights=kind)
    layer = adapted.base_model.model.transformer.h[0].mlp.c_fc
    A, B = layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data
    assert (A.shape, B.shape) == ((16, 32), (128, 16))
    assert pvalue(A, stats.norm(0, 1 / 16) if kind == "gaussian" else stats.uniform(-(32**-0.5), 2 * 32**-0.5)) > 1e-3
    assert B.any() == (kind is False)


def test_layers_and_adapters_start_apart_and_the_seed_decides_how():
    def all_A(seed):
        model = tiny_model()
        manual_seed(seed)
        adapted = peft_model(["c_attn", "c_proj"], model)
        return [p.data for name, p in adapted.named_parameters() if "lora_A" in name]

    first, again, other = all_A(1), all_A(1), all_A(2)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert all((a != b).any() for a, b in zip(first, other, strict=True))
    assert (first[0] != first[1][:, :16]).any()


@pytest.mark.parametrize("kind", [True, "gaussian"])
@pytest.mark.parametrize("targets", [["c_attn"], "all-linear", ["lm_head"]], ids=str)
def test_with_b_zero_the_model_is_the_base_model_bit_for_bit(kind, targets):
    model = tiny_model()
    ids = some_ids(model.config)
    expected = model(ids).logits.data.copy()
    adapted = peft_model(targets, model, init_lora_weights=kind, lora_alpha=1000)
    np.testing.assert_array_equal(adapted(ids).logits.data, expected)


def test_with_b_zero_only_b_gets_a_gradient():
    adapted = peft_model("all-linear", init_lora_weights=True)
    ids = some_ids(adapted.config)
    adapted(ids, labels=ids).loss.backward()
    for name, p in adapted.named_parameters():
        if "lora_A" in name:
            assert not p.grad.any(), name
        elif "lora_B" in name:
            assert p.grad.any(), name


# Starts that leave the model's results as they were, although B is not zero.
TAKEN = ["pissa", "pissa_niter_4", "olora"]  # these take s·BA out of the base weight
NEUTRAL = pytest.mark.parametrize("kind", [*TAKEN, "orthogonal"])
OF_TARGETS = pytest.mark.parametrize("targets", [["c_attn"], "all-linear"], ids=str)


@NEUTRAL
@OF_TARGETS
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=str)
def test_starts_with_b_not_zero_leave_the_models_output_as_it_was(kind, targets, options):
    expected = logits_of(tiny_model())
    model = peft_model(targets, init_lora_weights=kind, **options)
    assert relative(logits_of(model), expected) < 1e-5
    for _, layer in model.base_model.layers():
        A, B = (p.data for p in layer.matrices("default"))
        assert A.any()
        assert B.any()


def test_orthogonal_a_and_b_have_no_product():
    A, B = init_lora("orthogonal", np.ones((OUT, IN), np.float32), R, 1.0)
    assert (A.shape, B.shape) == ((R, IN), (OUT, R))
    assert np.linalg.norm(B @ A) < 1e-5 * np.linalg.norm(B) * np.linalg.norm(A)
    assert np.linalg.matrix_rank(A) == np.linalg.matrix_rank(B) == R // 2


@pytest.mark.parametrize("options", [{"r": 3}, {"r": 4, "rank_pattern": {"c_fc": 5}}], ids=str)
def test_orthogonal_needs_even_ranks(options):
    assert "needs even ranks" in refusal(
        ValueError, lambda: LoraConfig(init_lora_weights="orthogonal", target_modules=["c_attn"], **options)
    )


@pytest.mark.parametrize("s", [1.0, 2.5])
def test_pissa_takes_the_largest_singular_values(rng, s):
    W = rng.standard_normal((12, 9)).astype(np.float32)
    A, B = init_lora("pissa", W, 4, s)
    U, S, Vt = np.linalg.svd(W.astype(np.float64), full_matrices=False)
    assert relative(s * (B @ A), (U[:, :4] * S[:4]) @ Vt[:4]) < 1e-5
    np.testing.assert_allclose(np.linalg.svd(W - s * (B @ A), compute_uv=False)[:5], S[4:], rtol=1e-4)
    np.testing.assert_allclose(s * (A * A).sum(axis=1), S[:4], rtol=1e-5)  # √(S/s) on either side
    np.testing.assert_allclose(s * (B * B).sum(axis=0), S[:4], rtol=1e-5)


def test_pissa_by_a_randomised_svd_is_close_to_the_exact_one(rng):
    U, V = (np.linalg.qr(rng.standard_normal((n, 40)))[0] for n in (60, 40))
    W = ((U * 0.7 ** np.arange(40)) @ V.T).astype(np.float32)
    exact, fast = (np.matmul(*init_lora(kind, W, 6, 2.0)[::-1]) for kind in ("pissa", "pissa_niter_4"))
    assert relative(fast, exact) < 1e-3


def test_olora_takes_the_first_columns_of_q(rng):
    W = rng.standard_normal((12, 9)).astype(np.float32)
    A, B = init_lora("olora", W, 4, 2.0)
    Q, R = np.linalg.qr(W)
    np.testing.assert_allclose(B, Q[:, :4], atol=1e-6)
    np.testing.assert_allclose(A, R[:4], atol=1e-6)


@pytest.mark.parametrize("kind", TAKEN)
@OF_TARGETS
def test_the_base_weight_becomes_what_is_left(kind, targets):
    plain, model = tiny_model(), peft_model(targets, init_lora_weights=kind)
    for name, layer in model.base_model.layers():
        W = plain.get_submodule(name).weight.data
        left = layer.base_layer.weight.data
        assert relative(left, W - layer.get_delta_weight("default")) < 1e-6
        assert np.linalg.norm(left - W) > 0.1


@pytest.mark.parametrize("kind", TAKEN)
class TestTheOriginalBaseWeight:
    """Whatever is taken out of the base weight can be had back, to the bit."""

    def trained(self, kind):
        model = peft_model("all-linear", init_lora_weights=kind)
        perturbed(model)
        return model

    def test_comes_back_with_delete_adapter(self, kind):
        model = self.trained(kind)
        model.delete_adapter("default")
        assert snapshot(model.get_base_model().requires_grad_(True)) == snapshot(tiny_model())

    @pytest.mark.parametrize("merged", [False, True])
    def test_comes_back_with_unload(self, kind, merged):
        model = self.trained(kind)
        if merged:
            model.merge_adapter()
        assert snapshot(model.unload().requires_grad_(True)) == snapshot(tiny_model())

    @pytest.mark.parametrize("merged", [False, True])
    def test_is_used_while_adapters_are_disabled(self, kind, merged):
        model = self.trained(kind)
        if merged:
            model.merge_adapter()
        before, expected = snapshot(model), logits_of(model)
        with model.disable_adapter():
            np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
        assert snapshot(model) == before
        np.testing.assert_array_equal(logits_of(model), expected)

    def test_merging_leaves_the_trained_results(self, kind):
        model = self.trained(kind)
        expected = logits_of(model)
        before = snapshot(model)
        model.merge_adapter()
        assert relative(logits_of(model), expected) < 1e-5
        model.unmerge_adapter()
        assert snapshot(model) == before
        assert relative(logits_of(model.merge_and_unload()), expected) < 1e-5

    @pytest.mark.parametrize("second", [True, "pissa"])
    def test_no_other_adapter_stands_beside_it(self, kind, second):
        """Its A and B would be loaded beside another base than the one they were made for."""
        for first, later in ((kind, second), (True, kind)):
            model = peft_model("all-linear", init_lora_weights=first)
            before = snapshot(model)
            config = LoraConfig(r=2, target_modules=["c_attn"], init_lora_weights=later, fan_in_fan_out=True)
            message = refusal(ValueError, lambda model=model, config=config: model.add_adapter("second", config))
            assert "must be alone on its layers" in message
            assert snapshot(model) == before

    def test_the_scale_does_not_change_what_was_taken_out(self, kind):
        model = self.trained(kind)
        model.set_scale("default", 3)
        model.rename_adapter("default", "other")
        with model.disable_adapter():
            np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
        model.delete_adapter("other")
        assert snapshot(model.get_base_model().requires_grad_(True)) == snapshot(tiny_model())

    def test_rows_without_an_adapter_are_refused(self, kind):
        model = self.trained(kind)
        message = refusal(ValueError, lambda: model(some_ids(model.config), adapter_names=["default", "__base__"]))
        assert "initialisation has changed them" in message


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize(
    ("targets", "options", "message"),
    [
        (["c_attn"], {"r": 17}, "allows 16 at most"),
        (["c_attn", "c_fc"], {"r": 2, "rank_pattern": {"h.1.mlp.c_fc": 17}}, "allows 16 at most"),
        (["lm_head"], {"r": 2}, "lm_head shares"),
        (["c_fc", "c_attn.q"], {"r": 2}, "parts of a projection"),
    ],
    ids=str,
)
def test_where_these_starts_are_impossible_nothing_changes(kind, targets, options, message):
    model = tiny_model()
    before = snapshot(model)
    assert message in refusal(ValueError, lambda: peft_model(targets, model, init_lora_weights=kind, **options))
    assert snapshot(model) == before


@pytest.mark.parametrize("kind", TAKEN)
@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"rank_pattern": {"c_fc": 2}}], ids=str)
class TestPlainLora:
    """`as_plain_lora`: twice the rank, on the untouched base."""

    def saved(self, directory, kind, options):
        model = peft_model(["c_attn", "c_fc"], init_lora_weights=kind, **options)
        perturbed(model)
        model.set_scale("default", 0.5)  # is not saved
        model.save_pretrained(directory, as_plain_lora=True)
        model.set_scale("default", 1)
        return logits_of(model)

    def test_loads_here(self, tmp_path, kind, options):
        expected = self.saved(tmp_path, kind, options)
        loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
        assert relative(logits_of(loaded), expected) < 1e-5
        ranks = {name: layer.r["default"] for name, layer in loaded.base_model.layers()}
        assert all(r == (4 if "rank_pattern" in options and name.endswith("c_fc") else 8) for name, r in ranks.items())
        for name, layer in loaded.base_model.layers():
            np.testing.assert_array_equal(layer.base_layer.weight.data, tiny_model().get_submodule(name).weight.data)

    @pytest.mark.parity
    @pytest.mark.filterwarnings("ignore::UserWarning")
    def test_loads_in_peft(self, tmp_path, kind, options):
        expected = self.saved(tmp_path, kind, options)
        assert relative(logits_of(load_in_peft(tiny_model(), tmp_path)), expected) < 2e-5


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["pissa", "olora", "orthogonal"])
class TestExchangeWithPeft:
    """Unconverted: whoever loads the adapter takes the same part out of the base again."""

    def where(self, kind):
        """A model and its targets: PEFT's "olora" works for a Linear only."""
        return (tiny_model(tie_word_embeddings=False), ["lm_head"]) if kind == "olora" else (tiny_model(), ["c_attn"])

    def test_ours_loads_in_peft(self, tmp_path, kind):
        base, targets = self.where(kind)
        model = peft_model(targets, base, init_lora_weights=kind)
        perturbed(model)
        model.save_pretrained(tmp_path)
        base, _ = self.where(kind)
        assert relative(logits_of(load_in_peft(base, tmp_path)), logits_of(model)) < 1e-4
        loaded = PeftModel.from_pretrained(base, tmp_path)
        assert relative(logits_of(loaded), logits_of(model)) < 1e-6

    def test_pefts_loads_here(self, tmp_path, kind):
        import torch

        base, targets = self.where(kind)
        twin = peft_twin(base, LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=kind))
        with torch.no_grad():
            for p in twin.parameters():
                if p.requires_grad:
                    p += 0.1 * torch.randn(p.shape)
        twin.save_pretrained(tmp_path)
        assert relative(logits_of(PeftModel.from_pretrained(base, tmp_path)), logits_of(twin)) < 1e-4


def test_a_random_start_is_saved_in_the_plain_form_only(tmp_path):
    """Loading draws anew, and what it takes out of the base would not be what was taken out here."""
    model = get_peft_model(tiny_model(), LoraConfig(r=2, init_lora_weights="pissa_niter_4", fan_in_fan_out=True))
    with pytest.raises(ValueError, match="save with as_plain_lora=True"):
        model.save_pretrained(tmp_path / "own")
    assert not (tmp_path / "own").exists()
    model.save_pretrained(tmp_path / "plain", as_plain_lora=True)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "plain")
    assert relative(logits_of(loaded), logits_of(model)) < 1e-5


@pytest.mark.parametrize("kind", ["pissa", "pissa_niter_4", "olora"])
def test_a_rank_as_large_as_the_smaller_side_takes_all_of_the_weight(kind):
    model = peft_model(["c_attn", "c_fc"], init_lora_weights=kind, r=16, lora_alpha=16)
    for _, layer in model.base_model.layers():
        assert min(layer.base_layer.weight.shape) == 16
        assert abs(layer.base_layer.weight.data).max() < 1e-5
    assert relative(logits_of(model), logits_of(tiny_model())) < 1e-5
