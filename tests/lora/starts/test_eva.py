"""EVA: A from the directions of the layers' inputs, ranks from what these explain."""

import warnings

import numpy as np
import pytest
from lora_helpers import (
    assert_merges,
    load_in_peft,
    logits_of,
    perturbed,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_model,
)
from start_helpers import (
    MAKE,
    fresh_twin,
    in_torch,
    losses_of,
    no_layer_listens,
    some_batches,
    start_config,
    start_fields,
)

from lora_np import (
    EvaConfig,
    LoraConfig,
    PeftModel,
    get_eva_state_dict,
    get_peft_model,
    initialize_lora_eva_weights,
    nn,
)

each_base = pytest.mark.parametrize("base", MAKE)


def eva_model(base="gpt2", model=None, **options):
    return get_peft_model(model or MAKE[base](), start_config(base, init_lora_weights="eva", **options))


def initialized(base="gpt2", **options):
    model = eva_model(base, **options)
    initialize_lora_eva_weights(model, some_batches())
    return model


@each_base
def test_training_starts_at_the_base_model_bit_for_bit(base):
    model = eva_model(base)
    np.testing.assert_array_equal(logits_of(model), logits_of(MAKE[base]()))
    initialize_lora_eva_weights(model, some_batches())
    np.testing.assert_array_equal(logits_of(model), logits_of(MAKE[base]()))
    assert no_layer_listens(model)


def test_a_is_what_a_singular_value_decomposition_of_the_inputs_says():
    """Of the first layer, whose input is the normed embedding; one batch, which is seen again and again."""
    batch = some_batches(1)
    model, base = eva_model(eva_config=EvaConfig(rho=1.0, tau=0.999)), tiny_model()
    initialize_lora_eva_weights(model, batch)
    ids, mask = batch[0]["input_ids"], batch[0]["attention_mask"].astype(bool)
    embedded = base.transformer.wte.weight.data[ids] + base.transformer.wpe.weight.data[: ids.shape[1]]
    rows = base.transformer.h[0].ln_1(embedded).data[mask]
    _, _, V = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    A = dict(model.base_model.layers())["transformer.h.0.attn.c_attn"].adapters["default"].lora_A.weight.data
    np.testing.assert_allclose(A @ A.T, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(np.linalg.svd(A @ V[:3].T)[1], 1, atol=1e-4)  # one subspace


@each_base
def test_ranks_move_and_their_sum_stays(base):
    model = initialized(base)
    ranks = [layer.adapters["default"].r for _, layer in model.base_model.layers()]
    assert sum(ranks) == 3 * len(eva_model(base).base_model.layers())
    assert len(set(ranks)) > 1
    assert max(ranks) <= 6
    for _, layer in model.base_model.layers():
        assert layer.adapters["default"].scaling == pytest.approx(5 / 3)
    fixed = initialized(base, eva_config=EvaConfig(rho=1.0))
    assert {layer.adapters["default"].r for _, layer in fixed.base_model.layers()} == {3}


def test_alpha_stays_where_it_is_told_to():
    model = initialized(eva_config=EvaConfig(adjust_scaling_factors=False))
    assert model.peft_config["default"].alpha_pattern == {}
    assert {layer.adapters["default"].lora_alpha for _, layer in model.base_model.layers()} == {5}


def test_padding_and_ignored_labels_do_not_count():
    batches = some_batches()
    other = [{**b, "input_ids": np.where(b["attention_mask"], b["input_ids"], 7)} for b in batches]
    first, second = (get_eva_state_dict(eva_model(), each) for each in (batches, other))
    assert all(np.array_equal(first[name].data, second[name].data) for name in first)
    labelled = [{**b, "labels": np.where(np.arange(12) < 5, -100, b["input_ids"])} for b in batches]
    ignored = get_eva_state_dict(eva_model(), labelled)
    assert any(not np.array_equal(first[name].data, ignored[name].data) for name in first)
    unmasked = get_eva_state_dict(eva_model(eva_config=EvaConfig(use_label_mask=False)), labelled)
    assert all(np.array_equal(first[name].data, unmasked[name].data) for name in first)


def test_a_plain_model_with_a_config_and_a_state_of_ones_own():
    config = start_config(init_lora_weights="eva")
    state = get_eva_state_dict(tiny_model(), some_batches(), config)
    assert next(iter(state)) == "transformer.h.0.attn.c_attn"
    model = eva_model()
    initialize_lora_eva_weights(model, eva_state_dict=state)
    assert snapshot(model) == snapshot(initialized())


def test_layers_that_a_state_gives_nothing():
    state = get_eva_state_dict(tiny_model(), some_batches(), start_config(init_lora_weights="eva"))
    names = list(state)
    state[names[0]] = state[names[0]][:0]
    del state[names[1]]
    model = eva_model()
    with pytest.warns(UserWarning, match=f"{names[1]}: not in the eva_state_dict"):
        initialize_lora_eva_weights(model, eva_state_dict=state)
    assert names[0] not in dict(model.base_model.layers())
    assert isinstance(model.base_model.model.get_submodule(names[0]), nn.Conv1D)
    assert model.peft_config["default"].target_modules == names[1:]
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))


