"""`layer_replication`: a model whose blocks are listed anew, some of them more than once, each with its own adapters.

[[0, 4], [2, 5]] makes blocks 0 1 2 3 2 3 4 of blocks 0 to 4: seven, two of which have their weights in common with
another. So a model becomes deeper (as "SOLAR" and merges of its kind did, Kim et al., 2023) at no memory but that of
the adapters, which are what makes the two differ. Nothing is claimed for it but that: PEFT has it without a paper.

Each block of the new list has a number of its own in the cache, and the config says how many there are. As weights are
shared, merging is refused until untie_weights().
"""

import copy
from typing import Any

from .. import nn
from .patterns import shortened
from .types import Config

PER_BLOCK = ("layer_types", "no_rope_layers")  # fields of models' configs with one entry for each block


def check_replication(given: Any) -> None:
    """ValueError, with the field's name, unless this is None or a list of pairs of blocks' numbers."""
    for pair in given if isinstance(given, list | tuple) else () if given is None else (given,):
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(type(i) is int for i in pair):
            pair = None
        if pair is None or not 0 <= pair[0] < pair[1]:
            raise ValueError(
                "layer_replication must be a list of pairs (first block, the one behind the last), such as "
                f"[(0, 4), (2, 5)]; got {shortened(given)}"
            )


def replicated(model: Any, config: Config) -> Any:
    """The model with its blocks as config.layer_replication lists them; itself, if it says nothing or they are so.

    It is another object around the same layers, and `model` stays as it is: see `take_over`. ValueError if the model
    has no list of blocks, too few of them, or if they have been listed in another way already.
    """
    if not config.layer_replication:
        return model
    pairs, before = [tuple(pair) for pair in config.layer_replication], getattr(model, "replicated", None)
    if before == pairs:
        return model
    name, blocks = _blocks_of(model)
    if before is not None or any(hasattr(module, "adapters") for module in model.modules()):
        raise ValueError(
            f"layer_replication={pairs}: the first adapter of a model decides that, and this one's blocks are "
            f"{'as they were' if before is None else before}"
        )
    if max(end for _, end in pairs) > len(blocks):
        raise ValueError(f"layer_replication={pairs}: the model has {len(blocks)} blocks, numbered from 0")
    numbers = [i for start, end in pairs for i in range(start, end)]
    new = around = copy.copy(model)
    *path, last = name.split(".")
    for part in path:
        setattr(around, part, copy.copy(getattr(around, part)))
        around = getattr(around, part)
    setattr(around, last, nn.ModuleList(_twin(blocks[i], place) for place, i in enumerate(numbers)))
    new.replicated = pairs
    if hasattr(model, "config"):
        new.config = _deeper(model.config, numbers)
    return new


def take_over(model: Any, config: Config) -> None:
    """Give `model` itself the blocks and the config that `replicated` makes for it."""
    new = replicated(model, config)
    if new is not model:
        name, blocks = _blocks_of(new)
        model.set_submodule(name, blocks)
        model.replicated = new.replicated
        if hasattr(model, "config"):
            model.config = new.config


def _blocks_of(model):
    """(dotted name, ModuleList) of a model's blocks."""
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not found:
        raise ValueError(f"layer_replication: a {type(model).__name__} has no list of blocks")
    return found[0]


def _twin(module, place):
    """A module with the same parameters, whose parts know that they are in the block at this place."""
    new = copy.copy(module)
    for name, part in vars(module).items():
        if isinstance(part, nn.Module):
            setattr(new, name, _twin(part, place))
    if type(vars(new).get("layer")) is int:  # which the cache is asked by
        new.layer = place
    return new


def _deeper(config, numbers):
    """The model's config for blocks of these numbers."""
    new = copy.copy(config)
    field = getattr(config, "depth", ("num_hidden_layers",))[0]
    if hasattr(new, field):
        setattr(new, field, len(numbers))
    for name in PER_BLOCK:
        if getattr(config, name, None) is not None:
            setattr(new, name, [getattr(config, name)[i] for i in numbers])
    return new
