"""Processes that save, merge, fine-tune and go on are killed at random moments: each time there is all of the old or
all of the new, and the next save leaves nothing behind.

LORA_NP_KILLS says how many times, over all four kinds together; 200 without it. The moments follow from a seed.
"""

import dataclasses
import json
import mmap
import os
import random
import signal
import struct
import time

import numpy as np
import pytest
from process_helpers import forks, start, wait
from training_helpers import tiny

from lora_np import AutoModelForCausalLM, AutoTokenizer, ByteTokenizer, LoraConfig, PeftModel, get_peft_model
from lora_np.cli import finetune as finetune_command
from lora_np.cli.finetune import finetune
from lora_np.cli.merge import merge
from lora_np.cli.options import FinetuneOptions
from lora_np.storage import is_there, read_safetensors
from lora_np.storage.journal import NAME, TEMPORARY

KILLS = int(os.environ.get("LORA_NP_KILLS", "200")) // 4
TEXT = "the quick brown fox jumps over the lazy dog; " * 60

pytestmark = [forks, pytest.mark.filterwarnings("ignore")]


class Counter:
    """A number that a process and those that it has forked share."""

    def __init__(self):
        self.memory = mmap.mmap(-1, 8)

    def set(self, value):
        self.memory[:] = struct.pack("q", value)

    def get(self):
        return struct.unpack("q", self.memory[:])[0]


def kill_again_and_again(work, check, longest, seed):
    """work(begun, done) counts how often it has begun and done its work; check(begun, done) after each kill."""
    chance, begun, done, times = random.Random(seed), Counter(), Counter(), []
    for _ in range(KILLS):
        before = begun.get()
        process = start(work, begun, done)
        while begun.get() == before and os.waitpid(process, os.WNOHANG) == (0, 0):
            time.sleep(0.0005)
        time.sleep(chance.uniform(0, longest))
        os.kill(process, signal.SIGKILL)
        assert wait(process) == -signal.SIGKILL
        check(begun.get(), done.get())
        times.append(begun.get())
    return times


def leftovers(folder):
    return [path.name for path in folder.rglob("*") if path.name.endswith(TEMPORARY) or path.name == NAME]


def adapted(version):
    """An adapter all of whose numbers are the version, lora_alpha too."""
    model = get_peft_model(tiny(), LoraConfig(r=2, lora_alpha=version, target_modules=["c_attn"], fan_in_fan_out=True))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data[...] = version
    return model


def saved_version(folder):
    """The one number that all of a saved adapter is."""
    model = PeftModel.from_pretrained(tiny(), folder)
    numbers = {float(x) for name, a in model.state_dict().items() if "lora_" in name for x in np.unique(a)}
    (version,) = numbers | {float(model.peft_config["default"].lora_alpha)}
    return version


def test_save(tmp_path):
    adapted(1).save_pretrained(tmp_path)

    def work(begun, done):
        model = adapted(1)
        version = int(saved_version(tmp_path))
        while True:
            version += 1
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.data[...] = version
            model.peft_config["default"].lora_alpha = version
            begun.set(version)
            model.save_pretrained(tmp_path)
            done.set(version)

    def check(begun, done):
        assert saved_version(tmp_path) in (begun, max(done, 1), begun - 1)

    kill_again_and_again(work, check, 0.02, seed=1)
    adapted(1).save_pretrained(tmp_path)
    assert saved_version(tmp_path) == 1
    assert leftovers(tmp_path) == []


@pytest.fixture
def base(tmp_path):
    """A tiny base model with a tokenizer."""
    folder = tmp_path / "base"
    tiny().save_pretrained(folder)
    ByteTokenizer().save_pretrained(folder)
    return folder


def test_merge(tmp_path, base):
    """Two adapters on two bases, merged in turn: weights, configuration and tokenizer are of the same one."""
    out, states = tmp_path / "out", {}
    for version in (1, 2):
        folder = tmp_path / str(version)
        model = AutoModelForCausalLM.from_pretrained(base)
        model.config.layer_norm_epsilon = version / 1000
        if version == 2:
            model.generation_config = {"eos_token_id": 2}
        model.save_pretrained(folder / "base")
        tokenizer = ByteTokenizer()
        tokenizer.chat_template = str(version)
        tokenizer.save_pretrained(folder / "base")
        adapted(version).save_pretrained(folder)
        merge_version(tmp_path, version, tmp_path / f"expected{version}")
        states[version] = state(tmp_path / f"expected{version}")
    assert states[1] != states[2]
    merge_version(tmp_path, 1, out)

    def work(begun, done):
        while True:
            version = 2 - begun.get() % 2
            begun.set(begun.get() + 1)
            merge_version(tmp_path, version, out)
            done.set(begun.get())

    kill_again_and_again(work, lambda *_: state(out) in states.values() or pytest.fail("a mixture"), 0.15, seed=2)
    merge_version(tmp_path, 2, out)
    assert state(out) == states[2]
    assert leftovers(out) == []


