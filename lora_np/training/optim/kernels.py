"""Which operations have a kernel that takes all parameters at once. The one place of `optim` that asks for the device.

Starting many small operations takes a GPU longer than they run, so that there one kernel changes all parameters.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...autograd import Tensor
from ...autograd.devices import on_gpu


def adamw_kernel(parameters: Sequence[Tensor]) -> Callable[..., None] | None:
    """adamw(parameters, grads, means, squares, numbers), all lists of arrays; None where each is changed alone."""
    if not _all_on_gpu(parameters):
        return None
    from ...autograd.cuda.optim import adamw

    return adamw


def clip_kernel(parameters: Sequence[Tensor]) -> Callable[..., Any] | None:
    """clip(grads, max_norm) -> the norm before, on the GPU; None where each gradient is scaled alone."""
    if not _all_on_gpu(parameters):
        return None
    from ...autograd.cuda.optim import clip

    return clip


def _all_on_gpu(parameters: Sequence[Tensor]) -> bool:
    """Are these float32 parameters and gradients, laid out in order, on a GPU? No, if there are none."""
    arrays = [array for p in parameters for array in (p.data, p.grad)]
    return bool(arrays) and all(on_gpu(x) and x.dtype == np.float32 and x.flags.c_contiguous for x in arrays)
