"""Small models, data and runs for the tests of training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from lora_np import (
    ByteTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LoraConfig,
    TextData,
    TrainingArguments,
    get_peft_model,
    manual_seed,
    train,
)

TEXT = "the quick brown fox jumps over the lazy dog; " * 40

ARGS = {"steps": 12, "learning_rate": 0.01, "warmup_steps": 3, "eval_every": 5, "checkpoint_every": 4, "seed": 7}

FILE = "checkpoint.safetensors"


def tiny(seed=0, dropout=0.0, vocab_size=256, width=16):
    manual_seed(seed)
    rates = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), dropout)
    return GPT2LMHeadModel(GPT2Config(vocab_size, n_positions=16, n_embd=width, n_layer=1, n_head=2, **rates))


def full(seed=0):
    """A model trained whole, with dropout everywhere."""
    return tiny(seed, dropout=0.2)


def lora(seed=0, r=4):
    """An adapter on a base model that is always the same; only the adapter depends on the seed."""
    base = tiny(0, dropout=0.1)
    manual_seed(seed)
    return get_peft_model(base, LoraConfig(r=r, target_modules=["c_attn"], lora_dropout=0.3, fan_in_fan_out=True))


MODELS = {"full": full, "lora": lora}

KINDS = pytest.mark.parametrize("make", [full, lora])


def text_data(batch_size=4):
    return TextData({"text": TEXT}, ByteTokenizer(), 16, batch_size)


def run(model, directory=None, data=None, resume=False, **changes):
    data = data or text_data()
    held_out = {"held out": text_data().windows()[:5]}
    args = TrainingArguments(**{**ARGS, **changes})
    return train(model, data, args, held_out, directory, resume, progress=False)


def saved_step(directory):
    with safe_open(Path(directory) / FILE, "np") as file:
        return json.loads(file.metadata()["run"])["step"]


def weights(model):
    return {name: array.tobytes() for name, array in model.state_dict().items()}


class Batches:
    """Ids given in advance, a batch per call; every token counts, unless there are labels that say otherwise."""

    def __init__(self, ids, labels=None):
        self.ids, self.labels = ids, labels or ids

    def batch(self, seed, step):
        return {"input_ids": self.ids[step], "labels": self.labels[step]}


def partly_labelled(ids, share=0.3, seed=0):
    """Labels for `ids` of which about this share counts: in the first rows less, in the last ones more."""
    rng = np.random.default_rng(seed)
    chance = 2 * share * np.linspace(0.1, 0.9, len(ids))[:, None]
    return np.where(rng.random(ids.shape) < chance, ids, -100)


class CallsBefore:
    """Text that calls a function when a given step asks for its batch."""

    def __init__(self, step, call):
        self.data, self.step, self.call = text_data(), step, call

    def batch(self, seed, step):
        if step == self.step:
            self.call()
        return self.data.batch(seed, step)


class StopHereError(Exception):
    """Stands for whatever may end a run from outside."""


def stop():
    raise StopHereError


def child(file, program, *arguments):
    """A process of Python that runs a function of that test file."""
    file = Path(file)
    code = f"import {file.stem}; {file.stem}.{program}(*{arguments!r})"
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    options = {"cwd": file.parent, "env": {**os.environ, "PYTHONPATH": path}}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code], **options, **pipes)
