"""Where each linear layer stands: which layers read the same activations, and what has to be there before.

Seen from outside, by calling the real model once on one token, for which every context has room. A place is (block,
number): layers of a block that read the same activations stand in the same place, attention stands in one of its own,
and each place needs what the earlier ones gave. In GPT-2 and Llama these are 0, queries, keys and values; 1, attention;
2, what mixes its heads; 3, into the MLP; 4, out of it. The head is above all blocks.
"""

import math

from .. import nn
from ..autograd import no_grad
from ..autograd.threads import limit_threads
from ..lora.targets import LINEAR
from . import weightless
from .meter import metered


class Places:
    """What one forward pass of a model shows; afterwards the model is of no more use.

    layers      {name: place} of the linear layers, in the order in which they are called
    attention   {place: width of all queries together}
    windows     {block: how many keys a query sees there}, of the blocks where that is not all
    """

    def __init__(self, model):
        self.layers, self.attention = {}, {}
        self.blocks = block_numbers(model)
        windows = [(self.blocks.get(name), vars(module).get("window")) for name, module in model.named_modules()]
        self.windows = {block: window for block, window in windows if window is not None}
        with metered() as meter, no_grad(), limit_threads(1):
            self.meter, self.seen, self.read, self.last = meter, 0, None, (0, -1)
            weightless.to_shapes(model)
            for name, layer in linear_modules(model).items():
                model.set_submodule(name, _Watched(layer, name, self))
            model.eval()(input_ids=weightless.no_ids(1, 1))
        del self.meter, self.read

    def enter(self, name, x):
        """A layer is called with x. Products since the last one, in none of the layers, are attention's."""
        block, number = self.last
        if self.meter.products > self.seen:
            number += 1
            self.attention[block, number] = (self.meter.products - self.seen) // 2
        if self.blocks.get(name, math.inf) != block:
            block, number, self.read = self.blocks.get(name, math.inf), -1, None
        if x is not self.read:
            number, self.read = number + 1, x
        self.layers[name] = self.last = block, number

    def leave(self):
        self.seen = self.meter.products


class _Watched(nn.Module):
    """A linear layer that tells when it is called."""

    def __init__(self, layer, name, places):
        self.layer, self.name, self.places = layer, name, places

    def forward(self, x):
        self.places.enter(self.name, x)
        y = self.layer(x)
        self.places.leave()
        return y


@weightless.cached
def places(config):
    """The `Places` of a config's model."""
    return Places(weightless.build(config))


def linear_modules(model):
    """{dotted name: layer} of the linear layers, in the model's order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LINEAR)}


def block_numbers(model):
    """{dotted name: number of its block} of every module inside a block."""
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    found = {}
    for name, blocks in lists:
        for i, block in enumerate(blocks):
            found |= {below: i for below, _ in block.named_modules(f"{name}.{i}")}
    return found
