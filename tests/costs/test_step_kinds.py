"""Steps of every kind need what is forecast: measured for each architecture, and for one that is made here."""

import time
import tracemalloc
from dataclasses import dataclass

import numpy as np
import pytest
from cost_helpers import GPT2, LITTLE_GPT2, LITTLE_LLAMA, SMOLLM2, traced_step

from lora_np import GPT2Config, GPT2LMHeadModel, LoraConfig, get_peft_model, nn
from lora_np.autograd import functional as F
from lora_np.autograd.threads import limit_threads
from lora_np.costs import count, estimate_step_memory, flops, model_size
from lora_np.models import LlamaConfig, LlamaForCausalLM
from lora_np.models.architectures import ARCHITECTURES
from lora_np.models.base import CausalLM
from lora_np.models.qwen3 import Qwen3Config, Qwen3ForCausalLM
from lora_np.training import AdamW

LITTLE_QWEN3 = {name: value for name, value in LITTLE_LLAMA.items() if name not in ("model_type", "mlp_bias")}
KINDS = {
    "gpt2": lambda **changes: GPT2LMHeadModel(GPT2Config(**{**LITTLE_GPT2, "n_positions": 256, **changes})),
    "llama": lambda **changes: LlamaForCausalLM(LlamaConfig(**{**LITTLE_LLAMA, **changes})),
    "qwen3": lambda **changes: Qwen3ForCausalLM(Qwen3Config(**{**LITTLE_QWEN3, **changes})),
}


def prepared(model, target_modules="all-linear", dropout=0.0, method="lora", four_bit=False, checkpointing=False):
    """The model as it is trained with these options of `estimate_step_memory`, at rank 8."""
    if four_bit:
        nn.quantize_model(model)
    if checkpointing:
        model.gradient_checkpointing_enable()
    if method == "full":
        return model
    gpt2 = model.config.model_type == "gpt2" and target_modules != ["lm_head"]
    options = {"r": 8, "lora_dropout": dropout, "fan_in_fan_out": gpt2}
    return get_peft_model(model, LoraConfig(target_modules=target_modules, **options))


def beside_the_weights(predicted, method="lora", **_):
    """The most that the forward and backward pass of this step hold: of all parameters, with their gradients."""
    return predicted["activations"] + (predicted["gradients"] if method == "full" else 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("batch", "length"), [(4, 128), (3, 200)])
@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ({"four_bit": True}, {}),
        ({"checkpointing": True}, {}),
        ({"four_bit": True, "checkpointing": True, "dropout": 0.1}, {}),
        ({"method": "full"}, {}),
        ({"method": "full", "checkpointing": True}, {}),
        ({"target_modules": ["lm_head"]}, {}),
        ({"target_modules": ["lm_head"]}, {"vocab_size": 2000, "tie_word_embeddings": True}),
    ],
    ids=str,
)
def test_a_measured_step_of_every_kind_needs_what_is_predicted(kind, options, changes, batch, length):
    model, options = KINDS[kind](**changes), {"target_modules": "all-linear", **options}
    fields = model.config.to_dict()
    found = traced_step(prepared(model, **options), batch, length)
    predicted = estimate_step_memory(fields, 8, batch=batch, length=length, **options)
    assert found["weights"] == predicted["weights"] + predicted["adapters"]
    for part in ("gradients", "optimizer"):
        assert predicted[part] <= found[part] <= predicted[part] + 100_000
    assert beside_the_weights(predicted, **options) == pytest.approx(found["activations"], rel=0.02)
    assert predicted["total"] == sum(predicted.values()) - predicted["total"]