def test_embeddings_and_dora_beside():
    model = eva_model(use_dora=True, target_modules=["c_attn", "wte"], rank_pattern={"wte": 2})
    before = dict(model.base_model.layers())["transformer.wte"].adapters["default"]
    initialize_lora_eva_weights(model, some_batches())
    assert dict(model.base_model.layers())["transformer.wte"].adapters["default"] is before
    assert model.peft_config["default"].rank_pattern["transformer.wte"] == 2
    assert relative(logits_of(model), logits_of(tiny_model())) < 1e-6


def test_a_base_in_four_bits():
    model = eva_model(model=nn.quantize_model(tiny_model()))
    expected = logits_of(model)
    initialize_lora_eva_weights(model, some_batches())
    np.testing.assert_array_equal(logits_of(model), expected)


def test_functions_of_ones_own():
    seen = []

    def forward(model, batch):
        seen.append(sorted(batch))
        return model(batch["input_ids"])

    every = {"transformer.h.0.attn.c_attn": lambda x, model_input, name: x.reshape(-1, 16)}
    config = start_config(init_lora_weights="eva")
    found = get_eva_state_dict(tiny_model(), some_batches(), config, forward, None, every)
    plain = get_eva_state_dict(tiny_model(), some_batches(padded=False), config)
    assert seen
    assert all(relative(found[name].data, plain[name].data) < 1e-4 for name in plain)
    with pytest.raises(ValueError, match="prepare_layer_inputs_fn has nothing"):
        get_eva_state_dict(tiny_model(), some_batches(), config, prepare_layer_inputs_fn={"nothing": None})


def test_files(tmp_path):
    model = perturbed(initialized())
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path, is_trainable=True)
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))
    assert loaded.peft_config["default"].init_lora_weights == "eva"
    assert loaded.peft_config["default"].eva_config == EvaConfig()
    assert_merges(loaded, 1e-5)


