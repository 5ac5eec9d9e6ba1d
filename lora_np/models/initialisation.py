"""How a model's weights are drawn before it is trained."""

from collections.abc import Mapping

from .. import nn

WITH_WEIGHTS = (nn.Linear, nn.Conv1D, nn.Embedding)


def init_weights(model: nn.Module, std: float, others: Mapping[nn.Module, float] | None = None) -> None:
    """Normal weights, of standard deviation `std`, for linear layers and embeddings; their biases zero. Norms stay.

    An embedding's row of padding is zero, too. others: {layer: its own standard deviation}. A weight that layers share
    is drawn once, for the first of them.
    """
    others, drawn = others or {}, set()
    for layer in model.modules():
        if not isinstance(layer, WITH_WEIGHTS) or id(layer.weight) in drawn:
            continue
        drawn.add(id(layer.weight))
        zero_row = getattr(layer, "padding_idx", None)
        layer.weight.data = nn.normal(layer.weight.shape, others.get(layer, std), zero_row=zero_row)
        if (bias := getattr(layer, "bias", None)) is not None:
            bias.data = nn.zeros(bias.shape)
