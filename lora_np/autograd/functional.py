"""The fused pairs on Tensors: check the shapes, run the forward, record the backward."""

from .devices import array_module, beside, on_gpu, to_numpy
from .dispatch import pair
from .ops import dropout_mask, tanh
from .shape_ops import check_ids
from .tensor import Tensor, data, needs_grad, record


def _apply(name, inputs, *options):
    """Run a fused pair on Tensors (or arrays, or None for an input that is left out)."""
    arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
    forward, backward = pair(name, arrays)
    out, cache = forward(*arrays, *options, needs=needs_grad(*inputs))
    return record(out, inputs, lambda dout: backward(dout, cache))


def _check_width(x, width, what):
    if x.ndim == 0 or x.shape[-1] != width:
        raise ValueError(f"{what} expects a last axis of length {width}, got shape {x.shape}")


def _check_bias(bias, length, what):
    if bias is not None and bias.shape != (length,):
        raise ValueError(f"{what} expects a bias of shape ({length},), got {bias.shape}")


def linear(x, weight, bias=None, fan_in_fan_out=False):
    """y = x Wᵀ + b; see `fused.linear_forward`. x (..., in), weight (out, in), or (in, out) with fan_in_fan_out."""
    fan_in, fan_out = weight.shape if fan_in_fan_out else weight.shape[::-1]
    _check_width(x, fan_in, "linear")
    _check_bias(bias, fan_out, "linear")
    return _apply("linear", (x, weight, bias), fan_in_fan_out)


def lora_linear(x, weight, bias, lora_A, lora_B, scaling, fan_in_fan_out=False, dropout=0.0):
    """y = x Wᵀ + b + scaling · (dropout(x) Aᵀ) Bᵀ; see `fused.lora_linear_forward`. A (r, in), B (out, r)."""
    fan_in, fan_out = weight.shape if fan_in_fan_out else weight.shape[::-1]
    _check_width(x, fan_in, "lora_linear")
    _check_bias(bias, fan_out, "lora_linear")
    r = lora_A.shape[0]
    if lora_A.shape != (r, fan_in) or lora_B.shape != (fan_out, r):
        raise ValueError(
            f"lora_linear: beside a {fan_in} -> {fan_out} layer, lora_A must be (r, {fan_in}) "
            f"and lora_B ({fan_out}, r); got {lora_A.shape} and {lora_B.shape}"
        )
    mask = dropout_mask(x.shape, dropout, data(x)) if dropout else None
    inputs = (x, weight, bias, lora_A, lora_B)
    return _apply("lora_linear", inputs, scaling, fan_in_fan_out, mask)


def lora_rows(y, x, lora_A, lora_B, scalings, rows=None):
    """y with scalings[g] · x A_gᵀ B_gᵀ added in the rows of the batch that are rows[g]; see `fused.lora_rows_forward`.

    y (B, ..., out), x (B, ..., in), lora_A (n, r, in), lora_B (n, r, out): the B_gᵀ. rows: integers (n, c), none twice,
    or None where the batch has those of each g in turn.
    """
    (n, r, fan_in), fan_out = lora_A.shape, lora_B.shape[-1]
    _check_width(x, fan_in, "lora_rows")
    _check_width(y, fan_out, "lora_rows")
    if lora_B.shape != (n, r, fan_out) or x.shape[:-1] != y.shape[:-1] or len(scalings) != n:
        shapes = f"{lora_A.shape} and {lora_B.shape}, x {x.shape}, y {y.shape}, {len(scalings)} scalings"
        raise ValueError(f"lora_rows: A (n, r, in) and B (n, r, out) do not fit the rest: {shapes}")
    if x.shape[0] % n if rows is None else rows.ndim != 2 or len(rows) != n:
        found = "no rows" if rows is None else f"rows {rows.shape}"
        raise ValueError(f"lora_rows: {n} adapters need rows ({n}, c) of the {x.shape[0]} in the batch, got {found}")
    return _apply("lora_rows", (y, x, lora_A, lora_B), scalings, rows)


def layer_norm(x, weight, bias, eps=1e-5):
    """Each row of x (..., C) to mean 0 and variance 1, then times weight plus bias; see `fused.layer_norm_forward`."""
    _check_width(x, weight.shape[0], "layer_norm")
    _check_bias(bias, weight.shape[0], "layer_norm")
    return _apply("layer_norm", (x, weight, bias), eps)


