"""What a kind of adapter says about itself, once; everything else (files, checks, counts, status) follows from it."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any, NamedTuple

import numpy as np

from .. import nn
from ..autograd import Tensor
from .types import Array, Config, Input, Layer


class Target(NamedTuple):
    """Where an adapter goes: the frozen layer and its dotted name, and the rank and alpha there.

    parts    the names of the parts to adapt, where the layer is a joint projection and not all of it is; else ()
    shared   what `Adapter.shared` gave
    tokens   the numbers of the rows to train, where these are all that is
    follows  the name of the layer whose adapter it takes over, transposed
    kind     the class of the adapter, where the config alone does not tell it
    """

    name: str
    layer: Layer
    r: int
    lora_alpha: Any  # a number, or None where the kind has no such setting
    parts: tuple[str, ...] = ()
    shared: Mapping[str, Tensor] = {}
    tokens: tuple[int, ...] = ()
    follows: str = ""
    kind: Any = None


class Matrix(nn.Module):
    """One of an adapter's matrices, a module of its own so that its name ends in `.weight`, as in PEFT's files."""

    bias: Any  # a Parameter, where a kind gives `lora_B` one

    def __init__(self, array: Array) -> None:
        self.weight = nn.Parameter(array)


class Adapter(nn.Module):
    """What is beside one layer under one name. Abstract: `layer.py` has plain LoRA, `variants/` the other kinds.

    Its tensors are its attributes, made in `__init__(config, target)` and named as in PEFT's files: a Parameter is
    trained, a Buffer is not. Files, checks, counts and parameter groups are read off them.

    names_in_file   {own name: name in the file} where the two differ
    learns_faster   the attributes whose Parameters LoRA+ gives a higher rate
    idle_if_zero    the name in the file of a tensor: where it is all zero, the adapter changes nothing
    plain           is it ΔW = s·B A and nothing else? Only such adapters can be combined
    initial         (A, B, s): its initialisation took s·B A out of the base weight; None if it took nothing
    brings_base     did its file have another weight for its layer, which was put there? Then it is saved with it
    looks_beside    does it compute with the other adapters of its layer? Then `beside` has them, by name
    fused           None, or a method (layer, x) -> layer's result and update in one operation
    """

    names_in_file: Mapping[str, str] = {}
    learns_faster: tuple[str, ...] = ()
    idle_if_zero: str | None = None
    plain = False
    brings_base = False
    looks_beside = False
    beside: Mapping[str, Any] = {}
    initial: tuple[Array, Array, float] | None = None
    fused: Callable[[Layer, Input], Tensor] | None = None
    r: int | None = None
    lora_alpha: float | None = None
    scaling = 1.0

    def __init__(self, config: Config, target: Target) -> None:
        raise NotImplementedError

    @classmethod
    def wanted(cls, config: Config, target: Target) -> bool:
        """Is this the kind that `config` means for the `Target`?"""
        return True

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        """ValueError, before anything is changed, if this kind cannot be beside that layer."""
        if isinstance(target.layer, nn.Embedding):
            raise ValueError(f"{config.peft_type} adapts linear layers here; {target.name} is an Embedding")

    @classmethod
    def shared(cls, config: Config, targets: list[Target]) -> dict[str, Tensor]:
        """{name: Buffer or Parameter}: what the adapters of one name have in common in all layers."""
        return {}

    def update(self, layer: Layer, x: Input, base: Tensor) -> Tensor:
        """What it adds to `base`, the frozen layer's result for the input `x`."""
        raise NotImplementedError

    def applied(self, layer: Layer, x: Input, base: Tensor, y: Any) -> Tensor:
        """What the layer gives with it, where it gives `y` with the adapters before it: y + update."""
        return y + self.update(layer, x, base)

    def delta_weight(self) -> Array:
        """ΔW (out, in), in float32 or better."""
        raise NotImplementedError

    def can_merge_into(self, layer: Layer) -> bool:
        """Does the layer's weight take the update without rounding it away?"""
        return not isinstance(layer, nn.FourBitLayer)

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        """The frozen layer's weight (out, in) and bias, with this adapter merged into them."""
        return weight + self.delta_weight(), bias

    def rescale(self, factor: float) -> None:
        """Set the scaling to `factor` times the configured one."""
        raise ValueError(f"{type(self).__name__} has no scaling that could be changed")

    def pieces(self) -> dict[str, nn.Module | nn.Parameter]:
        """{attribute: Module or Parameter}: what it does not share with the adapters of other layers."""
        return {name: value for name, value in vars(self).items() if isinstance(value, (nn.Module, nn.Parameter))}

    def tensors(self) -> dict[str, nn.Parameter]:
        """{name in a file: Parameter}: what is trained."""
        return {self.names_in_file.get(name, name): p for name, p in self.named_parameters()}

    parameters_of = tensors  # under its earlier name

    def faster_parameters(self) -> list[nn.Parameter]:
        """The Parameters that LoRA+ gives a higher rate."""
        return [p for name in self.learns_faster for p in getattr(self, name).parameters()]

    def saved_arrays(self) -> dict[str, Array]:
        """{name in a file: array}."""
        return {name: p.data for name, p in self.tensors().items()}


def listed(pieces: Mapping[str, Mapping[str, Any]]) -> dict[str, nn.Module]:
    """{adapter's name: {piece's name: value}} the other way round: {piece's name: {adapter's name: value}}.

    The inner one is a ModuleDict, ParameterDict or BufferDict, as the values are.
    """
    tables: dict[str, Any] = {}
    for name, own in pieces.items():
        for piece, value in own.items():
            if piece not in tables:
                kinds = (nn.ModuleDict, nn.ParameterDict, nn.BufferDict)
                tables[piece] = next(kind for kind in kinds if isinstance(value, kind.kind))()
            tables[piece][name] = value
    return tables


def acquainted(adapters: dict[str, Adapter]) -> dict[str, Adapter]:
    """The adapters of one layer, by name, of which those that ask for it know the others."""
    for adapter in adapters.values():
        if adapter.looks_beside:
            adapter.beside = adapters
    return adapters


def dtype_beside(layer: Layer) -> type:
    """The dtype of an adapter beside this layer: float32, or float64 where the layer's is."""
    held = next(layer.parameters(), None)  # a 4-bit layer may have none
    return np.float64 if held is not None and held.dtype == np.float64 else np.float32


class PerAdapter(MutableMapping):
    """{adapter's name: one attribute of that adapter}. Writing here writes there: `layer.scaling["default"] = 2`.

    If the attribute is a method, a call names the adapter first: `layer.matrices("default")`.
    """

    def __init__(self, adapters: Mapping[str, Adapter], attribute: str) -> None:
        self.adapters, self.attribute = adapters, attribute

    def __getitem__(self, name: str) -> Any:
        return getattr(self.adapters[name], self.attribute)

    def __setitem__(self, name: str, value: Any) -> None:
        setattr(self.adapters[name], self.attribute, value)

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"delete the adapter {name!r}, not its {self.attribute}")

    def __iter__(self) -> Iterator[str]:
        return (name for name, adapter in self.adapters.items() if hasattr(adapter, self.attribute))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __call__(self, name: str, *arguments: Any) -> Any:
        return self[name](*arguments)

    def __repr__(self) -> str:
        return repr(dict(self))