@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.parametrize("kind", KINDS)
def test_the_total_of_full_fine_tuning_is_what_a_step_reaches(kind, batch):
    """With few tokens the gradients are most of it, with many the activations; the optimizer has its state already."""
    model = KINDS[kind](vocab_size=2000)
    optimizer, ids = AdamW(model.parameters()), np.zeros((batch, 64), np.int64)
    with limit_threads(1):
        for _ in range(2):
            tracemalloc.start()
            model.train()(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            optimizer.zero_grad()
    predicted = estimate_step_memory(model.config.to_dict(), batch=batch, length=64, method="full")
    held = predicted["weights"] + predicted["optimizer"]
    assert predicted["total"] == held + beside_the_weights(predicted, "full")
    assert predicted["total"] == pytest.approx(held + peak, rel=0.01)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_shards_of_every_kind_need_at_most_what_is_predicted(kind, method, checkpointing):
    model, options = KINDS[kind](), {"method": method, "checkpointing": checkpointing}
    fields = model.config.to_dict()
    found = traced_step(prepared(model, **options), 5, 128, shards=2)["activations"]
    predicted = estimate_step_memory(fields, 8, "all-linear", batch=5, length=128, shards=2, **options)
    predicted = beside_the_weights(predicted, **options)
    # Less where the threads do not meet at their worst moments, which on a busy machine they may not at all.
    assert 0.5 * predicted < found < 1.02 * predicted


@dataclass
class ToyConfig:
    """An architecture that nothing in lora_np knows: no attention, no norm, and an MLP of its own."""

    width: int = 64
    depth: int = 3
    vocab_size: int = 300
    max_position_embeddings: int = 500
    tie_word_embeddings: bool = False
    model_type = "toy"

    def to_dict(self):
        return {"model_type": "toy", "width": self.width, "depth": self.depth, "vocab_size": self.vocab_size}

    @classmethod
    def from_dict(cls, fields):
        return cls(**{name: fields[name] for name in ("width", "depth", "vocab_size")})


class ToyBlock(nn.Module):
    def __init__(self, width):
        self.wide, self.gate = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)
        self.narrow = nn.Linear(3 * width, width)

    def forward(self, x):
        scale = x.mean(axis=-1, keepdims=True) ** 2 + 1.0
        return x + self.narrow(self.wide(x).tanh() * F.silu(self.gate(x)) / scale)


class ToyTransformer(nn.Module):
    def __init__(self, config):
        self.table = nn.Embedding(config.vocab_size, config.width)
        self.blocks = nn.ModuleList(ToyBlock(config.width) for _ in range(config.depth))

    def forward(self, ids, context):
        x = self.table(ids)
        for block in self.blocks:
            x = block(x)
        return x


class ToyLM(CausalLM):
    base_model_prefix = "toy"

    def __init__(self, config):
        super().__init__(config)
        self.toy, self.lm_head = ToyTransformer(config), nn.Linear(config.width, config.vocab_size, bias=False)

    def get_input_embeddings(self):
        return self.toy.table


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_new_architecture_needs_no_line_in_costs(monkeypatch, method):
    monkeypatch.setitem(ARCHITECTURES, "toy", (ToyConfig, ToyLM))
    fields, targets = ToyConfig().to_dict(), ["wide", "narrow"]
    model = prepared(ToyLM(ToyConfig()), target_modules=targets, method=method)
    found = traced_step(model, 4, 300)
    predicted = estimate_step_memory(fields, 8, targets, batch=4, length=300, method=method)
    assert found["weights"] == predicted["weights"] + predicted["adapters"]
    assert beside_the_weights(predicted, method) == pytest.approx(found["activations"], rel=0.005)
    everything = sum(p.size for p in model.parameters())
    if method == "lora":
        assert count(fields, 8, targets) == (predicted["adapters"] // 4, everything)
    else:
        assert model_size(fields) == everything
        assert flops(fields, length=7, method="full")["total"] == 3 * 2 * 7 * (3 * 3 * 64 * 192 + 64 * 300)


def test_a_forecast_is_quick():
    began = time.process_time()
    estimate_step_memory(GPT2, 8, "all-linear", batch=8, length=1024)
    estimate_step_memory({"model_type": "llama", **SMOLLM2}, 8, "all-linear", batch=4, length=512)
    assert time.process_time() - began < 4  # about 1 s
