"""What a kind of adapter says about itself, once; everything else (files, checks, counts, status) follows from it."""

from collections.abc import MutableMapping
from typing import NamedTuple

import numpy as np

from .. import nn


class Target(NamedTuple):
    """Where an adapter goes: the layer's dotted name, the frozen layer, rank and alpha there, and, where only some
    parts of a joint projection are adapted, their names. `shared`: see `Adapter.shared`."""

    name: str
    layer: nn.Module
    r: int
    lora_alpha: float
    parts: tuple = ()
    shared: dict = {}


class Matrix(nn.Module):
    """One of an adapter's matrices, a module of its own so that its name ends in `.weight`, as in PEFT's files."""

    def __init__(self, array):
        self.weight = nn.Parameter(array)


class Adapter(nn.Module):
    """What is beside one layer under one name. Abstract: `layer.py` has plain LoRA, `variants/` the other kinds.

    Its tensors are its attributes, made in `__init__(config, target)` and named as in PEFT's files: a Parameter is
    trained, a Buffer is not. Files, checks, counts and parameter groups are read off them.

    names_in_file   {own name: name in the file} where the two differ
    learns_faster   the parts that LoRA+ gives a higher rate
    idle_if_zero    the name in the file of a tensor that leaves nothing of the adapter where it is all zero
    plain           is ΔW = s·B A all of it, so that it can be combined with others?
    initial         (A, B, s) of what its start took out of the base weight, or None
    fused           None, or a method (layer, x) -> layer's result and update in one operation
    """

    names_in_file, learns_faster, idle_if_zero = {}, (), None
    plain, initial, fused = False, None, None
    r = lora_alpha = None
    scaling = 1.0

    @classmethod
    def wanted(cls, config, target):
        """Is this the kind that `config` means for the `Target`?"""
        return True

    @classmethod
    def check(cls, config, target):
        """ValueError, before anything is changed, if this kind cannot be beside that layer."""
        if isinstance(target.layer, nn.Embedding):
            raise ValueError(f"{config.peft_type} adapts linear layers here; {target.name} is an Embedding")

    @classmethod
    def shared(cls, config, targets):
        """{name: Buffer or Parameter}: what the adapters of one name have in common in all layers."""
        return {}

    def update(self, layer, x, base):
        """What it adds to the frozen layer's result `base` for the input `x`: a Tensor."""
        raise NotImplementedError

    def delta_weight(self):
        """ΔW (out, in), in float32 or better."""
        raise NotImplementedError

    def merged(self, layer, weight, bias):
        """(weight (out, in), bias) of the frozen layer once this adapter is merged into them."""
        return weight + self.delta_weight(), bias

    def rescale(self, factor):
        """Multiply the scaling by `factor`, from its configured value."""
        raise ValueError(f"{type(self).__name__} has no scaling that could be changed")

    def parts(self):
        """{attribute: Module or Parameter}: what it has for itself."""
        return {name: value for name, value in vars(self).items() if isinstance(value, (nn.Module, nn.Parameter))}

    def tensors(self):
        """{name in a file: Parameter}: what is trained."""
        return {self.names_in_file.get(name, name): p for name, p in self.named_parameters()}

    parameters_of = tensors  # under its earlier name

    def faster_parameters(self):
        """Those Parameters that LoRA+ gives a higher rate."""
        return [p for part in self.learns_faster for p in getattr(self, part).parameters()]

    def saved_arrays(self):
        """{name in a file: array}."""
        return {name: p.data for name, p in self.tensors().items()}


def listed(parts):
    """{part: a ModuleDict, ParameterDict or BufferDict by adapter's name}, from {adapter's name: {part: value}}."""
    tables = {}
    for name, own in parts.items():
        for part, value in own.items():
            if part not in tables:
                kinds = (nn.ModuleDict, nn.ParameterDict, nn.BufferDict)
                tables[part] = next(kind for kind in kinds if isinstance(value, kind.kind))()
            tables[part][name] = value
    return tables


def dtype_beside(layer):
    """What an adapter beside this layer is made of: float32, or float64 where the layer is."""
    held = next(layer.parameters(), None)  # a 4-bit layer may have none
    return np.float64 if held is not None and held.dtype == np.float64 else np.float32


class PerAdapter(MutableMapping):
    """{adapter's name: one of its attributes}, read and written where it is: `layer.scaling["default"] = 2`.

    Of a method, a call with the name calls the adapter's: `layer.matrices("default")`.
    """

    def __init__(self, adapters, attribute):
        self.adapters, self.attribute = adapters, attribute

    def __getitem__(self, name):
        return getattr(self.adapters[name], self.attribute)

    def __setitem__(self, name, value):
        setattr(self.adapters[name], self.attribute, value)

    def __delitem__(self, name):
        raise TypeError(f"delete the adapter {name!r}, not its {self.attribute}")

    def __iter__(self):
        return (name for name, adapter in self.adapters.items() if hasattr(adapter, self.attribute))

    def __len__(self):
        return sum(1 for _ in self)

    def __call__(self, name, *arguments):
        return self[name](*arguments)

    def __repr__(self):
        return repr(dict(self))
