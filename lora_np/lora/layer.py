r"""LoRA on one page: y = x Wᵀ + b + s·B(A(dropout(x))), s = alpha / r.

W (out, in) stays as it was pretrained. What is learned is an update of rank r, ΔW = s·B A: A (r, in) looks at the input
in r directions, B (out, r) says what each of them adds to the output. Only A and B are trained. A is initialised at
random and B with zeros, so that training starts exactly at the base model. Once trained, W + ΔW can take the place of
W: then LoRA costs nothing. (Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.)

`LoraAdapter` is one such pair A and B. `AdaptedLayer` is a layer with adapters beside it, each under a name.
"""

import numpy as np

from .. import nn
from ..autograd import Tensor
from ..autograd import functional as F
from ..autograd.devices import array_module
from ..autograd.dispatch import matmul
from .adapter import Adapter, Matrix, PerAdapter, Target, acquainted, deeper, in_order, inputs_of, listed
from .base_layer import AsInPeft, arrays_of, fuses, kept_arrays, operand, oriented, put_arrays, reduced, with_arrays
from .call import Owner, this_call
from .kinds import make_adapter
from .types import Array, Config, Input, Layer


def default_initialisation(fan_in: int, fan_out: int, r: int) -> tuple[Array, Array]:
    """Matrix A uniform in ±1/√fan_in (Kaiming's, with a = √5), B zero: ΔW = 0. The other ways are in `init.py`."""
    return nn.uniform((r, fan_in), fan_in**-0.5), nn.zeros((fan_out, r))


class LowRankAdapter(Adapter):
    """A (r, in) and B (out, r), however the layer stores W, and s = alpha / r. Abstract: subclasses have `update`."""

    learns_faster: tuple[str, ...] = ("lora_B",)  # where LoRA+ is asked for
    idle_if_zero: str | None = "lora_B.weight"  # with B zero, so is ΔW

    def __init__(self, config: Config, target: Target) -> None:
        self.config, self.r, self.lora_alpha = config, target.r, target.lora_alpha
        self.scaling = config.scaling_of(self.r, self.lora_alpha)  # alpha / r; with `use_rslora`, alpha / √r
        A, B, *left = config.initial_matrices(target)  # by `default_initialisation`, unless the config says otherwise
        self.lora_dropout = nn.Dropout(config.lora_dropout)
        self.lora_A, self.lora_B = Matrix(A), Matrix(B)
        self.initial = (A.copy(), B.copy(), self.scaling, *left) if config.changes_base else None

    def matrices(self) -> tuple[nn.Parameter, nn.Parameter]:
        """(A (r, in), B (out, r)), two Parameters."""
        return self.lora_A.weight, self.lora_B.weight

    def branch(self, x: Tensor) -> Tensor:
        """s·B(A(x)), x (..., in) -> (..., out): two small products, and B A is never formed."""
        A, B = self.matrices()
        return F.linear(F.linear(x, A), B) * self.scaling

    def delta_weight(self) -> Array:
        """ΔW = s·B A (out, in)."""
        A, B = self.matrices()
        return matmul(B.data, A.data) * self.scaling

    def rescale(self, factor: float) -> None:
        """s = factor · alpha / r."""
        self.scaling = factor * self.config.scaling_of(self.r, self.lora_alpha)


class LoraAdapter(LowRankAdapter):
    """Plain LoRA beside one linear layer."""

    plain = stacks = True

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        """s·B(A(dropout(x))), which is added to the layer's own result, `base`."""
        return self.branch(self.lora_dropout(x))

    def fused(self, layer: Layer, x: Tensor) -> Tensor:
        """layer(x) + update(x) in one operation, plain in `autograd/fused/reference.py`: one pass less over y."""
        p = self.lora_dropout.p if self.lora_dropout.training else 0.0
        A, B = self.lora_A.weight, self.lora_B.weight
        return F.lora_linear(x, operand(layer), layer.bias, A, B, self.scaling, layer.fan_in_fan_out, p)


