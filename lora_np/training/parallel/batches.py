"""Batches as a recorded step reads them: checked by the host, plain, and of few lengths.

In a replay nobody looks at a batch again. And each shape is recorded by itself, so there should be few. Filling up a
batch on the right changes nothing for a model that reads from left to right: what is there is seen by no token before
it, has no label, and stands at positions of its own. Only where rotary positions turn otherwise in a longer text it
would, and there it is not done.
"""

from typing import Any

import numpy as np

from ...autograd.devices import to_numpy
from ...autograd.shape_ops import check_ids
from ...autograd.tensor import data
from ...models.base import CausalLM
from ...models.context import checked_mask
from ...models.output import IGNORED, shift_labels
from ...models.rope import context_length, rows_apart
from ..protocols import Array, Batch

NAMES = ({"input_ids", "labels"}, {"input_ids", "labels", "attention_mask"})
LEAST_UNIT, PARTS = 16, 8  # a length is rounded up by 15 tokens at most, or by its eighth


def checked(batch: Batch, model: CausalLM) -> Batch:
    """The batch in NumPy's int64, and an attention_mask in booleans, once it is known that the model can read it.

    A mask that hides nothing from any token that has a target is left out: where rows are filled up on the right, no
    token sees what comes after it.
    """
    if set(batch) not in NAMES:
        raise ValueError(
            f"a recorded step takes input_ids, labels and an attention_mask, not {', '.join(sorted(set(batch)))}"
        )
    ids, labels = (to_numpy(data(batch[name])) for name in ("input_ids", "labels"))
    ids, targets = model.checked_ids(ids), shift_labels(labels, ids.shape)
    model.check_positions(np.arange(ids.shape[1]))
    check_ids(targets[targets != IGNORED], model.config.vocab_size, "target")
    found = {"input_ids": ids.astype(np.int64, copy=False), "labels": labels.astype(np.int64, copy=False)}
    if "attention_mask" not in batch:
        return found
    mask = checked_mask(batch["attention_mask"], ids.shape).astype(bool)
    is_on_the_right = not (mask[:, 1:] & ~mask[:, :-1]).any()
    return found if is_on_the_right and not (targets[~mask] != IGNORED).any() else {**found, "attention_mask": mask}


def of_few_lengths(batch: Batch, config: Any) -> Batch:
    """The batch, filled up on the right to one of few lengths where that changes nothing for this model.

    Not where a token with a target is hidden from itself: there may be none that it sees, and then what it gets is an
    average of all, which depends on the length.
    """
    learnt = batch["labels"][:, 1:] != IGNORED
    hidden = "attention_mask" in batch and (learnt & ~batch["attention_mask"][:, :-1]).any()
    if hidden or not rows_apart(config):
        return batch
    length = min(length_in_steps(batch["input_ids"].shape[1]), context_length(config))
    fills: dict[str, int] = {"input_ids": 0, "labels": IGNORED, "attention_mask": 0}

    def widened(name: str, array: Array) -> Array:
        return np.pad(array, ((0, 0), (0, length - array.shape[1])), constant_values=fills[name])

    return {name: widened(name, array) for name, array in batch.items()}


def length_in_steps(length: int) -> int:
    """`length` rounded up: to a multiple of 16, from 256 on of 32, from 512 on of 64, ... By an eighth at most, if it
    is not below 128."""
    unit = max(LEAST_UNIT, 1 << (length // PARTS).bit_length() - 1 if length >= PARTS else 0)
    return -(-length // unit) * unit
