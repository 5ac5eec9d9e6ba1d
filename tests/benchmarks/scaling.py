"""How a LoRA step grows: `python tests/benchmarks/scaling.py [--picture FILE]`.

One setting at a time is varied around a GPT-2 of 4 blocks, 256 wide, with rank 8 on all linear layers and a batch of
8 x 128. Each point is a process of its own; printed are the median time of a step, its peak memory, and the share of
the products that is LoRA's own (r (in + out) beside in · out for each layer).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from memory import peak_memory

BASE = {"rank": 8, "width": 256, "depth": 4, "length": 128, "batch": 8}
CURVES = {
    "rank": [1, 4, 8, 16, 32, 64, 128, 256],
    "width": [64, 128, 256, 512, 768],
    "depth": [1, 2, 4, 8, 12],
    "length": [32, 64, 128, 256, 512, 1024],
    "batch": [1, 2, 4, 8, 16, 32],
}
STEPS, WARMUP = 7, 2


def measure(rank, width, depth, length, batch):
    """(median seconds of a step, peak bytes) in this process."""
    import numpy as np

    import lora_np

    off = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = lora_np.GPT2Config(
        vocab_size=256, n_positions=1024, n_embd=width, n_layer=depth, n_head=width // 32, **off
    )
    adapter = lora_np.LoraConfig(r=rank, target_modules="all-linear", init_lora_weights=False, fan_in_fan_out=True)
    model = lora_np.get_peft_model(lora_np.GPT2LMHeadModel(config), adapter).train()
    optimizer = lora_np.AdamW([p for p in model.parameters() if p.requires_grad])
    ids = np.random.default_rng(0).integers(0, 256, (batch, length))
    seconds = []
    for _ in range(WARMUP + STEPS):
        began = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARMUP:]), peak_memory()


def loras_share(rank, width, **_):
    """LoRA's part of the multiplications in the linear layers, forward: r (in + out) to in · out."""
    layers = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
    own, frozen = sum(rank * (i + o) for i, o in layers), sum(i * o for i, o in layers)
    return own / (own + frozen)


def draw(points, path):
    """The five curves side by side, time and memory, both axes logarithmic."""
    from lora_np import plots

    figure, axes = plots.new_figure(columns=len(CURVES), width=3.2, height=3.2)
    for ax, name in zip(axes, CURVES, strict=True):
        values, rows = CURVES[name], points[name]
        ax.loglog(values, [1e3 * seconds for seconds, _ in rows], "o-", color=plots.BLUE, label="ms")
        ax.loglog(values, [peak / 2**20 for _, peak in rows], "s--", color=plots.ORANGE, label="MiB")
        ax.set(title=f"by {name}", xlabel=name)
        ax.set_xticks(values, [str(value) for value in values], fontsize="small")
        low, high = ax.get_ylim()
        marks = [m for m in (10, 20, 50, 100, 200, 500, 1000, 2000) if low <= m <= high]
        ax.set_yticks(marks, [str(mark) for mark in marks])
        ax.minorticks_off()
    axes[0].set_ylabel("step time (ms), peak memory (MiB)")
    axes[0].legend()
    plots.save(figure, path)


def main():
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, help="draw the curves into this PNG file")
    parser.add_argument("--point", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.point:
        print(json.dumps(measure(**options.point)))
        return
    points = {}
    for name, values in CURVES.items():
        print(f"\n{name:>8}{'ms':>10}{'MiB':>8}{'LoRA of products':>18}")
        for value in values:
            setting = {**BASE, name: value}
            command = [sys.executable, __file__, "--point", json.dumps(setting)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            seconds, peak = json.loads(done.stdout)
            points.setdefault(name, []).append((seconds, peak))
            print(f"{value:>8}{1e3 * seconds:>10.1f}{peak / 2**20:>8.0f}{loras_share(**setting):>18.1%}", flush=True)
    if options.picture:
        draw(points, options.picture)


if __name__ == "__main__":
    main()
