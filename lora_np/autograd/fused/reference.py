"""The mathematics of the transformer, said plainly: each operation as a formula, and its gradients as another.

The other files of this folder compute the same numbers faster and in less memory. They are tested against this one,
and so are the CUDA versions. This one is tested by finite differences. The derivations are in the fast versions'
docstrings. Such a pair has the signature of the fast one, but `needs` is ignored: all gradients are computed.

`functional.py` makes an operation of a pair. What the forward pass returns besides y, its `cache`, is for the way back:

    y, cache = silu_forward(x.data)
    return record(y, (x,), lambda dy: silu_backward(dy, cache))

dx is the gradient of the loss with respect to x, and has x's shape. ∘ multiplies entry by entry, as `*` does.
Given CuPy arrays, NumPy's functions call CuPy's, so all of this but the exact GELU runs on a GPU too.
"""

import math

import numpy as np


def _rows(x):
    """x (..., C) -> (N, C): one row for each position of each sequence."""
    return x.reshape(-1, x.shape[-1])


def linear_forward(x, weight, bias, fan_in_fan_out=False, needs=None):
    """y = x Wᵀ + b. x (..., in), weight (out, in), or (in, out) with `fan_in_fan_out` -> y (..., out)."""
    W = weight.T if fan_in_fan_out else weight  # (out, in)
    y = x @ W.T
    return (y if bias is None else y + bias), (x, W, bias, fan_in_fan_out)


def linear_backward(dy, cache):
    """dx = dy W,  dW = dyᵀ x,  db = Σ_rows dy."""
    x, W, bias, fan_in_fan_out = cache
    dx = dy @ W
    dW = _rows(dy).T @ _rows(x)
    db = None if bias is None else _rows(dy).sum(axis=0)
    return dx, dW.T if fan_in_fan_out else dW, db


def lora_linear_forward(x, weight, bias, lora_A, lora_B, scaling, fan_in_fan_out=False, mask=None, needs=None):
    """y = x Wᵀ + b + s h Bᵀ,  h = x̃ Aᵀ,  x̃ = m∘x. lora_A (r, in), lora_B (out, r), mask m of x's shape."""
    y, layer = linear_forward(x, weight, bias, fan_in_fan_out)
    mask = 1 if mask is None else mask
    dropped = mask * x  # x̃
    h = dropped @ lora_A.T  # (..., r)
    return y + scaling * h @ lora_B.T, (layer, dropped, h, lora_A, lora_B, scaling, mask)


def lora_linear_backward(dy, cache):
    """With g = s dy B, the gradient of h:  dA = gᵀ x̃,  dB = s dyᵀ h,  dx = dy W + m∘(g A)."""
    layer, dropped, h, lora_A, lora_B, scaling, mask = cache
    dx, dW, db = linear_backward(dy, layer)
    g = scaling * dy @ lora_B  # (..., r)
    dA = _rows(g).T @ _rows(dropped)
    dB = scaling * _rows(dy).T @ _rows(h)
    return dx + mask * (g @ lora_A), dW, db, dA, dB


# Normalisation: every row is brought to the same length, √C, and with LayerNorm to mean 0.


def layer_norm_forward(x, weight, bias, eps=1e-5, needs=None):
    """y = x̂∘w + b,  x̂ = (x - μ) / σ,  σ = √(var + eps). x (..., C), weight and bias (C,)."""
    std = np.sqrt(x.var(axis=-1, keepdims=True) + eps)
    norm = (x - x.mean(axis=-1, keepdims=True)) / std
    return norm * weight + bias, (norm, std, weight)


def layer_norm_backward(dy, cache):
    """With g = dy∘w, the gradient of x̂:  dx = (g - mean(g) - x̂ mean(g∘x̂)) / σ,  dw = Σ dy∘x̂,  db = Σ dy."""
    norm, std, weight = cache
    dnorm = dy * weight
    shift = dnorm.mean(axis=-1, keepdims=True)
    stretch = (dnorm * norm).mean(axis=-1, keepdims=True)
    dx = (dnorm - shift - norm * stretch) / std
    return dx, _rows(dy * norm).sum(axis=0), _rows(dy).sum(axis=0)


def rms_norm_forward(x, weight, eps=1e-6, needs=None):
    """y = x̂∘w,  x̂ = x / ρ,  ρ = √(mean(x²) + eps). x (..., C), weight (C,)."""
    rms = np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
    norm = x / rms
    return norm * weight, (norm, rms, weight)