def rms_norm(x, weight, eps=1e-6):
    """Each row of x (..., C) divided by its root mean square, then times weight; see `fused.rms_norm_forward`."""
    _check_width(x, weight.shape[0], "rms_norm")
    return _apply("rms_norm", (x, weight), eps)


def gelu(x, approximate="none"):
    """GELU, exact ("none", by the error function) or GPT-2's ("tanh"); see `fused.gelu_forward`."""
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate must be 'none' or 'tanh', got {approximate!r}")
    return _apply("gelu", (x,), approximate)


def silu(x):
    """x σ(x), also called swish; see `fused.silu_forward`."""
    return _apply("silu", (x,))


def swiglu(gate, up):
    """silu(gate) ∘ up, for two inputs of one shape; see `fused.swiglu_forward`."""
    if gate.shape != up.shape:
        raise ValueError(f"swiglu: gate {gate.shape} and up {up.shape} must have one shape")
    return _apply("swiglu", (gate, up))


def relu(x):
    """max(x, 0); see `fused.relu_forward`."""
    return _apply("relu", (x,))


def rotary(x, cos, sin, heads):
    """x (B, T, H·D) -> (B, H, T, D), turned by the angles of its positions; see `fused.rotary_forward`.

    cos, sin: arrays (T, P) or (B, T, P) for P pairs of channels; P is D/2, or less for a part of each head.
    """
    (B, T, width), P = x.shape, cos.shape[-1]
    if width % heads or 2 * P * heads > width or cos.shape != sin.shape or cos.shape not in ((T, P), (B, T, P)):
        raise ValueError(f"rotary: x {x.shape} in {heads} heads does not go with angles {cos.shape} and {sin.shape}")
    return _apply("rotary", (x,), cos, sin, heads)


def softcap(x, cap):
    """cap · tanh(x / cap): small numbers stay, none grows beyond ±cap (Gemma 2)."""
    return tanh(x * (1 / cap)) * cap


def attention(q, k, v, causal=True, scale=None, dropout=0.0, key_mask=None, window=None, softcap=None, texts=None):
    """softmax(scale · Q Kᵀ) V; see `fused.attention_forward`. q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D).

    K divides H. key_mask: a boolean array (B, S), False for keys that nobody may see. window: with `causal`, each query
    sees the key at its own place and the window - 1 before it. softcap: scores are capped (`softcap`) before softmax;
    see `fused.bounded_attention_forward` for both. texts: rows hold several texts each, none of which sees another; see
    `fused.text_attention_forward`.
    """
    shape = (q.shape[0], k.shape[1], k.shape[2], q.shape[-1]) if q.ndim == k.ndim == 4 else None
    if shape is None or not k.shape == v.shape == shape or q.shape[1] % max(1, k.shape[1]):
        raise ValueError(f"attention: q (B, H, T, D), k and v (B, K, S, D) do not fit: {q.shape}, {k.shape}, {v.shape}")
    if causal and k.shape[2] < q.shape[2]:
        raise ValueError(f"attention: q {q.shape} has more queries than k {k.shape} has keys: the first would see none")
    _check_key_mask(key_mask, (k.shape[0], k.shape[2]))
    if texts is not None:
        if not causal or k.shape[2] != q.shape[2]:
            raise ValueError(f"attention: texts need causal=True and a key for each query: {q.shape}, {k.shape}")
    elif window is not None:
        k, v, key_mask, window = _nearest(k, v, key_mask, window, q.shape[2], causal)
    mask = dropout_mask((*q.shape[:3], k.shape[2]), dropout, data(q)) if dropout else None
    if texts is not None:
        return _apply("text_attention", (q, k, v), texts, scale, mask, key_mask, window, softcap)
    if window is None and softcap is None:
        return _apply("attention", (q, k, v), causal, scale, mask, key_mask)
    return _apply("bounded_attention", (q, k, v), causal, scale, mask, key_mask, window, softcap)


def _nearest(k, v, key_mask, window, T, causal):
    """(k, v, key_mask, window) without the keys that none of the last T queries sees; no window if it hides no more."""
    if not causal or window < 1:
        raise ValueError(f"attention: a window of {window} keys; it goes with causal=True, and is at least 1")
    if (first := k.shape[2] - T - window + 1) > 0:
        k, v, key_mask = k[:, :, first:], v[:, :, first:], None if key_mask is None else key_mask[:, first:]
    return k, v, key_mask, window if window < k.shape[2] else None


