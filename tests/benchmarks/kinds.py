"""What each kind of adapter costs beside plain LoRA: `python tests/benchmarks/kinds.py [--small] [KIND ...]`.

On GPT-2's shape (124M parameters, random weights), adapters on all c_attn layers, a batch of 4 x 128 tokens. Each kind
has a process of its own, in which its steps alternate with those of plain LoRA on a second model of the same shape.

    parameters   that are trained
    file         bytes of adapter_model.safetensors
    time         of a training step, over plain LoRA's: the median of the ratios of pairs of steps
    memory       what a step takes at its peak beyond what was there before it, over plain LoRA's
    merges       does merge_adapter() put the update into the weight?

--small takes a model that is small, to try it. --clock cpu measures the processor's time, which says more on a machine
that others use too, with OMP_NUM_THREADS=1.
"""

import argparse
import dataclasses
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

LORA = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
KINDS = {  # {name: (fields of the configuration beside target_modules, the file that has it)}
    "LoRA": (LORA, "layer.py"),
    "DoRA": ({**LORA, "use_dora": True}, "variants/dora.py"),
    "PiSSA": ({**LORA, "init_lora_weights": "pissa_niter_4"}, "init.py"),
    "MiCA": ({**LORA, "init_lora_weights": "mica"}, "variants/mica.py"),
    "aLoRA": ({**LORA, "alora_invocation_tokens": [3, 4]}, "variants/alora.py"),
    "BD-LoRA": (
        {**LORA, "use_bdlora": {"target_modules_bd_a": ["c_attn"], "nblocks": 4, "match_strict": False}},
        "variants/bdlora.py",
    ),
    "QA-LoRA": ({**LORA, "use_qalora": True, "qalora_group_size": 16}, "variants/qalora.py"),
    "KaSA": ({**LORA, "kasa_config": {}}, "variants/kasa.py"),
    "VeLoRA": ({**LORA, "velora_config": {}}, "variants/velora.py"),
    "MonteCLoRA": ({**LORA, "monteclora_config": {}}, "variants/monteclora.py"),
    "AdaLoRA": ({"peft_type": "ADALORA", "init_r": 12, "target_r": 8, "total_step": 1000}, "family/adalora.py"),
    "DeLoRA": ({"peft_type": "DELORA", "r": 8}, "family/delora.py"),
    "FourierFT": ({"peft_type": "FOURIERFT", "n_frequency": 1000}, "family/fourierft.py"),
    "HiRA": ({"peft_type": "HIRA", "r": 8}, "family/hira.py"),
    "HRA": ({"peft_type": "HRA", "r": 8}, "family/hra.py"),
    "IA3": ({"peft_type": "IA3", "feedforward_modules": []}, "family/ia3.py"),
    "LoHa": ({"peft_type": "LOHA", "r": 8}, "family/loha.py"),
    "LoKr": ({"peft_type": "LOKR", "r": 8}, "family/lokr.py"),
    "MiSS": ({"peft_type": "MISS", "r": 16}, "family/miss.py"),
    "OFT": ({"peft_type": "OFT", "oft_block_size": 32}, "family/oft.py"),
    "RandLoRA": ({"peft_type": "RANDLORA", "r": 32}, "family/randlora.py"),
    "SHiRA": ({"peft_type": "SHIRA", "r": 8}, "family/shira.py"),
    "TinyLoRA": ({"peft_type": "TINYLORA"}, "family/tinylora.py"),
    "VB-LoRA": ({"peft_type": "VBLORA", "num_vectors": 256, "vector_length": 256}, "family/vblora.py"),
    "VeRA": ({"peft_type": "VERA", "r": 256}, "family/vera.py"),
}
WARMUP = 2
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def adapted(fields, small):
    """A PeftModel of GPT-2's shape with an adapter of this kind, in training mode, and its batch."""
    import numpy as np

    import lora_np
    from lora_np.lora.kinds import config_class

    lora_np.manual_seed(0)
    shape = {"vocab_size": 256, "n_embd": 64, "n_layer": 2, "n_head": 4} if small else {}
    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    model = lora_np.GPT2LMHeadModel(lora_np.GPT2Config(**shape, **off))
    if small and fields["peft_type"] == "VBLORA":
        fields = {**fields, "vector_length": 32}
    given = {"target_modules": ["c_attn"], **fields}
    if any(field.name == "fan_in_fan_out" for field in dataclasses.fields(config_class(fields["peft_type"], ""))):
        given["fan_in_fan_out"] = True
    model = lora_np.get_peft_model(model, lora_np.PeftConfig.from_dict(given)).train()
    ids = np.random.default_rng(0).integers(0, 256, (4, 128))
    ids[:, 10:12] = 3, 4  # what an aLoRA adapter begins at
    return model, ids


def measure(name, small, clock, pairs):
    """The row of one kind, in this process."""
    import lora_np

    sides = {}
    for side, fields in (("lora", KINDS["LoRA"][0]), ("kind", KINDS[name][0])):
        model, ids = adapted(fields, small)
        sides[side] = model, lora_np.AdamW([p for p in model.parameters() if p.requires_grad]), ids
    tracemalloc.start()
    ratios, peaks = [], {side: [] for side in sides}
    for number in range(WARMUP + pairs):
        seconds = {}
        for side in sorted(sides, reverse=bool(number % 2)):
            tracemalloc.reset_peak()
            before, began = tracemalloc.get_traced_memory()[0], clock()
            step(*sides[side])
            seconds[side] = clock() - began
            peaks[side].append(tracemalloc.get_traced_memory()[1] - before)
        ratios.append(seconds["kind"] / seconds["lora"])
    model = sides["kind"][0]
    with tempfile.TemporaryDirectory() as directory:
        plain = {"as_plain_lora": True} if name == "PiSSA" else {}
        model.save_pretrained(directory, **plain)
        size = (Path(directory) / "adapter_model.safetensors").stat().st_size
    return {
        "parameters": model.get_nb_trainable_parameters()[0],
        "bytes": size,
        "time": statistics.median(ratios[WARMUP:]),
        "memory": statistics.median(peaks["kind"][WARMUP:]) / statistics.median(peaks["lora"][WARMUP:]),
        "merges": merges(model),
    }


def step(model, optimizer, ids):
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def merges(model):
    try:
        model.merge_adapter()
    except (ValueError, NotImplementedError):
        return False
    return True


def table(rows):
    """The rows as a table in Markdown."""
    lines = ["| kind | file | parameters | bytes | step time | step memory | merges |", "|---|---|---|---|---|---|---|"]
    for name, row in rows.items():
        merged = "yes" if row["merges"] else "no"
        lines.append(
            f"| {name} | [{KINDS[name][1]}]({KINDS[name][1]}) | {row['parameters']:,} | {row['bytes']:,} | "
            f"{row['time']:.2f} | {row['memory']:.2f} | {merged} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--pairs", type=int, default=7, help="of steps that are counted")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.small, CLOCKS[args.clock], args.pairs)))
        return
    rows = {}
    for name in args.kinds or KINDS:
        command = [
            sys.executable,
            __file__,
            "--one",
            name,
            "--clock",
            args.clock,
            "--pairs",
            str(args.pairs),
            *(["--small"] if args.small else []),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{name}: {done.stderr[-2000:]}")
        rows[name] = json.loads(done.stdout.splitlines()[-1])
        print(f"{name}: {rows[name]}", flush=True)
    import numpy as np

    print(f"\nPython {platform.python_version()}, NumPy {np.__version__}, {platform.machine()}\n\n{table(rows)}")


if __name__ == "__main__":
    main()
