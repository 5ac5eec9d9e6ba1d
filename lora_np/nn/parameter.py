"""The tensors that belong to a module: those that are trained, and those that are only its state."""

from ..autograd import Tensor, changes
from ..autograd.devices import is_array
from ..autograd.tensor import data as array_of
from ..expect import wrong


class Parameter(Tensor):
    """A Tensor that belongs to a module and is trained, unless `requires_grad` is turned off.

    `p.data = x` and `p.grad = x` take an array or a Tensor: TypeError for anything else, and ValueError for a gradient
    of another shape.
    """

    __slots__ = ()

    def __init__(self, data, requires_grad=True):
        super().__init__(data, requires_grad)

    def __setattr__(self, name, value):
        if name == "data" or (name == "grad" and value is not None):
            value = array_of(value)
            if not is_array(value):
                raise TypeError(wrong(value, f"a parameter's {name}", "an array or a Tensor"))
            if name == "grad" and value.shape != self.shape:
                raise ValueError(f"a gradient of shape {value.shape} does not fit a parameter of shape {self.shape}")
        super().__setattr__(name, value)
        if name == "data":
            changes.note()


class Buffer(Tensor):
    """An array that belongs to a module's state and is never trained, such as the codes of a quantised weight.

    It is saved, loaded and moved with the parameters, but is none of them. Its dtype says what its numbers mean, so
    `Module.to(dtype=...)` leaves it alone and a state must bring the same.
    """

    __slots__ = ()

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "data":
            changes.note()


STATE = (Parameter, Buffer)  # what is saved, loaded and moved
