"""Names of floating-point types, in whatever way NumPy's, torch's and Transformers' users write them."""

from typing import Any

import numpy as np

from ..autograd.float_types import NAMES, bfloat16

SHORT = {"half": "float16", "fp16": "float16", "float": "float32", "fp32": "float32", "double": "float64"}
FLOATS = ("float16", "float32", "float64")


def float_type(dtype: Any, name: str = "dtype") -> np.dtype:
    """The NumPy dtype for np.float16, "float16", torch.float16 or "torch.float16"; likewise in 32 and 64 bits.

    "bfloat16", "bf16" and torch.bfloat16 need the package ml_dtypes: MissingPackageError without it.
    ValueError, with the argument's name, for another one.
    """
    text = "" if isinstance(dtype, (type, np.dtype)) else str(dtype).removeprefix("torch.")
    text = SHORT.get(text, text)
    if text in NAMES:
        return bfloat16()
    try:
        found = np.dtype(text or dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or found.name not in (*FLOATS, "bfloat16"):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, (*FLOATS, 'bfloat16')))}, got {dtype!r}")
    return found
