"""Operations on whole matrices, of which some kinds of adapters are made. Written as those in `ops.py` are."""

import functools

import numpy as np

from .broadcasting import operand
from .devices import array_module
from .tensor import needs_grad, record


def inverse(a):
    """Y = A⁻¹, A (..., n, n), found in float32 or better. From d(A⁻¹) = -A⁻¹ dA A⁻¹: dA = -Yᵀ dY Yᵀ. Saves Y."""
    x = operand(a)
    y = array_module(x).linalg.inv(x.astype(np.result_type(x.dtype, np.float32), copy=False))
    y = y.astype(x.dtype, copy=False)
    (need,) = needs_grad(a)
    kept = y.swapaxes(-1, -2) if need else None
    return record(y, (a,), lambda dy: (-(kept @ dy @ kept),))


def upper_triangle(a, diagonal=0):
    """A (..., n, n) with zeros below a diagonal: 0 is the main one, 1 the one above it. dA = dY, likewise."""
    xp = array_module(operand(a))
    return record(xp.triu(operand(a), diagonal), (a,), lambda dy: (xp.triu(dy, diagonal),))


def skew_symmetric(entries, size):
    """Q (..., size, size) with Qᵀ = -Q: `entries` (..., size (size - 1) / 2) above the diagonal, row by row.

    An entry stands in two places, once with a minus sign: its gradient is that of Q[i, j] minus that of Q[j, i].
    """
    x = operand(entries)
    xp = array_module(x)
    rows, columns = _above_diagonal(xp, size)
    Q = xp.zeros((*x.shape[:-1], size, size), x.dtype)
    Q[..., rows, columns] = x
    Q[..., columns, rows] = -x
    return record(Q, (entries,), lambda dQ: (dQ[..., rows, columns] - dQ[..., columns, rows],))


def inverse_fourier(coefficients, places, shape):
    r"""Y = Re(F⁻¹(C)), where C (M, N) has these real `coefficients` (n,) at `places`, of its M N entries, zeros else.

        Y[p, q] = 1/(M N) Σ C[j, k] cos(2π (j p / M + k q / N))

    Entry (p, q), (j, k) of this linear map is entry (j, k), (p, q): it is its own transpose. So dC = Re(F⁻¹(dY)), read
    at `places`.
    """
    c = operand(coefficients)
    xp = array_module(c)
    places, dtype = xp.asarray(places), c.dtype
    dense = xp.zeros(shape, dtype)
    dense.reshape(-1)[places] = c

    def backward(dy):
        return (_real_inverse(xp, dy).reshape(-1)[places].astype(dtype, copy=False),)

    return record(_real_inverse(xp, dense).astype(dtype, copy=False), (coefficients,), backward)


@functools.lru_cache(maxsize=32)  # a GPU's are brought there once
def _above_diagonal(xp, size):
    return tuple(xp.asarray(index) for index in np.triu_indices(size, 1))


def _real_inverse(xp, array):
    return xp.fft.ifft2(array).real