def rms_norm_backward(dy, cache):
    """With g = dy∘w:  dx = (g - x̂ mean(g∘x̂)) / ρ,  dw = Σ dy∘x̂."""
    norm, rms, weight = cache
    dnorm = dy * weight
    stretch = (dnorm * norm).mean(axis=-1, keepdims=True)
    return (dnorm - norm * stretch) / rms, _rows(dy * norm).sum(axis=0)


# Activations: each entry goes by itself, so its gradient is dy times the slope there.


def gelu_forward(x, approximate="tanh", needs=None):
    """y = x Φ(x), with Φ the normal distribution function ("none") or an approximation to it ("tanh")."""
    if approximate == "none":
        erf = np.vectorize(math.erf, otypes=[x.dtype])
        below = (1 + erf(x / math.sqrt(2))) / 2  # Φ(x)
        density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)  # Φ'(x)
    else:
        a, b = math.sqrt(2 / math.pi), 0.044715 * math.sqrt(2 / math.pi)
        t = np.tanh(a * x + b * x**3)
        below = (1 + t) / 2
        density = (1 - t**2) * (a + 3 * b * x**2) / 2
    return x * below, below + x * density


def gelu_backward(dy, slope):
    """dx = dy ∘ (Φ(x) + x Φ'(x))."""
    return (dy * slope,)


def _sigmoid(x):
    with np.errstate(over="ignore"):  # where e^-x is too large for a number, 1 / (1 + ∞) = 0 is right
        return 1 / (1 + np.exp(-x))


def silu_forward(x, needs=None):
    """y = x σ(x),  σ(x) = 1 / (1 + e^-x)."""
    return x * _sigmoid(x), x


def silu_backward(dy, x):
    """dx = dy ∘ σ (1 + x (1 - σ))."""
    sigmoid = _sigmoid(x)
    return (dy * sigmoid * (1 + x * (1 - sigmoid)),)


def swiglu_forward(gate, up, needs=None):
    """y = silu(gate) ∘ up. gate and up of one shape."""
    opened, _ = silu_forward(gate)
    return opened * up, (gate, up, opened)


def swiglu_backward(dy, cache):
    """dgate = (dy∘up) ∘ silu'(gate),  dup = dy ∘ silu(gate)."""
    gate, up, opened = cache
    (dgate,) = silu_backward(dy * up, gate)
    return dgate, dy * opened


def relu_forward(x, needs=None):
    """y = max(x, 0)."""
    return np.maximum(x, 0), x


def relu_backward(dy, x):
    """dx = dy where x > 0, else 0."""
    return (dy * (x > 0),)


def _turn(x, cos, sin):
    """y₁ = x₁ cos - x₂ sin,  y₂ = x₂ cos + x₁ sin. x (B, T, H, D); cos and sin (T, P) or (B, T, P), P pairs."""
    x1, x2, rest = np.split(x, [cos.shape[-1], 2 * cos.shape[-1]], axis=-1)  # no rest where P is D/2
    cos, sin = cos[..., None, :], sin[..., None, :]  # the same for all heads
    return np.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin, rest], axis=-1)


