"""How many floating-point operations a training step takes, from the fields of a config.json alone."""

import math

from ..models.architectures import ARCHITECTURES
from .parameters import adapter_sizes, linear_layers
from .places import places


def flops(config, r=None, target_modules=None, *, batch=1, length, method="lora"):
    """{"forward", "backward", "total"}: floating-point operations of one training step, two for each multiply-add.

    method "full": everything is trained; "lora": A and B of the targets. With N = batch·length rows, a linear layer
    costs 2 N in·out forward, as much again for dx = dy W, and as much again for dW = dyᵀ x. LoRA skips dW, and dx
    below its lowest adapter, so that its step is about 2/3 of a full one; the branch adds 2 N r (in + out) forward
    and twice that backward. Attention, QKᵀ and P V, costs 4 N·length·width forward and twice that backward, with a
    window in the place of a longer `length`; the half that the causal mask hides is counted, though much of it is
    not computed here. Elementwise work is left out. ValueError for another method.
    """
    if method not in ("full", "lora"):
        raise ValueError(f"method must be 'full' or 'lora', got {method!r}")
    seen, rows, full = places(config), batch * length, method == "full"
    adapters = {} if full else adapter_sizes(config, r, target_modules)
    lowest = (-1, 0) if full else min(place_of(name, config) for name in adapters)
    work = [(seen.layers[name], math.prod(shape)) for name, shape in linear_layers(config).items()]
    keys = {block: min(length, window) for block, window in seen.windows.items()}
    attention = [(place, 2 * keys.get(place[0], length) * width) for place, width in seen.attention.items()]
    forward = sum(size for _, size in work + attention)
    backward = sum(size for place, size in work if place > lowest)  # dx
    backward += sum(2 * size for place, size in attention if place > lowest)
    backward += sum(size for _, size in work) if full else 0  # dW
    branch = sum(adapters.values())
    forward, backward = 2 * rows * (forward + branch), 2 * rows * (backward + 2 * branch)
    return {"forward": forward, "backward": backward, "total": forward + backward}


def place_of(name, config=None):
    """(block, number in it): how far up in the model a linear layer, or a part of one, stands; see `places.py`.

    Without a config: where a layer of this name stands in the first architecture that has one. KeyError if none has.
    """
    if config is not None:
        layers = places(config).layers
        return layers[name if name in layers else name.rpartition(".")[0]]
    for config_class, _ in ARCHITECTURES.values():
        for known, place in places(config_class().to_dict()).layers.items():
            if place[0] == math.inf and name == known:
                return place
            if place[0] == 0 and f".{known.partition('.0.')[2]}." in f".{name}.":
                return next(int(part) for part in name.split(".") if part.isdecimal()), place[1]
    raise KeyError(f"no linear layer has the name {name!r}")
