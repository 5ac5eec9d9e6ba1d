"""trainable_token_indices: rows of an embedding, tied heads that follow, several adapters, files; against PEFT."""

import warnings

import numpy as np
import pytest
from lora_helpers import (
    assert_merges,
    gradients,
    hugging_face_twin,
    logits_of,
    peft_model,
    perturbed,
    refusal,
    relative,
    snapshot,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import LoraConfig, PeftModel, get_peft_model, nn
from lora_np.lora.tied_heads import TiedHead
from lora_np.storage import read_safetensors

ROWS = [1, 5, 30]
MODELS = {
    "gpt2": tiny_model,
    "llama": tiny_llama,
    "tied llama": lambda: tiny_llama(tie_word_embeddings=True),
    "untied gpt2": lambda: tiny_model(tie_word_embeddings=False),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
UNTIED = {"embed_tokens": [1, 2], "lm_head": [2, 7, 3]}


def config(model, indices=ROWS, **options):
    gpt2 = model.config.model_type == "gpt2"
    options = {"r": 3, "lora_alpha": 5, "init_lora_weights": False, "fan_in_fan_out": gpt2, **options}
    targets = ["c_attn"] if gpt2 else ["q_proj", "v_proj"]
    return LoraConfig(**{"target_modules": targets, "trainable_token_indices": indices, **options})


def adapted(make, indices=ROWS, **options):
    model = make()
    return perturbed(get_peft_model(model, config(model, indices, **options)))


def embedding_of(model):
    return model.get_base_model().get_input_embeddings()


def ids_with_rows(model):
    ids = some_ids(model.config)
    ids[0, :3] = ROWS
    return ids


@each_model
def test_it_begins_at_the_base_and_only_these_rows_are_trained(make):
    model = make()
    expected = logits_of(model)
    model = get_peft_model(model, config(model, init_lora_weights=True))
    found = logits_of(model)
    np.testing.assert_array_equal(np.delete(found, ROWS, axis=-1), np.delete(expected, ROWS, axis=-1))
    assert relative(found, expected) < 1e-6  # the trained rows of a head are a product of their own, rounded in its way
    shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad and "lora_" not in name}
    (name,) = shapes
    assert name.endswith(".token_adapter.trainable_tokens_delta.default")
    assert shapes[name] == (3, 16)


@each_model
def test_the_result_is_that_of_a_model_with_these_rows(make):
    model = adapted(make, init_lora_weights=True)
    for adapter in (a for layer in model.base_model.adapted.values() for a in layer.adapters.values()):
        if hasattr(adapter, "lora_B"):
            adapter.lora_B.weight.data[:] = 0
    plain = make()
    delta = embedding_of(model).adapters["default"].trainable_tokens_delta.data
    plain.get_input_embeddings().weight.data[ROWS] = delta
    ids = ids_with_rows(model)
    assert relative(logits_of(model, ids), logits_of(plain, ids)) < 1e-6
    assert relative(logits_of(model, ids), logits_of(make(), ids)) > 1e-2


@each_model
def test_gradients_are_those_of_finite_differences(make):
    model = adapted(make).to(dtype=np.float64)
    ids = ids_with_rows(model)
    model(ids, labels=ids).loss.backward()
    p = embedding_of(model).adapters["default"].trainable_tokens_delta
    gradient = p.grad.copy()
    for index in ((0, 3), (1, 0), (2, 15)):
        before, losses = p.data[index], []
        for step in (1e-6, -1e-6):
            p.data[index] = before + step
            losses.append(model(ids, labels=ids).loss.item())
        p.data[index] = before
        assert gradient[index] == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5, abs=1e-8)


@each_model
def test_merging_puts_the_rows_into_the_weight_and_unmerging_takes_them_out(make):
    model = adapted(make)
    weight = embedding_of(model).base_layer.weight
    delta = embedding_of(model).adapters["default"].trainable_tokens_delta.data
    model.merge_adapter()
    np.testing.assert_array_equal(weight.data[ROWS], delta)
    model.unmerge_adapter()
    tied = model.config.tie_word_embeddings
    assert_merges(model, 2e-6)
    assert model.config.tie_word_embeddings == tied
    head, embedding = model.base_model.model.lm_head, model.base_model.model.get_input_embeddings()
    assert type(head) is nn.Linear
    assert (head.weight is embedding.weight) == tied


