"""The GPT of notebook 03 on the engine of notebook 02, and what trains it.

Names and shapes are GPT-2's. B rows of text, T bytes, C channels, H heads, D = C / H channels a head.
"""

import numpy as np

from .engine import Array


def layer_norm(x, weight, bias):
    """Each row to mean 0 and variance 1, then times weight, plus bias."""
    centred = x - x.mean(-1)
    variance = (centred**2).mean(-1)
    return centred * (variance + 1e-5) ** -0.5 * weight + bias


def softmax(scores):
    """Shares that add up to 1 along the last axis."""
    e = (scores - scores.value.max(-1, keepdims=True)).exp()  # no overflow
    return e / e.sum(-1)


def heads(x, H):
    """(..., T, C) -> (..., H, T, D)."""
    *rows, T, C = x.value.shape
    return x.reshape(*rows, T, H, C // H).swapaxes(-2, -3)


def attention_weights(q, k, causal=True):
    """Who looks at whom: (..., H, T, D) twice -> (..., H, T, T)."""
    T, D = q.value.shape[-2:]
    scores = q @ k.swapaxes(-1, -2) * D**-0.5
    hidden = np.where(np.tri(T, dtype=bool), 0, -np.inf)
    return softmax(scores + hidden if causal else scores)


def gelu(x):
    """A smooth bend: large numbers pass, very negative ones become 0."""
    return x * 0.5 * (((x + x * x * x * 0.044715) * (2 / np.pi) ** 0.5).tanh() + 1)


class Linear:
    """y = x W + b, with W (in, out) as GPT-2 has it."""

    def __init__(self, weight, bias):
        self.weight, self.bias = weight, bias

    def __call__(self, x):
        return x @ self.weight + self.bias


class GPT:
    """GPT-2 on the engine, from its arrays by name. `trained`: all of them, or none."""

    def __init__(self, arrays, H, trained=False):
        self.w = {name: Array(a, trained=trained) for name, a in arrays.items()}
        self.H, self.depth = H, sum(name.endswith("c_attn.weight") for name in arrays)
        self.linear = {}  # the layers that LoRA can adapt, by name
        for name in arrays:
            layer, _, kind = name.rpartition(".")
            if ".c_" in name and kind == "weight":
                self.linear[layer] = Linear(self.w[name], self.w[layer + ".bias"])

    def norm(self, x, name):
        return layer_norm(x, self.w[name + ".weight"], self.w[name + ".bias"])

    def attention(self, x, block, keep=1.0):
        """What attention adds, (..., T, C), and who looked at whom."""
        C = x.value.shape[-1]
        qkv = self.linear[f"{block}.attn.c_attn"](x)
        q, k, v = (heads(qkv[..., i * C : (i + 1) * C], self.H) for i in range(3))
        P = attention_weights(q, k)
        y = (P @ v * keep).swapaxes(-2, -3).reshape(*x.value.shape)
        return self.linear[f"{block}.attn.c_proj"](y), P

    def mlp(self, x, block):
        wide = gelu(self.linear[f"{block}.mlp.c_fc"](x))  # (..., T, 4C)
        return self.linear[f"{block}.mlp.c_proj"](wide)

    def __call__(self, ids, off=()):
        """ids (..., T) -> logits (..., T, V). Heads in `off`, (block, head), give 0."""
        x = self.w["wte.weight"][ids] + self.w["wpe.weight"][np.arange(ids.shape[-1])]
        self.maps = []  # who looked at whom, for each block: (..., H, T, T)
        for n in range(self.depth):
            keep = np.array([[[(n, head) not in off]] for head in range(self.H)])
            added, P = self.attention(self.norm(x, f"h.{n}.ln_1"), f"h.{n}", keep)
            x = x + added
            x = x + self.mlp(self.norm(x, f"h.{n}.ln_2"), f"h.{n}")
            self.maps.append(P.value)
        return self.norm(x, "ln_f") @ self.w["wte.weight"].swapaxes(0, 1)


def cross_entropy(logits, ids):
    """-log p of each next byte, (..., T - 1): how surprised the model is."""
    z = logits - logits.value.max(-1, keepdims=True)
    log_p = z - z.exp().sum(-1).log()
    at = np.indices(ids[..., 1:].shape)
    return log_p[(*at, ids[..., 1:])] * -1.0


class AdamW:
    """Every weight moves by about `lr`, whatever the size of its gradient."""

    def __init__(self, arrays, lr, betas=(0.9, 0.999), decay=0.0):
        self.arrays, self.lr, self.betas, self.decay = arrays, lr, betas, decay
        self.t = 0
        self.m, self.v = ([np.zeros_like(a.value) for a in arrays] for _ in range(2))

    def step(self):
        self.t += 1
        (b1, b2), lr = self.betas, self.lr
        for a, m, v in zip(self.arrays, self.m, self.v, strict=True):
            m += (1 - b1) * (a.grad - m)  # the mean gradient, recent ones counting most
            v += (1 - b2) * (a.grad**2 - v)  # the mean of its square
            size = (v / (1 - b2**self.t)) ** 0.5 + 1e-8
            a.value = a.value * (1 - lr * self.decay) - lr * m / (1 - b1**self.t) / size
            a.grad = 0.0
