"""What layers are given while a model runs: their inputs, and the gradients of their weights.

Nothing about a layer changes for it but its class, and only inside the call: one derived from its own, whose `forward`
tells what came in and then does what it did before.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ... import nn
from ...autograd import Tensor
from ...autograd.devices import to_numpy
from ...autograd.tensor import data, record
from ...autograd.threads import limit_threads
from ...expect import wrong
from ..base_layer import shared_weights
from ..targets import own_modules, targets_of
from ..types import Array, Config, Layer

Hears = Callable[[str, Array], None]


def gather(
    layers: Mapping[str, Layer],
    run: Callable[[], Any],
    on_input: Hears | None = None,
    on_backward: Callable[[str], None] | None = None,
) -> None:
    """Run `run()`, and hear from these {name: layer} whenever they are called in it.

    on_input      told (name, x) at each call, with the layer's input x (..., in) as a NumPy array, not a copy
    on_backward   told (name) each time a gradient comes back through the layer's result
    Batches are not cut into shards meanwhile, so that one call of the model is one call of each layer. With any error,
    in `run` too, the layers are as they were. ValueError if a layer was never called; TypeError if run is no function.
    """
    if not callable(run):
        raise TypeError(wrong(run, "what is to be run", "a function without arguments that calls the model"))
    unheard = dict.fromkeys(layers)

    def hear(name, x):
        unheard.pop(name, None)
        if on_input is not None:
            on_input(name, to_numpy(data(x)))

    with limit_threads(1), _heard(layers, hear, on_backward):
        run()
    if unheard:
        raise ValueError(f"{', '.join(list(unheard)[:3])} was never called: does the run call this very model?")


@contextmanager
def _heard(layers: Mapping[str, Layer], hear: Any, on_backward: Any) -> Iterator[None]:
    """Inside this block these layers are of a class that tells `hear` and `on_backward`, derived from their own."""
    before: dict[str, Any] = {name: type(layer) for name, layer in layers.items()}
    try:
        try:
            for name, layer in layers.items():
                layer.heard_by = name, hear, on_backward
                layer.__class__ = _that_tells(before[name])
            yield
        finally:
            _put_back(layers, before)
    finally:
        _put_back(layers, before)  # once more: Ctrl-C may have come just before the line above


def _put_back(layers, before):
    for name, layer in layers.items():
        layer.__class__ = before[name]
        vars(layer).pop("heard_by", None)


@functools.cache
def _that_tells(kind: Any) -> Any:
    """A class of layers like `kind`, that tell what they are given. (A copy of such a layer tells too.)"""

    def forward(self: Any, x: Any) -> Tensor:
        name, hear, on_backward = self.heard_by
        hear(name, x)
        y = kind.forward(self, x)
        return y if on_backward is None else _noting(y, lambda: on_backward(name))

    return type(kind.__name__, (kind,), {"forward": forward})


def _noting(y, note):
    """y, and a call of `note` whenever its gradient comes: dy goes on as it is."""

    def backward(dy):
        note()
        return (dy,)

    return record(y.data, (y,), backward)


def layers_for(model: Any, config: Config) -> dict[str, Layer]:
    """{dotted name: layer} of the linear layers that a config targets, whose weights its start is to change.

    model: a plain one, or a PeftModel with adapters on other layers. ValueError if there are none, and for weights that
    cannot be changed.
    """
    tuner: Any = getattr(model, "base_model", None)
    model = model if not isinstance(getattr(tuner, "adapted", None), dict) else tuner.model
    modules = own_modules(model)
    found = {name: modules[name] for name in targets_of(model, config, modules)}
    found = {name: layer for name, layer in found.items() if not isinstance(layer, nn.Embedding)}
    if not found:
        raise ValueError(f"{config.init_lora_weights!r} is for linear layers, and target_modules names none")
    shared = shared_weights(model)
    for name, layer in found.items():
        if isinstance(layer, nn.FourBitLayer):
            raise ValueError(f"{name} is in 4 bits: {config.init_lora_weights!r} would change its weight")
        if id(layer.weight) in shared:
            raise ValueError(f"{name} shares its weight with another layer, which would be changed too")
    return found
