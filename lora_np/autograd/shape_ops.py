"""Operations that move numbers and leave them as they are: shape, order, indexing, look-up.

Their gradients move dy back to where the numbers came from; numbers used more than once get the sum.
"""

import numpy as np

from .broadcasting import operand, operands, unbroadcast
from .devices import array_module, beside, host_can_read, is_array
from .dispatch import sum_groups
from .float_types import is_bfloat16, is_narrow, widened
from .tensor import data, needs_grad, record


def reshape(a, *shape):
    """y = a with another shape (one length may be -1). da = dy with the old shape."""
    x = operand(a)
    old, new = x.shape, shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    return record(x.reshape(new), (a,), lambda dy: (dy.reshape(old),))


def transpose(a, *axes):
    """y = a with its axes in another order (reversed if none is given). da = dy with the order undone."""
    x = operand(a)
    axes = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
    order = tuple(i % x.ndim for i in axes) if axes else tuple(reversed(range(x.ndim)))
    inverse = tuple(int(i) for i in np.argsort(order))
    return record(x.transpose(order), (a,), lambda dy: (dy.transpose(inverse),))


def swapaxes(a, i, j):
    """y = a with axes i and j exchanged. da = dy with them exchanged back."""
    return record(operand(a).swapaxes(i, j), (a,), lambda dy: (dy.swapaxes(i, j),))


def astype(a, dtype):
    """The same values as another floating dtype; itself if they are of that one. da = dy in the dtype of a."""
    if a.dtype == dtype:
        return a
    before = a.dtype
    return record(operand(a).astype(dtype), (a,), lambda dy: (dy.astype(before),))


def getitem(a, index):
    """y = a[index], as in NumPy. da = zeros, with dy added at `index` (twice where an index occurs twice)."""
    x = operand(a)
    xp, shape = array_module(x), x.shape
    index = tuple(data(i) for i in index) if isinstance(index, tuple) else data(index)
    parts = index if isinstance(index, tuple) else (index,)
    basic = all(i is None or i is Ellipsis or isinstance(i, (int, slice)) for i in parts)

    def backward(dy):
        da = xp.zeros(shape, np.float32 if is_narrow(dy) else dy.dtype)  # in 16 bits sums stand still, see wide.py
        if basic:
            da[index] = dy
        else:
            xp.add.at(da, index, dy)
        return (da.astype(dy.dtype, copy=False),)

    return record(x[index], (a,), backward)


def concatenate(tensors, axis=0):
    """y = the inputs one after another along `axis`. Each input's gradient is its own stretch of dy."""
    arrays = [operand(t) for t in tensors]
    xp = array_module(arrays[0])
    needs = needs_grad(*tensors)
    ends = np.cumsum([x.shape[axis] for x in arrays])
    spans = [slice(int(end) - x.shape[axis], int(end)) for x, end in zip(arrays, ends, strict=True)]

    def backward(dy):
        moved = xp.moveaxis(dy, axis, 0)
        return tuple(
            xp.moveaxis(moved[span], 0, axis) if need else None for span, need in zip(spans, needs, strict=True)
        )

    return record(xp.concatenate(arrays, axis=axis), tuple(tensors), backward)


def stack_padded(matrices, length, dtype, turned=False):
    """y (n, length, C): n matrices (r_i, C), or with `turned` (C, r_i), r_i <= length, one behind the other.

    Rows that a matrix lacks are zero. Each one's gradient is its own rows of dy, turned back, in its own dtype.
    """
    arrays = [data(m).T if turned else data(m) for m in matrices]
    heights, needs, xp = [len(a) for a in arrays], needs_grad(*matrices), array_module(arrays[0])
    shape = len(arrays), length, arrays[0].shape[1]
    if min(heights) == length:
        out = xp.stack(arrays, out=xp.empty(shape, dtype))
    else:
        out = xp.zeros(shape, dtype)
        for place, a, height in zip(out, arrays, heights, strict=True):
            place[:height] = a
    kinds = [a.dtype for a in arrays] if any(needs) else []

    def backward(dy):
        found = (d[:height] if need else None for d, height, need in zip(dy, heights, needs, strict=True))
        found = [None if d is None else d.astype(kind, copy=False) for d, kind in zip(found, kinds, strict=True)]
        return tuple(d.T if turned and d is not None else d for d in found)

    return record(out, tuple(matrices), backward)


def where(condition, a, b):
    """y = a where `condition` holds, else b. da = dy where it holds, db = dy where it does not."""
    mask = operand(condition)
    x, y = operands(a, b, "where")
    x, y = _number_beside(x, y), _number_beside(y, x)
    xp = array_module(mask)
    need_a, need_b = needs_grad(a, b)
    shape_a, shape_b = np.shape(x), np.shape(y)

    def backward(dy):
        da = unbroadcast(xp.where(mask, dy, 0), shape_a) if need_a else None
        db = unbroadcast(xp.where(mask, 0, dy), shape_b) if need_b else None
        return da, db

    return record(xp.where(mask, x, y), (a, b), backward)


def _number_beside(x, other):
    """A Python number in the dtype of the array beside it: NumPy does not know that it would fit into bfloat16."""
    if isinstance(x, (int, float)) and not isinstance(other, (int, float)) and is_bfloat16(other.dtype):
        return other.dtype.type(x)
    return x


def check_ids(ids, size, what="token id"):
    """Make sure that `ids` is an array of integers in [0, size); CuPy would wrap others silently.

    On a GPU this waits, except while work is being recorded there: then whoever sends the ids has checked them.
    """
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{what}s must be integers, not {ids.dtype}")
    if ids.size and host_can_read(ids):
        lowest, highest = int(ids.min()), int(ids.max())
        if lowest < 0 or highest >= size:
            wrong = lowest if lowest < 0 else highest
            raise IndexError(f"{what} {wrong} is out of range: there are {size}, numbered 0 to {size - 1}")


def embedding(weight, ids, padding_idx=None):
    """y = weight[ids]: one row of weight (V, C) for each id; ids (...) -> y (..., C).

    dweight: row v is the sum of dy over all places where the id is v, and row padding_idx is 0, as in PyTorch. On a
    CPU, rows in bfloat16 become float32.
    """
    table, ids = operand(weight), data(ids)
    ids, shape, kind = ids if is_array(ids) else np.asarray(ids), table.shape, table.dtype
    check_ids(ids, shape[0])
    ids = beside(ids, table, refresh=getattr(ids, "now", None))  # positions, in a recorded step

    def backward(dy):
        dweight = _sum_rows(dy.reshape(-1, shape[1]), ids.reshape(-1), shape[0]).astype(kind, copy=False)
        if padding_idx is not None:
            dweight[padding_idx] = 0
        return (dweight,)

    return record(widened(table[ids]), (weight,), backward)


def _sum_rows(rows, ids, size):
    """out[v] = the sum of the rows whose id is v.

    Sorted first, so that equal ids are neighbours and each group is summed in order: add.at is slow on a CPU, and on a
    GPU it adds in another order every time, so that two equal runs would differ.
    """
    xp = array_module(rows)
    out = xp.zeros((size, rows.shape[1]), rows.dtype)
    if ids.size:
        order = xp.argsort(ids, kind="stable")
        found, starts = xp.unique(ids[order], return_index=True)
        out[found] = sum_groups(rows[order], starts)
    return out
