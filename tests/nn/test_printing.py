"""Modules as text."""

import numpy as np
import pytest
from lora_helpers import tiny_model

from lora_np import GPT2Config, GPT2LMHeadModel, LoraConfig, get_peft_model, nn


@pytest.mark.parity
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (lambda nn: nn.Linear(3, 2), lambda nn: nn.Linear(3, 2)),
        (lambda nn: nn.Linear(3, 2, bias=False), lambda nn: nn.Linear(3, 2, bias=False)),
        (lambda nn: nn.Embedding(5, 4), lambda nn: nn.Embedding(5, 4)),
        (lambda nn: nn.Embedding(5, 4, padding_idx=2), lambda nn: nn.Embedding(5, 4, padding_idx=2)),
        (lambda nn: nn.LayerNorm(4, 1e-6), lambda nn: nn.LayerNorm(4, 1e-6)),
        (lambda nn: nn.ModuleList([]), lambda nn: nn.ModuleList([])),
        (
            lambda nn: nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.GELU("tanh"), nn.Tanh(), nn.LogSoftmax(dim=1)),
            lambda nn: nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.GELU("tanh"), nn.Tanh(), nn.LogSoftmax(dim=1)),
        ),
        (lambda nn: nn.ModuleDict(), lambda nn: nn.ModuleDict()),
        (
            lambda nn: nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 2), nn.Linear(1, 1)]),
            lambda nn: nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1), nn.Linear(1, 2), nn.Linear(1, 1)]),
        ),
        (
            lambda nn: nn.ModuleList([nn.ModuleList([nn.LayerNorm(2)]), nn.ModuleList([nn.LayerNorm(2)])]),
            lambda nn: nn.ModuleList([nn.ModuleList([nn.LayerNorm(2)]), nn.ModuleList([nn.LayerNorm(2)])]),
        ),
    ],
)
def test_as_torch_shows_it(ours, theirs):
    import torch

    found, expected = (
        text.replace("affine=True, bias=True", "affine=True")  # a newer torch's words
        for text in (repr(ours(nn)), repr(theirs(torch.nn)))
    )
    assert found == expected


@pytest.mark.parity
def test_a_conv1d_as_transformers_shows_it():
    from transformers.pytorch_utils import Conv1D

    assert repr(nn.Conv1D(6, 2)) == repr(Conv1D(6, 2))


@pytest.mark.parametrize("blocks", [2, 12])
def test_equal_blocks_are_shown_once(blocks):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=7, n_positions=4, n_embd=4, n_layer=blocks, n_head=2))
    text = repr(model)
    assert f"(0-{blocks - 1}): {blocks} x GPT2Block(" in text
    assert text.count("c_attn") == 1
    assert text.splitlines()[0] == "GPT2LMHeadModel("
    assert len(text.splitlines()) < 30


def test_an_adapter_is_seen_in_its_place():
    model = tiny_model()
    get_peft_model(model, LoraConfig(r=3, target_modules=["c_fc"], layers_to_transform=[1], fan_in_fan_out=True))
    text = repr(model)
    assert "(0): GPT2Block(" in text
    assert "(1): GPT2Block(" in text
    assert text.count("LoraLinear(") == 1
    assert "(default): Matrix(weight=(3, " in text


def test_other_layers_show_their_shapes():
    quantized = nn.Linear4bit.from_linear(nn.Linear(64, 2))
    assert repr(quantized) == "Linear4bit(in_features=64, out_features=2, bias=True)"
    assert repr(nn.RMSNorm(8)) == "RMSNorm((8,), eps=1e-06)"
    assert repr(nn.Dropout(0.5)) == "Dropout(p=0.5)"


class Scaled(nn.Module):
    def __init__(self):
        self.weight, self.inner = nn.Parameter(np.zeros((2, 3))), nn.Dropout(0.1)


class Told(Scaled):
    def extra_repr(self):
        return "as its author says"


def test_modules_of_ones_own():
    assert repr(Scaled()) == "Scaled(\n  weight=(2, 3)\n  (inner): Dropout(p=0.1)\n)"
    assert repr(Told()) == "Told(\n  as its author says\n  (inner): Dropout(p=0.1)\n)"
