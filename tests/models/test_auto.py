"""Models and tokenizers by name or directory."""

import numpy as np
import pytest
from lora_helpers import snapshot, tiny_model

from lora_np import AutoModelForCausalLM, AutoTokenizer, ByteTokenizer, GPT2LMHeadModel
from lora_np.autograd import backend
from lora_np.models.auto import TINY_PYTHON


@pytest.fixture(scope="module")
def base():
    return AutoModelForCausalLM.from_pretrained(TINY_PYTHON), AutoTokenizer.from_pretrained(TINY_PYTHON)


def test_the_shipped_model_knows_python(base):
    model, tokenizer = base
    assert isinstance(model, GPT2LMHeadModel)
    assert isinstance(tokenizer, ByteTokenizer)
    assert not model.training
    assert model.config.name_or_path == TINY_PYTHON
    code = "def area(self):\n        return self.width * self.height\n\n    def __repr__(self):\n        return "
    ids = tokenizer(code)["input_ids"]
    loss = model(ids, labels=ids).loss.item()
    assert loss < 1.5  # nats per byte; a uniform guess has ln 256 = 5.5
    shuffled = np.random.default_rng(0).permutation(ids[0])[None]
    assert model(shuffled, labels=shuffled).loss.item() > 2 * loss


def test_the_shipped_model_writes_python(base):
    model, tokenizer = base
    ids = tokenizer("import os\n\n\nclass Thing:\n    def __init__(self, name):\n        self.name = ")["input_ids"]
    text = tokenizer.decode(model.generate(ids, max_new_tokens=4)[0])
    assert text.endswith("self.name = name")


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["string", "Path"])
def test_a_directory_by_its_path(tmp_path, kind):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    ByteTokenizer().save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(kind(tmp_path))
    assert snapshot(loaded) == snapshot(model)
    assert loaded.config.name_or_path == str(tmp_path)
    assert AutoTokenizer.from_pretrained(kind(tmp_path)).encode("a") == [97]


@pytest.mark.parametrize("auto", [AutoModelForCausalLM, AutoTokenizer])
@pytest.mark.parametrize("name", ["gpt3", "../pretrained", "tiny-python/config.json"])
def test_an_unknown_name_is_refused_with_the_one_there_is(auto, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"{name!r} is neither a directory nor .*'{TINY_PYTHON}'"):
        auto.from_pretrained(name)


def test_a_file_is_not_a_directory(tmp_path):
    (tmp_path / "model").write_text("")
    with pytest.raises(FileNotFoundError, match="neither a directory"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def test_a_directory_without_a_tokenizer_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"tokenizer_config\.json does not exist"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="unknown device 'gpu'"):
        AutoModelForCausalLM.from_pretrained(TINY_PYTHON, device="gpu")


@pytest.mark.gpu
def test_a_model_loads_straight_to_the_gpu(base):
    model = AutoModelForCausalLM.from_pretrained(TINY_PYTHON, device="cuda")
    assert {p.device for p in model.parameters()} == {"cuda:0"}
    for p, q in zip(model.parameters(), base[0].parameters(), strict=True):
        np.testing.assert_array_equal(backend.to_numpy(p.data), q.data)
