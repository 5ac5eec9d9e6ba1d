"""The tensors that belong to a module: those that are trained, and those that are only its state."""

from ..autograd import Tensor


class Parameter(Tensor):
    """A Tensor that belongs to a module and is trained, unless `requires_grad` is turned off."""

    __slots__ = ()

    def __init__(self, data, requires_grad=True):
        super().__init__(data, requires_grad)


class Buffer(Tensor):
    """An array that belongs to a module's state and is never trained, such as the codes of a quantised weight.

    It is saved, loaded and moved with the parameters, but is none of them. Its dtype says what its numbers mean, so
    `Module.to(dtype=...)` leaves it alone and a state must bring the same.
    """

    __slots__ = ()


STATE = (Parameter, Buffer)  # what is saved, loaded and moved
