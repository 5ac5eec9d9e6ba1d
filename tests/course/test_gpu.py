"""What notebook 11 measures: on a CPU here, on a GPU with -m gpu, and a pretended GPU for the order of things."""

import json
import math
import re
import types
from pathlib import Path

import numpy as np
import pytest
from lora_helpers import peft_model

import lora_np.autograd
from lora_course import device, gpu
from lora_course.gpu import GPT2_SHAPE, MODES
from lora_np.autograd import devices, fused
from lora_np.autograd.precision import tf32_enabled
from lora_np.models.loading.auto import TINY_PYTHON


@pytest.fixture
def small(monkeypatch):
    """Both models tiny, batches too, so that a measurement takes no time."""
    monkeypatch.setattr(gpu, "BATCHES", {TINY_PYTHON: (1, 16), GPT2_SHAPE: (1, 8)})
    make = gpu.make_model
    monkeypatch.setattr(
        gpu,
        "make_model",
        lambda name, *options, **more: make(name, *options, **more) if name == TINY_PYTHON else tiny(),
    )
    monkeypatch.setattr(gpu.GPT2Config, "vocab_size", 31)


def tiny():
    return peft_model().train()


class Pretended:
    """A RecordedStep that runs as usual."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def __call__(self, batch):
        return gpu.train_step(self.model, self.optimizer, batch)


@pytest.fixture
def pretended_gpu(monkeypatch):
    """'cuda' is the CPU under another name."""
    monkeypatch.setattr(gpu, "gpu_available", lambda: True)
    for module in (devices, device):
        monkeypatch.setattr(module, "parse_device", lambda name: None)
    monkeypatch.setattr(gpu, "device_name", lambda name: f"a {name}")
    monkeypatch.setattr(gpu, "RecordedStep", Pretended)
    monkeypatch.setattr(lora_np.autograd, "cuda", types.SimpleNamespace(__all__=[]), raising=False)


def test_without_a_gpu_the_small_model_is_measured_on_the_cpu(small, monkeypatch):
    monkeypatch.setattr(gpu, "gpu_available", lambda: False)
    lines = []
    result = gpu.measure(rounds=2, steps=1, say=lines.append)
    assert result["about"]["gpu"] is None
    assert [(row["model"], row["device"], row["mode"]) for row in result["times"]] == [(TINY_PYTHON, "cpu", "float32")]
    assert len(lines) == 1
    assert len(result["times"][0]["milliseconds"]) == 2
    assert result["times"][0]["tokens"] == 16
    assert [row["device"] for row in result["parity"]] == ["cpu"]
    assert list(gpu.timelines(result)) == [(TINY_PYTHON, "cpu")]


def test_with_a_gpu_everything_is_measured_on_both(small, pretended_gpu):
    result = gpu.measure(rounds=2, steps=1)
    found = {(row["model"], row["device"], row["mode"]) for row in result["times"]}
    assert found == {(name, "cuda", mode) for name in gpu.BATCHES for mode in MODES} | {
        (name, "cpu", "float32") for name in gpu.BATCHES
    }
    assert [(row["device"], row["precision"]) for row in result["parity"]] == [
        ("cpu", "float32"),
        ("cuda", "float32"),
        ("cuda", "TF32"),
    ]
    assert set(gpu.timelines(result)) == {(TINY_PYTHON, "cpu"), (TINY_PYTHON, "cuda"), (GPT2_SHAPE, "cuda")}
    assert gpu.describe(result).startswith("a cuda; a cpu; Python 3.")
    assert not tf32_enabled()


def test_a_result_is_the_same_after_it_was_written(small, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "gpu_available", lambda: False)
    result = gpu.measure(rounds=1, steps=1)
    gpu.write(result, tmp_path / "times.json")
    assert json.loads((tmp_path / "times.json").read_text(encoding="utf-8")) == result


def test_float32_is_near_float64_and_a_wrong_gradient_is_seen(monkeypatch):
    monkeypatch.setattr(gpu, "BATCHES", {TINY_PYTHON: (1, 16)})
    (row,) = gpu.parity()
    assert 1e-8 < row["logits"] < 1e-5
    assert 1e-8 < row["gradients"] < 1e-4
    right = fused.gelu_backward

    def wrong_in_float32(dy, cache):
        (dx,) = right(dy, cache)
        return (dx * (1.001 if dy.dtype == np.float32 else 1),)

    monkeypatch.setattr(fused, "gelu_backward", wrong_in_float32)
    (wrong,) = gpu.parity()
    assert wrong["gradients"] > 1e-4
    assert wrong["logits"] == row["logits"]


def test_step_times_counts_all_the_steps():
    calls = []
    times, host = gpu.step_times(lambda: calls.append(1), "cpu", rounds=3, steps=5, warm_up=2)
    assert len(calls) == 2 + 3 * 5
    assert len(times) == 3
    assert host == times


def test_step_times_of_a_gpu_have_the_time_of_handing_over(pretended_gpu):
    calls = []
    times, host = gpu.step_times(lambda: calls.append(1), "cuda", rounds=3, steps=5, warm_up=2)
    assert len(calls) == 2 + 3 * (5 + 1)
    assert len(times) == len(host) == 3


def row_of(device, mode, *times):
    return {"model": TINY_PYTHON, "device": device, "mode": mode, "tokens": 400, "milliseconds": times, "host": [0.5]}


def test_the_table_has_medians_and_ranges():
    result = {"times": [row_of("cpu", "float32", 10.0, 8.0, 9.0), row_of("cuda", "TF32", 3.0)]}
    head, cpu, cuda = (line.split() for line in gpu.format_times(result).splitlines())
    assert head[:3] == ["model", "device", "mode"]
    assert cpu == [TINY_PYTHON, "cpu", "float32", "9.00", "8.00-10.00", "44,444"]
    assert cuda == [TINY_PYTHON, "cuda", "TF32", "3.00", "once", "0.50", "133,333"]
    assert max(map(len, gpu.format_times(result).splitlines())) <= 100


def test_what_was_not_measured_is_nan():
    result = {"times": [row_of("cpu", "float32", 10.0)]}
    assert gpu.milliseconds(result, TINY_PYTHON, "float32", "cpu") == 10
    assert math.isnan(gpu.milliseconds(result, TINY_PYTHON, "float32"))


def test_the_shipped_figures_can_be_read():
    result = gpu.shipped()
    assert {"about", "parity", "times", "time_lines"} == set(result)
    for (name, _), line in gpu.timelines(result).items():
        assert name in gpu.BATCHES
        assert sum(line.by_part().values()) == pytest.approx(line.milliseconds, rel=1e-6)
    assert all(row["logits"] < 1e-5 for row in result["parity"] if row["precision"] == "float32")
    assert gpu.format_times(result)


def test_the_command_measures_and_writes(small, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "gpu_available", lambda: False)
    out = tmp_path / "times.json"
    monkeypatch.setattr("sys.argv", ["gpu", "--out", str(out), "--rounds", "1", "--steps", "1"])
    gpu.main()
    assert json.loads(out.read_text(encoding="utf-8"))["times"][0]["model"] == TINY_PYTHON
    assert str(out) in capsys.readouterr().out


@pytest.mark.gpu
def test_on_a_real_gpu(monkeypatch):
    monkeypatch.setattr(gpu, "BATCHES", {TINY_PYTHON: (2, 64)})
    monkeypatch.setattr(gpu, "_plan", lambda found: [(TINY_PYTHON, "cuda", mode, {}) for mode in MODES])
    result = gpu.measure(rounds=1, steps=2)
    assert result["about"]["gpu"]
    _, cuda, tf32 = result["parity"]
    assert cuda["logits"] < 1e-5
    assert cuda["gradients"] < 1e-4
    assert tf32["gradients"] < 0.1
    line = gpu.timelines(result)[TINY_PYTHON, "cuda"]
    assert line.lanes == 1
    assert min(line.by_part().values()) >= 0
    assert all(0 <= span.start <= span.end <= line.milliseconds for span in line.spans)


def test_the_table_of_eight_billion_is_that_of_the_page_on_speed():
    page = (Path(__file__).parents[2] / "notebooks" / "book" / "speed.md").read_text(encoding="utf-8")
    table = page.partition("## 8 billion parameters on one card")[2].partition("\n\nSo LoRA")[0]
    told = [re.findall(r"(\d+) ms, ([\d.]+) GiB", line) for line in table.splitlines() if " ms, " in line]
    large = gpu.eight_billion()
    rows = [[tuple(map(str, row[cell])) for cell in large["cells"]] for row in large["rows"]]
    assert told == rows
    assert len(rows) == 8
    assert f"bfloat16 are {large['weights_gib']['bfloat16']} GiB" in table
    assert f"NF4 {large['weights_gib']['NF4']}" in table
    assert f"need {large['full_gib']} GiB" in table
