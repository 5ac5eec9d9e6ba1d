"""How A and B start: their distributions, by a Kolmogorov-Smirnov test, and what B = 0 means."""

import numpy as np
import pytest
from lora_helpers import peft_model, some_ids, tiny_model
from scipy import stats

from lora_np import manual_seed
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
    A, B = init_lora(kind, R, IN, OUT)
    assert (A.shape, B.shape) == ((R, IN), (OUT, R))
    assert A.dtype == B.dtype == np.float32
    assert pvalue(A, expected_A) > 1e-3
    if expected_B is None:
        assert not B.any()
    else:
        assert pvalue(B, expected_B) > 1e-3


def test_the_test_tells_the_distributions_apart():
    A, B = init_lora(False, R, IN, OUT)
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
    A, B = init_lora(kind, R, IN, OUT)
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
