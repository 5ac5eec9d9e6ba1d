"""Rotary position embedding: where a token stands, told by turning its queries and keys.

The plain formulas are in `reference.py`. Here both halves of the result are written where they stay.
"""

from ..devices import array_module


def rotary_forward(x, cos, sin, heads, needs=(True,)):
    r"""Turn each pair of channels of each head by an angle that grows with the position. (Su et al., 2021, eq. 34.)

    x (B, T, H·D), cos and sin (T, P), or (B, T, P) if rows stand at different positions -> y (B, H, T, D).
    P is the number of pairs, D/2 or less. Channel i is paired with channel i + P, as in Hugging Face's checkpoints:
        y₁ = x₁ cos - x₂ sin,      y₂ = x₂ cos + x₁ sin,
    and the channels from 2P on, if there are any, stay as they are (Black et al., 2022, section 2.1.1).
    The dot product of a turned query and a turned key depends on the distance between them alone. The result has
    heads before positions, as attention wants them. Nothing is saved but the angles.

    Gradient: turning is undone by turning back, dx₁ = dy₁ cos + dy₂ sin, dx₂ = dy₂ cos - dy₁ sin.
    """
    B, T, width = x.shape
    y = array_module(x).empty((B, heads, T, width // heads), x.dtype)
    _turn(x.reshape(B, T, heads, -1).swapaxes(1, 2), _per_head(cos), _per_head(sin), y)
    return y, (cos, sin)


def rotary_backward(dy, cache):
    """dx of `rotary_forward`."""
    cos, sin = cache
    B, H, T, D = dy.shape
    dx = array_module(dy).empty((B, T, H, D), dy.dtype)
    _turn(dy, _per_head(cos), -_per_head(sin), dx.swapaxes(1, 2))
    return (dx.reshape(B, T, H * D),)


def _per_head(angles):
    """(T, P) as it is; (B, T, P) -> (B, 1, T, P), the same for all heads."""
    return angles[:, None] if angles.ndim == 3 else angles


def _turn(x, cos, sin, out):
    """out ← x turned; both (B, H, T, D)."""
    P, xp = cos.shape[-1], array_module(x)
    first, second = x[..., :P], x[..., P : 2 * P]
    xp.multiply(first, cos, out=out[..., :P])
    out[..., :P] -= second * sin
    xp.multiply(second, cos, out=out[..., P : 2 * P])
    out[..., P : 2 * P] += first * sin
    out[..., 2 * P :] = x[..., 2 * P :]
