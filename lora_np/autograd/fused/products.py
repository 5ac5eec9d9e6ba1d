"""Products that are the same on a GPU, but by cuBLAS itself: CuPy's own cannot be recorded (`cuda/blas.py`)."""

from ..devices import array_module, on_gpu


def product(a, b, out=None):
    """numpy.matmul(a, b, out=out), for matrices or stacks of as many."""
    if not on_gpu(a):
        return array_module(a).matmul(a, b, out=out)
    from ..dispatch import matmul  # whose table names what is in this folder

    found = matmul(a, b)
    if out is None:
        return found
    out[...] = found
    return out


def dots(a, b):
    """Σ_s a[..., s] b[..., s] for stacks of matrices (b, h, t, s) -> (b, h, t)."""
    return (a * b).sum(axis=-1) if on_gpu(a) else array_module(a).einsum("bhts,bhts->bht", a, b)
