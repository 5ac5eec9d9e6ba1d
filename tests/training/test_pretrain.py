"""How the shipped base is made, on a small scale; and that the one shipped is what its training.json says."""

import hashlib
import itertools
import json
import math
import os
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from lora_np import AutoModelForCausalLM, AutoTokenizer, ByteTokenizer, GPT2LMHeadModel, TextData, evaluate
from lora_np.training import pretrain as module
from lora_np.training.data import prose_documents, python_documents, split_documents

SHIPPED = Path(str(resources.files("lora_np.models") / "pretrained" / "tiny-python"))
FIELDS = {"data", "data_sha256", "data_bytes", "seed", "batch_size", "window", "steps", "learning_rate", "weight_decay"}
LOSSES = {"train_last_100_steps", "python_test_files", "reference_prose"}


def windows_of(documents, config, most=None):
    """Windows of held-out text, at most so many of them, spread over all of it."""
    windows = TextData(documents, ByteTokenizer(), config.n_positions, 1).windows()
    return windows if most is None else windows[:: max(1, len(windows) // most)][:most]


@pytest.fixture
def small(monkeypatch):
    """The same model and data, but few and short."""
    config = {**module.CONFIG, "n_positions": 32, "n_embd": 16, "n_layer": 1, "n_head": 2}
    monkeypatch.setattr(module, "CONFIG", config)
    monkeypatch.setattr(module, "BATCH_SIZE", 4)
    monkeypatch.setattr(module, "EVALUATION_WINDOWS", 8)


@pytest.fixture
def source(tmp_path):
    """A folder of Python files with some in each part of the split."""
    folder, wanted = tmp_path / "project", {"train": 6, "validation": 2, "test": 2}
    folder.mkdir()
    numbers = itertools.count()
    while any(wanted.values()):
        i = next(numbers)
        name, text = f"part{i}.py", f"def f{i}(x):\n    return x + {i}  # ä\n" * 4
        (part,) = (part for part, files in split_documents({name: text}, held_out=0.05).items() if files)
        if wanted[part]:
            wanted[part] -= 1
            (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.usefixtures("small")
def test_a_base_is_written_that_loads_by_its_directory(tmp_path, source):
    out = tmp_path / "base"
    report = module.pretrain(out, steps=5, seed=3, source=source)
    assert json.loads((out / "training.json").read_text(encoding="utf-8")) == report
    assert set(report) == {*FIELDS, "loss_nats_per_byte"}
    assert set(report["loss_nats_per_byte"]) == LOSSES
    content = {path.name: path.read_bytes() for path in sorted(source.iterdir())}
    digest = hashlib.sha256()
    for part in (part for name, text in content.items() for part in (name.encode(), text)):
        digest.update(len(part).to_bytes(8, "little") + part)
    expected = {"data": "project", "data_sha256": digest.hexdigest(), "data_bytes": sum(map(len, content.values()))}
    expected |= {"seed": 3, "steps": 5, "batch_size": 4, "window": 33, "learning_rate": 3e-3, "weight_decay": 0.1}
    assert {name: report[name] for name in FIELDS} == expected

    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert isinstance(tokenizer, ByteTokenizer)
    test = split_documents(python_documents(source), held_out=0.05)["test"]
    for name, windows in (
        ("python_test_files", windows_of(test, model.config)),
        ("reference_prose", windows_of(prose_documents(), model.config)[:8]),
    ):
        assert evaluate(model, windows) == pytest.approx(report["loss_nats_per_byte"][name], abs=6e-5)
    assert report["loss_nats_per_byte"]["python_test_files"] < math.log(256)


@pytest.mark.usefixtures("small")
def test_the_same_seed_gives_the_same_base(tmp_path, source):
    reports = {folder: module.pretrain(tmp_path / folder, steps=5, source=source) for folder in "ab"}
    other = module.pretrain(tmp_path / "c", steps=5, source=source, seed=1)
    bits = {folder: (tmp_path / folder / "model.safetensors").read_bytes() for folder in "abc"}
    assert bits["a"] == bits["b"] != bits["c"]
    assert reports["a"] == reports["b"]
    assert other["loss_nats_per_byte"] != reports["a"]["loss_nats_per_byte"]


@pytest.mark.usefixtures("small")
def test_pretraining_goes_on_from_its_checkpoint(tmp_path, source, monkeypatch):
    """The run is at its end already: its base is written once more, with no step made."""
    report = module.pretrain(tmp_path, steps=5, source=source)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").unlink()
    monkeypatch.setattr(TextData, "batch", lambda *_: pytest.fail("a step was made"))
    assert module.pretrain(tmp_path, steps=5, source=source, resume=True) == report
    assert (tmp_path / "model.safetensors").read_bytes() == weights
    with pytest.raises(FileNotFoundError, match="checkpoint"):
        module.pretrain(tmp_path / "elsewhere", steps=5, source=source, resume=True)


@pytest.mark.usefixtures("small")
def test_an_interrupted_pretraining_writes_no_base(tmp_path, source, monkeypatch):
    seeds = []

    def train(model, data, args, *_):
        seeds.append(args.seed)
        return {"loss": [5.0], "interrupted": True}

    monkeypatch.setattr(module, "train", train)
    assert module.pretrain(tmp_path / "base", steps=5, seed=11, source=source) is None
    assert not (tmp_path / "base").exists()
    assert seeds == [11]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        pytest.param({}, FileNotFoundError, "no Python source files under .*few", id="no-files"),
        pytest.param({"a.py": "x = 1\n" * 100}, ValueError, "validation has 0 tokens.*window of 33", id="one-file"),
        pytest.param({"a.py": "x = 1\n"}, ValueError, "train has 7 tokens.*window of 33", id="one-short-file"),
    ],
)
def test_too_little_text_is_refused_before_any_training(tmp_path, monkeypatch, files, error, message):
    monkeypatch.setattr(module, "train", lambda *_: pytest.fail("training began"))
    (tmp_path / "few").mkdir()
    for name, text in files.items():
        (tmp_path / "few" / name).write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message):
        module.pretrain(tmp_path / "base", steps=5, source=tmp_path / "few")


