"""A frozen layer's weight and bias as arrays: read, turned to (out, in), and replaced."""

import copy
import functools
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np

from .. import nn
from ..autograd.devices import array_module, to_device
from ..autograd.dispatch import float32_or_16_bits
from ..autograd.tensor import data
from ..expect import expect_number
from ..nn.beside import has_forward_of
from .call import this_call
from .types import Array, Layer


def oriented(layer: Layer, weight: Array) -> Array:
    """A weight turned from how `layer` stores it to (out, in), or back: itself, or its transpose for (in, out)."""
    return weight.T if layer.fan_in_fan_out else weight


def merged_into(layer: Layer) -> str:
    """The name of the array that merging changes: the weight, but where a 4-bit layer says another."""
    return getattr(layer, "merged_into", "weight")


def arrays_of(layer: Layer) -> tuple[Array, Array | None]:
    """(weight, bias) as they are stored; bias is None if there is none. For the weight, what `merged_into` says."""
    bias = getattr(layer, "bias", None)
    return getattr(layer, merged_into(layer)).data, None if bias is None else bias.data


def fuses(adapter: Any, layer: Layer, x: Any) -> bool:
    """May the layer's result and the adapter's update be one operation? On a GPU also where the layer is in 4 bits."""
    if has_forward_of(layer, nn.Linear4bit):
        return adapter.plain and float32_or_16_bits([data(x)])
    return has_forward_of(layer, nn.Linear, nn.Conv1D)


def operand(layer: Layer) -> Any:
    """The layer's weight as an operation takes it: one in 4 bits is made where it is used."""
    return layer.operand if isinstance(layer, nn.Linear4bit) else layer.weight


def kept_arrays(layer: Layer) -> tuple[Any, Array | None]:
    """(weight, bias) for `put_arrays` to put back bit for bit: in 4 bits where they are."""
    weight, bias = arrays_of(layer)
    return layer.quantized if isinstance(layer, nn.Linear4bit) else weight, bias


class AsInPeft:
    """What PEFT's users ask an AdaptedLayer, beside what its adapters have. Abstract."""

    @property
    def merged(self) -> bool:
        """Is any adapter merged into the weight now?"""
        return bool(cast(Any, self).merged_adapters)

    @property
    def active_adapter(self) -> list[str]:
        """The names of the layer's active adapters: `active_adapters` under PEFT's other name."""
        return list(cast(Any, self).active_adapters)

    @property
    def disable_adapters(self) -> bool:
        """Are the adapters left out now?"""
        return this_call(cast(Any, self).owner).disabled

    @property
    def use_dora(self) -> dict[str, bool]:
        """{adapter's name: is it DoRA?}"""
        return {name: bool(getattr(a.config, "use_dora", False)) for name, a in cast(Any, self).adapters.items()}

    def __getattr__(self, attribute: str) -> Any:
        """What an AdaptedLayer has by way of its base layer; AttributeError for anything else."""
        base = vars(self).get("base_layer")
        if base is not None and attribute in ("weight", "bias", "fan_in_fan_out"):
            return getattr(base, attribute)
        if base is not None and attribute in AS_IN_PEFT:
            return functools.partial(AS_IN_PEFT[attribute], self)
        what = f"{type(self).__name__} and its adapters have no attribute {attribute!r}"
        raise AttributeError(what, name=attribute, obj=self)


def set_scale(adapted: Any, adapter: str, scale: float) -> None:
    """Set the scaling of this adapter of an AdaptedLayer to `scale` times the configured one, if the layer has it."""
    _check_scale(adapted, scale)
    if adapter in adapted.adapters:
        adapted.adapters[adapter].rescale(scale)


def scale_layer(adapted: Any, scale: float) -> None:
    """Multiply the scaling of the layer's active adapters by `scale`."""
    _check_scale(adapted, scale)
    for name in adapted.chosen(None):
        adapted.adapters[name].scaling *= scale


def unscale_layer(adapted: Any, scale: float | None = None) -> None:
    """Divide the scaling of the layer's active adapters by `scale`; None: have the configured ones again."""
    _check_scale(adapted, 1 if scale is None else scale, positive=True)
    for name in adapted.chosen(None):
        if scale is None:
            adapted.adapters[name].rescale(1)
        else:
            adapted.adapters[name].scaling /= scale


