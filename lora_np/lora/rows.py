"""Rows of a batch that each go through an adapter of their own, as in serving many users at once.

The plain form takes one adapter after the other: `one_by_one`. A hundred of them on a batch of a hundred rows would be
ten thousands of small products. So the rows of all plain LoRA adapters, and those without one, are computed `together`:
the base layer for all in one product, then the updates as products of stacks of matrices (`F.lora_rows`). Adapters of
other kinds, and with dropout switched on, stay with the plain form, which is also the test of the other.
"""

import math
from collections.abc import Iterable
from functools import partial
from operator import attrgetter, is_
from typing import Any, NamedTuple

import numpy as np

from ..autograd import Tensor, is_grad_enabled
from ..autograd import functional as F
from ..autograd.devices import on_gpu
from ..autograd.dispatch import implementation
from ..autograd.shape_ops import concatenate, stack_padded
from ..autograd.tensor import data, record
from ..autograd.threads import run_in_threads, shard_count
from .adapter import Adapter
from .invocations import for_rows
from .types import Array, Input

_weights = attrgetter("lora_A.weight", "lora_B.weight")  # of an adapter
_array, _node = attrgetter("data"), attrgetter("_node")  # a write in place by an optimizer takes a Parameter's node


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
    """The groups of one layer, and what they were made from, as it was: to be looked at again before each use.

    dtypes     of the input, and that in which the updates are computed
    table      the layer's {name: Adapter}, which is replaced and not written to
    adapters   those in the groups; `dropping`: those with dropout, which in training are not for the groups
    weights    their matrices, with the `arrays` and the `nodes` that these had
    """

    dtypes: tuple[Any, Any]
    groups: list[Group]
    table: dict[str, Adapter]
    adapters: list[Any]
    dropping: list[Any]
    weights: list[Any]
    arrays: list[Any]
    nodes: list[Any]

    def holds(self, layer: Any, x: Input) -> bool:
        """Would the groups be the same if they were made now?"""
        return (
            layer.adapters is self.table
            and x.dtype == self.dtypes[0]
            and not any(adapter.lora_dropout.training for adapter in self.dropping)
            and all(map(is_, self.weights, _weights_of(self.adapters)))
            and all(map(is_, self.arrays, map(_array, self.weights)))
            and all(map(is_, self.nodes, map(_node, self.weights)))
        )


class Rows:
    """Which adapter each row of the batch goes through, for one call of a model or for all calls that write one text.

    names    an adapter's name for each row; "__base__", or that of one which a layer does not have, for none
    places   {name: the numbers of its rows}
    keep     hold on to the stacks, which are as large as the adapters, as long as this object lives. Each token of a
             text, after what is read at once, then costs one pass over them. An adapter that has changed since is
             stacked anew. (A write to an array by hand, `p.data[...] = `, is not seen, as nowhere here.) Not where
             gradients are recorded.
    """

    def __init__(self, names: Iterable[str], keep: bool = False) -> None:
        self.names = tuple(names)
        self.places: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            self.places.setdefault(name, []).append(i)
        self.kept: dict[int, Kept] | None = {} if keep else None
        self.rests: dict[frozenset[str], Rows] = {}  # {names: the Rows of all others}, where layers compute those apart

    def forward(self, layer: Any, x: Input) -> Tensor:
        """An `AdaptedLayer`'s result where row i of the batch x goes through the adapter names[i]."""
        if x.ndim == 1:  # positions, which are the same for every row
            x = np.broadcast_to(x, (len(self.names), len(x)))
        kept = None if self.kept is None or is_grad_enabled() else self.kept.get(id(layer))
        if kept is not None and kept.holds(layer, x):
            return _together(layer, x, kept.dtypes[1], kept.groups)
        table = layer.adapters
        apart = {name for name in self.places if name in table and not _stacks(table[name])}
        if len(apart) == len(self.places):
            return one_by_one(layer, x, self.names)
        if apart:
            return self._in_two(layer, x, frozenset(apart))
        if len(self.places) == 1:
            return layer.forward_with([name for name in self.places if name in table], x)
        return self._anew(layer, x, {name: table[name] for name in self.places if name in table})

    def _anew(self, layer, x, adapters):
        """The same, where all these {name: Adapter} can be stacked."""
        dtypes = {p.dtype for p in _weights_of(adapters.values())}
        dtype = np.result_type(x.dtype, *dtypes) if adapters else x.dtype
        at_once = self.kept is None or math.prod(x.shape[1:-1]) > 1  # as a prompt is: stacks would be used once
        has_kernel = not on_gpu(data(x)) or dtypes | {dtype} == {np.dtype(np.float32)}
        if adapters and at_once and has_kernel and not is_grad_enabled():
            return _apart(layer, x, dtype, [adapters.get(name) for name in self.names])
        keeping = self.kept is not None and not is_grad_enabled()
        made_from = _made_from(layer.adapters, adapters.values()) if keeping else None
        groups = grouped(list(adapters.values()), [self.places[name] for name in adapters], len(self.names), dtype)
        if made_from is not None:
            self.kept[id(layer)] = Kept((x.dtype, dtype), groups, *made_from)
        return _together(layer, x, dtype, groups)

    def _in_two(self, layer, x, apart):
        """The rows of the adapters `apart` one by one, all others together."""
        first, others = ([i for i, name in enumerate(self.names) if (name in apart) is here] for here in (True, False))
        if apart not in self.rests:
            self.rests[apart] = Rows((self.names[i] for i in others), self.kept is not None)
        one, all_others = np.array(first), np.array(others)
        mine = for_rows(one, one_by_one, layer, x[one], [self.names[i] for i in first])
        together = for_rows(all_others, self.rests[apart].forward, layer, x[all_others])
        return concatenate([mine, together])[np.argsort(first + others)]


