"""Where a module's numbers are and how exact they are: devices and dtypes."""

import numpy as np

from ..autograd.conversion import target_of
from ..autograd.devices import CPU, to_device
from ..autograd.float_types import is_floating
from .all_or_nothing import Kept, all_or_nothing
from .parameter import STATE, Buffer


class Placed(Kept):
    """What `Module` has of this. Abstract: a subclass has `_named(kinds)`, the (name, tensor) pairs below it."""

    @property
    def device(self):
        """'cpu' or 'cuda:N': where the first parameter or buffer lives; 'cpu' if there is none."""
        return next((p.device for _, p in self._named(STATE)), CPU)

    @property
    def dtype(self):
        """The dtype of the first parameter or buffer of floats; float32 if there is none."""
        return next((p.dtype for _, p in self._named(STATE) if p.is_floating_point()), np.dtype(np.float32))

    @all_or_nothing
    def to(self, *args, device=None, dtype=None, non_blocking=False):
        """Move every parameter to 'cpu', 'cuda' or 'cuda:N', or to another float dtype; returns the module itself.

        to("cuda"), to(np.float16), to("cuda", np.float16), to(tensor): where and as that tensor is. Gradients go along;
        buffers move too, in the dtype they have. Optimizers hold state of their own: move first, then make the
        optimizer. With any error, such as too little memory there, nothing has moved.
        """
        device, dtype = target_of(args, device, dtype)
        if dtype is not None and not is_floating(dtype):
            raise TypeError(f"a module's parameters are floating-point numbers, they cannot become {dtype}")
        for _, p in self._named(STATE):
            keep = dtype is None or isinstance(p, Buffer)
            for slot in ("data", "grad"):
                array = getattr(p, slot)
                if array is not None:
                    array = array if device is None else to_device(array, device)
                    setattr(p, slot, array if keep else array.astype(dtype, copy=False))
        return self

    def cpu(self):
        """Move everything to the computer's own memory; see `to`."""
        return self.to("cpu")

    def cuda(self, device=None):
        """Move everything to a GPU (None: the first); see `to`. RuntimeError where there is none."""
        return self.to("cuda" if device is None else device)

    def float(self):
        """Every parameter as float32; see `to`."""
        return self.to(np.float32)

    def double(self):
        """Every parameter as float64; see `to`."""
        return self.to(np.float64)

    def half(self):
        """Every parameter as float16: computed with in float32 on a CPU, where it saves memory and no time."""
        return self.to(np.float16)

    def bfloat16(self):
        """Every parameter as bfloat16, which needs the package ml_dtypes: computed with in float32 on a CPU."""
        return self.to("bfloat16")
