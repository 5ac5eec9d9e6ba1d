"""New Tensors, under torch's names and with torch's dtypes: float32 unless told otherwise, integers as int64."""

import numpy as np

from .conversion import as_dtype
from .devices import array_module, as_array, device_of, is_array, to_device, to_numpy
from .random import generator
from .tensor import Tensor, data


def tensor(values, dtype=None, device=None, requires_grad=False):
    """A Tensor with a copy of these values: a number, nested lists, an array or another tensor."""
    return _made(data(as_tensor(values)).copy(), dtype, device, requires_grad)


def as_tensor(values, dtype=None, device=None):
    """These values as a Tensor, in the memory that they have where that is possible."""
    values = values.data if isinstance(values, Tensor) else values
    if isinstance(values, (list, tuple)) and any(isinstance(value, Tensor) for value in values):
        values = [to_numpy(data(value)) for value in values]
    array = values if is_array(values) else as_array(values)
    return _made(array, dtype, device)


def from_numpy(array):
    """A Tensor in the memory of an array: what is written to one is in the other."""
    return Tensor(array)


def zeros(*size, dtype=np.float32, device=None, requires_grad=False):
    """Zeros of this shape: zeros(2, 3) or zeros((2, 3))."""
    return _made(np.zeros(_shape(size), as_dtype(dtype)), None, device, requires_grad)


def ones(*size, dtype=np.float32, device=None, requires_grad=False):
    """Ones of this shape."""
    return _made(np.ones(_shape(size), as_dtype(dtype)), None, device, requires_grad)


def full(size, fill_value, dtype=None, device=None, requires_grad=False):
    """One number everywhere; its kind says the dtype: float32, int64 or bool."""
    return _made(np.full(_shape((size,)), as_array(fill_value)), dtype, device, requires_grad)


def arange(start, end=None, step=1, dtype=None, device=None):
    """start, start + step, ... before `end`; from 0 if there is one number."""
    return _made(as_array(np.arange(*((0, start) if end is None else (start, end)), step).tolist()), dtype, device)


def eye(n, m=None, dtype=np.float32, device=None):
    """Ones on the diagonal of (n, m), zeros elsewhere."""
    return _made(np.eye(n, m, dtype=as_dtype(dtype)), None, device)


def rand(*size, dtype=None, device=None, requires_grad=False):
    """Uniform in [0, 1). The numbers follow from `manual_seed`, and are others than torch's."""
    return _made(generator().random(_shape(size), np.float32), dtype, device, requires_grad)


def randn(*size, dtype=None, device=None, requires_grad=False):
    """Standard normal. The numbers follow from `manual_seed`, and are others than torch's."""
    return _made(generator().standard_normal(_shape(size), np.float32), dtype, device, requires_grad)


def randint(low, high, size=None, dtype=np.int64, device=None):
    """Integers from `low` to before `high`; randint(high, size) begins at 0. The numbers are others than torch's."""
    low, high, size = (0, low, high) if size is None else (low, high, size)
    return _made(generator().integers(low, high, size), dtype, device)


def multinomial(weights, num_samples, replacement=False):
    """So many indices for each row of weights (..., n), drawn with probabilities in proportion to these: int64.

    Without replacement no index comes twice in a row of them. The numbers are others than torch's. ValueError for
    weights that are negative or not finite, or of which fewer are positive than are to be drawn.
    """
    p = to_numpy(data(as_tensor(weights))).astype(np.float64)
    enough = (p > 0).sum(axis=-1) >= (1 if replacement else num_samples)
    if not (np.isfinite(p).all() and (p >= 0).all() and np.all(enough)):
        raise ValueError(f"{num_samples} indices need as many positive weights in each row, and none negative or NaN")
    rows, p = p.reshape(-1, p.shape[-1]), p / p.sum(axis=-1, keepdims=True)
    rng, options = generator(), {"replace": replacement}
    drawn = [rng.choice(rows.shape[1], num_samples, p=row, **options) for row in p.reshape(rows.shape)]
    return Tensor(np.array(drawn, np.int64).reshape(*p.shape[:-1], num_samples))


def zeros_like(a, dtype=None, device=None, requires_grad=False):
    """Zeros of the shape, dtype and device of `a`."""
    return _made(array_module(data(a)).zeros_like(data(a)), dtype, device, requires_grad)


def ones_like(a, dtype=None, device=None, requires_grad=False):
    """Ones of the shape, dtype and device of `a`."""
    return _made(array_module(data(a)).ones_like(data(a)), dtype, device, requires_grad)


def full_like(a, fill_value, dtype=None, device=None, requires_grad=False):
    """One number, in the shape, dtype and device of `a`."""
    return _made(array_module(data(a)).full_like(data(a), fill_value), dtype, device, requires_grad)


def randn_like(a, dtype=None, device=None, requires_grad=False):
    """Standard normal numbers in the shape, dtype and device of `a`."""
    return randn(*a.shape, dtype=dtype or a.dtype, device=device or device_of(data(a)), requires_grad=requires_grad)


def _shape(size):
    return tuple(size[0]) if len(size) == 1 and isinstance(size[0], (tuple, list)) else size


def _made(array, dtype=None, device=None, requires_grad=False):
    array = array if dtype is None else array.astype(as_dtype(dtype), copy=False)
    return Tensor(array if device is None else to_device(array, device), requires_grad)