def _stacks(adapter):
    """Can this adapter be computed together with others now?"""
    return adapter.stacks and not (adapter.lora_dropout.p and adapter.lora_dropout.training)


def _weights_of(adapters):
    return [weight for adapter in adapters for weight in _weights(adapter)]


def _made_from(table, adapters):
    """The last fields of `Kept`, noted before the arrays are read: what is written meanwhile is seen next time."""
    adapters = list(adapters)
    weights = _weights_of(adapters)
    nodes = [weight.node() for weight in weights]
    return table, adapters, [a for a in adapters if a.lora_dropout.p], weights, [w.data for w in weights], nodes


def _together(layer, x, dtype, groups):
    """The base's result for all rows at once, and then the updates, group by group."""
    y = base = layer.forward_with([], x)
    if groups:
        x, y = x.astype(dtype), y.astype(dtype)  # A and B are in float32, also beside a base in float16
    for group in groups:
        y = F.lora_rows(y, x, group.A, group.B, [a.scaling for a in group.adapters], group.rows)
    return y.astype(base.dtype)


def _apart(layer, x, dtype, adapters):
    """The same with no stacks, where they would be used once and no gradient is recorded: row by row, on all cores, or
    all rows at once on a GPU.

    adapters: that of each row, or None.
    """
    base = layer.forward_with([], x)
    x, y = data(x).astype(dtype, copy=False), base.data.astype(dtype, copy=False)
    updates = [None if a is None else (*map(_array, _weights(a)), a.scaling) for a in adapters]
    into, out = implementation("lora_rows_into", (x, y)), y if on_gpu(y) else np.empty_like(y)
    cores = 1 if on_gpu(y) else shard_count(len(x), math.prod(x.shape[1:-1]))
    parts = [slice(len(x) * i // cores, len(x) * (i + 1) // cores) for i in range(cores)]
    run_in_threads([partial(into, out[i], y[i], x[i], updates[i]) for i in parts])
    weights = _weights_of(a for a in adapters if a is not None)
    return record(out, weights, None).astype(base.dtype)  # gradient checkpointing asks what was read


def grouped(adapters: list[Any], places: list[list[int]], batch: int, dtype: Any) -> list[Group]:
    """The groups of these adapters, each with the numbers of its rows among the `batch` ones.

    In a group the ranks are at most a factor of two apart, so that less than half of it is padding.
    """
    found: dict[tuple[int, int], list[int]] = {}
    for i, adapter in enumerate(adapters):
        r = adapter.lora_A.weight.shape[0]
        found.setdefault((len(places[i]), (r - 1).bit_length()), []).append(i)
    groups = []
    for chosen in found.values():
        rows, members = np.array([places[i] for i in chosen]), [adapters[i] for i in chosen]
        weights = _weights_of(members)
        r = max(map(len, weights[::2]))
        stacks = stack_padded(weights[::2], r, dtype), stack_padded(weights[1::2], r, dtype, turned=True)
        in_order = np.array_equal(rows.ravel(), np.arange(batch))
        groups.append(Group(members, None if in_order else rows, *stacks))
    return groups


def one_by_one(layer: Any, x: Input, names: Iterable[str]) -> Tensor:
    """The plain form: one pass through the layer for each adapter, with its rows."""
    rows: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        rows.setdefault(name, []).append(i)
    own = [([name] if name in layer.adapters else [], np.array(i)) for name, i in rows.items()]
    parts = [for_rows(i, layer.forward_with, names, x[i]) for names, i in own]
    order = np.argsort([i for group in rows.values() for i in group])
    return concatenate(parts)[order]
