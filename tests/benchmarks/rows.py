"""A batch in which each row has an adapter of its own, beside the base model and beside PEFT:

    pip install -e '.[parity]'
    python tests/benchmarks/rows.py [--rows 64] [--adapters 64] [--tokens 16] [--new-tokens 8] [--turns 5] [--blocks 30]
    python tests/benchmarks/rows.py --device cuda --tokens 512 --new-tokens 16

SmolLM2-135M's shape with random weights, and adapters of rank 8 on all linear layers. Measured are the forward pass
and greedy decoding, of the base, of this library with `adapter_names`, and of PEFT with the same weights and names.
The systems take turns in one process; ratios are of times that lie next to each other, their median and their range.
What is computed must be the same: logits to 2e-5 of the largest, and tokens, where no two are about equally likely.
On a machine that others use too, `OMP_NUM_THREADS=1 python tests/benchmarks/rows.py --clock cpu` says more.
"""

import argparse
import os
import statistics
import tempfile
import time

import numpy as np
from systems import prepare
from workloads import SMOLLM2, Workload

import lora_np
from lora_np.autograd.precision import set_tf32

PAUSE = 0.3  # seconds between systems: thread pools spin for a while before they sleep
RANK = 8
TOLERANCE = {"cpu": 2e-5, "cuda": 1e-2}  # TF32, on both sides
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def models(options, folder):
    """(base, our PeftModel, PEFT's model), both with the same weights and adapters."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    shape = {**SMOLLM2, "layers": options.blocks}
    prepare(Workload("", **shape, batch=1, length=1, rank=RANK, kind="generate"), folder)
    names = [f"user{i}" for i in range(options.adapters)]
    settings = {"r": RANK, "lora_alpha": 16, "target_modules": "all-linear", "init_lora_weights": False}
    base = lora_np.AutoModelForCausalLM.from_pretrained(folder)
    ours = lora_np.get_peft_model(lora_np.AutoModelForCausalLM.from_pretrained(folder), lora_np.LoraConfig(**settings))
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folder), peft.LoraConfig(**settings))
    for name in names:
        ours.add_adapter(name, lora_np.LoraConfig(**settings))
    ours.delete_adapter("default")
    _add_in_peft(theirs, names)
    rng = np.random.default_rng(0)
    numbers = dict(theirs.named_parameters())
    for name, p in ours.named_parameters():
        if ".lora_" in name:
            p.data = (0.02 * rng.standard_normal(p.shape, np.float32)).astype(np.float32)
            numbers[name].data = torch.from_numpy(p.data)  # the same memory
    for model in (base, ours, theirs) if options.device == "cuda" else ():
        model.to("cuda")
    return base.eval(), ours.eval(), theirs.eval(), names


def _add_in_peft(model, names):
    """What its add_adapter does, without the walks over the whole model for each, which take minutes for many."""
    config = model.peft_config["default"]
    layers = [module for module in model.modules() if hasattr(module, "update_layer")]
    for name in names:
        model.peft_config[name] = config
        for layer in layers:
            layer.update_layer(name, config.r, lora_alpha=config.lora_alpha, config=config)


def systems(options, folder):
    """{what is measured: {system: a function that does it}}."""
    import torch

    base, ours, theirs, names = models(options, folder)
    names = [names[i % len(names)] for i in range(options.rows)]
    ids = np.random.default_rng(0).integers(0, SMOLLM2["vocab_size"], (options.rows, options.tokens))
    tensor = torch.from_numpy(ids).to(options.device)
    last = {"logits_to_keep": 1} if options.device == "cuda" else {}  # all of them are gigabytes, which take their time

    def forward(model, **told):
        with lora_np.no_grad():
            return model(input_ids=ids, **last, **told).logits.numpy()

    def their_forward():
        with torch.inference_mode():
            return theirs(input_ids=tensor, adapter_names=names, **last).logits.cpu().numpy()

    greedy = {"max_new_tokens": options.new_tokens, "do_sample": False}

    def their_text():
        with torch.inference_mode():
            mask = torch.ones_like(tensor)
            return theirs.generate(input_ids=tensor, attention_mask=mask, adapter_names=names, **greedy).cpu().numpy()

    return {
        "forward": {
            "base": lambda: forward(base),
            "rows": lambda: forward(ours, adapter_names=names),
            "PEFT": their_forward,
        },
        "generate": {
            "base": lambda: np.asarray(base.generate(ids, **greedy)),
            "rows": lambda: np.asarray(ours.generate(ids, adapter_names=names, **greedy)),
            "PEFT": their_text,
        },
    }


def check(what, found, expected, device):
    """The same logits; of texts, how many rows are equal, for random weights make some tokens nearly equally likely."""
    if what == "forward":
        error = float(abs(found - expected).max() / abs(expected).max())
        assert error < TOLERANCE[device], f"other logits than PEFT's: {error}"
        print(f"  logits: largest difference {error:.1e} of the largest")
    else:
        print(f"  texts: {int((found == expected).all(axis=1).sum())} of {len(found)} rows are equal")


def timed(functions, turns, clock):
    """First the results of each system, then {system: [seconds]}; they take turns, and the first is not counted."""
    seconds, results = {name: [] for name in functions}, {}
    for turn in range(turns + 1):
        for name, function in functions.items():
            time.sleep(PAUSE)
            start = clock()
            result = function()
            if turn:
                seconds[name].append(clock() - start)
            else:
                results[name] = result
            del result
        if not turn:
            yield results
            results = {}
    yield seconds


def ratio(above, below):
    """The median and the range of the ratios of times that lie next to each other."""
    found = [a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def machine(device):
    """What is measured on, in words; a GPU multiplies in TF32 from here on."""
    if device == "cpu":
        return f"{len(os.sched_getaffinity(0))} cores"
    import torch

    torch.set_float32_matmul_precision("high")
    set_tf32(True)
    return torch.cuda.get_device_name()


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("rows", 64), ("adapters", 64), ("tokens", 16), ("new-tokens", 8), ("turns", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--blocks", type=int, default=SMOLLM2["layers"], help="of the model; SmolLM2 has 30")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: with OMP_NUM_THREADS=1, where others work too"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="cuda: in TF32, PyTorch's too")
    options = parser.parse_args()
    print(f"{machine(options.device)}, {options}")
    with tempfile.TemporaryDirectory() as folder:
        for what, functions in systems(options, folder).items():
            results, seconds = timed(functions, options.turns, CLOCKS[options.clock])
            check(what, results["rows"], results["PEFT"], options.device)
            for name, found in seconds.items():
                print(f"  {what}, {name:<5} {1e3 * statistics.median(found):8.0f} ms")
            print(f"  rows / base {ratio(seconds['rows'], seconds['base'])}")
            print(f"  PEFT / rows {ratio(seconds['PEFT'], seconds['rows'])}", flush=True)


if __name__ == "__main__":
    main()
