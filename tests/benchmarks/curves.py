"""Does training in bfloat16 end where training in float32 does? `python tests/benchmarks/curves.py [--device cuda]`.

LoRA r=8 on all linear layers of tiny-python, 200 steps on this library's own source, in float32 with three seeds and in
bfloat16 with the first. Two curves of different seeds differ by the order of the data and by the adapter's start: what
bfloat16 changes should be less.
"""

import argparse
from itertools import combinations
from pathlib import Path

import numpy as np

import lora_np

STEPS, BATCH, LENGTH, SEEDS = 200, 16, 128, (0, 1, 2)
SOURCE = Path(lora_np.__file__).parent


def curve(dtype, seed, device, tokens):
    """The loss of each step."""
    lora_np.manual_seed(seed)
    model = lora_np.AutoModelForCausalLM.from_pretrained("tiny-python", dtype=dtype, device=device)
    config = lora_np.LoraConfig(r=8, target_modules="all-linear", fan_in_fan_out=True)
    model = lora_np.get_peft_model(model, config).train()
    optimizer = lora_np.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    rng, losses = np.random.default_rng(seed), []
    for _ in range(STEPS):
        starts = rng.integers(0, len(tokens) - LENGTH, BATCH)
        ids = np.stack([tokens[start : start + LENGTH] for start in starts])
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return np.array(losses)


def main():
    """Print how far curves lie apart, over windows of 20 steps, and where each ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(SOURCE.rglob("*.py")))
    tokens = np.array(lora_np.AutoTokenizer.from_pretrained("tiny-python").encode(text))
    exact = [curve("float32", seed, device, tokens) for seed in SEEDS]
    narrow = curve("bfloat16", SEEDS[0], device, tokens)
    windows = [x.reshape(-1, 20).mean(axis=1) for x in (*exact, narrow)]
    apart = [np.abs(a - b).mean() for a, b in combinations(windows[:-1], 2)]
    print("last 20 steps:", *(f"{x[-1]:.4f}" for x in windows[:-1]), f"in float32, {windows[-1][-1]:.4f} in bfloat16")
    print(
        f"two seeds lie {np.mean(apart):.4f} apart, bfloat16 and float32 {np.abs(windows[0] - windows[-1]).mean():.4f}"
    )
    print(f"step by step, at most {np.abs(exact[0] - narrow).max():.4f} of bfloat16")


if __name__ == "__main__":
    main()
