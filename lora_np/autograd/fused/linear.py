r"""The linear layer, and the linear layer with a low-rank update beside it: LoRA's forward and backward.

The plain formulas are in `reference.py`. Here all leading axes of x are flattened first, so that each product is one
large matrix product. `needs` says, in the order of the inputs (x, weight, bias, and for LoRA lora_A, lora_B), whose
gradient will be asked for.
"""


def linear_forward(x, weight, bias, fan_in_fan_out=False, needs=(True, True, True)):
    r"""y = x Wᵀ + b.

    x (..., in), weight (out, in), bias (out,) or None -> y (..., out). With `fan_in_fan_out` the weight is stored
    (in, out), as in GPT-2's Conv1D, and y = x W + b.

    Gradients, with N rows: dx = dy W (..., in); dW = dyᵀ x (out, in); db = Σ_rows dy (out,). So x is saved only if
    the weight is trained: a frozen layer keeps nothing but a reference to its own weight.
    """
    w = weight if fan_in_fan_out else weight.T  # (in, out)
    rows = x.reshape(-1, w.shape[0])
    y = rows @ w
    if bias is not None:
        y += bias
    cache = (rows if needs[1] else None, w if needs[0] else None, x.shape, fan_in_fan_out, needs)
    return y.reshape(*x.shape[:-1], w.shape[1]), cache


def linear_backward(dy, cache):
    """dx, dweight, dbias of `linear_forward`."""
    x, w, shape, fan_in_fan_out, needs = cache
    dy = dy.reshape(-1, dy.shape[-1])
    dx = (dy @ w.T).reshape(shape) if needs[0] else None
    dw = (x.T @ dy if fan_in_fan_out else dy.T @ x) if needs[1] else None
    return dx, dw, dy.sum(axis=0) if needs[2] else None


def lora_linear_forward(
    x, weight, bias, lora_A, lora_B, scaling, fan_in_fan_out=False, mask=None, needs=(False, False, False, True, True)
):
    r"""y = x Wᵀ + b + s (m∘x) Aᵀ Bᵀ: a frozen layer and its low-rank update, ΔW = s B A (Hu et al., 2021, eq. 3).

    x (..., in), weight (out, in) or (in, out) with `fan_in_fan_out`, bias (out,) or None, lora_A (r, in),
    lora_B (out, r), scaling s a number, mask m the dropout mask on the branch's input or None -> y (..., out).
    B A is never formed: the branch costs r (in + out) multiplications a row, the layer in·out.

    Write x̃ = m∘x and h = x̃ Aᵀ, so the branch is s h Bᵀ. With g = s dy B, the gradient of h:
        dB = s dyᵀ h (out, r)      dA = gᵀ x̃ (r, in)      dx = dy W + m∘(g A)
    At B = 0, g = 0: A gets no gradient in the first step, only B does.
    Saved: x̃ for dA, h for dB. W's own gradient is not computed unless asked for; that is LoRA's saving.
    """
    w = weight if fan_in_fan_out else weight.T  # (in, out)
    rows = x.reshape(-1, w.shape[0])
    mask = None if mask is None else mask.reshape(rows.shape)
    dropped = rows if mask is None else rows * mask
    h = dropped @ lora_A.T  # (N, r)
    y = rows @ w
    y += (h * scaling) @ lora_B.T
    if bias is not None:
        y += bias
    saved = (rows if needs[1] else None, dropped if needs[3] else None, h if needs[4] else None)
    matrices = (w if needs[0] else None, lora_A if needs[0] else None, lora_B)
    cache = (saved, matrices, mask if needs[0] else None, scaling, x.shape, fan_in_fan_out, needs)
    return y.reshape(*x.shape[:-1], w.shape[1]), cache


def lora_linear_backward(dy, cache):
    """dx, dweight, dbias, dlora_A, dlora_B of `lora_linear_forward`."""
    (rows, dropped, h), (w, lora_A, lora_B), mask, scaling, shape, fan_in_fan_out, needs = cache
    dy = dy.reshape(-1, dy.shape[-1])
    dx = dw = db = dA = dB = None
    if needs[0] or needs[3]:
        g = (dy @ lora_B) * scaling  # (N, r)
    if needs[0]:
        branch = g @ lora_A
        if mask is not None:
            branch *= mask
        dx = dy @ w.T
        dx += branch
        dx = dx.reshape(shape)
    if needs[1]:
        dw = rows.T @ dy if fan_in_fan_out else dy.T @ rows
    if needs[2]:
        db = dy.sum(axis=0)
    if needs[3]:
        dA = g.T @ dropped
    if needs[4]:
        dB = dy.T @ (h * scaling)
    return dx, dw, db, dA, dB
