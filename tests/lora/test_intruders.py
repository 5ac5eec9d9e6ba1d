"""Intruder dimensions: found by the definition, and reduced as in PEFT."""

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

from lora_np import manual_seed
from lora_np.lora.analysis import intruder_dimensions
from lora_np.lora.intruders import reduce_intruder_dimension


def with_intruders(targets=("q_proj", "down_proj"), scale=4.0, model=None, **options):
    """An adapter so large that it brings directions of its own into some layers; always the same."""
    manual_seed(0)
    model = peft_model(targets, tiny_llama() if model is None else model, r=3, **options)
    for i, adapter in enumerate(model.base_model.adapter("default").adapters.values()):
        adapter.matrices()[1].data *= scale if i % 2 else 0.05  # in every other layer
    return model


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    ("dtype", "tolerance", "options", "settings"),
    [
        (np.float32, 1e-5, {}, {}),
        (np.float64, 1e-10, {"use_rslora": True, "rank_pattern": {"down_proj": 5}}, {"top_k": 4}),
        (np.float64, 1e-10, {}, {"threshold_epsilon": 0.8, "mitigation_lambda": 0.0}),
    ],
    ids=["float32", "ranks", "taken out whole"],
)
def test_pefts_numbers(tmp_path, dtype, tolerance, options, settings):
    import torch
    from peft.tuners.lora.intruders import reduce_intruder_dimension as theirs

    model = with_intruders(model=tiny_llama().to(dtype=dtype), **options)
    model.save_pretrained(tmp_path)
    twin = load_in_peft(tiny_llama(), tmp_path).to(torch.float64 if dtype == np.float64 else torch.float32)
    values = dict(model.named_parameters())
    with torch.no_grad():
        for name, p in twin.named_parameters():
            p.copy_(torch.tensor(values[name].data))
    lines, expected = [], []
    reduce_intruder_dimension(model, logging_sink=lines.append, **settings)
    theirs(twin, logging_sink=expected.append, **settings)
    assert lines == expected
    assert {"No intruders", "Intruders"} <= {part.strip() for line in lines for part in line.split(":")}
    assert model.active_adapters == ["intruder_reduced"]
    modules = dict(twin.named_modules())
    for name, layer in model.base_model.layers():
        delta = modules[f"base_model.model.{name}"].get_delta_weight("intruder_reduced").detach().numpy()
        assert relative(layer.delta_weight("intruder_reduced"), delta) < tolerance
    assert relative(logits_of(model), logits_of(twin)) < 2e-5  # (its norms are in float32)


@pytest.mark.parametrize("targets", [["c_attn", "mlp.c_proj"], ["wte", "c_fc"]], ids=str)
def test_gpt2_and_embeddings_too(targets):
    """W + ΔW is what it was, but for the intruders, which are smaller; in the rank that A and B have."""
    model = with_intruders(targets, scale=8.0, model=tiny_model())
    reduce_intruder_dimension(model, logging_sink=None, threshold_epsilon=0.7)
    changed = 0
    for _, layer in model.base_model.layers():
        W = layer.oriented(layer.base_layer.weight.data).astype(np.float64)
        old, new = (layer.delta_weight(name) for name in ("default", "intruder_reduced"))
        (U, S, Vt), j = np.linalg.svd(W + old, full_matrices=False), intruder_dimensions(W, old, 10, 0.7).indices
        wanted = old - 0.25 * (U[:, j] * S[j]) @ Vt[j]
        u, s, vt = np.linalg.svd(wanted, full_matrices=False)
        assert relative(new, (u[:, :3] * s[:3]) @ vt[:3]) < 1e-5
        changed += bool(j)
    assert changed > 0


def test_where_nothing_intrudes_it_is_a_copy_and_modules_that_are_trained_whole_come_along():
    model = with_intruders(scale=0.05, modules_to_save=["lm_head"])
    head = model.base_model.saved["lm_head"].modules_to_save["default"].weight
    head.data = head.data + 1
    expected = logits_of(model)
    reduce_intruder_dimension(model, new_adapter_name="other", logging_sink=None, threshold_epsilon=0.01)
    np.testing.assert_array_equal(logits_of(model), expected)
    model.delete_adapter("default")
    np.testing.assert_array_equal(logits_of(model), expected)


def test_rows_that_are_trained_come_along():
    model = peft_model(["q_proj"], tiny_llama(), trainable_token_indices=[1, 5])
    rows = model.base_model.adapted["model.embed_tokens"].adapters["default"].trainable_tokens_delta
    rows.data = rows.data + 1
    expected = logits_of(model)
    reduce_intruder_dimension(model, new_adapter_name="other", logging_sink=None, threshold_epsilon=0.01)
    assert model.active_adapters == ["other"]
    np.testing.assert_array_equal(logits_of(model), expected)


def test_a_rescaled_adapter_is_taken_as_it_is_scaled():
    model, other = with_intruders(), with_intruders()
    model.set_scale("default", 0.5)
    for adapter in other.base_model.adapter("default").adapters.values():
        adapter.matrices()[1].data *= 0.5
    for one in (model, other):
        reduce_intruder_dimension(one, logging_sink=None, threshold_epsilon=0.8)
    assert relative(logits_of(model), logits_of(other)) < 1e-5


def test_what_makes_no_sense_is_refused_and_nothing_changes(monkeypatch):
    model = with_intruders()
    before = snapshot(model)
    call = reduce_intruder_dimension
    assert "top_k must be at least 1" in refusal(ValueError, lambda: call(model, top_k=0))
    assert "threshold_epsilon should be a number" in refusal(TypeError, lambda: call(model, threshold_epsilon="x"))
    assert "mitigation_lambda must not be" in refusal(ValueError, lambda: call(model, mitigation_lambda=-1.0))
    assert "'other'" in refusal(KeyError, lambda: call(model, "other"))
    assert "an adapter 'default' already" in refusal(ValueError, lambda: call(model, new_adapter_name="default"))
    monkeypatch.setattr(type(model), "set_adapter", lambda self, name: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        call(model, logging_sink=None)
    monkeypatch.undo()
    assert snapshot(model) == before
    assert list(model.peft_config) == ["default"]
    model.merge_adapter()
    assert "unmerge_adapter() first" in refusal(RuntimeError, lambda: call(model))
    dora = peft_model(["c_attn"], use_dora=True)
    assert "only plain LoRA" in refusal(ValueError, lambda: call(dora, logging_sink=None))
