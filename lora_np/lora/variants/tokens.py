r"""`trainable_token_indices`: of an embedding only some rows are trained, such as those of new tokens.

    W'[i] = Δ[k] for the k-th of the indices, i; every other row of W' is W's

Δ (n, dim), `trainable_tokens_delta` in PEFT's files, begins as these rows of W and takes their places: nothing is
added, so what is trained stays the same where the base's rows were drawn anew. A head that is tied to the embedding
follows: see `tied_heads.py`. A head that is not can have rows of its own, by its name.
"""

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd.devices import array_module, beside
from ...autograd.shape_ops import where
from ...autograd.tensor import data, record
from ..adapter import Adapter, Target
from ..types import Array, Config, Input, Layer


class TokenAdapter(Adapter):
    """Δ (n, dim) beside an Embedding, or a head without adapters of another kind.

    indices   integers (n,): which rows Δ takes the places of
    """

    reported = "TrainableTokensLayer"
    names_in_file: Mapping[str, str] = {"trainable_tokens_delta": "token_adapter.trainable_tokens_delta"}

    def __init__(self, config: Config, target: Target) -> None:
        self.r, self.indices = len(target.tokens), np.array(target.tokens, np.int64)  # the rank that W' - W has at most
        rows = target.layer.weight.data[beside(self.indices, target.layer.weight.data)]
        self.trainable_tokens_delta = nn.Parameter(rows.copy())
        self.rows, self.began = len(target.layer.weight), rows.copy()

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        """`token_targets` has looked."""

    def applied(self, layer: Layer, x: Input, base: Tensor, y: Any) -> Tensor:
        """The result y of an Embedding with other rows where x has these tokens; that of a head with other columns."""
        small = copy.copy(layer)  # the same layer, of these rows alone
        small.weight = self.trainable_tokens_delta
        if not isinstance(layer, nn.Embedding):
            if layer.bias is not None:
                small.bias = layer.bias[self.indices]
            return put_columns(y, small(x), self.indices)
        places = np.full(self.rows, -1)
        places[self.indices] = np.arange(len(self.indices))
        small.padding_idx = None if layer.padding_idx not in self.indices else int(places[layer.padding_idx])
        found = beside(places, base.data)[beside(data(x), base.data)]
        return where((found >= 0)[..., None], small(found.clip(0)), y.astype(self.trainable_tokens_delta.dtype))

    def delta_weight(self) -> Array:
        """W' - W (rows, dim), W as it was when the adapter was made; turned for an Embedding, which is (in, out)."""
        delta = array_module(self.began).zeros((self.rows, self.began.shape[1]), self.began.dtype)
        delta[self.indices] = self.trainable_tokens_delta.data - self.began
        return delta

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        weight = weight.copy()
        rows = weight.T if layer.fan_in_fan_out else weight  # (rows, dim), the same memory
        rows[self.indices] = self.trainable_tokens_delta.data
        return weight, bias

    def rescale(self, factor: float) -> None:
        """Rows have no scaling: they stay, as in PEFT."""


def put_columns(y: Tensor, columns: Tensor, indices: Array) -> Tensor:
    """y (..., V) with `columns` (..., n) in the places of those with these numbers.

    dcolumns = dy there; dy = dy elsewhere and 0 there.
    """
    out = data(y).astype(np.result_type(y.dtype, columns.dtype))
    out[..., indices] = data(columns)

    def backward(dout):
        dy = dout.copy()
        dy[..., indices] = 0
        return dy.astype(y_dtype, copy=False), dout[..., indices]

    y_dtype = y.dtype
    return record(out, (y, columns), backward)


def token_targets(model: Any, config: Config, modules: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """{module's name: indices}: whose rows `config.trainable_token_indices` trains. modules: the model's own.

    A list means the model's input embedding. Of an embedding and a head with one weight and the same indices, the
    embedding has the rows and the head follows. ValueError, with the field's name, for what cannot be.
    """
    given = config.trainable_token_indices
    if not given:
        return {}
    found: dict[str, tuple[int, ...]] = {}
    for ending, indices in (given if isinstance(given, Mapping) else {_embedding(model, modules): given}).items():
        names = [name for name in modules if name.endswith(ending)]
        if not names:
            raise ValueError(f"trainable_token_indices: no module's name ends in {ending!r}")
        for name in names:
            found[name] = _checked(name, modules[name], indices)
    return _untied(found, modules, config.ensure_weight_tying)


def _embedding(model: Any, modules: Mapping[str, Any]) -> str:
    """The name of the model's input embedding. ValueError if it does not say which that is."""
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    own = getattr(embedding, "base_layer", None) or getattr(embedding, "original_module", None) or embedding
    name = next((name for name, module in modules.items() if module is own), None)
    if name is None:
        raise ValueError(
            "trainable_token_indices: this model does not say which module its embedding is; name it: {name: indices}"
        )
    return name


def _checked(name: str, layer: Any, indices: Iterable[int]) -> tuple[int, ...]:
    if not isinstance(layer, nn.Embedding | nn.Linear):
        raise ValueError(
            f"trainable_token_indices: {name} is a {type(layer).__name__}; only an Embedding has such rows"
        )
    rows, taken = len(layer.weight), tuple(indices)
    for i in taken:
        if not 0 <= i < rows:
            raise ValueError(
                f"trainable_token_indices: {i} is no row of {name}, which has {rows}; for a new token there is "
                "model.resize_token_embeddings(n), before get_peft_model"
            )
    if len(set(taken)) < len(taken):
        twice = next(i for i in taken if taken.count(i) > 1)
        raise ValueError(f"trainable_token_indices names the row {twice} of {name} twice")
    return taken


def _untied(found: dict[str, tuple[int, ...]], modules: Mapping[str, Any], ensure: bool) -> dict[str, tuple[int, ...]]:
    """Without heads that follow an embedding which has the same indices."""
    for name in [name for name in found if isinstance(modules[name], nn.Embedding)]:
        for other in [o for o in found if o != name and modules[o].weight is modules[name].weight]:
            if found[other] == found[name]:
                del found[other]
            elif ensure:
                raise ValueError(
                    f"trainable_token_indices has other rows for {other} than for {name}, and "
                    "ensure_weight_tying wants them tied: give both the same"
                )
    return found


def check_disjoint(layers: Iterable[Any], names: Iterable[str]) -> None:
    """ValueError if two of these adapters train the same row of a layer: only one of them can be in use."""
    for layer in layers:
        owners: dict[int, str] = {}
        for name in names:
            adapter = layer.adapters.get(name)
            for i in adapter.indices.tolist() if isinstance(adapter, TokenAdapter) else ():
                if owners.setdefault(i, name) != name:
                    raise ValueError(f"{owners[i]} and {name} both train the row of token {i}: only one can be active")
