"""Linear layers that read one input, such as those of queries, keys and values, with LoRA beside them, in fewer passes.

Their A's, stacked, are one product: h = x [A₁; A₂; …]ᵀ (N, Σ r). On the way back g = [s₁ dy₁ B₁, s₂ dy₂ B₂, …] is
gathered, so that dA of all is one product, gᵀ x, and dx = Σ dyᵢ Wᵢ + g [A₁; A₂; …] is added up where it stands.
"""

from typing import NamedTuple

import cupy
import numpy as np

from ..lazy import made
from .blas import gemm
from .linear import branch_and_base
from .narrow import narrowed, stacked


class Part(NamedTuple):
    """One of the layers: weight (out, in), bias or None, A (r, in) and B (out, r) or None, the scaling s."""

    weight: object
    bias: object
    A: object
    B: object
    scaling: float


class Run:
    """One pass through the layers and back. needs_x: is the gradient of the input wanted?"""

    def __init__(self, x, parts, needs_x):
        self.shape, self.rows, self.parts, self.needs_x = x.shape, x.reshape(-1, x.shape[-1]), parts, needs_x
        ranks = [0 if part.A is None else len(part.A) for part in parts]
        ends = [int(end) for end in np.cumsum(ranks)]
        self.spans = [slice(end - r, end) for end, r in zip(ends, ranks, strict=True)]
        self.A = [part.A for part in parts if part.A is not None]
        self.h = self.g = self.dx = self.joint_A = None
        self.done = set()

    def forward(self):
        """[y of each layer]."""
        kind = self.rows.dtype
        self.joint_A = stacked(self.A, kind) if self.A else None
        self.h = gemm(self.rows, self.joint_A.T) if self.A else None
        return [self._forward(part, span) for part, span in zip(self.parts, self.spans, strict=True)]

    def _forward(self, part, span):
        w = made(part.weight, self.rows.dtype).T
        branch = None if part.A is None else (self.h[:, span], narrowed(part.B, w.dtype).T, part.scaling)
        return branch_and_base(self.rows, w, part.bias, branch).reshape(*self.shape[:-1], w.shape[1])

    def backward_of(self, i, dy, needs_B):
        """dB of layer i; its share of the other gradients is added to those of the layers before."""
        part, span, dy = self.parts[i], self.spans[i], dy.reshape(-1, dy.shape[-1])
        dB = None
        self.done.add(i)
        if self.g is None:
            self.g = cupy.empty((len(dy), self.spans[-1].stop), dy.dtype)
        if part.A is not None:
            gemm(dy, narrowed(part.B, dy.dtype), out=self.g[:, span], alpha=part.scaling)
            dB = gemm(dy.T, self.h[:, span], alpha=part.scaling, dtype=part.B.dtype) if needs_B else None
        if self.needs_x:
            w = made(part.weight, dy.dtype)
            self.dx = gemm(dy, w) if self.dx is None else gemm(dy, w, out=self.dx, beta=1.0)
        return dB

    def finish(self, needs_A):
        """dx, and dA of each layer that has one."""
        for i in set(range(len(self.parts))) - self.done:  # nobody used what this one gave
            self.g[:, self.spans[i]] = 0
        if self.needs_x and self.A:
            gemm(self.g, self.joint_A, out=self.dx, beta=1.0)
        dx, dA = self.dx, None
        if any(needs_A):
            joint = gemm(self.g.T, self.rows, dtype=self.A[0].dtype)
            own = [span for span in self.spans if span.start < span.stop]
            dA = [joint[span] if need else None for span, need in zip(own, needs_A, strict=True)]
        self.h = self.g = self.dx = self.rows = self.joint_A = None
        return None if dx is None else dx.reshape(self.shape), *(dA or [None] * len(needs_A))