def rotary_forward(x, cos, sin, heads, needs=None):
    """Turn pairs of channels by the angle of their position. x (B, T, H·D) -> (B, H, T, D)."""
    B, T, C = x.shape
    y = _turn(x.reshape(B, T, heads, C // heads), cos, sin)
    return y.swapaxes(1, 2), (cos, sin)


def rotary_backward(dy, cache):
    """Turn back, by the angle with the other sign."""
    cos, sin = cache
    B, H, T, D = dy.shape
    return (_turn(dy.swapaxes(1, 2), cos, -sin).reshape(B, T, H * D),)


def _softmax(z):
    """p = e^z / Σ e^z in each row. The largest z of a row is taken away first: p stays the same, nothing overflows."""
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention_forward(q, k, v, causal=True, scale=None, mask=None, key_mask=None, needs=None):
    """O = (M∘P) V,  P = softmax(s Q Kᵀ). q (B, H, T, D), k and v (B, G, S, D) -> O (B, H, T, D).

    With `causal`, query t sees the keys up to t + S - T. `key_mask` (B, S) is False for keys that nobody sees. M is
    `mask` (B, H, T, S), dropout's. Each head of k and v serves H/G heads of q that lie next to each other.
    """
    (H, T, D), (G, S) = q.shape[1:], k.shape[1:3]
    scale = 1 / math.sqrt(D) if scale is None else scale
    mask = 1 if mask is None else mask
    k, v = (np.repeat(x, H // G, axis=1) for x in (k, v))  # (B, H, S, D)
    seen = np.tri(T, S, S - T if causal else S, dtype=bool, like=q)
    if key_mask is not None:
        seen = seen & key_mask[:, None, None, :]
    scores = scale * q @ k.swapaxes(-1, -2)  # (B, H, T, S)
    P = _softmax(np.where(seen, scores, np.finfo(q.dtype).min))  # not -∞: a query that sees nothing would be NaN
    return mask * P @ v, (P, q, k, v, scale, mask, G)


def attention_backward(dout, cache):
    """dV = (M∘P)ᵀ dO,  dP = M∘(dO Vᵀ),  dZ = P∘(dP - rowsum(dP∘P)),  dQ = s dZ K,  dK = s dZᵀ Q.  Z = s Q Kᵀ."""
    P, q, k, v, scale, mask, G = cache
    dv = (mask * P).swapaxes(-1, -2) @ dout
    dP = mask * (dout @ v.swapaxes(-1, -2))
    dZ = P * (dP - (dP * P).sum(axis=-1, keepdims=True))  # softmax's gradient
    dq = scale * dZ @ k
    dk = scale * dZ.swapaxes(-1, -2) @ q
    B, H, S, D = k.shape
    dk, dv = (d.reshape(B, G, H // G, S, D).sum(axis=2) for d in (dk, dv))  # summed over the heads that shared
    return dq, dk, dv


def self_attention_forward(qkv, heads, causal=True, scale=None, mask=None, key_mask=None, needs=None):
    """Attention of a sequence to itself. qkv (B, T, 3C): queries, keys and values side by side -> (B, T, C)."""
    B, T, width = qkv.shape
    q, k, v = qkv.reshape(B, T, 3, heads, width // (3 * heads)).transpose(2, 0, 3, 1, 4)  # each (B, H, T, D)
    out, cache = attention_forward(q, k, v, causal, scale, mask, key_mask)
    return out.swapaxes(1, 2).reshape(B, T, width // 3), (cache, heads)


def self_attention_backward(dy, cache):
    """dqkv: the gradients of the three, side by side again."""
    cache, heads = cache
    B, T, C = dy.shape
    dout = dy.reshape(B, T, heads, C // heads).swapaxes(1, 2)
    parts = np.stack(attention_backward(dout, cache))  # (3, B, H, T, D)
    return (parts.transpose(1, 3, 0, 2, 4).reshape(B, T, 3 * C),)


def cross_entropy_forward(logits, targets, ignore_index=-100, needs=None):
    """loss = mean of -ln p[target],  p = softmax(logits), over the rows whose target is not `ignore_index`.

    logits (N, V), targets (N,) -> a single value.
    """
    rows = np.flatnonzero(targets != ignore_index)
    z = logits[rows] - logits[rows].max(axis=-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
    at_target = log_p[np.arange(len(rows), like=logits), targets[rows]]
    return -at_target.mean(), (np.exp(log_p), rows, targets, logits)


def cross_entropy_backward(dloss, cache):
    """dlogits = dloss (p - onehot(target)) / n in the n rows that count, 0 in the others."""
    p, rows, targets, logits = cache
    onehot = targets[rows][:, None] == np.arange(logits.shape[1], like=logits)
    dlogits = np.zeros_like(logits)
    dlogits[rows] = dloss * (p - onehot) / len(rows)
    return (dlogits,)


def linear_cross_entropy_forward(x, weight, targets, ignore_index=-100, needs=None):
    """loss = cross_entropy(x Wᵀ, targets). x (N, C), weight (V, C): a language model's head and its loss."""
    loss, cache = cross_entropy_forward(x @ weight.T, targets, ignore_index)
    return loss, (cache, x, weight)


def linear_cross_entropy_backward(dloss, cache):
    """With z = x Wᵀ:  dx = dz W,  dW = dzᵀ x."""
    cache, x, weight = cache
    (dz,) = cross_entropy_backward(dloss, cache)
    return dz @ weight, dz.T @ x
