"""What a language model returns, and how labels are lined up with it."""

import contextlib
from typing import Any

import numpy as np

from .. import nn
from ..autograd import Tensor
from ..autograd import functional as F
from ..autograd.devices import array_module, on_gpu, to_numpy
from ..autograd.shape_ops import concatenate
from ..autograd.tensor import data, is_grad_enabled, no_grad
from .kv_cache import KVCache
from .model_output import ModelOutput

PARTS = ("loss", "logits", "past_key_values")
IGNORED = -100  # the label of what does not count


class CausalLMOutput(ModelOutput):
    """The result of a language model: `.loss` (a Tensor, or None without labels) and `.logits` (B, T, V).

    With labels, the loss is computed without holding the logits (`functional.linear_cross_entropy`), and the logits
    only when somebody asks for them: training never does, and saves B·T·V numbers. That is why the head comes along.
    Once its weights have changed, it is too late to ask: RuntimeError. softcap: what caps the logits, and so the loss.
    `.past_key_values` is the cache that was passed in.
    """

    names = PARTS

    def __init__(
        self,
        hidden: Tensor,
        head: nn.Module,
        targets: Any = None,
        past_key_values: KVCache | None = None,
        softcap: float | None = None,
    ) -> None:
        self.hidden, self.grad_enabled = hidden, is_grad_enabled()
        self.head: Any = head
        self.past_key_values, self.softcap = past_key_values, softcap
        if targets is not None and type(head) is nn.Linear and head.bias is None:
            self._logits, self.loss = None, F.linear_cross_entropy(hidden, head.weight, targets, softcap=softcap)
            self._used = head.weight.data, head.weight.node()
        else:  # no labels, or a head of another kind, such as one with an adapter
            self._logits = self._of_head()
            self.loss = None if targets is None else F.cross_entropy(self._logits, targets)

    def has(self, name: str) -> bool:
        """Is there such a part? There are always logits."""
        return name == "logits" or super().has(name)

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """The shape of a part; that of logits is known before they are computed."""
        if name == "logits":
            return (*self.hidden.shape[:-1], self.head.out_features) if self._logits is None else self._logits.shape
        return super().shape_of(name)

    @property
    def logits(self) -> Tensor:
        """(B, T, V), computed when first asked for."""
        if self._logits is None:
            weight, (array, node) = self.head.weight, self._used
            if weight.data is not array or weight.node() is not node:
                raise RuntimeError(
                    "the head's weights have changed since this forward pass: ask for .logits before that"
                )
            with contextlib.nullcontext() if self.grad_enabled else no_grad():
                self._logits = self._of_head()
        return self._logits

    def _of_head(self):
        logits = self.head(self.hidden)
        return logits if self.softcap is None else F.softcap(logits, self.softcap)


class ShardedOutput(ModelOutput):
    """The result of a batch that was read in shards: the `.loss` of all, and `.logits` (B, T, V) on demand."""

    names, past_key_values = PARTS, None

    def __init__(self, outputs: list[CausalLMOutput], loss: Tensor) -> None:
        self.outputs, self.loss = outputs, loss

    def has(self, name: str) -> bool:
        """Is there such a part? There are always logits."""
        return name == "logits" or super().has(name)

    def shape_of(self, name: str) -> tuple[int, ...] | None:
        """The shape of a part; that of logits is known before they are computed."""
        if name == "logits":
            shapes = [output.shape_of(name) for output in self.outputs]
            return (sum(shape[0] for shape in shapes if shape), *(shapes[0] or ())[1:])
        return super().shape_of(name)

    @property
    def logits(self) -> Tensor:
        """(B, T, V), of all shards."""
        return concatenate([output.logits for output in self.outputs])


def shift_labels(labels: Any, shape: tuple[int, ...]) -> Any:
    """labels (B, T) -> targets (B, T): target t is label t + 1, and the last position has none (-100).

    shape: that of the ids, (B, T). Labels on a GPU stay there.
    """
    labels = data(labels)
    labels = labels if on_gpu(labels) else to_numpy(labels)
    if labels.dtype.kind not in "iu":
        raise TypeError(f"labels are token ids, integers, not {labels.dtype}")
    if labels.shape != shape:
        raise ValueError(f"labels of shape {labels.shape} do not fit input_ids of shape {shape}")
    if shape[1] < 2:
        raise ValueError("labels need at least two tokens in a row: the first has nothing before it to predict it from")
    targets = array_module(labels).full(shape, IGNORED, np.int64)
    targets[:, :-1] = labels[:, 1:]
    return targets
