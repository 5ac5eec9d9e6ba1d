"""The main job, in small: few steps, the shipped base."""

import errno
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from lora_np import AutoModelForCausalLM, AutoTokenizer, PeftModel, storage
from lora_np.cli.finetune import finetune
from lora_np.cli.options import FinetuneOptions
from lora_np.cli.report import merge_difference

FEW = {"steps": 3, "batch_size": 2, "rank": 2}
TEXT = "\n\n".join(f"Paragraph {i}. The cat sat on the mat, and the dog looked at the cat. " * 4 for i in range(40))


pytestmark = pytest.mark.usefixtures("short_report")


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "my.txt"
    path.write_text(TEXT)
    return path


def run(tmp_path, **options):
    lines = []
    result = finetune(FinetuneOptions(out=str(tmp_path / "out"), **{**FEW, **options}), say=lines.append)
    return result, "\n".join(lines)


@pytest.mark.parametrize("target_modules", ["all-linear", ("c_attn", "c_fc"), r".*h\.[01]\.mlp\.c_proj"])
def test_own_text_from_start_to_end(tmp_path, text, target_modules):
    result, report = run(tmp_path, data=str(text), target_modules=target_modules)
    out = tmp_path / "out"
    assert result["adapter"] == out
    assert {"adapter_config.json", "adapter_model.safetensors", "curves.png"} <= {p.name for p in out.iterdir()}
    assert len(result["history"]["loss"]) == FEW["steps"]
    assert 0 < result["difference"] < 1e-3
    for part in ("trained", "held-out loss", "my.txt", "Python source", "Merged and unmerged", str(out)):
        assert part in report
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["r"] == 2
    assert config["base_model_name_or_path"] == "tiny-python"


def test_without_matplotlib_everything_but_the_picture_is_done(tmp_path, text, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    result, report = run(tmp_path, data=str(text))
    assert result["picture"] is None
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"adapter_config.json", "adapter_model.safetensors"}
    assert not (tmp_path / "out" / "curves.png").exists()
    command = "pip install -e '.[plots]' (or pip install matplotlib)"
    assert f"\nThe picture was left out: a picture needs the package matplotlib: {command}\n" in report


def test_the_adapter_that_was_written_is_the_one_that_was_measured(tmp_path, text):
    result, _ = run(tmp_path, data=str(text), steps=8)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("tiny-python"), tmp_path / "out")
    ids = AutoTokenizer.from_pretrained("tiny-python")(TEXT[-256:])["input_ids"]
    with model.disable_adapter():
        base = model(ids, labels=ids).loss.item()
    assert model(ids, labels=ids).loss.item() < base
    before, after = (result["history"]["evaluation"][i]["my.txt"] for i in (0, -1))
    assert after < before


def test_switched_off_the_adapter_leaves_the_base(tmp_path, text):
    _, report = run(tmp_path, data=str(text), learning_rate=0.05)
    for name in ("my.txt", "Python source"):
        base, adapter, off = re.search(rf"^{name} +([\d.]+) +([\d.]+) +([\d.]+)$", report, re.MULTILINE).groups()
        assert base == off != adapter


def test_the_same_seed_gives_the_same_adapter(tmp_path, text):
    histories = [
        run(tmp_path / str(seed), data=str(text), seed=seed % 2, dropout=0.1)[0]["history"] for seed in (0, 1, 2)
    ]
    assert histories[0]["loss"] == histories[2]["loss"] != histories[1]["loss"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("", "is empty"),
        (" \n\n ", "is empty"),
        ("A short text.", "each part needs a window of 256"),
    ],
)
def test_text_that_can_not_be_used_is_refused_before_anything_is_written(tmp_path, content, message):
    path = tmp_path / "my.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(tmp_path, data=str(path))
    assert not (tmp_path / "out").exists()


def test_a_model_whose_merge_does_not_agree_is_found(text):
    from lora_np import LoraConfig, get_peft_model

    model = AutoModelForCausalLM.from_pretrained("tiny-python")
    model = get_peft_model(model, LoraConfig(init_lora_weights=False, fan_in_fan_out=True)).eval()
    ids = np.arange(40).reshape(1, 40)
    assert merge_difference(model, ids) < 1e-3
    _, layer = model.base_model.layers()[0]
    layer.merged_parameters = lambda names: (layer.base_layer.weight.data * 1.01, None)
    with pytest.raises(RuntimeError, match="more than rounding"):
        merge_difference(model, ids)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_in_16_bits_merging_rounds_the_weights_and_that_is_no_error(tmp_path, text, dtype):
    pytest.importorskip("ml_dtypes")
    result, said = run(tmp_path, data=str(text), dtype=dtype, max_length=32)
    assert 1e-4 < result["difference"] < 0.5
    assert "the same model, at the base's cost.\n\nAdapter (PEFT format, " in said
    assert "MB: weights 2," in said  # 858,880 parameters of two bytes


