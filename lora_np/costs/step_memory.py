"""What a training step of this library holds in memory: the step itself, run for its shapes.

The real model with its real adapters, forward, backward and optimizer, works on arrays that have no numbers
(`shapes.py`) and whose bytes are counted from the moment they are made until Python frees them. So nothing about a
model is said here: a new architecture, or a new kind of layer, is followed as soon as it runs. Python's own objects,
token ids and NumPy's buffers are left out: 10 to 100 kB.
"""

import warnings

from .. import nn
from ..autograd.threads import limit_threads
from ..lora import LoraConfig, get_peft_model
from ..training.optim import AdamW
from .meter import metered
from .shapes import ShapeArray
from .weightless import build, no_ids, to_shapes

METHODS = ("full", "lora")


def estimate_step_memory(
    config,
    r=None,
    target_modules=None,
    *,
    batch=1,
    length,
    dropout=0.0,
    shards=1,
    method="lora",
    four_bit=False,
    checkpointing=False,
):
    """`memory`'s dict for one step of AdamW in this library on a CPU, everything in float32.

    dropout        LoraConfig's lora_dropout
    shards         how many parts of the batch are computed at the same time (autograd/threads.py). They are taken to
                   reach their worst moments together, which is the most that can happen
    method         "lora": A and B of the targets are trained; "full": every parameter
    four_bit       the linear layers but the head are in NF4 (nn.quantize_model); for "lora" only
    checkpointing  blocks are computed again in the backward pass (gradient_checkpointing_enable)

    All tokens are taken to count in the loss; where only some do, it needs less.

    "activations" is the most that exists at once beside weights, gradients and optimizer: what the operations keep for
    the backward pass, and the temporary arrays of the moment. With method "full" the gradients are as large as the
    weights, and come as the activations go: there it is what the worst moment holds beyond all of the gradients, so
    that the total is what exists at that moment. ValueError for a kind of model that this library does not run, and for
    more tokens than its context.
    """
    _check(method, four_bit)
    full, shards = method == "full", min(shards, batch)
    with metered() as meter:
        model = _model(config, r, target_modules, dropout, full, four_bit, checkpointing)
        parts, optimizer = _fixed_parts(model, full, meter)
        rows = [batch // shards + (i < batch % shards) for i in range(shards)]
        peaks = {n: _peak(model, optimizer, n, length, full, meter) for n in set(rows)}
    activations = sum(peaks[n] for n in rows)
    if full:
        copies = shards + 1 if shards > 1 else 1  # each shard has gradients of its own until they are added up
        activations = max(activations, copies * parts["gradients"]) - parts["gradients"]
    parts["activations"] = activations
    return {**parts, "total": sum(parts.values())}


def _check(method, four_bit):
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(map(repr, METHODS))}, got {method!r}")
    if method == "full" and four_bit:
        raise ValueError("weights in 4 bits are not trained: four_bit goes with method='lora'")


def _model(config, r, target_modules, dropout, full, four_bit, checkpointing):
    """The model in training, all of its arrays `ShapeArray`s."""
    model = build(config)
    if four_bit:
        nn.quantize_model(to_shapes(model))
    if checkpointing:
        model.gradient_checkpointing_enable()
    if not full:
        targets = list(target_modules) if isinstance(target_modules, tuple) else target_modules
        options = {"r": r, "target_modules": targets, "lora_dropout": dropout}
        with nn.weightless(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fan_in_fan_out is set as the layers need it
            model = get_peft_model(model, LoraConfig(**options))
    return to_shapes(model).train()


def _fixed_parts(model, full, meter):
    """The bytes that do not depend on the batch, and the optimizer after a first step, which makes its state."""
    trained = [p for p in model.parameters() if p.requires_grad]
    sizes = sum(p.data.nbytes for p in trained)
    weights = nn.memory_footprint(model) - (0 if full else sizes)
    parts = {"weights": weights, "adapters": 0 if full else sizes, "gradients": sizes}
    for p in trained:
        p.grad = ShapeArray(p.shape, p.dtype)
    optimizer, before = AdamW(trained), meter.live
    optimizer.step()
    return {**parts, "optimizer": meter.live - before}, optimizer


def _peak(model, optimizer, batch, length, full, meter):
    """The most bytes that exist at once in a step with so many rows, beside those that exist before it.

    Gradients of adapters are there before, as when those of several batches are added up.
    """
    if full:
        model.zero_grad()
    before, ids = meter.mark(), no_ids(batch, length)
    with limit_threads(1):
        if length > 1:
            model(input_ids=ids, labels=ids).loss.backward()
        else:
            model(input_ids=ids).logits.sum().backward()  # a single token has no target, and there is no loss
    if full:
        optimizer.step()
    return meter.peak - before
