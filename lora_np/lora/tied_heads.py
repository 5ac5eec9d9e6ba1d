"""A head that is tied to an embedding of which adapters train rows: it computes with those rows too."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from .. import nn
from ..autograd import Tensor
from .adapter import Adapter
from .base_layer import with_arrays
from .call import this_call
from .layer import AdaptedLayer
from .saved_modules import ModulesToSave
from .types import Layer
from .variants.tokens import TokenAdapter

ONE_KIND = (
    "would have adapters of two kinds, or be trained beside an embedding that it follows: an embedding whose rows are "
    "trained (trainable_token_indices), and a head that is tied to it, take no others"
)


def check_rows(
    model: Any, modules: Mapping[str, Any], tokens: Iterable[str], wanted: Collection[str], saved: Collection[str]
) -> None:
    """ValueError if other adapters, or copies, would be where rows are trained or a head follows those.

    modules: the model's own; tokens, wanted, saved: whose rows a new adapter trains, what it adapts and trains whole.
    """
    for name in saved:
        if isinstance(model.get_submodule(name), TiedHead):
            raise ValueError(f"{name} {ONE_KIND}")
    for name in tokens:
        if name in wanted or isinstance(model.get_submodule(name), ModulesToSave):
            raise ValueError(f"{name} {ONE_KIND}")
        for other, module in modules.items():
            if other not in tokens and vars(module).get("weight") is modules[name].weight:
                there = model.get_submodule(other)
                if other in wanted or other in saved or isinstance(there, AdaptedLayer | ModulesToSave):
                    raise ValueError(f"{other} {ONE_KIND}")


class TiedHead(nn.Module):
    """A Linear whose weight is that of an adapted embedding, `source`: which adapters count, that one knows.

    It is no AdaptedLayer. What is merged into the embedding's weight is in its own, which is the same Parameter.
    """

    def __init__(self, base_layer: Layer, source: AdaptedLayer) -> None:
        self.base_layer, self.source = base_layer, source
        self._training = base_layer._training

    def held(self) -> dict[str, Any]:
        """The Linear; the embedding has its own place in the model."""
        return {"base_layer": self.base_layer}

    @property
    def weight(self) -> nn.Parameter:
        """The Parameter that embedding and head share."""
        return self.base_layer.weight

    @property
    def adapters(self) -> dict[str, Adapter]:
        """Those of the embedding."""
        return self.source.adapters

    def forward(self, x: Tensor) -> Tensor:
        call, source = this_call(self.source.owner), self.source
        if source.base_layer.weight is not self.weight:  # untied since
            return self.base_layer(x)
        if call.disabled:
            plain = source.without_adapters()
            same = plain is source.base_layer
            return (self.base_layer if same else with_arrays(self.base_layer, plain.weight.data, None))(x)
        if call.rows is not None:
            return call.rows.forward(self, x)
        return self.forward_with([] if source.merged_adapters else source.active_adapters, x)

    def forward_with(self, names: list[str], x: Tensor) -> Tensor:
        """The logits with these adapters' rows."""
        y = base = self.base_layer(x)
        for name in names:
            y = self.adapters[name].applied(self.base_layer, x, base, y)
        return y.astype(base.dtype)


def tie_heads(tuner: Any) -> None:
    """Have the heads of a `LoraModel` follow those of its embeddings whose rows adapters train, and no others."""
    sources = {}
    for layer in tuner.adapted.values():
        if isinstance(layer.base_layer, nn.Embedding):
            for adapter in layer.adapters.values():
                if isinstance(adapter, TokenAdapter):
                    sources[id(layer.base_layer.weight)] = layer
    tied: dict[str, TiedHead] = getattr(tuner, "tied", {})
    tuner.tied, model = {}, tuner.model
    if not sources and not tied:
        return
    for name, head in tied.items():
        model.set_submodule(name, head.base_layer)
    inside = [f"{name}." for name in (*tuner.adapted, *tuner.saved)]
    for name, module in list(model.named_modules()):
        if type(module) is nn.Linear and id(module.weight) in sources and not name.startswith(tuple(inside)):
            tuner.tied = {**tuner.tied, name: TiedHead(module, sources[id(module.weight)])}
    for name, head in tuner.tied.items():
        model.set_submodule(name, head)


def followed(tuner: Any) -> set[int]:
    """The ids of the weights that embedding and head share, and that may be merged into: both compute with the rows."""
    return {id(head.weight) for head in tuner.tied.values()}