def test_another_adapter_is_not_written_over(tmp_path, text, monkeypatch):
    run(tmp_path, data=str(text))
    before = (tmp_path / "out" / "adapter_model.safetensors").read_bytes()
    with pytest.raises(ValueError, match="holds an adapter already: choose another --out"):
        run(tmp_path, data=str(text), seed=1)
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() == before
    run(tmp_path, data=str(text), seed=1, overwrite=True)
    assert (tmp_path / "out" / "adapter_model.safetensors").read_bytes() != before


def test_without_a_choice_of_folder_the_next_free_one_is_taken_and_the_last_resumed(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = {"data": str(text), **FEW}
    folders = [finetune(FinetuneOptions(**options), say=lambda line: None)["adapter"] for _ in range(2)]
    assert [str(folder) for folder in folders] == ["runs/my", "runs/my-2"]
    resumed = finetune(FinetuneOptions(**options, resume=True), say=lambda line: None)
    assert str(resumed["adapter"]) == "runs/my-2"
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_blocks_computed_again_learn_the_same(tmp_path, text):
    kept, _ = run(tmp_path, data=str(text))
    again, report = run(tmp_path / "again", data=str(text), gradient_checkpointing=True)
    np.testing.assert_allclose(again["history"]["loss"], kept["history"]["loss"], rtol=1e-5)
    assert "blocks computed again" in report


def test_the_best_weights_are_saved_if_asked_for(tmp_path, text):
    """The rate is such that the last weights are not the best."""
    ruinous = {"data": str(text), "learning_rate": 0.5, "steps": 10, "load_best": True}
    result, report = run(tmp_path, **ruinous)
    losses = [entry["my.txt"] for entry in result["history"]["evaluation"]]
    best = result["history"]["best"]
    assert best["my.txt"] == min(losses) < losses[-1]
    assert f"those after step {best['step']}, which had the lowest held-out loss" in report
    shown = re.search(r"^my\.txt +[\d.]+ +([\d.]+)", report, re.MULTILINE).group(1)
    assert float(shown) == pytest.approx(best["my.txt"], abs=1e-3)
    again, _ = run(tmp_path, **ruinous, resume=True)
    assert again["history"] == result["history"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_rate_that_ruins_the_weights_is_said_in_a_sentence(tmp_path, text, capsys):
    from lora_np.cli import main

    few = ["--data", str(text), "--out", str(tmp_path / "out"), "--steps", "5", "--batch-size", "2", "--rank", "2"]
    assert main(["finetune", *few, "--learning-rate", "1e38"]) == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert re.fullmatch(
        r"lora-np: .*(loss|weights).* step \d+.*: .*after 0 steps again; there is no checkpoint\.", last
    )
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_results_that_can_not_be_written_go_to_another_folder(tmp_path, text, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    out, write = tmp_path / "out", storage.safetensors.replacing

    def full(path):
        if path.parent == out:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path)

    monkeypatch.setattr(storage.safetensors, "replacing", full)
    result, report = run(tmp_path, data=str(text))
    assert result["adapter"] == tmp_path / "home" / "lora_np" / "out"
    assert (result["adapter"] / "adapter_model.safetensors").is_file()
    assert "What was trained is still in memory" in report
    assert not out.exists()


def test_where_nothing_can_be_written_anywhere_one_sentence_says_so(tmp_path, text, monkeypatch, capsys):
    from lora_np.cli import main

    def full(path):
        raise OSError(errno.ENOSPC, f"{path} cannot be written: No space left on device")

    monkeypatch.setattr(storage.safetensors, "replacing", full)
    few = ["--data", str(text), "--out", str(tmp_path / "out"), "--steps", "2", "--batch-size", "2", "--rank", "2"]
    assert main(["finetune", *few]) == 2
    said = capsys.readouterr()
    *_, last = said.err.strip().splitlines()
    assert re.search(r"No space left on device; there is no other folder to write to: what was trained is lost", last)
    assert "error.run" not in said.out + said.err


def test_a_second_run_into_the_same_folder_is_refused_before_it_trains(tmp_path, text):
    with storage.claimed(tmp_path / "out"), pytest.raises(BlockingIOError, match=r"another run is writing to .*out"):
        run(tmp_path, data=str(text))


class TestGoingOnFromAnAdapter:
    @pytest.fixture
    def first(self, tmp_path, text):
        config = {"target_modules": ("c_attn",), "alpha": 4}
        return str(run(tmp_path / "first", data=str(text), learning_rate=0.05, **config)[0]["adapter"])

    def test_the_run_begins_where_the_adapter_is(self, tmp_path, text, first):
        before = run(tmp_path / "zero", data=str(text), learning_rate=1e-12, steps=1, rank=2)[0]["history"]
        lines = []
        options = FinetuneOptions(adapter=first, data=str(text), steps=2, batch_size=2, out=str(tmp_path / "second"))
        result = finetune(options, say=lines.append)
        start = result["history"]["evaluation"][0]["my.txt"]
        assert start != before["evaluation"][0]["my.txt"]
        config = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
        assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 4, ["c_attn"])
        assert config["base_model_name_or_path"] == "tiny-python"
        report = "\n".join(lines)
        assert re.search(r"held-out loss, nats per byte +before +adapter +adapter off", report)
        assert "Before, the adapter writes:" in report

    @pytest.mark.parametrize("change", [{"rank": 4}, {"alpha": 2.0}, {"target_modules": ("c_fc",)}, {"dropout": 0.5}])
    def test_what_an_adapter_is_does_not_change(self, tmp_path, text, first, change):
        name = next(iter(change)).replace("_", "-")
        with pytest.raises(ValueError, match=f"--{name} is for a new adapter; .* keeps its own: leave it out"):
            finetune(FinetuneOptions(adapter=first, data=str(text), out=str(tmp_path / "o"), **change))

    def test_another_kind_of_adapter_is_refused(self, text, first):
        path = Path(first) / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "peft_type": "VERA"}))
        with pytest.raises(ValueError, match="is an adapter of the kind 'VERA'; this goes on from LoRA's only"):
            finetune(FinetuneOptions(adapter=first, data=str(text)))

    def test_what_is_no_adapter_is_named(self, tmp_path, text):
        with pytest.raises(FileNotFoundError, match=r"adapter_config\.json does not exist"):
            finetune(FinetuneOptions(adapter=str(tmp_path), data=str(text)))


