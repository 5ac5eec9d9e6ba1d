"""Models, batches and comparisons that the tests of the starts of A and B share."""

import numpy as np
from lora_helpers import hugging_face_twin, some_ids, tiny_llama, tiny_model

from lora_np import LoraConfig

TARGETS = {"gpt2": ["c_attn", "c_proj", "c_fc"], "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]}
MAKE = {"gpt2": tiny_model, "llama": tiny_llama}


def start_fields(base="gpt2", **options):
    """The fields of a LoraConfig, this library's or PEFT's, for one of the two bases."""
    fields = {"r": 3, "lora_alpha": 5, "target_modules": TARGETS[base], "fan_in_fan_out": base == "gpt2"}
    return {**fields, **options}


def start_config(base="gpt2", **options):
    return LoraConfig(**start_fields(base, **options))


def some_batches(count=2, rows=4, padded=True):
    """Batches of ids; in each, one row ends in padding."""
    ids = some_ids(tiny_model().config, batch=count * rows, time=12)
    masks = np.ones_like(ids)
    masks[1::rows, 8:] = 0 if padded else 1
    pieces = [slice(i * rows, (i + 1) * rows) for i in range(count)]
    return [{"input_ids": ids[piece], "attention_mask": masks[piece]} for piece in pieces]


def in_torch(batches):
    import torch

    return [{name: torch.tensor(array) for name, array in batch.items()} for batch in batches]


def fresh_twin(base="gpt2"):
    return hugging_face_twin(MAKE[base]())


def up_to_sign(found, expected, axis):
    """The largest difference of the rows (axis 1) or columns (axis 0), each with the sign that fits best; relative."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    assert found.shape == expected.shape
    signs = np.sign((found * expected).sum(axis=axis, keepdims=True))
    return abs(found * signs - expected).max() / abs(expected).max()


def no_layer_listens(model):
    """Is every layer of its own class again?"""
    return not any("heard_by" in vars(part) or type(part).__module__.endswith("gather") for part in model.modules())


def losses_of(model, steps=15, rate=0.02):
    """The losses of a short training run, always on one batch."""
    from lora_np import AdamW

    ids = some_ids(tiny_model().config, batch=4, time=12)
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    losses = []
    for _ in range(steps):
        loss = model(ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