def test_a_tied_head_follows_and_is_let_go():
    model = adapted(tiny_model)
    base = model.get_base_model()
    assert isinstance(base.lm_head, TiedHead)
    assert isinstance(base.get_output_embeddings(), TiedHead)
    model.add_adapter("other", LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    before = logits_of(model)
    model.set_adapter("other")
    np.testing.assert_array_equal(logits_of(model), logits_of(tiny_model()))
    model.set_adapter("default")
    np.testing.assert_array_equal(logits_of(model), before)
    model.rename_adapter("default", "new")
    np.testing.assert_array_equal(logits_of(model), before)
    model.delete_adapter("new")
    assert type(base.lm_head) is nn.Linear
    assert type(base.transformer.wte) is nn.Embedding


def test_each_row_of_a_batch_may_have_its_own_adapter():
    model = adapted(tiny_model)
    model.add_adapter("b", config(model, [1, 2]))
    model.set_adapter("b")
    perturbed(model, seed=7)
    ids = ids_with_rows(model)
    expected = []
    for row, name in enumerate(("default", "b")):
        model.set_adapter(name)
        expected.append(logits_of(model, ids[row : row + 1])[0])
    found = model(ids, adapter_names=["default", "b"]).logits.data
    assert relative(found, np.stack(expected)) < 1e-6
    base = model(ids, adapter_names=["__base__", "b"]).logits.data
    assert relative(base[0], logits_of(tiny_model(), ids)[0]) < 1e-6


def test_several_adapters_are_active_together_where_their_rows_differ():
    model = adapted(tiny_model)
    model.add_adapter("b", config(model, [7]))
    model.add_adapter("c", config(model, [5, 6]))
    model.set_adapter(["default", "b"])
    perturbed(model, seed=4)
    assert_merges(model, 2e-6)
    model = adapted(tiny_model)
    model.add_adapter("c", config(model, [5, 6]))
    message = refusal(ValueError, lambda: model.set_adapter(["default", "c"]))
    assert message == "default and c both train the row of token 5: only one can be active"
    assert "both train" in refusal(ValueError, lambda: model.merge_adapter(["default", "c"]))


def test_an_untied_head_can_have_rows_of_its_own():
    model = adapted(tiny_llama, UNTIED)
    assert set(model.base_model.adapted) >= {"model.embed_tokens", "lm_head"}
    found = gradients(model)
    shapes = {name: gradient.shape for name, gradient in found.items() if "trainable_tokens" in name}
    assert sorted(shapes.values()) == [(2, 16), (3, 16)]
    assert_merges(model, 2e-6)


def test_a_heads_bias_goes_with_its_rows():
    model = tiny_llama()
    model.lm_head.bias = nn.Parameter(np.arange(31, dtype=np.float32))
    expected = logits_of(model)
    model = get_peft_model(model, config(model, {"lm_head": [2, 7]}, init_lora_weights=True))
    assert relative(logits_of(model), expected) < 1e-6


def test_the_same_rows_for_a_tied_head_are_the_embeddings():
    model = adapted(lambda: tiny_llama(tie_word_embeddings=True), {"embed_tokens": [1], "lm_head": [1]})
    assert isinstance(model.get_base_model().lm_head, TiedHead)
    own = {"embed_tokens": [1], "lm_head": [2]}
    apart = adapted(lambda: tiny_llama(tie_word_embeddings=True), own)
    assert "lm_head" in apart.base_model.adapted
    assert "untie_weights" in refusal(ValueError, apart.merge_adapter)
    tied = lambda: adapted(lambda: tiny_llama(tie_word_embeddings=True), own, ensure_weight_tying=True)  # noqa: E731
    assert "ensure_weight_tying wants them tied" in refusal(ValueError, tied)


@pytest.mark.parametrize(
    ("indices", "options", "message"),
    [
        ([31], {}, "31 is no row of transformer.wte, which has 31; for a new token there is model.resize_token"),
        ([-1], {}, "-1 is no row"),
        ([1, 2, 1], {}, "names the row 1 of transformer.wte twice"),
        ({"c_attn": [1]}, {}, "c_attn is a Conv1D; only an Embedding has such rows"),
        ({"nothing": [1]}, {}, "no module's name ends in 'nothing'"),
        ([1], {"target_modules": ["wte", "c_attn"]}, "wte would have adapters of two kinds"),
        ([1], {"target_modules": ["lm_head", "c_attn"]}, "lm_head would have adapters of two kinds"),
        ([1], {"modules_to_save": ["wte"]}, "modules_to_save trains transformer.wte whole: choose one"),
        ([1], {"modules_to_save": ["lm_head"]}, "lm_head would have"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_has_changed(indices, options, message):
    model = tiny_model()
    before = snapshot(model)
    with warnings.catch_warnings(action="ignore"):
        assert message in refusal(ValueError, lambda: get_peft_model(model, config(model, indices, **options)))
    assert snapshot(model) == before


@pytest.mark.parametrize("value", ["12", 5, [1.5], ["a"], [True], {"wte": "x"}])
def test_a_setting_that_is_none_is_refused_by_its_name(value):
    with pytest.raises(ValueError, match="trainable_token_indices must be a list of tokens' numbers"):
        LoraConfig(trainable_token_indices=value)


def test_arrays_tuples_and_ranges_are_lists():
    for given in (np.array([1, 2]), (1, 2), range(1, 3), {2, 1}):
        assert LoraConfig(trainable_token_indices=given).trainable_token_indices == [1, 2]


def test_other_adapters_beside_are_refused():
    model = adapted(tiny_model)
    before = snapshot(model)
    for options in ({"target_modules": ["wte"]}, {"target_modules": ["lm_head"]}, {"modules_to_save": ["lm_head"]}):
        own = LoraConfig(**{"target_modules": ["c_attn"], "fan_in_fan_out": True, **options})
        with warnings.catch_warnings(action="ignore"):
            assert refusal(ValueError, lambda own=own: model.add_adapter("b", own))
    assert snapshot(model) == before
    lora = peft_model(["wte"])
    assert "two kinds" in refusal(ValueError, lambda: lora.add_adapter("b", config(lora, [1])))


def test_a_scale_leaves_the_rows_as_they_are():
    model = adapted(tiny_model, target_modules=["c_proj"])
    model.set_scale("default", 0)
    plain = tiny_model()
    plain.transformer.wte.weight.data[ROWS] = embedding_of(model).adapters["default"].trainable_tokens_delta.data
    assert relative(logits_of(model), logits_of(plain)) < 1e-6


@each_model
def test_a_file_brings_them_back_bit_for_bit(make, tmp_path):
    model = adapted(make)
    model.save_pretrained(tmp_path)
    keys = read_safetensors(tmp_path / "adapter_model.safetensors")[0]
    (name,) = [key for key in keys if "lora_" not in key]
    assert name.endswith(
        ("wte.token_adapter.trainable_tokens_delta", "embed_tokens.token_adapter.trainable_tokens_delta")
    )
    with warnings.catch_warnings(action="error"):
        loaded = PeftModel.from_pretrained(make(), tmp_path)
        loaded.load_adapter(tmp_path, "second")
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))
    loaded.set_adapter("second")
    np.testing.assert_array_equal(logits_of(loaded), logits_of(model))
    assert loaded.peft_config["default"].trainable_token_indices == ROWS


def test_rows_of_a_resized_model_come_back_with_its_weights(tmp_path):
    model = tiny_model()
    model.resize_token_embeddings(35)
    model = perturbed(get_peft_model(model, config(model, [32, 33])))
    model.save_pretrained(tmp_path)
    base = tiny_model()
    base.resize_token_embeddings(35, mean_resizing=False)
    with warnings.catch_warnings(action="ignore"):
        loaded = PeftModel.from_pretrained(base, tmp_path)
    assert relative(logits_of(loaded), logits_of(model)) < 1e-6


def twin(make, own):
    """PEFT's model on Transformers' with the weights of ours, and ours."""
    import peft
    import torch

    fields = {name: value for name, value in own.to_dict().items() if name != "peft_type"}
    ours = perturbed(get_peft_model(make(), own))
    theirs = peft.get_peft_model(hugging_face_twin(make()), peft.LoraConfig(**fields)).eval()
    values = dict(ours.named_parameters())
    with torch.no_grad():
        for name, p in theirs.named_parameters():
            p.copy_(torch.tensor(values[name].data))
    return theirs, ours


CASES = {name: (make, ROWS) for name, make in MODELS.items()} | {"rows of both": (tiny_llama, UNTIED)}


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_names_logits_and_gradients_are_pefts(case):
    import torch

    make, indices = CASES[case]
    theirs, ours = twin(make, config(make(), indices))
    ids = ids_with_rows(ours)
    expected = theirs(input_ids=torch.tensor(ids), labels=torch.tensor(ids))
    expected.loss.backward()
    out = ours(ids, labels=ids)
    out.loss.backward()
    assert relative(out.logits.data, expected.logits.detach()) < 2e-5
    assert relative(out.loss.item(), expected.loss.item()) < 2e-5
    wanted = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    found = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in found.items():
        assert relative(gradient, wanted[name]) < 2e-5, name
    with ours.disable_adapter(), theirs.disable_adapter(), torch.no_grad():
        assert relative(logits_of(ours, ids), theirs(torch.tensor(ids)).logits) < 2e-5


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_files_are_exchanged_with_peft(case, tmp_path):
    import peft
    import torch

    make, indices = CASES[case]
    theirs, ours = twin(make, config(make(), indices))
    ours.save_pretrained(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs")
    files = [read_safetensors(tmp_path / who / "adapter_model.safetensors")[0] for who in ("ours", "theirs")]
    assert {k: a.shape for k, a in files[0].items()} == {k: a.shape for k, a in files[1].items()}
    ids = ids_with_rows(ours)
    back = PeftModel.from_pretrained(make(), tmp_path / "theirs")
    assert relative(logits_of(back, ids), logits_of(ours, ids)) < 2e-5
    loaded = peft.PeftModel.from_pretrained(hugging_face_twin(make()), tmp_path / "ours").eval()
    with torch.no_grad():
        assert relative(logits_of(ours, ids), loaded(torch.tensor(ids)).logits) < 2e-5
        ours.merge_adapter()
        loaded.merge_adapter()
        assert relative(logits_of(ours, ids), loaded(torch.tensor(ids)).logits) < 2e-5