def test_a_run_can_be_made_longer(tmp_path, text):
    short, _ = run(tmp_path, data=str(text), steps=3)
    longer, _ = run(tmp_path, data=str(text), steps=6, resume=True)
    assert longer["history"]["loss"][:3] == short["history"]["loss"]
    assert len(longer["history"]["loss"]) == 6
    with pytest.raises(ValueError, match="steps was 6, now 4"):
        run(tmp_path, data=str(text), steps=4, resume=True)


def test_another_run_is_not_resumed_and_that_is_said_before_anything_is_loaded(tmp_path, text, monkeypatch):
    run(tmp_path, data=str(text))
    other = tmp_path / "other.txt"
    other.write_text(TEXT.replace("cat", "cow"))
    monkeypatch.setattr("lora_np.cli.task.TextTask.samples", None)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is of a run with other arguments: data was"):
        run(tmp_path, data=str(other), resume=True)
    monkeypatch.setattr("lora_np.cli.finetune.AutoModelForCausalLM", None)
    with pytest.raises(ValueError, match="is of a run with other arguments: rank was 2, now 4"):
        run(tmp_path, data=str(text), resume=True, rank=4)
    with pytest.raises(ValueError, match="holds an adapter already"):
        run(tmp_path, data=str(text))


def test_passes_over_the_data_instead_of_steps(tmp_path, text):
    result, report = run(tmp_path, data=str(text), steps=FinetuneOptions.steps, epochs=0.2, batch_size=4)
    assert "(0.2 passes)" in report
    assert 1 <= len(result["history"]["loss"]) <= 4
    with pytest.raises(ValueError, match="steps=3 and epochs=1 both say how long to train: give one"):
        run(tmp_path / "x", data=str(text), epochs=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"rank": 999_999}, r"rank 999999 is above the size of every layer \(the largest has 512\)"),
        ({"epochs": 0.0, "steps": 160}, r"epochs must be positive, got 0\.0"),
    ],
)
def test_numbers_that_make_no_sense(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, data=str(text), **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_texts(tmp_path, text):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in ("a.txt", "b.md"):
        (folder / name).write_text(text.read_text())
    (folder / "c.bin").write_bytes(b"\0\xff")
    result, report = run(tmp_path, data=str(folder))
    assert "Texts read from" in report
    assert ": 2; left out, as they are no texts: c.bin" in report
    assert "corpus" in result["history"]["evaluation"][0]
