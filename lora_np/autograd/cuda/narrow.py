"""What is learned in float32, rounded to 16 bits for products: one by one where it is used, or all at once for a step.

A model with adapters on all its linear layers has hundreds of small matrices. To round each by a kernel of its own was
0.4 of the 47 ms of a step of Llama-1B's shape (NVIDIA H200), and as many more to start them.
"""

import threading
from contextlib import contextmanager

import cupy
import numpy as np

from .launch import by_elements, pack
from .record import upload


class _Current(threading.local):
    copies = None


_current = _Current()


def narrowed(array, dtype):
    """The array in `dtype`: itself, the copy made for this step, or a new one."""
    copies = _current.copies if array.dtype != dtype else None
    found = None if copies is None else copies.get((array.data.ptr, array.shape))
    return array.astype(dtype, copy=False) if found is None or found.dtype != dtype else found


def stacked(matrices, dtype):
    """Matrices (r_i, C), one below the other, in `dtype`: (Σ r_i, C). Copies of a step that lie so are not moved."""
    parts = [narrowed(m, dtype) for m in matrices]
    if len(parts) == 1:
        return parts[0]
    ends = [part.data.ptr + part.nbytes for part in parts]
    copies = _current.copies or {}
    ours = all(copies.get((m.data.ptr, m.shape)) is part for m, part in zip(matrices, parts, strict=True))
    if not ours or any(end != part.data.ptr for end, part in zip(ends, parts[1:], strict=False)):
        return cupy.concatenate(parts)
    rows, C = sum(len(part) for part in parts), parts[0].shape[1]
    return cupy.ndarray((rows, C), dtype, parts[0].data)


@contextmanager
def narrowed_for_a_step(arrays, dtype):
    """Inside this block, `narrowed` has copies of these float32 matrices at hand, as they are at its beginning.

    Wide ones, such as LoRA's A, come first: those of layers that are side by side in the model are so in memory too.
    """
    arrays = sorted(arrays, key=lambda a: a.shape[0] > a.shape[1])
    unit = pack(dtype)
    starts = np.cumsum([0, *(-(-a.size // unit) * unit for a in arrays)])
    flat = cupy.empty(int(starts[-1]), dtype)
    table = [[a.data.ptr, int(start), a.size] for a, start in zip(arrays, starts, strict=False)]
    largest = max((a.size for a in arrays), default=0)
    by_elements("narrow_all", largest, flat, upload(np.array(table, np.int64)), rows=len(arrays))
    places = zip(arrays, starts, strict=False)
    _current.copies = {(a.data.ptr, a.shape): flat[s : s + a.size].reshape(a.shape) for a, s in places}
    try:
        yield
    finally:
        _current.copies = None
