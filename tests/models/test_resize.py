"""resize_token_embeddings: rows kept and new, tied heads, the config; the distribution of new rows; adapters' files."""

import warnings

import numpy as np
import pytest
from classifier_helpers import tiny_classifier
from lora_helpers import (
    hugging_face_twin,
    logits_of,
    peft_model,
    relative,
    some_ids,
    tiny_llama,
    tiny_model,
)

from lora_np import AutoModelForCausalLM, LoraConfig, PeftModel, get_peft_model, manual_seed, nn
from lora_np.storage import read_safetensors

MODELS = {
    "gpt2": tiny_model,
    "llama": tiny_llama,
    "tied llama": lambda: tiny_llama(tie_word_embeddings=True),
    "untied gpt2": lambda: tiny_model(tie_word_embeddings=False),
}
each_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@each_model
@pytest.mark.parametrize("mean_resizing", [True, False])
@pytest.mark.parametrize("count", [31, 20, 40])
def test_old_rows_stay_and_head_and_config_follow(make, mean_resizing, count):
    model, before = make(), make()
    embedding = model.resize_token_embeddings(count, mean_resizing=mean_resizing)
    assert embedding is model.get_input_embeddings()
    head = model.get_output_embeddings()
    assert (head.weight is embedding.weight) == model.config.tie_word_embeddings
    assert model.config.vocab_size == embedding.num_embeddings == head.out_features == count
    kept = min(count, 31)
    for layer, old in ((embedding, before.get_input_embeddings()), (head, before.get_output_embeddings())):
        assert layer.weight.shape == (count, 16)
        np.testing.assert_array_equal(layer.weight.data[:kept], old.weight.data[:kept])
    ids = some_ids(before.config) % kept
    assert relative(logits_of(model, ids)[..., :kept], logits_of(before, ids)[..., :kept]) < 1e-6
    assert model(ids, labels=ids).logits.shape == (2, 9, count)


def test_none_and_the_same_number_change_nothing():
    model = tiny_model()
    weight = model.transformer.wte.weight.data
    for arguments in ((), (31,)):
        assert model.resize_token_embeddings(*arguments) is model.transformer.wte
        assert model.transformer.wte.weight.data is weight
    assert not model.resized


@pytest.mark.parametrize(("given", "multiple", "count"), [(33, 8, 40), (40, 8, 40), (None, 16, 32), (30, 7, 35)])
def test_the_number_is_rounded_up(given, multiple, count):
    assert tiny_model().resize_token_embeddings(given, pad_to_multiple_of=multiple).num_embeddings == count


@pytest.mark.parametrize(
    ("arguments", "error"),
    [((0,), ValueError), ((-1,), ValueError), ((2.5,), TypeError), (("33",), TypeError), ((33, 0), ValueError)],
)
def test_what_is_no_number_is_refused(arguments, error):
    model = tiny_model()
    with pytest.raises(error, match=r"new_num_tokens|pad_to_multiple_of"):
        model.resize_token_embeddings(*arguments)
    assert model.config.vocab_size == 31


def test_new_rows_are_very_near_the_mean_with_a_part_of_the_covariance():
    model = tiny_model(vocab_size=200)
    old = model.transformer.wte.weight.data.copy()
    manual_seed(0)
    new = model.resize_token_embeddings(200 + 20_000).weight.data[200:].astype(np.float64)
    mean, covariance = old.mean(0), np.cov(old.T, bias=True)
    assert np.abs(new - mean).max() < 1e-3 * np.abs(old).max()
    centred = (new - mean) / 1e-9**0.5
    assert relative(np.cov(centred.T, bias=True), covariance) < 0.05


def test_without_covariance_they_are_the_mean_and_otherwise_as_the_config_says():
    model = tiny_model()
    model.transformer.wte.weight.data[:] = np.arange(16)
    np.testing.assert_allclose(model.resize_token_embeddings(40).weight.data[31:], [np.arange(16)] * 9, rtol=1e-6)
    model = tiny_model(initializer_range=0.5)
    new = model.resize_token_embeddings(3000, mean_resizing=False).weight.data[31:]
    assert abs(new.mean()) < 0.02
    assert new.std() == pytest.approx(0.5, rel=0.02)


def test_what_is_trained_stays_so_and_gradients_are_forgotten():
    model = tiny_model()
    model.requires_grad_(False)
    assert not model.resize_token_embeddings(40).weight.requires_grad
    model.requires_grad_(True)
    ids = some_ids(model.config)
    model(ids, labels=ids).loss.backward()
    assert model.resize_token_embeddings(45).weight.grad is None
    model(ids, labels=ids).loss.backward()
    assert model.transformer.wte.weight.grad.shape == (45, 16)


