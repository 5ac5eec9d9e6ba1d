"""Names of floating-point types, in whatever way NumPy's, torch's and Transformers' users write them."""

from typing import Any

import numpy as np

SHORT = {"half": "float16", "float": "float32", "double": "float64"}
FLOATS = ("float16", "float32", "float64")


def float_type(dtype: Any, name: str = "dtype") -> np.dtype:
    """The NumPy dtype for np.float16, "float16", torch.float16 or "torch.float16"; likewise in 32 and 64 bits.

    ValueError, with the argument's name, for another one; for bfloat16 it says why.
    """
    text = "" if isinstance(dtype, (type, np.dtype)) else str(dtype).removeprefix("torch.")
    text = SHORT.get(text, text)
    if text in ("bfloat16", "bf16"):
        raise ValueError(f"{name}={text!r} is not supported: NumPy has no bfloat16; float32 holds such weights exactly")
    try:
        found = np.dtype(text or dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or found.name not in FLOATS:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, FLOATS))}, got {dtype!r}")
    return found
