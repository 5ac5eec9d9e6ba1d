"""All or nothing: a function that fails half way, or is interrupted, leaves the modules it was given as they were."""

import dataclasses
import functools

from ..autograd import Tensor, changes


class Kept:
    """What `all_or_nothing` looks after: its attributes, and what they hold."""

    __slots__ = ()


def all_or_nothing(function):
    """A function that changes modules, made one that changes them wholly or, with any error or Ctrl-C, not at all.

    What counts are the modules and configurations among its arguments, with all that they hold. Only references are
    kept, so it costs no memory; `function` must replace arrays, lists and dictionaries and not write into them.
    """

    @functools.wraps(function)
    def whole(*args, **kwargs):
        before = _state([*args, *kwargs.values()])
        try:
            try:
                return function(*args, **kwargs)
            except BaseException:
                _put_back(before)
                raise
        except BaseException:
            _put_back(before)  # once more: Ctrl-C may have come while that was being done
            raise

    return whole


def _state(things):
    """[(object, its attributes)] of all modules, configurations and tensors among `things` and inside them."""
    found, seen, left = [], set(), list(things)
    while left:
        thing = left.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            found.append((thing, (thing.data, thing.grad, thing.requires_grad)))
        elif isinstance(thing, dict):
            left.extend(thing.values())
        elif isinstance(thing, (list, tuple)):
            left.extend(thing)
        elif isinstance(thing, Kept) or (dataclasses.is_dataclass(thing) and not isinstance(thing, type)):
            found.append((thing, dict(vars(thing))))
            left.extend(vars(thing).values())
    return found


def _put_back(state):
    for thing, attributes in state:
        if isinstance(thing, Tensor):
            thing.data, thing.grad, thing.requires_grad = attributes
        else:
            vars(thing).update(attributes)
            for new in vars(thing).keys() - attributes.keys():
                del vars(thing)[new]
    changes.note()
