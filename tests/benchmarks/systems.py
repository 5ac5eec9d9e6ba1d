"""One system under test, in a process of its own: `python systems.py SYSTEM WORKLOAD FOLDER`.

It loads the model and the adapter from FOLDER and then obeys lines on its standard input: "step" runs one training
step, anything else ends it. Each step is answered by a line of JSON with its seconds and its loss; the last line
has the peak memory of the process.
"""

import functools
import json
import sys
import time
from pathlib import Path

import numpy as np
from workloads import WORKLOADS

LEARNING_RATE = 1e-3


def batch_of(workload):
    """The batch (B, T), the same for every system."""
    return np.random.default_rng(0).integers(0, workload.vocab_size, (workload.batch, workload.length))


def prepare(workload, folder):
    """Write random weights and a random adapter for all systems to load; B is not zero, so that A learns too."""
    import lora_np

    lora_np.manual_seed(0)
    config = lora_np.GPT2Config.from_dict(workload.model_config())
    model = lora_np.GPT2LMHeadModel(config)
    model.save_pretrained(folder)
    lora_config = lora_np.LoraConfig(
        r=workload.rank,
        target_modules=list(workload.target_modules),
        fan_in_fan_out=True,
        init_lora_weights=False,
        task_type="CAUSAL_LM",
    )
    lora_np.get_peft_model(model, lora_config).save_pretrained(Path(folder) / "adapter")


def lora_np_step(workload, folder):
    """A function that runs one step of lora_np and returns the loss."""
    import lora_np

    model = lora_np.AutoModelForCausalLM.from_pretrained(folder)
    model = lora_np.PeftModel.from_pretrained(model, Path(folder) / "adapter", is_trainable=True).train()
    optimizer = lora_np.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    return training_step(model, optimizer, batch_of(workload))


def torch_step(workload, folder):
    """A function that runs one step of PyTorch + Transformers + PEFT (eager) and returns the loss."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    model = PeftModel.from_pretrained(model, Path(folder) / "adapter", is_trainable=True).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LEARNING_RATE)
    return training_step(model, optimizer, torch.from_numpy(batch_of(workload)))


def training_step(model, optimizer, ids):
    """Forward, backward, optimizer; returns the loss. The same lines for both, since the names are the same."""

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


SYSTEMS = {"lora_np": lora_np_step, "torch + PEFT": torch_step, "products alone": floor_step}


def main(system, workload, folder):
    """Obey the lines on standard input."""
    step = SYSTEMS[system](WORKLOADS[workload], folder)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        if line.strip() != "step":
            break
        start = time.perf_counter()
        loss = step()
        print(json.dumps({"seconds": time.perf_counter() - start, "loss": loss}), flush=True)
    print(json.dumps({"peak_bytes": peak_memory()}), flush=True)


def peak_memory():
    """The most memory this process has held, in bytes (Linux). getrusage would count the parent's too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
