"""Rotary position embedding: where a token stands, told by turning its queries and keys.

The plain formulas are in `reference.py`. Here both halves of the result are written where they stay.
"""

from ..devices import array_module


def rotary_forward(x, cos, sin, heads, needs=(True,)):
    r"""Turn each pair of channels of each head by an angle that grows with the position. (Su et al., 2021, eq. 34.)

    x (B, T, H·D), cos and sin (T, D/2), or (B, T, D/2) if rows stand at different positions -> y (B, H, T, D).
    Channel i is paired with channel i + D/2, as in Hugging Face's checkpoints:
        y₁ = x₁ cos - x₂ sin,      y₂ = x₂ cos + x₁ sin.
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
    """(T, D/2) as it is; (B, T, D/2) -> (B, 1, T, D/2), the same for all heads."""
    return angles[:, None] if angles.ndim == 3 else angles


def _turn(x, cos, sin, out):
    """out ← x turned; both (B, H, T, D)."""
    half = x.shape[-1] // 2
    first, second, xp = x[..., :half], x[..., half:], array_module(x)
    xp.multiply(first, cos, out=out[..., :half])
    out[..., :half] -= second * sin
    xp.multiply(second, cos, out=out[..., half:])
    out[..., half:] += first * sin
