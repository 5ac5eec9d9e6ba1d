"""Pairs that are written for float32, on numbers in 16 bits: read and written once more, and computed as exactly."""

import cupy


def in_float32(forward, backward):
    """The pair whose inputs are in 16 bits, and its result and gradients too, while it computes in float32."""

    def forward_of_narrow(*arguments, needs):
        inputs, options = arguments[: len(needs)], arguments[len(needs) :]
        out, cache = forward(*(x.astype(cupy.float32) for x in inputs), *options, needs=needs)
        return out.astype(inputs[0].dtype), (cache, inputs[0].dtype)

    def backward_of_narrow(dout, cache):
        cache, kind = cache
        gradients = backward(dout.astype(cupy.float32), cache)
        return tuple(None if d is None else d.astype(kind) for d in gradients)

    return forward_of_narrow, backward_of_narrow