def test_a_head_may_have_a_bias():
    model = tiny_model(tie_word_embeddings=False)
    model.lm_head.bias = nn.Parameter(np.arange(31, dtype=np.float32))
    model.resize_token_embeddings(33)
    np.testing.assert_allclose(model.lm_head.bias.data, [*range(31), 15, 15], atol=1e-2)


def test_a_classifier_has_no_head_for_tokens():
    model = tiny_classifier()
    assert model.resize_token_embeddings(40).num_embeddings == 40
    assert model.config.vocab_size == 40


def test_it_is_refused_where_adapters_are(tmp_path):
    for targets, model in ((["wte"], tiny_model()), (["lm_head"], tiny_llama())):
        adapted = peft_model(targets, model).get_base_model()
        with pytest.raises(ValueError, match="resize_token_embeddings comes before get_peft_model"):
            adapted.resize_token_embeddings(40)
        assert adapted.config.vocab_size == 31
    saved = get_peft_model(tiny_model(), LoraConfig(target_modules=["c_attn"], modules_to_save=["wte"]))
    with pytest.raises(ValueError, match="the token embedding is a ModulesToSave"):
        saved.get_base_model().resize_token_embeddings(40)


def test_it_is_saved_and_loaded(tmp_path):
    model = tiny_model()
    model.resize_token_embeddings(40)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert again.config.vocab_size == 40
    assert not again.resized
    np.testing.assert_array_equal(logits_of(again), logits_of(model))


def adapted(make, directory):
    """A model from files, resized, with an adapter; and what its files need beside."""
    make().save_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    model.resize_token_embeddings(35)
    targets = ["c_attn"] if model.config.model_type == "gpt2" else ["q_proj", "v_proj"]
    return peft_model(targets, model)


@each_model
def test_an_adapters_file_has_the_resized_weights_and_brings_them_back(make, tmp_path):
    model = adapted(make, tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    keys = read_safetensors(tmp_path / "adapter" / "adapter_model.safetensors")[0]
    plain = {name.removeprefix("base_model.model.") for name in keys if "lora_" not in name}
    embedding = "transformer.wte.weight" if "transformer.wte.weight" in plain else "model.embed_tokens.weight"
    assert plain == {embedding, "lm_head.weight"}
    manual_seed(9)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(35, mean_resizing=False)
    with warnings.catch_warnings(action="ignore"):
        loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert relative(logits_of(loaded), logits_of(model)) < 1e-6
    with pytest.raises(ValueError, match=r"\(35, 16\) instead of \(31, 16\)"):
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")


def test_a_model_that_was_not_resized_is_not_saved_with_it(tmp_path):
    peft_model(model=tiny_model()).save_pretrained(tmp_path)
    keys = read_safetensors(tmp_path / "adapter_model.safetensors")[0]
    assert all("lora_" in name for name in keys)


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@each_model
@pytest.mark.parametrize("count", [20, 31, 40])
def test_shapes_ties_and_config_are_transformers(make, count):
    model = make()
    twin = hugging_face_twin(model)
    returned = twin.resize_token_embeddings(count, pad_to_multiple_of=4)
    assert model.resize_token_embeddings(count, pad_to_multiple_of=4).weight.shape == tuple(returned.weight.shape)
    assert model.config.vocab_size == twin.config.vocab_size
    ours, theirs = model.get_output_embeddings(), twin.get_output_embeddings()
    assert ours.weight.shape == tuple(theirs.weight.shape)
    kept = min(count, 31)
    assert relative(ours.weight.data[:kept], theirs.weight.detach()[:kept]) < 1e-7
    if count > 31:
        assert relative(ours.weight.data[kept:], theirs.weight.detach()[kept:]) < 1e-3


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@each_model
def test_adapters_files_are_exchanged_with_peft(make, tmp_path):
    import peft
    import torch
    import transformers

    ours = adapted(make, tmp_path / "base")
    ours.save_pretrained(tmp_path / "ours")
    ids = torch.tensor(some_ids(ours.config))

    def resized():
        base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
        base.resize_token_embeddings(35, mean_resizing=False)
        return base.eval()

    theirs = peft.PeftModel.from_pretrained(resized(), tmp_path / "ours").eval()
    with torch.no_grad():
        assert relative(logits_of(ours), theirs(ids).logits) < 2e-5
    theirs.save_pretrained(tmp_path / "theirs")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    base.resize_token_embeddings(35, mean_resizing=False)
    assert relative(logits_of(PeftModel.from_pretrained(base, tmp_path / "theirs")), logits_of(ours)) < 2e-5
    files = [read_safetensors(tmp_path / who / "adapter_model.safetensors")[0] for who in ("ours", "theirs")]
    assert {k: a.shape for k, a in files[0].items()} == {k: a.shape for k, a in files[1].items()}
