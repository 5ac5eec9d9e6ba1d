"""What a kind of adapter says about itself, once; everything else (files, checks, counts, status) follows from it."""

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from .. import nn
from ..autograd import Tensor
from ..nn.parameter import STATE
from .names import check_known
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
    in_common       the attributes that hold Parameters of `shared`, which all its layers train together
    learns_faster   the attributes whose Parameters LoRA+ gives a higher rate
    idle_if_zero    the name in the file of a tensor: where it is all zero, the adapter changes nothing
    plain           is it ΔW = s·B A and nothing else? Such adapters can be combined
    adds_up         are several combined by adding up their tensors, each times a weight?
    stacks          is `update` s·B(A(dropout(x))) and nothing else, with `lora_A` and `lora_B`? Then, where rows of a
                    batch have adapters of their own, those of many are computed as one: see rows.py
    initial         (A, B, s): its initialisation took s·B A out of the base weight; None if it took nothing;
                    (A, B, s, Q) where Q is what was left of it
    brings_base     did its file have another weight for its layer, which was put there? Then it is saved with it
    looks_beside    does it compute with the other adapters of its layer? Then `neighbours` has them, by name
    fused           None, or a method (layer, x) -> layer's result and update in one operation
    first_outside   of several of the kind in a row, is the first the outermost? See `in_order`
    together        do the adapters of one name do more in training than learn? See `loss_term` and `after_step`
    asks_the_host   does its step wait for the host, as an inverse on a GPU does? Then a GPU cannot record the step
    draws           does it draw random numbers in training, other than those of `nn.Dropout`?
    model_methods   {PEFT's name of a method of the model: that of the one here}
    reported        what PEFT's report calls a layer with it, where that is not `kind.Linear` or `kind.Embedding`
    """

    names_in_file: Mapping[str, str] = {}
    in_common: tuple[str, ...] = ()
    learns_faster: tuple[str, ...] = ()
    idle_if_zero: str | None = None
    plain = adds_up = stacks = False
    brings_base = False
    looks_beside = False
    neighbours: Mapping[str, Any] = {}
    initial: tuple[Any, ...] | None = None
    fused: Callable[[Layer, Input], Tensor] | None = None
    first_outside = False
    together = asks_the_host = draws = False
    model_methods: Mapping[str, str] = {}
    reported = ""
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
        if target.parts:
            parts = ", ".join(f"{target.name}.{part}" for part in target.parts)
            raise ValueError(
                f"{config.peft_type} adapts whole layers: name them whole in target_modules, not as {parts}"
            )

    @classmethod
    def shared(cls, config: Config, targets: list[Target]) -> dict[str, Any]:
        """{name: Buffer, Parameter or Module of these}: what the adapters of one name have in common in all layers."""
        return {}

    def update(self, layer: Layer, x: Input, base: Tensor) -> Tensor:
        """What it adds to `base`, the frozen layer's result for the input `x`."""
        raise NotImplementedError

    def applied(self, layer: Layer, x: Input, base: Tensor, y: Any) -> Tensor:
        """What the layer gives with it, where it gives `y` with the adapters before it: y + update."""
        return y + self.update(layer, x, base)

    def changed_input(self, x: Input) -> Input:
        """What the layer, with the adapters before this one, gets in the place of x. Only some kinds change it."""
        return x

    def delta_weight(self) -> Array:
        """ΔW (out, in), in float32 or better. Where it depends on W, ask while nothing is merged into that."""
        raise NotImplementedError

    def delta_weight_of(self, layer: Layer) -> Array:
        """ΔW beside a layer that is like its own: of another weight, where ΔW depends on that."""
        return self.delta_weight()

    def can_merge_into(self, layer: Layer) -> bool:
        """Can the layer's weight take the update? One in 4 bits with zero points takes only QA-LoRA's."""
        return not isinstance(layer, nn.GroupedLinear4bit)

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        """The frozen layer's weight (out, in) and bias, with this adapter merged into them."""
        return weight + self.delta_weight(), bias

    def rescale(self, factor: float) -> None:
        """Set the scaling to `factor` times the configured one."""
        raise ValueError(f"{type(self).__name__} has no scaling that could be changed")

    @classmethod
    def loss_term(cls, config: Config, adapters: Sequence[Any]) -> Tensor | None:
        """What the adapters of one name add to the loss of a model that has a `task_type`; None for nothing."""
        return None

    @classmethod
    def after_step(cls, config: Config, name: str, adapters: Mapping[str, Any], step: int) -> None:
        """What becomes of {layer: Adapter}, all called `name`, after step number `step` (from 0) of training.

        The optimizer has changed the weights, and the gradients are still there.
        """

    def run_state(self) -> dict[str, Array]:
        """{name: array} of what `after_step` has to know of earlier steps: a checkpoint keeps it."""
        return {}

    def put_run_state(self, arrays: Mapping[str, Array]) -> None:
        """Take such arrays over. ValueError if they are not those of this adapter."""

    def pieces(self) -> dict[str, Any]:
        """{attribute: Module, Parameter or Buffer}: what it does not share with the adapters of other layers."""
        kinds = nn.Module, nn.Parameter, nn.Buffer
        return {n: value for n, value in vars(self).items() if isinstance(value, kinds) and n not in self.in_common}

    def tensors(self) -> dict[str, Any]:
        """{name in a file: Parameter or Buffer}: what is saved and loaded; a Parameter is trained."""
        return {self.names_in_file.get(name, name): tensor for name, tensor in flattened(self.pieces()).items()}

    parameters_of = tensors  # under its earlier name

    def faster_parameters(self) -> list[nn.Parameter]:
        """The Parameters that LoRA+ gives a higher rate."""
        return [p for name in self.learns_faster for p in getattr(self, name).parameters()]

    def saved_arrays(self) -> dict[str, Array]:
        """{name in a file: array}."""
        return {name: p.data for name, p in self.tensors().items()}

    def read(self, arrays: dict[str, Array], prefix: str) -> None:
        """Bring a file's arrays to the form of `tensors()`, in place: of {name: array}, those that begin with `prefix`.

        For kinds whose files have another form, or that must look at the numbers. ValueError if they make no sense.
        """


def flattened(pieces: Mapping[str, Any]) -> dict[str, Any]:
    """{dotted name: Parameter or Buffer} of these {name: Module, Parameter or Buffer}."""
    found: dict[str, Any] = {}
    for name, value in pieces.items():
        if isinstance(value, nn.Module):
            found |= {f"{name}.{key}": tensor for key, tensor in value._named(STATE)}
        else:
            found[name] = value
    return found


def in_order(adapters: Sequence[Adapter]) -> list[Adapter]:
    """The adapters of a layer from the innermost to the outermost: each acts on what those before it made of the layer.

    For kinds that add, the order does not matter. For those that multiply it is the given one, or as the kind says:
    of OFT adapters in a row the first is the outermost, as it is in PEFT.
    """
    found: list[Adapter] = []
    for first_outside, group in groupby(adapters, key=attrgetter("first_outside")):
        row = list(group)
        found += row[::-1] if first_outside else row
    return found


def inputs_of(adapters: Sequence[Adapter], x: Input) -> tuple[Input, list[tuple[Adapter, Input]]]:
    """(what the layer gets, [(adapter, what it gets)] `in_order`), where x goes into the layer with these adapters."""
    pairs = []
    for adapter in reversed(in_order(adapters)):
        pairs.append((adapter, x))
        x = adapter.changed_input(x)
    return x, pairs[::-1]


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
            vars(tables[piece])[name] = value  # AdaLoRA's lora_A is a Parameter, LoRA's a Module: both have a place
    return tables


def deeper(own: dict[str, Any]) -> dict[str, Any]:
    """What a layer holds, by name: where rows are trained (variants/tokens.py), one step deeper, as in PEFT."""
    return {"token_adapter": Under(own)} if "trainable_tokens_delta" in own else own


class Under(nn.Module):
    """What has its place under one more name."""

    def __init__(self, own: dict[str, Any]) -> None:
        self.own = own

    def held(self) -> dict[str, Any]:
        """What was given."""
        return self.own


def acquainted(adapters: dict[str, Adapter]) -> dict[str, Adapter]:
    """The adapters of one layer, by name, of which those that ask for it know the others."""
    for adapter in adapters.values():
        if adapter.looks_beside:
            adapter.neighbours = adapters
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

    def __getattr__(self, name: str) -> Any:
        """`layer.lora_A.default`, as `layer.lora_A["default"]`."""
        if name in vars(self).get("adapters", {}):
            return self[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)

    def __getitem__(self, name: str) -> Any:
        check_known(name, self.adapters)
        return getattr(self.adapters[name], self.attribute)

    def __setitem__(self, name: str, value: Any) -> None:
        check_known(name, self.adapters)
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
