"""The trained weights of a model, taken out and put back."""

from collections.abc import Mapping

from ..autograd import Tensor
from ..nn import all_or_nothing
from .protocols import Array

Trained = dict[str, Tensor]  # {name: Parameter}: what a run trains


def copied(trained: Trained) -> dict[str, Array]:
    """{name: a copy of what the parameter holds now}."""
    return {name: p.data.copy() for name, p in trained.items()}


@all_or_nothing
def put(trained: Trained, arrays: Mapping[str, Array]) -> None:
    """Give each parameter the array of its name; if that is interrupted, all have again what they had."""
    for name, p in trained.items():
        p.data = arrays[name]