def _check_scale(adapted, scale, positive=False):
    expect_number(scale, "scale", positive)
    if adapted.merged_adapters:
        raise RuntimeError("rescaling a layer whose adapters are merged into the weight: call unmerge_adapter() first")


# what PEFT's users call on an adapted layer, beside what its adapters have
AS_IN_PEFT: dict[str, Callable[..., Any]] = {
    "get_base_layer": lambda adapted: adapted.base_layer,
    "set_scale": set_scale,
    "scale_layer": scale_layer,
    "unscale_layer": unscale_layer,
}


def put_arrays(layer: Layer, weight: Any, bias: Array | None) -> None:
    """Give the layer these arrays, on the device and in the dtype of those it has; None leaves one as it is.

    The weight of a 4-bit layer is a `QuantizedWeight`.
    """
    if isinstance(layer, nn.Linear4bit) and weight is not None:
        layer.put(weight)
        weight = None
    for name, array in ((merged_into(layer), weight), ("bias", bias)):
        if array is not None:
            p = getattr(layer, name)
            p.data = to_device(array, p.device).astype(p.dtype, copy=False)


def stay_finite(layer: Layer, weight: Array, bias: Array | None) -> bool:
    """Have these arrays no NaN or infinity once they are in the layer, in the dtype of those it has?"""
    dtypes = [None if array is None else array.dtype for array in arrays_of(layer)]
    with np.errstate(over="ignore"):
        found = [a.astype(t, copy=False) for a, t in zip((weight, bias), dtypes, strict=True) if a is not None]
    return all_finite(found)


def all_finite(arrays: Iterable[Array]) -> bool:
    """Is there no NaN or infinity in these arrays?"""
    return all(bool(array_module(array).isfinite(array).all()) for array in arrays)


def with_arrays(layer: Layer, weight: Any, bias: Array | None) -> Layer:
    """A layer like this one that computes with these arrays; where one is None, with the layer's own."""
    new = copy.copy(layer)
    if merged_into(layer) != "weight":
        setattr(new, merged_into(layer), nn.Buffer(arrays_of(layer)[0]))
    elif not isinstance(layer, nn.Linear4bit):
        new.weight = nn.Parameter(layer.weight.data, requires_grad=False)
    if bias is not None:
        new.bias = nn.Parameter(layer.bias.data, requires_grad=False)
    put_arrays(new, weight, bias)
    return new


def reduced(layer: Layer, weight: Array, initial: Iterable[tuple[Any, ...]]) -> Array:
    """W - Σ s·B A over these (A, B, s), oriented as the layer stores W: what is left of it beside PiSSA or OLoRA.

    With a fourth, (A, B, s, Q), Q (out, in) is what is left (LoftQ).
    """
    for A, B, s, *left in initial:
        weight = oriented(layer, left[0]) if left else weight - oriented(layer, B @ A) * s
    return weight


def shared_weights(model: nn.Module) -> set[int]:
    """The ids of the Parameters that several parts of the model hold, such as a head tied to the embedding."""
    held = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return {p for p, times in held.items() if times > 1}


def untie(model: nn.Module, layers: Iterable[Layer]) -> None:
    """Give each of these layers whose weight is shared with another part of the model a copy of its own."""
    for layer in layers:
        weight = layer.weight
        if id(weight) in shared_weights(model):
            layer.weight = nn.Parameter(weight.data.copy(), weight.requires_grad)
    note_untied(model)


def note_untied(model: Any) -> None:
    """Have the model's config say that the head is not tied, where that is so now: it is saved and loaded so."""
    head = getattr(model, "get_output_embeddings", lambda: None)()
    for inside in ("original_module", "base_layer"):  # of one that is trained whole, or adapted
        head = getattr(head, inside, head)
    weight = getattr(head, "weight", None)
    tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    if tied and weight is not None and id(weight) not in shared_weights(model):
        model.config = copy.copy(model.config)
        model.config.tie_word_embeddings = False