def test_adapters_are_combined_as_others_are():
    model = initialized(eva_config=EvaConfig(rho=1.0))
    model.add_adapter("second", start_config(init_lora_weights="eva"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.add_weighted_adapter(["default", "second"], [0.5, 0.5], "both", "linear")
    assert model.peft_config["both"].init_lora_weights is True
    assert model.peft_config["both"].eva_config is None


def test_a_short_training_run():
    losses = losses_of(initialized())
    assert losses[-1] < 0.8 * losses[0]


class BrokenError(Exception):
    pass


def test_an_error_while_data_is_run_changes_nothing():
    model = eva_model()
    before, config = snapshot(model), model.peft_config["default"].to_dict()
    calls = []

    def forward(model, batch):
        calls.append(model(**batch))
        if len(calls) == 3:
            raise BrokenError

    with pytest.raises(BrokenError):
        initialize_lora_eva_weights(model, some_batches(), forward_fn=forward)
    assert snapshot(model) == before
    assert model.peft_config["default"].to_dict() == config
    assert no_layer_listens(model)


def beside_another():
    model = eva_model()
    model.add_adapter("second", start_config())
    model.set_adapter(["default", "second"])
    return model


def merged():
    model = eva_model()
    model.merge_adapter()
    return model


BATCHES = some_batches()
STATE = "base_model.model.transformer.h.0.attn.c_attn"


@pytest.mark.parametrize(
    ("error", "action", "message"),
    [
        (ValueError, lambda: initialize_lora_eva_weights(tiny_model(), BATCHES), "has no adapters"),
        (ValueError, lambda: get_eva_state_dict(tiny_model(), BATCHES), "needs a peft_config"),
        (ValueError, lambda: initialize_lora_eva_weights(eva_model()), "needs a dataloader"),
        (ValueError, lambda: initialize_lora_eva_weights(eva_model(), []), "dataloader is empty"),
        (TypeError, lambda: initialize_lora_eva_weights(eva_model(), "text"), "dataloader should be a list of batches"),
        (TypeError, lambda: initialize_lora_eva_weights(eva_model(), [np.zeros((2, 5), int)]), "'input_ids'"),
        (
            KeyError,
            lambda: initialize_lora_eva_weights(eva_model(), BATCHES, adapter_name="other"),
            "no adapter 'other'",
        ),
        (KeyError, lambda: get_eva_state_dict(eva_model(), BATCHES, adapter_name="other"), "no adapter 'other'"),
        (ValueError, lambda: initialize_lora_eva_weights(beside_another(), BATCHES), "one adapter at a time"),
        (RuntimeError, lambda: initialize_lora_eva_weights(merged(), BATCHES), "unmerge_adapter"),
        (
            ValueError,
            lambda: initialize_lora_eva_weights(get_peft_model(tiny_model(), start_config()), BATCHES),
            "is for init_lora_weights='eva'",
        ),
        (
            ValueError,
            lambda: initialize_lora_eva_weights(eva_model(), [{"input_ids": np.zeros((1, 4), int)}]),
            "no batch has 6 tokens that count",
        ),
        (
            ValueError,
            lambda: initialize_lora_eva_weights(eva_model(), eva_state_dict={STATE: np.zeros((2, 5))}),
            "has shape (2, 5), not (r, 16)",
        ),
        (
            ValueError,
            lambda: initialize_lora_eva_weights(eva_model(), eva_state_dict={"other": np.zeros((2, 16))}),
            "eva_state_dict has other, and the adapted linear layers are transformer.h.0",
        ),
        (
            ValueError,
            lambda: get_peft_model(tiny_model(), LoraConfig(init_lora_weights="eva", target_modules=["c_attn.q"])),
            "parts of a projection",
        ),
    ],
)
def test_what_is_refused(error, action, message):
    assert message in str(refusal(error, action))


def test_inputs_that_are_not_finite():
    model = eva_model()
    model.transformer.h[1].ln_1.bias.data = np.full(16, np.nan, np.float32)
    message = refusal(ValueError, lambda: initialize_lora_eva_weights(model, BATCHES))
    assert "transformer.h.1.attn.c_attn: its inputs have NaN or infinity in them" in message


def test_directions_that_do_not_settle(monkeypatch):
    monkeypatch.setattr("lora_np.lora.starts.search.MOST_PASSES", 3)
    model = eva_model(eva_config=EvaConfig(tau=1.0))
    message = refusal(ValueError, lambda: initialize_lora_eva_weights(model, BATCHES))
    assert "its directions have not settled in 3 passes over the batches; lower tau (1.0)" in message


@pytest.mark.parity
@each_base
class TestAgainstPeft:
    def twin(self, base, batches, **options):
        import peft

        config = peft.LoraConfig(**start_fields(base, init_lora_weights="eva", eva_config=peft.EvaConfig(**options)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = peft.get_peft_model(fresh_twin(base), config).eval()
            peft.initialize_lora_eva_weights(theirs, in_torch(batches), show_progress_bar=False)
        return theirs

    @pytest.mark.parametrize("labels", [False, True])
    def test_ranks_alphas_and_a(self, base, labels):
        batches = some_batches()
        if labels:
            batches = [{**b, "labels": np.where(np.arange(12) < 3, -100, b["input_ids"])} for b in batches]
        whiten = base == "gpt2"  # PEFT divides more than once where layers share their inputs
        theirs = self.twin(base, batches, whiten=whiten)
        ours = eva_model(base, eva_config=EvaConfig(whiten=whiten))
        initialize_lora_eva_weights(ours, batches)
        found, expected = ours.peft_config["default"], theirs.peft_config["default"]
        assert found.rank_pattern == expected.rank_pattern != {}
        assert found.alpha_pattern == expected.alpha_pattern
        assert found.target_modules == list(expected.target_modules)
        own = dict(ours.named_parameters())
        for name, p in theirs.named_parameters():
            if "lora_" in name:
                assert relative(own[name].data, p.detach()) < 1e-3, name
        assert ours.get_nb_trainable_parameters() == theirs.get_nb_trainable_parameters()

    def test_files_both_ways(self, base, tmp_path):
        import torch

        theirs = self.twin(base, some_batches())
        with torch.no_grad():
            for p in theirs.parameters():
                p += 0.1 * torch.randn_like(p) if p.requires_grad else 0
        theirs.save_pretrained(tmp_path / "theirs")
        ours = PeftModel.from_pretrained(MAKE[base](), tmp_path / "theirs")
        ids = some_ids(ours.config)
        assert relative(logits_of(ours), logits_of(theirs, ids)) < 2e-5
        perturbed(ours).save_pretrained(tmp_path / "ours")
        back = load_in_peft(MAKE[base](), tmp_path / "ours")
        assert relative(logits_of(back, ids), logits_of(ours)) < 2e-5


@pytest.mark.parity
def test_layers_that_other_settings_name_are_left_to_them(tmp_path):
    """A weight among target_parameters starts as by default; PEFT reads the file, in which target_modules lack it."""
    options = {"target_parameters": ["up_proj.weight"], "trainable_token_indices": [3]}
    model = perturbed(initialized("llama", **options))
    assert not [name for name in model.peft_config["default"].target_modules if "up_proj" in name or "embed" in name]
    model.save_pretrained(tmp_path)
    expected = logits_of(model)
    np.testing.assert_array_equal(logits_of(PeftModel.from_pretrained(MAKE["llama"](), tmp_path)), expected)
    assert relative(logits_of(load_in_peft(MAKE["llama"](), tmp_path)), expected) < 1e-5
