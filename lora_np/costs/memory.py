"""What a training step holds in memory, by part: the usual arithmetic, from the fields of a config.json.

It is meant for large models in mixed precision, as training libraries for GPUs run them. What a step of this library
really holds, in float32, is in `step.py`. Everything is in bytes; a GB is 10⁹ of them.
"""

import math

from .operations import place_of
from .parameters import adapter_sizes, count, dimensions, linear_layers, model_size
from .places import places

FLOAT32 = 4
BFLOAT16 = 2
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
HEAD = (math.inf, 0)
METHODS = ("full", "lora", "qlora")


def memory(
    config,
    r=None,
    target_modules=None,
    *,
    batch=1,
    length,
    method="lora",
    weight_bytes=BFLOAT16,
    activation_bytes=BFLOAT16,
    checkpointing=False,
):
    """{"weights", "adapters", "gradients", "optimizer", "activations", "total"} in bytes, for one training step.

    method "full"    every parameter is trained: weight 2, gradient 2, and for the optimizer a float32 copy of the
                     weight and Adam's m and v, 4 each: 16 bytes a parameter, so that 7 billion take 112 GB
                     (Rajbhandari et al., 2020, "ZeRO", section 3.1). Weights of 4 bytes need no copy
           "lora"    frozen weights, `weight_bytes` each; A and B, their gradients, m and v in float32
           "qlora"   the same on 4-bit linear weights: NF4 with a scale for each 64 of them, the scales in 8 bits with a
                     float32 for each 256: 4 + 8/64 + 32/(64·256) = 4.127 bits (Dettmers et al., 2023, section 3). The
                     embedding, the head, norms and biases keep `weight_bytes`

    "activations" is `activations`, an estimate; temporary buffers and what an allocator wastes are left out.
    ValueError for another method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    size = model_size(config)
    if method == "full":
        parts = {"weights": weight_bytes * size, "adapters": 0, "gradients": weight_bytes * size}
        parts["optimizer"] = FLOAT32 * size * (3 if weight_bytes < FLOAT32 else 2)
    else:
        trained, _ = count(config, r, target_modules)
        quantised = sum(math.prod(s) for name, s in linear_layers(config).items() if name != "lm_head")
        quantised = quantised if method == "qlora" else 0
        parts = {"weights": round(NF4_BYTES * quantised) + weight_bytes * (size - quantised)}
        parts |= {"adapters": FLOAT32 * trained, "gradients": FLOAT32 * trained, "optimizer": 2 * FLOAT32 * trained}
    adapted = linear_layers(config) if method == "full" else adapter_sizes(config, r, target_modules)
    parts["activations"] = activations(config, adapted, batch, length, activation_bytes, checkpointing)
    return {**parts, "total": sum(parts.values())}


def activations(config, trained, batch, length, activation_bytes=BFLOAT16, checkpointing=False):
    """Bytes that wait for the backward pass, if each operation keeps only what its gradient needs.

    trained: names of the linear layers that are trained or adapted. For each row (token) and block:
        2 C               what the two norms normalised
        2 q + 2 kv        queries, keys, values and result of an attention that never stores its (T, T) matrix
        inner or 3 inner  GELU's input; for SwiGLU its two inputs and silu of the first
        in                the input of each trained layer, once where several share it: dW or dA needs it
    and above the blocks the last norm and the logits with their gradient, in float32. So freezing the weights saves
    little here: the way back to the lowest adapter is as long as before. `checkpointing` keeps C for each block, and
    all of this for one block, which is computed again (Chen et al., 2016).
    """
    d, layers, seen = dimensions(config), linear_layers(config), places(config)
    into_mlp = max(place for place in seen.layers.values() if place[0] == 0)[1] - 1
    wide = sum(layers[name][1] for name, place in seen.layers.items() if place == (0, into_mlp))
    gates = wide // d["inner"]  # 1: f(up); 2: f(gate) ∘ up, by two products or by one
    block = 2 * d["C"] + 2 * d["q"] + 2 * d["kv"] + (2 * gates - 1) * d["inner"]
    fan_in = {place: layers[name][0] for name, place in seen.layers.items()}
    fan_in |= {(i, number + 1): 0 for i, number in seen.attention}  # attention's result is counted already
    kept = d["blocks"] * block + sum(fan_in[place] for place in {place_of(name, config) for name in trained} - {HEAD})
    if checkpointing:
        kept = kept / d["blocks"] + d["blocks"] * d["C"]
    return round(batch * length * (activation_bytes * (kept + d["C"]) + 2 * FLOAT32 * d["V"]))
