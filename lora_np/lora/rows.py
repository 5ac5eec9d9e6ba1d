"""Rows of a batch that each go through an adapter of their own, as in serving many users at once.

The plain form takes one adapter after the other: `one_by_one`. A hundred of them on a batch of a hundred rows would be
ten thousands of small products. So the rows of all plain LoRA adapters, and those without one, are computed `together`:
the base layer for all in one product, then the updates as products of stacks of matrices (`F.lora_rows`). Adapters of
other kinds, and with dropout switched on, stay with the plain form, which is also the test of the other.
"""

from collections.abc import Iterable
from operator import attrgetter, is_
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Tensor, is_grad_enabled
from ..autograd import functional as F
from ..autograd.shape_ops import concatenate, stack_padded
from .adapter import Adapter
from .types import Array, Input

MATRICES = ("lora_A.weight.data", "lora_A.weight._node", "lora_B.weight.data", "lora_B.weight._node")
_state = attrgetter(*MATRICES)  # of an adapter; a write in place by an optimizer gives a Parameter another `_node`


class Group(NamedTuple):
    """Adapters whose matrices are stacked: with about the same rank, and as many rows each.

    rows   integers (n, c), the rows of each; None where the batch has just these, adapter by adapter
    A, B   (n, r, in) and (n, r, out), B turned, r the largest of their ranks
    """

    adapters: list[Adapter]
    rows: Array | None
    A: Any
    B: Any


class Kept(NamedTuple):
    """The groups of one layer, and what they were made from: the adapters, and their arrays as they were."""

    adapters: list[Adapter | None]
    state: list[Any]
    groups: list[Group]


class Rows:
    """Which adapter each row of the batch goes through, for one call of a model or for all calls that write one text.

    names    an adapter's name for each row; "__base__", or that of one which a layer does not have, for none
    places   {name: the numbers of its rows}
    keep     hold on to the stacks, which are as large as the adapters, as long as this object lives. Each token of a
             text then costs one pass over them. An adapter that has changed since is stacked anew. (A write to an array
             by hand, `p.data[...] = `, is not seen, as nowhere here.) Not where gradients are recorded.
    """

    def __init__(self, names: Iterable[str], keep: bool = False) -> None:
        self.names = tuple(names)
        self.places: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            self.places.setdefault(name, []).append(i)
        self.kept: dict[int, Kept] | None = {} if keep else None

    def forward(self, layer: Any, x: Input) -> Tensor:
        """An `AdaptedLayer`'s result where row i of the batch x goes through the adapter names[i]."""
        if x.ndim == 1:  # positions, which are the same for every row
            x = np.broadcast_to(x, (len(self.names), len(x)))
        adapters = [layer.adapters.get(name) for name in self.places]
        apart = {name for name, a in zip(self.places, adapters, strict=True) if not (a is None or _stacks(a))}
        if len(self.places) == 1 or len(apart) == len(self.places):
            return one_by_one(layer, x, self.names)
        if not apart:
            return self._together(layer, x, adapters)
        return _in_two(layer, x, self.names, apart)

    def _together(self, layer, x, adapters):
        """The base's result for all rows at once, and then the updates, group by group."""
        y = base = layer.forward_with([], x)
        if any(a is not None for a in adapters):
            dtype = np.result_type(x.dtype, *{a.lora_A.weight.dtype for a in adapters if a is not None})
            x, y = x.astype(dtype), y.astype(dtype)  # A and B are in float32, also beside a base in float16
            for group in self._groups(layer, adapters, dtype):
                y = F.lora_rows(y, x, group.A, group.B, [a.scaling for a in group.adapters], group.rows)
        return y.astype(base.dtype)

    def _groups(self, layer, adapters, dtype):
        """The groups of a layer: kept ones if nothing has changed, else new ones."""
        if self.kept is None or is_grad_enabled():
            return grouped(adapters, list(self.places.values()), dtype)
        kept = self.kept.get(id(layer))
        if kept is None or kept.adapters != adapters or not all(map(is_, kept.state, _states(adapters))):
            for adapter in adapters:
                for p in () if adapter is None else adapter.matrices():
                    p.node()
            state = _states(adapters)  # before they are read: what is written meanwhile is seen the next time
            kept = Kept(adapters, state, grouped(adapters, list(self.places.values()), dtype))
            self.kept[id(layer)] = kept
        return kept.groups


def _stacks(adapter):
    """Can this adapter be computed together with others now?"""
    return adapter.stacks and not (adapter.lora_dropout.p and adapter.lora_dropout.training)


def _states(adapters):
    return [part for adapter in adapters if adapter is not None for part in _state(adapter)]


def grouped(adapters: list[Any], places: list[list[int]], dtype: Any) -> list[Group]:
    """The groups of these adapters, of which each has the rows at its place in `places`; None has no update.

    In a group the ranks are at most a factor of two apart, so that less than half of it is padding.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for i, adapter in enumerate(adapters):
        if adapter is not None:
            found.setdefault((len(places[i]), (adapter.lora_A.weight.shape[0] - 1).bit_length()), []).append(i)
    batch = np.arange(sum(map(len, places)))
    groups = []
    for chosen in found.values():
        rows, members = np.array([places[i] for i in chosen]), [adapters[i] for i in chosen]
        A, B = ([a.matrices()[which] for a in members] for which in (0, 1))
        r = max(len(a) for a in A)
        in_order = np.array_equal(rows.ravel(), batch)
        stacks = stack_padded(A, r, dtype), stack_padded(B, r, dtype, turned=True)
        groups.append(Group(members, None if in_order else rows, *stacks))
    return groups


def _in_two(layer, x, names, apart):
    """The rows of the adapters `apart` one by one, all others together."""
    first, others = ([i for i, name in enumerate(names) if (name in apart) is here] for here in (True, False))
    mine = one_by_one(layer, x[np.array(first)], [names[i] for i in first])
    together = Rows(names[i] for i in others).forward(layer, x[np.array(others)])
    return concatenate([mine, together])[np.argsort(first + others)]


def one_by_one(layer: Any, x: Input, names: Iterable[str]) -> Tensor:
    """The plain form: one pass through the layer for each adapter, with its rows."""
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    parts = [layer.forward_with([n] if n in layer.adapters else [], x[np.array(i)]) for n, i in rows.items()]
    order = np.argsort([i for group in rows.values() for i in group])
    return concatenate(parts)[order]
