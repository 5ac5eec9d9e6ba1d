"""Adapting q, k or v alone where the model computes all three in one product, as GPT-2's c_attn does.

The target `c_attn.q` means the first third of c_attn's outputs. Each chosen part has its own A_i (r, in) and
B_i (C, r). That is one adapter on the whole of c_attn, of rank r for each part: A stacks the A_i, and B has B_i where
its part's rows and its A_i's columns meet, zeros elsewhere. In that form it is saved, and PEFT reads it exactly.
"""

import numpy as np

from ..autograd import backend, kernels, layout
from ..autograd import functional as F
from .init import init_lora
from .variants import Variant


class PartialProjection(Variant):
    """An adapter on some parts of a joint projection. `lora_B` holds only the blocks that are not zero: (n·C, r)."""

    def __init__(self, layer, name, parts, config):
        self.places, self.count = [layer.base_layer.parts.index(part) for part in parts], len(layer.base_layer.parts)
        A, B = layer.matrices(name)
        r, s = layer.r[name], layer.scaling[name]
        blocks = np.split(backend.to_numpy(layer.oriented(layer.base_layer.weight.data)), self.count)
        pairs = [init_lora(config.init_lora_weights, blocks[place], r, s) for place in self.places]
        for p, arrays in zip((A, B), zip(*pairs, strict=True), strict=True):
            p.data = backend.to_device(np.concatenate(arrays).astype(p.dtype), p.device)

    def update(self, layer, name, x, base):
        A, B = layer.matrices(name)
        h = F.linear(layer.lora_dropout[name](x), A)
        return F.linear(h, self.whole(B)) * layer.scaling[name]

    def merged(self, layer, name, weight, bias):
        A, B = layer.matrices(name)
        return weight + kernels.matmul(self.whole(B).data, A.data) * layer.scaling[name], bias

    def saved_arrays(self, layer, name, arrays):
        return {**arrays, "lora_B.weight": self.whole(layer.matrices(name)[1]).data}

    def whole(self, B):
        """B (parts·C, r) as the full (out, parts·r), zeros filled in; differentiable."""
        n, r = len(self.places), B.shape[1]
        C = B.shape[0] // n
        zeros = backend.array_module(B.data).zeros((C, r), B.dtype)
        blocks = {place: B[i * C : (i + 1) * C] for i, place in enumerate(self.places)}
        rows = []
        for place in range(self.count):
            column = [blocks[place] if at == place else zeros for at in self.places]
            rows.append(layout.concatenate(column, axis=1))
        return layout.concatenate(rows)
