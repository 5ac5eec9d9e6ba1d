"""Model directories: ours and Transformers', whole and damaged."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lora_helpers import fuzz, hugging_face_twin, relative, snapshot, some_ids, tiny_model

from lora_np.models.checkpoints import load_pretrained
from lora_np.storage import read_safetensors, write_safetensors


@pytest.fixture
def saved(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    return tmp_path


def edit_config(directory, **changes):
    path = directory / "config.json"
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(fields))


def edit_weights(directory, change):
    path = directory / "model.safetensors"
    arrays, _ = read_safetensors(path)
    change(arrays)
    write_safetensors(path, arrays)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_saved_model_comes_back_bit_for_bit(tmp_path, tied):
    model = tiny_model(tie_word_embeddings=tied)
    model.save_pretrained(tmp_path / "new" / "folder")
    loaded = load_pretrained(tmp_path / "new" / "folder")
    assert snapshot(loaded) == snapshot(model)
    assert loaded.config == model.config
    assert loaded.config.name_or_path == str(tmp_path / "new" / "folder")
    assert not loaded.training
    assert (loaded.lm_head.weight is loaded.transformer.wte.weight) == tied
    arrays, metadata = read_safetensors(tmp_path / "new" / "folder" / "model.safetensors")
    assert ("lm_head.weight" in arrays) == (not tied)
    assert metadata["format"] == "pt"


def test_the_json_is_sorted_and_indented(saved):
    text = (saved / "config.json").read_text()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"


@pytest.mark.parity
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_transformers_directory_loads_here(tmp_path, tied, dtype):
    import torch

    model = tiny_model(tie_word_embeddings=tied, activation_function="gelu", n_inner=24)
    twin = hugging_face_twin(model).to(getattr(torch, dtype))
    twin.save_pretrained(tmp_path)
    loaded = load_pretrained(tmp_path)
    ids = some_ids(model.config)
    with torch.no_grad():
        expected = twin.float()(torch.tensor(ids)).logits
    assert relative(loaded(ids).logits.data, expected) < 2e-5
    assert {p.dtype for p in loaded.parameters()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} does not exist"):
        load_pretrained(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mamba"}, r"config.json: model_type 'mamba' is not known \(gpt2"),
        ({"model_type": None}, "config.json: model_type None is not known"),
        ({"n_head": 3}, "n_embd = 16 can not be shared equally by n_head = 3"),
        ({"n_layer": "two"}, "n_layer must be a positive integer, got 'two'"),
        ({"n_layer": 3}, "missing transformer.h.2.ln_1.weight"),
        ({"n_layer": 1}, "unexpected transformer.h.1"),
        ({"tie_word_embeddings": False}, "missing lm_head.weight"),
        ({"n_positions": 13}, r"transformer.wpe.weight: \(12, 16\) instead of \(13, 16\)"),
        ({"activation_function": "swish"}, "activation_function 'swish' is not known"),
    ],
)
def test_a_config_that_does_not_fit_the_weights_is_refused(saved, changes, message):
    edit_config(saved, **changes)
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(saved)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop("transformer.ln_f.bias"), "missing transformer.ln_f.bias"),
        (lambda arrays: arrays.update(extra=np.ones(2)), "unexpected extra"),
        (lambda arrays: arrays.update({"transformer.ln_f.bias": np.ones(3)}), r"ln_f.bias: \(3,\) instead of \(16,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(saved, change, message):
    edit_weights(saved, change)
    with pytest.raises(ValueError, match=message) as error:
        load_pretrained(saved)
    assert str(saved) in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "\ufeff{}", '{"model_type": ["gpt2"]}'])
def test_a_config_that_is_no_json_object_is_refused(saved, text):
    (saved / "config.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json"):
        load_pretrained(saved)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A model directory, and the bytes of its weights, for many damaged copies."""
    directory = tmp_path_factory.mktemp("model")
    tiny_model(n_embd=4, n_layer=1, vocab_size=5, n_positions=3).save_pretrained(directory)
    return directory, (directory / "model.safetensors").read_bytes()


@settings(fuzz, max_examples=60)
@given(st.data())
def test_truncated_weights_are_refused(whole, data):
    directory, content = whole
    path = directory / "model.safetensors"
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_pretrained(directory)
