r"""VeLoRA: LoRA whose A is trained from activations of which one number in a group is kept. (Miles et al., 2024,
"VeLoRA: Memory Efficient Training using Rank-1 Sub-Token Projections".)

    y = base(x) + s·B(A(x)),    ΔW = s·B A,    as LoRA

The backward pass needs x for dA = gᵀ x, with g the gradient of A's result. Here each row of x is cut into G groups of
d = in / G numbers (zeros fill the last), and only z_g = x_g · v is kept, N·G numbers of N·in; v (d,) is one direction,
|v| = 1. In the backward pass scale · z_g v stands for x_g:

    dA = scale · gᵀ [z_1 v, ..., z_G v],    dx as it is

v is the mean of the groups of this step ("batch_average") or of the first ("batch_average_once"), or "random". It is
saved, `lora_velora_embed`, but what the adapter computes does not depend on it. B's gradient needs A(x) alone, which is
small anyway. Trained are LoRA's r (in + out) numbers; the update has rank r and is merged. The paper's claim is the
quality of training without it in less memory; here that is so where nothing else keeps x for its own gradient. A batch
that is cut into shards for several cores has a v in each.
"""

from typing import Any

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import array_module, on_gpu
from ...autograd.tensor import data, is_grad_enabled, needs_grad, record
from ..adapter import Target
from ..types import Array, Config, Layer
from .whole import OnWholeLayers


class Velora(OnWholeLayers):
    """A and B, and the direction v."""

    setting, changes_base = "velora_config", True

    def __init__(self, config: Config, target: Target) -> None:
        super().__init__(config, target)
        self.settings = config.velora_config
        d, self.found = -(-target.layer.in_features // self.settings.num_groups), self.settings.init_type == "random"
        self.lora_velora_embed = nn.Buffer(_unit(nn.normal(d, 1.0)) if self.found else nn.zeros(d))

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        x, (A, B) = self.lora_dropout(x), self.matrices()
        if not (self.lora_dropout.training and is_grad_enabled()):  # the adapter's own mode is not switched
            return self.branch(x)
        v = self._direction(data(x))
        return F.linear(compressed_linear(x, A, v, self.settings.num_groups, self.settings.scale), B) * self.scaling

    def _direction(self, x):
        """v for this step."""
        v = self.lora_velora_embed.data
        if self.settings.init_type == "batch_average" or not self.found:
            v = _unit(_groups(x, self.settings.num_groups).reshape(-1, v.size).mean(axis=0)).astype(v.dtype)
            if on_gpu(v):
                self.lora_velora_embed.data[...] = v  # where it was: steps that are recorded write it to its place
            else:
                self.lora_velora_embed.data = v  # in one go: other threads may be reading it
            if not self.found:
                self.found = True
        return v.astype(x.dtype, copy=False)


def compressed_linear(x: Tensor, A: Any, v: Array, groups: int, scale: float) -> Tensor:
    """x Aᵀ, of whose input (..., in) the backward pass has the numbers x_g · v (N, groups) alone."""
    needs, weight, shape = needs_grad(x, A), data(A), x.shape
    kept = _groups(data(x), groups) @ v if needs[1] else None

    def backward(dy):
        dy = dy.reshape(-1, len(weight))
        dx = (dy @ weight).reshape(shape) if needs[0] else None
        if kept is None:
            return dx, None
        return dx, ((dy.T @ kept)[..., None] * (scale * v)).reshape(len(weight), -1)[:, : weight.shape[1]]

    return record(F.linear(data(x), weight).data, (x, A), backward)


def _groups(x, groups):
    """x (..., in) as (N, groups, d), zeros behind the last number."""
    xp, rows = array_module(x), x.reshape(-1, x.shape[-1])
    d = -(-rows.shape[1] // groups)
    missing = groups * d - rows.shape[1]
    rows = xp.concatenate([rows, xp.zeros((len(rows), missing), rows.dtype)], axis=1) if missing else rows
    return rows.reshape(-1, groups, d)


def _unit(v):
    """v with length 1; of zeros, the same number everywhere."""
    xp = array_module(v)
    v = v.astype(np.result_type(v.dtype, np.float32))
    length = xp.sqrt((v * v).sum())
    return v / length if float(length) else xp.full_like(v, v.size**-0.5)
