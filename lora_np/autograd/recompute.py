"""Trading time for memory: a stretch of the forward pass that is computed again when its gradient is wanted."""

from contextvars import copy_context

from .grad_mode import note_leaves
from .random import Stretch
from .tensor import Tensor, collect_gradients, data, needs_grad, record


def recompute(function, x, parameters, again=None):
    """y = function(x), of which only x is kept. (Chen et al., 2016, "Training deep nets with sublinear memory cost".)

    The forward pass records nothing. The backward pass runs `function` once more, this time recorded, and goes back
    through it at once: for a model of L such stretches the memory is that of one, and L inputs, for a third more
    arithmetic (half more where weights are frozen, as with LoRA).
    Random numbers (dropout) are the same both times: they follow from what is drawn before. So are context
    variables: what the call was told stays true for it.

    function: one Tensor -> one Tensor, of the same result each time. parameters: those of its own; others are found.
    again: (function, parameters) for the second time, where what the first ones read may be changed before it.
    """
    parameters, array = list(parameters), data(x)
    second, own = again or (function, parameters)
    stretch, context = Stretch(), copy_context()
    with note_leaves() as used, stretch.first_time():
        y = function(Tensor(array)).data
    known = {id(p) for p in parameters}
    elsewhere = [leaf for leaf in used.values() if id(leaf) not in known]  # such as what the layers of a model share
    own = [q for p, q in zip(parameters, own, strict=True) if id(p) in used]  # the others may change meanwhile
    parameters = [p for p in parameters if id(p) in used]
    own, parameters = own + elsewhere, parameters + elsewhere
    needs = needs_grad(x, *parameters)

    def backward(dy):
        start = Tensor(array, requires_grad=needs[0])
        with stretch.second_time():
            found = context.run(lambda: collect_gradients(second(start), dy))
        gradients = (found.get(id(leaf)) for leaf in (start, *own))
        return tuple(d if need else None for d, need in zip(gradients, needs, strict=True))

    return record(y, (x, *parameters), backward)