class AdaptedLayer(AsInPeft, nn.Module):
    """A frozen layer with adapters beside it. Abstract: `LoraLinear` below, `LoraEmbedding` in `variants/embedding.py`.

    base_layer        the layer itself, held and not copied
    adapters          {name: Adapter}
    active_adapters   the names of those that take part: their updates are added up
    merged_adapters   the names of those that are merged into the weight now, [] if none is
    Adapters are switched by setting `active_adapters`, and changed only while none is merged: `PeftModel` sees to that.
    """

    def __init__(self, base_layer: Layer) -> None:
        self.base_layer = base_layer
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.adapters: dict[str, Adapter] = {}
        self.active_adapters: list[str] = []
        self.merged_adapters: list[str] = []
        self.owner: Owner | None = None  # of the adapted model, a call of which may leave adapters out (call.py)
        self._unmerged: tuple[Array, Array | None] | None = None  # weight and bias from before `merge`
        self._original: Array | None = None  # the weight from before PiSSA or OLoRA took a part out of it

    def forward(self, x: Input) -> Tensor:
        """The layer's result with the active adapters, or with those that the running call asks for."""
        call = this_call(self.owner)
        if call.disabled:
            return self.without_adapters()(x)
        if call.rows is not None:
            return call.rows.forward(self, x)  # each row of the batch with its own adapter
        return self.forward_with([] if self.merged_adapters else self.active_adapters, x)  # merged: they are in W

    def forward_with(self, names: list[str], x: Input) -> Tensor:
        """y = base(x) + Σ s·B(A(dropout(x))) over these adapters. x (..., in) -> y (..., out)."""
        adapters = [self.adapters[name] for name in names]
        if len(adapters) == 1 and adapters[0].fused and fuses(adapters[0], self.base_layer, x):
            return adapters[0].fused(self.base_layer, x)
        x, pairs = inputs_of(adapters, x)  # x itself for all, unless one of them multiplies: family/oft.py
        y = base = self.base_layer(x)
        for adapter, own in pairs:
            y = adapter.applied(self.base_layer, own, base, y)  # y + update, unless a kind says otherwise
        return y.astype(base.dtype)  # A and B are in float32, also beside a base in float16

    def oriented(self, weight: Array) -> Array:
        """A weight of the layer as (out, in), or back again."""
        return oriented(self.base_layer, weight)

    def add_adapter(self, name: str, config: Config, r: int | None = None, alpha: float | None = None) -> None:
        """Give the layer an adapter as `config` says, inactive. r, alpha: in place of the config's."""
        r, alpha = config.r if r is None else r, config.lora_alpha if alpha is None else alpha
        adapter = make_adapter(config, Target("", self.base_layer, r, alpha))
        self.set_adapters({**self.adapters, name: adapter})

    def delete_adapter(self, name: str) -> None:
        """Forget an adapter. If its initialisation took a part out of the base weight, that is put back."""
        self.set_adapters({other: adapter for other, adapter in self.adapters.items() if other != name})

    def rename_adapter(self, old: str, new: str) -> None:
        """Give an adapter another name."""
        names = {name: new if name == old else name for name in self.adapters}
        self.set_adapters({names[n]: a for n, a in self.adapters.items()}, [names[n] for n in self.active_adapters])

    def set_adapters(self, adapters: dict[str, Adapter], active: list[str] | None = None) -> None:
        """Have just these adapters. active: the names of those that take part; if None, those that did and are left."""
        active = [name for name in self.active_adapters if name in adapters] if active is None else active
        self.adapters, self.active_adapters = acquainted(adapters), active
        initial = [adapter.initial for adapter in adapters.values() if adapter.initial is not None]
        if initial or self._original is not None:  # PiSSA, OLoRA: their s·B₀A₀ is a part of W, and not zero
            original = self.base_layer.weight.data if self._original is None else self._original
            put_arrays(self.base_layer, reduced(self.base_layer, original, initial), None)
            self._original = original if initial else None

    def delta_weight(self, name: str) -> Array:
        """ΔW (out, in), also while adapters are merged."""
        layer = self.base_layer if self._unmerged is None else with_arrays(self.base_layer, *self._unmerged)
        return PerAdapter(self.adapters, "delta_weight_of")(name, layer)

    def get_delta_weight(self, name: str) -> Array:
        """ΔW as the layer stores its weight: (in, out) for a Conv1D or an Embedding."""
        return self.oriented(self.delta_weight(name))

    def chosen(self, names: list[str] | None) -> list[str]:
        """Those of these adapters that the layer has; None stands for the active ones."""
        return [name for name in (self.active_adapters if names is None else names) if name in self.adapters]

    def merged_parameters(self, names: list[str] | None = None) -> tuple[Array, Array | None]:
        """(weight, bias) with these adapters in them (None: active): W + Σ ΔW, in float32 or better, rounded once."""
        base, bias = arrays_of(self.base_layer)
        weight = oriented(self.base_layer, base).astype(np.result_type(base.dtype, np.float32))
        for adapter in in_order([self.adapters[name] for name in self.chosen(names)]):
            weight, bias = adapter.merged(self.base_layer, weight, bias)  # W + ΔW, in the same way
        return array_module(base).ascontiguousarray(oriented(self.base_layer, weight), dtype=base.dtype), bias

    def merge(self, weight: Array, bias: Array | None, names: list[str] | None = None) -> None:
        """Put the `merged_parameters` in place. (A model computes those of all layers before it changes the first.)"""
        self._unmerged, self.merged_adapters = kept_arrays(self.base_layer), self.chosen(names)
        put_arrays(self.base_layer, weight, bias)

    def unmerge(self) -> None:
        """Put back the arrays from before `merge`, the very same ones: nothing is subtracted, so nothing drifts."""
        if self._unmerged is not None:
            put_arrays(self.base_layer, *self._unmerged)
            self._unmerged, self.merged_adapters = None, []

    def without_adapters(self) -> Layer:
        """The layer as it was before any adapter: `base_layer`, or one like it where its weight has changed."""
        if not self.merged_adapters and self._original is None:
            return self.base_layer
        weight, bias = self._unmerged or (None, None)
        return with_arrays(self.base_layer, weight if self._original is None else self._original, bias)

    def held(self) -> dict[str, nn.Module]:
        """The layer and what the adapters hold, under PEFT's names: the adapter's comes last, `lora_A.default`."""
        return deeper({"base_layer": self.base_layer, **listed({n: a.pieces() for n, a in self.adapters.items()})})

    def __getattr__(self, attribute):
        """What adapters have: `layer.lora_A["default"]`, `layer.matrices("default")`; or `weight`, the base layer's."""
        adapters = vars(self).get("adapters") or {}
        if attribute.startswith("_") or not any(hasattr(adapter, attribute) for adapter in adapters.values()):
            return super().__getattr__(attribute)
        return PerAdapter(adapters, attribute)


class LoraLinear(AdaptedLayer):
    """A Linear, Conv1D or 4-bit layer with adapters beside it."""
