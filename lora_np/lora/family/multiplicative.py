r"""Kinds that multiply where LoRA adds: the layer gets x R in the place of x, with a trained R (in, in).

    y = base(x R) = x R Wᵀ + b          W' = W Rᵀ          ΔW = W (Rᵀ - I)

What a product does to W depends on W: each output looks at the same inputs as before, turned by R. With R = I training
starts at the base model. R is never multiplied into W but to merge: turning x costs less.
"""

from typing import Any

from ...autograd import Tensor
from ..adapter import Adapter, Target
from ..base_layer import oriented
from ..types import Array, Config, Input, Layer


class Multiplicative(Adapter):
    """What is said once for kinds that multiply. Abstract: subclasses have `turned` and `matrix`.

    beside  the layer, in a tuple, as it is no part of the adapter: ΔW depends on its weight
    """

    def __init__(self, config: Config, target: Target) -> None:
        self.config, self.r, self.beside = config, target.r, (target.layer,)

    def turned(self, x: Input) -> Any:
        """x R, x (..., in)."""
        raise NotImplementedError

    def matrix(self) -> Array:
        """R (in, in)."""
        raise NotImplementedError

    def changed_input(self, x: Input) -> Input:
        return self.turned(x).astype(x.dtype)

    def applied(self, layer: Layer, x: Input, base: Tensor, y: Any) -> Any:
        """The result as it is: what went into the layer was changed."""
        return y

    def update(self, layer: Layer, x: Input, base: Tensor) -> Any:
        """What it adds to `base` = layer(x): base(x R) - base(x)."""
        turned = layer(self.changed_input(x))
        return self.applied(layer, x, turned, turned) - base

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        """(W Rᵀ, b)."""
        return weight @ self.matrix().T, bias

    def delta_weight(self) -> Array:
        """W' - W (out, in), of the weight that the layer has now."""
        return self.delta_weight_of(self.beside[0])

    def delta_weight_of(self, layer: Layer) -> Array:
        weight = oriented(layer, layer.weight.data)
        changed: Array = self.merged(layer, weight, None)[0] - weight
        return changed
