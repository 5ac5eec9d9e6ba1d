"""A Tensor as text: short, whatever its size."""

import numpy as np

from .devices import to_numpy
from .tensor import data

WHOLE = 200  # so many numbers are shown; of more, the first and last few along each axis


def tensor_text(a):
    """Its numbers (of many, a few at the edges), its shape and what is not usual: dtype, device, requires_grad."""
    array = to_numpy(data(a))
    kind = type(a).__name__
    facts = [_numbers(array, f"{kind}(")]
    if array.size > WHOLE or array.ndim > 2 or not array.size:
        facts.append(f"shape={array.shape}")
    if array.dtype not in (np.float32, np.int64, bool):
        facts.append(f"dtype={array.dtype}")
    if a.device != "cpu":
        facts.append(f"device={a.device!r}")
    if a.requires_grad:
        facts.append("requires_grad=True")
    return f"{kind}({', '.join(facts)})"


def _numbers(array, before):
    """The numbers as nested lists, behind a text of so many letters as `before` has."""
    if array.size > WHOLE and array.ndim > 4:  # their edges alone would be many
        return "..."
    edge = 3 if array.ndim < 3 else 1
    options = {"precision": 4, "threshold": WHOLE, "edgeitems": edge, "separator": ", ", "max_line_width": 100}
    return np.array2string(array, prefix=before, **options)
