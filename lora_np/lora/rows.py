"""Rows of a batch that each go through an adapter of their own, as in serving many users at once.

The plain form takes one adapter after the other: `one_by_one`. A hundred of them on a batch of a hundred rows would be
ten thousands of small products. So the rows of all plain LoRA adapters, and those without one, are computed `together`:
the base layer for all in one product, then the updates. There are three ways to those:
- as products of stacks of matrices (`F.lora_rows`): where gradients are recorded, and on a CPU for a text's tokens
- row by row, each matrix read where it lies: on a CPU, where stacks would be used once
- all rows at once, each matrix read where it lies: by kernels on a GPU, which are told the addresses once
Adapters of other kinds, and with dropout switched on, stay with the plain form, which is also the test of the others.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np

from .. import nn
from ..autograd import Tensor, changes, is_grad_enabled
from ..autograd import functional as F
from ..autograd.devices import on_gpu
from ..autograd.dispatch import float32_or_16_bits, implementation
from ..autograd.shape_ops import concatenate, stack_padded
from ..autograd.tensor import data, record
from ..autograd.threads import run_in_threads, shard_count
from ..nn.beside import has_forward_of
from ..nn.mode import is_evaluating
from .adapter import Adapter
from .invocations import for_rows
from .types import Array, Input

_weights = attrgetter("lora_A.weight", "lora_B.weight")  # of an adapter
_array = attrgetter("data")
FORGETFUL = nn.Linear, nn.Conv1D, nn.Linear4bit, nn.GroupedLinear4bit  # nobody else has what their forward gives

Way = Callable[..., Any]  # (layer, x) -> what the layer gives for x; or (layers, x, then) for several; or None


class Group(NamedTuple):
    """Adapters whose matrices are stacked: with about the same rank, and as many rows each.

    rows   integers (n, c), the rows of each; None where the batch has just these, adapter by adapter
    A, B   (n, r, in) and (n, r, out), B turned, r the largest of their ranks
    """

    adapters: list[Adapter]
    rows: Array | None
    A: Any
    B: Any


class Rows:
    """Which adapter each row of the batch goes through, for one call of a model or for all calls that write one text.

    names       an adapter's name for each row; "__base__", or that of one which a layer does not have, for none
    places      {name: the numbers of its rows}
    keep        hold on to stacks, which are as large as the adapters, as long as this object lives. Each token of a
                text, after what is read at once, then costs one pass over them
    others      Rows with the same names, which outlive this text: what is known of addresses they know
    addressed   has every layer so far read all matrices where they lie? Then a step on a GPU can be recorded

    What was found out about a layer serves until something changes: see `changes.py`. (A write to an array by hand,
    `p.data[...] = `, is not seen, as nowhere here.) Nothing is kept where gradients are recorded.
    """

    def __init__(self, names: Iterable[str], keep: bool = False, others: "Rows | None" = None) -> None:
        self.names, self.keep, self.others, self.addressed = tuple(names), keep, others, True
        self.places: dict[str, list[int]] = {}
        for i, name in enumerate(self.names):
            self.places.setdefault(name, []).append(i)
        self.rests: dict[frozenset[str], Rows] = {}  # {names: the Rows of all others}, where layers compute those apart
        # is all as it was, and what was found out then: with modules as they are, and as for evaluation
        self._known: tuple[Callable[[], bool], tuple[dict[Any, Way], ...]] = (lambda: False, ())

    def forward(self, layer: Any, x: Input) -> Tensor:
        """An `AdaptedLayer`'s result where row i of the batch x goes through the adapter names[i]."""
        if x.ndim == 1:  # positions, which are the same for every row
            x = np.broadcast_to(x, (len(self.names), len(x)))
        found = self.beside([layer], x, lambda y: y) if on_gpu(data(x)) else None
        if found is not None:
            return found
        known = {} if is_grad_enabled() else self._known_now()
        once = not self.keep or math.prod(x.shape[1:-1]) > 1  # as a prompt is: stacks would be used once
        way = known.get((id(layer), x.dtype, once))
        if way is not None:
            return way(layer, x)
        adapters = self._adapters(layer)
        apart = frozenset(name for name, adapter in adapters.items() if not _stacks(adapter))
        if apart:
            self.addressed = False
            return self._in_two(layer, x, apart) if len(apart) < len(self.places) else one_by_one(layer, x, self.names)
        way, kept = self._way(adapters, x, once)
        if kept:
            known[id(layer), x.dtype, once] = way
        return way(layer, x)

    def beside(self, layers: list[Any], x: Input, then: Callable[..., Any]) -> Any:
        """then(forward(layer, x) of each of these layers) on a GPU, in fewer passes over the x that all read.

        None where that is not possible: where gradients are recorded, or adapters are no plain ones, or in float64.
        """
        if is_grad_enabled():
            return None
        way = self._way_by_address(layers, data(x))
        return None if way is None else way(layers, x, then)

    def _way_by_address(self, layers, x):
        """The `Way` of `beside`, or None."""
        known, key = self._known_now(), (*map(id, layers), x.dtype)
        if key not in known:
            known[key] = (self.others._way_by_address if self.others else self._by_address)(layers, x)
        return known[key]

    def _adapters(self, layer):
        """{name: Adapter} of those that some row has and the layer too."""
        return {name: layer.adapters[name] for name in self.places if name in layer.adapters}

    def _updates(self, adapters):
        """(A, B, s) for each row, None where it has no adapter."""
        each = [adapters.get(name) for name in self.names]
        return [None if a is None else (*map(_array, _weights(a)), a.scaling) for a in each]

    def _known_now(self):
        """{layers and the input's dtype: Way}, empty after a change."""
        unchanged, known = self._known
        if not unchanged():
            known = {}, {}
            self._known = changes.watch(), known
        return known[is_evaluating()]

    def _by_address(self, layers, x):
        """The `Way` of `beside` for these layers, made from the adapters as they are now; None if there is none."""
        tables = [self._adapters(layer) for layer in layers]
        adapters = [adapter for table in tables for adapter in table.values()]
        if len(self.places) == 1 or not adapters or not all(map(_stacks, adapters)) or not float32_or_16_bits([x]):
            return None
        weights = _weights_of(adapters)
        if not float32_or_16_bits([weight.data for weight in weights]):
            return None
        return partial(_at_once, implementation("lora_rows_ready", (x,))(list(map(self._updates, tables))), weights)

    def _way(self, adapters, x, once):
        """(how to compute it, may that be kept), where all these {name: Adapter} can be computed together."""
        if not adapters or len(self.places) == 1:
            return partial(_alone, list(adapters)), True
        weights = _weights_of(adapters.values())
        dtype = np.result_type(x.dtype, *{weight.dtype for weight in weights})
        if once and not is_grad_enabled() and not on_gpu(data(x)):
            return partial(_row_by_row, self._updates(adapters), dtype, weights), True
        self.addressed = False
        groups = grouped(list(adapters.values()), [self.places[name] for name in adapters], len(self.names), dtype)
        return partial(_together, groups, dtype), self.keep

    def _in_two(self, layer, x, apart):
        """The rows of the adapters `apart` one by one, all others together."""
        first, others = ([i for i, name in enumerate(self.names) if (name in apart) is here] for here in (True, False))
        if apart not in self.rests:
            self.rests[apart] = Rows((self.names[i] for i in others), self.keep)
        one, all_others = np.array(first), np.array(others)
        mine = for_rows(one, one_by_one, layer, x[one], [self.names[i] for i in first])
        together = for_rows(all_others, self.rests[apart].forward, layer, x[all_others])
        return concatenate([mine, together])[np.argsort(first + others)]


