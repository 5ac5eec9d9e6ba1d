"""Layers that read one input, called together."""

from collections.abc import Callable
from typing import Any

from ..autograd.dispatch import float32_or_16_bits
from ..autograd.joint import linears
from ..autograd.tensor import data
from .layers import Linear
from .quantized import Linear4bit

# {class: layer -> (weight, bias, A, B, scaling), or None where it cannot say itself so}; a class derived from one of
# these does something else. lora/ adds its own.
PARTS: dict[type, Callable[[Any], Any]] = {
    Linear: lambda layer: (layer.weight, layer.bias, None, None, 0.0),
    Linear4bit: lambda layer: None if layer.fan_in_fan_out else (layer.operand, layer.bias, None, None, 0.0),
}
# {class: (layers, x, then) -> then(layer(x) of each layer)}, or None where it is to be done in another way
TOGETHER: dict[type, Callable[[Any, Any, Any], Any]] = {}


def as_they_are(*results: Any) -> Any:
    """The results as they are."""
    return results


def beside(x: Any, *layers: Any, then: Callable[..., Any] = as_they_are) -> Any:
    """then(layer(x) of each layer); on a GPU in fewer passes, where each is plain or has one plain adapter beside it.

    then: what becomes of the results, which nobody else uses; a pass may take it along.
    """
    if float32_or_16_bits([data(x)]):
        kind = type(layers[0])
        alike = kind in TOGETHER and all(type(layer) is kind for layer in layers)
        own = TOGETHER[kind](layers, x, then) if alike else None
        if own is not None:
            return own
        parts = list(map(part_of, layers))
        if all(part is not None and _suits(part) for part in parts):
            return then(*linears(x, parts))
    return then(*[layer(x) for layer in layers])


def part_of(layer: Any) -> Any:
    """What `PARTS` says of a layer; None for one of another class, or with a `forward` of its own."""
    return PARTS[type(layer)](layer) if type(layer) in PARTS and "forward" not in vars(layer) else None


def has_forward_of(layer: Any, *kinds: type) -> bool:
    """Is the layer's `forward` that of one of these classes, replaced neither by a class derived from it nor in it?"""
    return "forward" not in vars(layer) and any(type(layer).forward is kind.forward for kind in kinds)


def _suits(part):
    """Are weight and bias frozen, and all in a type that the kernels take?"""
    frozen = not any(getattr(p, "requires_grad", False) for p in part[:2])
    return frozen and float32_or_16_bits([data(p) for p in part[:4]])
