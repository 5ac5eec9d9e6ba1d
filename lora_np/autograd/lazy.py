"""A weight that is made when it is used, such as one that is stored in 4 bits."""


class Lazy:
    """Stands for an array on a GPU: `make(dtype)` gives it, anew in each direction, so that nobody keeps it.

    shape   that of the array
    dtype   what `make` is asked for where nobody says another
    """

    ndim, itemsize = 2, 4

    def __init__(self, make, shape, dtype):
        self.make, self.shape, self.dtype = make, shape, dtype


def made(x, dtype):
    """The array that x stands for, or x itself, in `dtype`."""
    return x.make(dtype) if isinstance(x, Lazy) else x.astype(dtype, copy=False)
