r"""`target_parameters`: LoRA on a parameter that is a matrix P, whatever layer holds it, as that layer stores it.

    P' = P + s·B A,    P (rows, columns), A (r, columns), B (rows, r)

For a Linear's weight that is LoRA beside the layer. A Conv1D or an Embedding stores Wᵀ: there A and B have changed
places, y = base(x) + s·(x B) A, and of an embedding B has a row for each token. Trained are r (rows + columns) numbers,
the update has rank r and is merged. PEFT has it for layers of experts, whose parameter no layer of its own holds, and
forms P' in each call; here the two small products are enough. There is no dropout, as P' has no input.
"""

from collections.abc import Mapping
from typing import Any

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import beside
from ...autograd.dispatch import matmul
from ...autograd.shape_ops import embedding, where
from ...autograd.tensor import data
from ..adapter import Target
from ..kinds import is_adaptable
from ..layer import LowRankAdapter
from ..types import Array, Config, Input, Layer
from .whole import Sizes


class OnParameter(LowRankAdapter):
    """A (r, columns) and B (rows, r) of a layer's weight as it is stored."""

    reported = "lora.ParamWrapper"

    def __init__(self, config: Config, target: Target) -> None:
        layer = target.layer
        self.transposed = layer.fan_in_fan_out
        rows, columns = layer.weight.shape
        stored = Sizes(rows, columns, layer.device, layer.parameters)
        super().__init__(config, target._replace(layer=stored))

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        name, settings = f"target_parameters: {target.name}.weight", ("use_dora", "lora_bias", "lora_dropout")
        wrong = [setting for setting in settings if getattr(config, setting)]
        wrong += [config.special] if config.special else ["init_lora_weights"] if config.changes_base else []
        if wrong:
            raise ValueError(f"{name} takes plain LoRA, without {wrong[0]}={getattr(config, wrong[0])!r:.80}")

    def update(self, layer: Layer, x: Input, base: Tensor) -> Tensor:
        """s·B(A(x)) for W as (out, in), s·(x B) A for Wᵀ; x are ids where it is an embedding's."""
        A, B = self.matrices()
        if isinstance(layer, nn.Embedding):
            found = F.linear(embedding(B, x), A, None, True) * self.scaling
            if layer.padding_idx is None:
                return found
            padding = beside(data(x), found.data) == layer.padding_idx  # W's row gets no gradient, so these get none
            return where(padding[..., None], found.detach(), found)
        if layer.fan_in_fan_out:
            return F.linear(F.linear(x, B, None, True), A, None, True) * self.scaling
        return self.branch(x)

    def delta_weight(self) -> Array:
        A, B = self.matrices()
        update = matmul(B.data, A.data) * self.scaling
        return update.T if self.transposed else update


def parameter_targets(config: Any, modules: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """The dotted names of the layers whose weight config.target_parameters means, in the model's order.

    A name means all parameters whose names end so after a dot, as in PEFT. ValueError if it means none, one that is no
    matrix of a layer that can be adapted, or one of a layer in `wanted`, which target_modules name.
    """
    found, unused = [], dict.fromkeys(config.target_parameters or ())
    for name, module in modules.items() if unused else ():
        for key in [key for key, value in vars(module).items() if isinstance(value, nn.Parameter)]:
            matches = [target for target in config.target_parameters if f".{name}.{key}".endswith(f".{target}")]
            for target in matches:
                unused.pop(target, None)
            if matches:
                _check(name, key, module, wanted)
                found.append(name)
    narrow = [f"{name}.weight" for name, module in modules.items() if isinstance(module, nn.FourBitLayer)]
    for target in unused:
        if any(f".{name}".endswith(f".{target}") for name in narrow):
            raise ValueError(f"target_parameters: {target!r} is in 4 bits: name its layer in target_modules")
    if unused:
        raise ValueError(
            f"target_parameters: no parameter matches {next(iter(unused))!r}; it is a parameter's name, such as "
            f"{next((f'{name}.weight' for name, module in modules.items() if is_adaptable(module)), 'weight')!r}"
        )
    return found


def _check(name, key, module, wanted):
    if key != "weight" or not is_adaptable(module) or module.weight.ndim != 2:
        kind, shape = type(module).__name__, getattr(module, key).shape
        raise ValueError(
            f"target_parameters: {name}.{key}, of a {kind}, has shape {shape}; LoRA is for weights of linear layers "
            "and embeddings, which are matrices"
        )
    if name in wanted:
        raise ValueError(f"target_modules names {name}, and target_parameters its weight: choose one")