def self_attention(qkv, heads, causal=True, scale=None, dropout=0.0, key_mask=None, texts=None):
    """Attention on a packed projection, (B, T, 3C) -> (B, T, C); see `fused.self_attention_forward`."""
    if qkv.ndim != 3 or qkv.shape[2] % (3 * heads):
        raise ValueError(f"self_attention: expected (B, T, 3·{heads}·D), got shape {qkv.shape}")
    B, T, _ = qkv.shape
    if texts is not None:
        parts = qkv.reshape(B, T, 3, heads, -1)
        q, k, v = (parts[:, :, i].swapaxes(1, 2) for i in range(3))  # (B, H, T, D)
        return attention(q, k, v, causal, scale, dropout, key_mask, texts=texts).swapaxes(1, 2).reshape(B, T, -1)
    _check_key_mask(key_mask, (B, T))
    mask = dropout_mask((B, heads, T, T), dropout, data(qkv)) if dropout else None
    return _apply("self_attention", (qkv,), heads, causal, scale, mask, key_mask)


def _check_key_mask(key_mask, shape):
    if key_mask is not None and (key_mask.shape != shape or key_mask.dtype != bool):
        raise ValueError(f"key_mask must be a boolean array {shape}, got {key_mask.dtype} {key_mask.shape}")


def cross_entropy(logits, targets, ignore_index=-100):
    """Mean of -ln softmax(logits)[target] over the rows that count; see `fused.cross_entropy_forward`.

    logits (..., V), targets (...) integers in [0, V) or `ignore_index`. Targets on a GPU stay there.
    """
    targets = _targets(targets, logits, logits.shape[-1], ignore_index)
    logits = logits.reshape(-1, logits.shape[-1])
    return _apply("cross_entropy", (logits,), targets, ignore_index)


def linear_cross_entropy(x, weight, targets, ignore_index=-100, softcap=None):
    """cross_entropy(x Wᵀ, targets), the logits never held whole; see `fused.linear_cross_entropy_forward`.

    x (..., C), weight (V, C), targets (...) integers in [0, V) or `ignore_index`. Targets on a GPU stay there.
    softcap: the logits are capped (`softcap`); see `fused.capped_cross_entropy_forward`.
    """
    _check_width(x, weight.shape[1], "linear_cross_entropy")
    targets = _targets(targets, x, weight.shape[0], ignore_index)
    x = x.reshape(-1, x.shape[-1])
    if softcap is not None:
        return _apply("capped_cross_entropy", (x, weight), targets, softcap, ignore_index)
    return _apply("linear_cross_entropy", (x, weight), targets, ignore_index)


def binary_cross_entropy(logits, targets):
    r"""The mean of -(t ln σ(z) + (1 - t) ln σ(-z)) over all logits z and their targets t, numbers of one shape.

    It is computed as max(z, 0) - z t + ln(1 + e^-|z|), which never overflows. dz = (σ(z) - t) dloss / n.
    """
    z, t = data(logits), beside(data(targets), data(logits)).astype(logits.dtype, copy=False)
    if z.shape != t.shape:
        raise ValueError(f"targets of shape {t.shape} do not fit logits of shape {z.shape}")
    xp, tail = array_module(z), array_module(z).exp(-abs(z))
    loss = (xp.maximum(z, 0) - z * t + xp.log1p(tail)).mean()
    sigmoid = xp.where(z >= 0, 1, tail) / (1 + tail)
    return record(loss, (logits,), lambda dloss: ((sigmoid - t) * (dloss / z.size),))


def _targets(targets, like, size, ignore_index):
    """The targets as a flat array: of NumPy, or on the GPU if they and the array `like` are there."""
    targets = data(targets)
    targets = targets if on_gpu(targets) and on_gpu(data(like)) else to_numpy(targets)
    if targets.shape != like.shape[:-1]:
        raise ValueError(f"targets of shape {targets.shape} do not fit rows of shape {like.shape[:-1]}")
    targets = targets.reshape(-1)
    check_ids(array_module(targets).where(targets == ignore_index, 0, targets), size, "target")
    return targets
