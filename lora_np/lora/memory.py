"""What a training step holds in memory, by part, from the fields of a config.json: see `sizes.py`.

`memory` is the arithmetic for large models in mixed precision, as training libraries for GPUs do it. `this_library` is
what this one really keeps for GPT-2, in float32: it follows, operation by operation, what the caches in
`autograd/fused/` hold. Everything is in bytes; a GB is 10⁹ of them.
"""

import math
from collections import Counter

from .sizes import adapter_sizes, count, dimensions, linear_layers, model_size, place_of

FLOAT32, BFLOAT16 = 4, 2
NF4 = (4 + 8 / 64 + 32 / (64 * 256)) / 8
CHUNK_BYTES = 1 << 25  # of logits that autograd/fused/loss.py holds at once
BLOCK_BYTES = 1 << 18  # that elementwise operations work on at once (autograd/backend.py, `blocks`)
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
        parts = {"weights": round(NF4 * quantised) + weight_bytes * (size - quantised)}
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
    d = dimensions(config)
    block = 2 * d["C"] + 2 * d["q"] + 2 * d["kv"] + (1 if config["model_type"] == "gpt2" else 3) * d["inner"]
    inputs = {0: d["C"], 2: 0, 3: d["C"], 4: d["inner"]}  # attention's result, read in place 2, is counted already
    places = {place_of(name) for name in trained if name != "lm_head"}
    kept = d["blocks"] * block + sum(inputs[place] for _, place in places)
    if checkpointing:
        kept = kept / d["blocks"] + d["blocks"] * d["C"]
    return round(batch * length * (activation_bytes * (kept + d["C"]) + 2 * FLOAT32 * d["V"]))


def this_library(config, r, target_modules=None, *, batch=1, length):
    """`memory`'s dict for a LoRA step of this library on GPT-2 and a CPU, everything in float32.

    "activations" is the most that exists at once beside weights, gradients and optimizer: what the operations keep for
    the backward pass, and the temporary arrays of the moment. ValueError for another kind of model, and if the head
    has an adapter: its logits are then held whole, which is not followed here.
    """
    kind = config.get("model_type")
    if kind != "gpt2":
        raise ValueError(f"this_library follows GPT-2's operations; the config is of a {kind!r} model")
    adapters = adapter_sizes(config, r, target_modules)
    if "lm_head" in adapters:
        raise ValueError("this_library does not follow a head with an adapter")
    trained = sum(adapters.values())
    parts = {"weights": model_size(config), "adapters": trained, "gradients": trained, "optimizer": 2 * trained}
    parts["activations"] = _peak(config, Counter(map(place_of, adapters)), r, batch, length)
    parts = {part: FLOAT32 * numbers for part, numbers in parts.items()}
    return {**parts, "total": sum(parts.values())}


def _peak(config, adapters, r, batch, length):
    """The largest of three moments, in numbers: GELU of the last block, forward and backward, and the loss.

    adapters: {place: how many adapters}. Everything that the blocks keep is there each time, less what comes only
    after GELU's forward.
    """
    d, rows, counted = dimensions(config), batch * length, batch * (length - 1)  # the last position has no target
    C, inner, last = d["C"], d["inner"], d["blocks"] - 1
    kept = rows * _kept_by_blocks(config, adapters, r, length)
    # Forward: the block's input, the stream, and the input of c_fc; input, result and two temporary blocks of GELU.
    work = 2 * min(rows * inner, BLOCK_BYTES // FLOAT32)
    forward = 3 * C + 2 * inner - (C if (last, 3) in adapters else 0) - (inner if (last, 4) in adapters else 0)
    # Backward: the stream's gradient; that of c_proj's input, and one more as large: the branch's part, or GELU's.
    backward = C + (2 * inner if min(adapters) < (last, 4) else 0)
    # The loss: last norm, hidden states, their gradient, both again for the rows that count, and a chunk of logits.
    chunk = min(counted, max(1, CHUNK_BYTES // (FLOAT32 * d["V"]))) * d["V"]
    loss = rows * (3 * C + 1) + 2 * counted * C + chunk
    return kept + max(rows * forward + work, rows * backward, loss)


def _kept_by_blocks(config, adapters, r, length):
    """Numbers that all blocks keep for the backward pass, for each row (token).

    Nothing is kept below the lowest adapter: no gradient gets there. Above it, see each operation's docstring.
    """
    total, needed = 0, False
    for i in range(config["n_layer"]):
        for place, numbers in _kept_by_operations(config, length):
            adapted = adapters.get((i, place), 0)
            if adapted or (needed and place is None):
                total += numbers + r * adapted  # for a branch also h = x Aᵀ
            needed = needed or adapted > 0
    return total


def _kept_by_operations(config, length):
    """[(place, numbers for a row)] of a block's operations in order; those with a place are kept if it is adapted."""
    d = dimensions(config)
    norm = (None, d["C"] + 1)  # x̂ and 1/σ
    dropout = (None, d["C"] if config.get("resid_pdrop", 0.1) else 0)  # the mask
    scores = d["heads"] * length * (2 if config.get("attn_pdrop", 0.1) else 1)  # P, and its mask
    attention = [norm, (0, d["C"]), (None, 3 * d["C"] + scores), (2, d["C"]), dropout]
    return [*attention, norm, (3, d["C"]), (None, d["inner"]), (4, d["inner"]), dropout]  # GELU keeps its slope
