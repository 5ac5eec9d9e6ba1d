"""How large a Tensor is, for users of NumPy and of torch alike."""


class Size(int):
    """`x.size`: how many numbers there are, as in NumPy; `x.size()`: the shape, `x.size(0)`: a length, as in torch."""

    def __new__(cls, array):
        size = super().__new__(cls, array.size)
        size.shape = array.shape
        return size

    def __call__(self, dim=None):
        return self.shape if dim is None else self.shape[dim]