def test_the_shipped_base_is_small_and_says_where_it_comes_from():
    assert sum(path.stat().st_size for path in SHIPPED.rglob("*")) <= 4_000_000
    expected = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training.json"}
    assert set(os.listdir(SHIPPED)) == expected
    report = json.loads((SHIPPED / "training.json").read_text(encoding="utf-8"))
    config = json.loads((SHIPPED / "config.json").read_text(encoding="utf-8"))
    assert set(report) == {*FIELDS, "loss_nats_per_byte"}
    assert len(bytes.fromhex(report["data_sha256"])) == 32
    assert report["window"] == config["n_positions"] + 1  # its last position predicts nothing
    assert module.CONFIG.items() <= config.items()
    losses = report["loss_nats_per_byte"]
    assert set(losses) == LOSSES
    assert 0 < losses["train_last_100_steps"] < losses["python_test_files"] < losses["reference_prose"] < math.log(256)


def test_the_shipped_base_is_as_good_as_it_says():
    """32 windows of the files it was not trained on, in the standard library of the Python that runs this."""
    model = AutoModelForCausalLM.from_pretrained("tiny-python")
    claimed = json.loads((SHIPPED / "training.json").read_text(encoding="utf-8"))["loss_nats_per_byte"]
    parts = split_documents(python_documents(), held_out=0.05)
    loss = evaluate(model, windows_of(parts["test"], model.config, 32))
    assert loss == pytest.approx(claimed["python_test_files"], abs=0.15)

    windows = windows_of(parts["test"], model.config, 4)
    noise = np.random.default_rng(0).permuted(windows, axis=1)
    assert evaluate(GPT2LMHeadModel(model.config), windows) == pytest.approx(math.log(256), abs=0.5)
    assert evaluate(model, windows) < math.log(256) / 4
    assert evaluate(model, noise) > math.log(256) / 2, "the order of the bytes should matter"
