"""A module as it is at one moment, for what is computed with it later."""

import copy

from ..autograd import Tensor
from .module import Module


def stand_in(module):
    """(a module that computes what `module` computes now, {id of a leaf of it: (the leaf, its own leaf)}).

    Whatever `module` is told later (another scaling, other adapters, merged weights, train or eval) does not reach the
    stand-in: its modules, dicts and lists are its own. Arrays are not copied, each is under a Tensor of its own. What
    else an attribute holds is common to both: configs, functions, strings.
    """
    made, leaves = {}, {}
    return _copied(module, made, leaves), leaves


def _copied(value, made, leaves):
    """The stand-in's value for an attribute's. made: {id: copy} of the modules so far, which may be held twice."""
    if isinstance(value, Tensor):
        return _own_leaf(value, leaves)
    if isinstance(value, Module):
        if id(value) not in made:
            made[id(value)] = new = copy.copy(value)
            vars(new).update({name: _copied(held, made, leaves) for name, held in vars(value).items()})
        return made[id(value)]
    if type(value) is dict:
        return {key: _copied(held, made, leaves) for key, held in value.items()}
    if type(value) in (list, tuple, set):
        return type(value)(_copied(held, made, leaves) for held in value)
    return value


def _own_leaf(tensor, leaves):
    if tensor._node is not None and tensor._node.leaf is None:  # an operation's result: its graph is its own
        return tensor
    if id(tensor) not in leaves:
        leaves[id(tensor)] = tensor, type(tensor)(tensor.data, tensor.requires_grad)
    return leaves[id(tensor)][1]