def merge_version(folder, version, out):
    merge(str(folder / str(version)), out, str(folder / str(version) / "base"), say=lambda line: None, overwrite=True)


def state(folder):
    """All that a model directory says."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    weights = {name: array.tobytes() for name, array in model.state_dict().items()}
    return weights, model.config.layer_norm_epsilon, model.generation_config, tokenizer.chat_template


@pytest.fixture
def quick(tmp_path, base, monkeypatch):
    """finetune(**options) of the tiny base on a little text, without measuring and drawing."""
    (tmp_path / "my.txt").write_text(TEXT)
    monkeypatch.setattr("lora_np.cli.task.EVALUATION_WINDOWS", 1)
    monkeypatch.setattr("lora_np.cli.task.SAMPLE_LENGTH", 1)
    monkeypatch.setattr(finetune_command, "draw", lambda *_: (None, ""))
    make = finetune_command._training_arguments
    often = {"checkpoint_every": 1}
    monkeypatch.setattr(finetune_command, "_training_arguments", lambda o: dataclasses.replace(make(o), **often))

    def run(**options):
        given = {"base": str(base), "data": str(tmp_path / "my.txt"), "batch_size": 2, "max_length": 16, "rank": 2}
        if options.pop("is_silent", False):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # no progress bar
        return finetune(FinetuneOptions(**{**given, **options}), say=lambda line: None)

    return run


def adapter(folder):
    """All that an adapter says."""
    model = PeftModel.from_pretrained(tiny(), folder)
    weights = {name: array.tobytes() for name, array in model.state_dict().items()}
    return weights, model.peft_config["default"].lora_alpha


def test_finetune(tmp_path, quick):
    out, states = tmp_path / "out", {}
    for seed in (0, 1):
        quick(out=str(tmp_path / f"expected{seed}"), seed=seed, alpha=4.0 + seed, steps=3)
        states[seed] = adapter(tmp_path / f"expected{seed}")
    quick(out=str(out), seed=0, alpha=4.0, steps=3)

    def work(begun, done):
        while True:
            seed = begun.get() % 2
            begun.set(begun.get() + 1)
            quick(out=str(out), seed=seed, alpha=4.0 + seed, steps=3, overwrite=True, is_silent=True)
            done.set(begun.get())

    def check(begun, done):
        assert adapter(out) in states.values()
        _, metadata = read_safetensors(out / "checkpoint.safetensors")
        run = json.loads(metadata["run"])
        assert run["step"] == len(run["history"]["loss"])

    kill_again_and_again(work, check, 0.5, seed=3)
    quick(out=str(out), seed=1, alpha=5.0, steps=3, overwrite=True)
    assert adapter(out) == states[1]
    assert leftovers(out) == []


def test_resume(tmp_path, quick):
    """A run that is killed again and again, and goes on each time, ends as one that never was."""
    out, steps = tmp_path / "out", 4 * KILLS
    history = quick(out=str(tmp_path / "expected"), steps=steps)["history"]
    found = []

    def work(begun, done):
        begun.set(begun.get() + 1)
        quick(
            out=str(out), steps=steps, resume=is_there(out / "checkpoint.safetensors"), is_silent=True, overwrite=True
        )
        while True:
            time.sleep(1)

    def check(begun, done):
        if is_there(out / "checkpoint.safetensors"):
            _, metadata = read_safetensors(out / "checkpoint.safetensors")
            found.append(json.loads(metadata["run"]))
            assert found[-1]["history"]["loss"] == history["loss"][: found[-1]["step"]]

    kill_again_and_again(work, check, 0.3, seed=4)
    assert [run["step"] for run in found] == sorted(run["step"] for run in found)
    assert quick(out=str(out), steps=steps, resume=True)["history"] == history
    assert adapter(out) == adapter(tmp_path / "expected")
    assert leftovers(out) == []
