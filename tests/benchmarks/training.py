"""A training step: of lora_np, of PyTorch, and its matrix products alone. Each function makes a step to be timed.

The same lines train adapters (with AdamW) and whole models (with SGD).
"""

import functools
from pathlib import Path

import numpy as np

ADAPTER_RATE, FULL_RATE = 1e-3, 0.1


def batch_of(workload):
    """The ids (B, T), the same for every system."""
    return np.random.default_rng(0).integers(0, workload.vocab_size, (workload.batch, workload.length))


def lora_np_step(workload, folder):
    """A function that runs one step of lora_np and returns the loss."""
    import lora_np

    model = lora_np.AutoModelForCausalLM.from_pretrained(folder)
    if workload.kind == "lora":
        model = lora_np.PeftModel.from_pretrained(model, Path(folder) / "adapter", is_trainable=True)
    return training_step(workload, model, lora_np, batch_of(workload))


def torch_step(workload, folder):
    """A function that runs one step of PyTorch + Transformers, eager, with PEFT for adapters, and returns the loss."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    if workload.kind == "lora":
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, Path(folder) / "adapter", is_trainable=True)
    return training_step(workload, model, torch.optim, torch.from_numpy(batch_of(workload)))


def training_step(workload, model, optimizers, ids):
    """Forward, backward, optimizer; returns the loss. The same lines for both, since the names are the same."""
    trained = [p for p in model.train().parameters() if p.requires_grad]
    full = workload.kind == "full"
    optimizer = optimizers.SGD(trained, lr=FULL_RATE) if full else optimizers.AdamW(trained, lr=ADAPTER_RATE)

    def step():
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def floor_step(workload, folder):
    """A function that does the step's matrix products alone, in NumPy, into arrays that are there already."""
    work = []
    for m, k, n, repeats in workload.products():
        stack = (repeats,) if repeats > 1 else ()
        work.append((_random(*stack, m, k), _random(*stack, k, n), _result(*stack, m, n)))

    def step():
        for a, b, out in work:
            np.matmul(a, b, out=out)

    return step


@functools.cache
def _random(*shape):
    """An operand of the floor; products of one shape share it."""
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@functools.cache
def _result(*shape):
    """Where products of this shape are written."""
    return np.empty(shape, np.float32)
