"""The soft cap of Gemma 2: numbers that are small stay, those that are large come close to ±c and never reach it."""

from ..devices import array_module


def cap_in_place(x, cap, slopes=None):
    r"""x -> c tanh(x / c), in place. (Gemma Team, 2024, "Gemma 2", section 2.)

    Its slope is 1 - tanh²(x / c): 1 for small x, 0 far out. slopes: an array of x's shape that is filled with it, or
    None; it is returned.
    """
    xp = array_module(x)
    x *= 1 / cap
    xp.tanh(x, out=x)
    if slopes is not None:
        xp.multiply(x, x, out=slopes)
        xp.subtract(1, slopes, out=slopes)
    x *= cap
    return slopes
