"""A batch made ready on the GPU, so that a model can read it without the host taking part."""

import numpy as np

from ..autograd.backend import to_device
from ..autograd.fused.loss import counted_rows
from ..autograd.layout import Checked, check_ids
from .output import IGNORED, shift_labels


class PreparedBatch:
    """Ids and targets that were checked and lie where the model is: pass it to the model as `input_ids`.

    It is the model's context too (see `context.Context`): no cache, no padding that would have to be hidden. It can
    take over, in place, the contents of a batch of the same shape with as many targets.
    """

    cache = key_mask = None

    def __init__(self, model, input_ids, labels):
        ids, self.recompute = model.checked_ids(input_ids), model.gradient_checkpointing
        targets = shift_labels(labels, ids.shape).reshape(-1)
        check_ids(targets[targets != IGNORED], model.config.vocab_size, "target")
        model.check_positions(np.arange(ids.shape[1]))
        self.ids = Checked(to_device(ids.astype(np.int64), model.device))
        self.positions = Checked(to_device(np.arange(ids.shape[1]), model.device))
        self.targets = counted_rows(targets, next(model.parameters()).data)

    @property
    def shape(self):
        return self.ids.array.shape

    def fits(self, other):
        """Could this batch's contents be those of `other`: the same shape, and as many targets?"""
        whole, others = (isinstance(batch.targets.rows, slice) for batch in (self, other))
        counted = len(self.targets.picked) == len(other.targets.picked)
        return self.shape == other.shape and whole == others and counted

    def take(self, other):
        """Take over the contents of another batch, in place."""
        self.ids.array[...] = other.ids.array
        self.targets.picked[...] = other.targets.picked
        if not isinstance(self.targets.rows, slice):
            self.targets.rows[...] = other.targets.rows