def _stacks(adapter):
    """Can this adapter be computed together with others now?"""
    return adapter.stacks and not (adapter.lora_dropout.p and adapter.lora_dropout.training)


def _weights_of(adapters):
    return [weight for adapter in adapters for weight in _weights(adapter)]


def _alone(names, layer, x):
    """All rows through the same adapter, or through none: `names` has one name or none."""
    return layer.forward_with(names, x)


def _together(groups, dtype, layer, x):
    """The base's result for all rows at once, and then the updates, group by group."""
    base = layer.forward_with([], x)
    x, y = x.astype(dtype), base.astype(dtype)  # A and B are in float32, also beside a base in float16
    for group in groups:
        y = F.lora_rows(y, x, group.A, group.B, [a.scaling for a in group.adapters], group.rows)
    return y.astype(base.dtype)


def _row_by_row(updates, dtype, weights, layer, x):
    """The same with no stacks, where they would be used once and no gradient is recorded: on all cores."""
    base = layer.forward_with([], x)
    x, y = data(x).astype(dtype, copy=False), base.data.astype(dtype, copy=False)
    into, out = implementation("lora_rows_into", (x, y)), np.empty_like(y)
    cores = shard_count(len(x), math.prod(x.shape[1:-1]))
    parts = [slice(len(x) * i // cores, len(x) * (i + 1) // cores) for i in range(cores)]
    run_in_threads([partial(into, out[i], y[i], x[i], updates[i]) for i in parts])
    return record(out, weights, None).astype(base.dtype)  # gradient checkpointing asks what was read


def _at_once(ready, weights, layers, x, then):
    """The same on a GPU: all rows at once, and nothing has to be moved for it. SwiGLU comes with the updates."""
    array, found, joint = data(x), [], then is F.swiglu
    h = implementation("lora_rows_in", (array,))(array, ready)
    for i, layer in enumerate(layers):
        base = layer.forward_with([], x)
        y = base.data.astype(array.dtype, copy=not has_forward_of(layer.base_layer, *FORGETFUL))
        if not joint:
            implementation("lora_rows_out", (y,))(y, h, ready, i)
        found.append((record(y, weights, None), base.dtype))
    if joint:
        (gate, kind), (up, _) = found
        implementation("lora_rows_swiglu", (gate.data, up.data))(gate.data, up.data, h, ready)
        return gate.astype(kind)
    return then(*[y.astype(kind) for y, kind in found])


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
