r"""SHiRA: a few numbers of the weight itself are trained, wherever in it they lie. (Bhardwaj et al., 2024, "Sparse High
Rank Adapters", section 3.)

    y = x (W + ΔW)ᵀ + b          ΔW = s·w_k at place k, and zero elsewhere; s = 1, unless `set_scale` says otherwise

The places are those of a mask that is drawn, or made by a function of the user's, when the adapter is made. There are
r (in + out) of them, as many as LoRA of rank r has numbers; but the rank of ΔW is whatever the places allow, in general
min(in, out). It merges, by changing that share of W alone. w is zero at first: training starts at the base model.

What the paper claims: better results than LoRA with 1 to 2 % of the numbers trained, quick switching, as few numbers
change, and less harm when several adapters are merged, as their places seldom meet. Time and memory of a step are not
saved: the gradient is computed for the whole of W, and the places are picked out of it.

The file has the places too. PEFT draws others from the same `random_seed`, and has SHiRA beside Linear layers only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import array_module, to_numpy
from ...autograd.random import generator
from ...autograd.tensor import data, record
from ...settings import changed_settings
from ..adapter import Adapter, Target
from ..base_layer import oriented
from ..patterns import shortened
from ..peft_config import PeftConfig, PeftType, check_ranks
from ..types import Array, Layer


def random_mask(base_layer: Layer, r: int, seed: int | None = None) -> Array:
    """A mask in the shape of the layer's weight with r (in + out) ones; without a seed, as `manual_seed` has it."""
    fan_in, fan_out = base_layer.in_features, base_layer.out_features
    draw = generator() if seed is None else np.random.default_rng(seed)
    places = draw.choice(fan_in * fan_out, r * (fan_in + fan_out), replace=False, shuffle=False)
    mask = np.zeros(fan_in * fan_out, bool)
    mask[places] = True
    return oriented(base_layer, mask.reshape(fan_out, fan_in))


@dataclass
class ShiraConfig(PeftConfig):
    """The settings of a SHiRA adapter; see `PeftConfig` for the others.

    r             r (in + out) numbers of each weight are trained
    mask_type     "random"; or another word, and then `config.mask_fn = f` must follow: f(layer, r) gives a mask, zeros
                  and ones in the shape of layer.weight. (A file brings its places: to load one, no function is needed.)
    random_seed   of the random mask, the same in all layers
    init_weights  with False w begins at random, and not as zeros
    """

    peft_type: PeftType | str | None = PeftType.SHIRA
    r: int = 32
    mask_type: str = "random"
    random_seed: int | None = None
    target_modules: list[str] | str | None = None
    fan_in_fan_out: bool = False
    init_weights: bool = True
    modules_to_save: list[str] | None = None

    __repr__ = changed_settings
    flags = ("fan_in_fan_out", "init_weights")

    def __post_init__(self):
        super().__post_init__()
        check_ranks(self.r)
        if not isinstance(self.mask_type, str):
            raise ValueError(f"mask_type must be 'random' or a word for a mask of your own, got {self.mask_type!r}")
        seed = self.random_seed
        if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool) or seed < 0):
            raise ValueError(f"random_seed must be None or an integer of at least 0, got {shortened(seed)}")
        from_file = self.inference_mode  # as every file says; the places are read from it
        self.mask_fn = random_mask if self.mask_type == "random" or from_file else None


class ShiraAdapter(Adapter):
    """w, `shira_weight` (n,), and its places, `shira_indices` (2, n): rows and columns of the weight (out, in)."""

    idle_if_zero = "shira_weight"

    def __init__(self, config: Any, target: Target) -> None:
        layer, self.r = target.layer, target.r
        self.sizes = layer.out_features, layer.in_features
        n = self.r * sum(self.sizes)
        self.shira_weight = nn.Parameter(nn.zeros(n) if config.init_weights else nn.normal(n, 1.0))
        places = np.broadcast_to(np.int32(0), (2, n)) if nn.is_weightless() else _places(config, target, n)
        self.shira_indices = nn.Buffer(places)

    @classmethod
    def check(cls, config: Any, target: Target) -> None:
        super().check(config, target)
        fan_in, fan_out = target.layer.in_features, target.layer.out_features
        if target.r * (fan_in + fan_out) > fan_in * fan_out:
            raise ValueError(
                f"r = {shortened(target.r)} trains r·({fan_out} + {fan_in}) numbers of {target.name}, which has "
                f"{fan_out}·{fan_in}: r must be at most {fan_in * fan_out // (fan_in + fan_out)}"
            )
        if config.mask_fn is None:
            raise ValueError(
                f"mask_type={config.mask_type!r} needs a function: set config.mask_fn = f, where f(layer, r) gives a "
                "mask in the shape of layer.weight; or leave it at mask_type='random'"
            )

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        return F.linear(x, self._spread())

    def fused(self, layer: Layer, x: Tensor) -> Tensor:
        """x (W + ΔW)ᵀ + b: one product and not two."""
        weight = self._spread()
        weight = (weight.T if layer.fan_in_fan_out else weight) + layer.weight.data
        return F.linear(x, weight.astype(layer.weight.dtype), layer.bias, layer.fan_in_fan_out)

    def delta_weight(self) -> Array:
        return self._spread().data

    def rescale(self, factor: float) -> None:
        """s = factor."""
        self.scaling = factor

    def _spread(self):
        """ΔW (out, in) of w. The gradient of w is that of ΔW at its places, times s."""
        rows, columns = self.shira_indices.data
        scaling, weight = self.scaling, self.shira_weight.data
        spread = array_module(weight).zeros(self.sizes, weight.dtype)
        spread[rows, columns] = weight * scaling
        return record(spread, (self.shira_weight,), lambda dy: (dy[rows, columns] * scaling,))

    def read(self, arrays: dict[str, Array], prefix: str) -> None:
        """Look at the places, which Windows' PEFT writes as floats: each in the weight, and none twice."""
        key = f"{prefix}shira_indices"
        if key not in arrays or arrays[key].ndim != 2 or len(arrays[key]) != 2:
            return
        given = to_numpy(arrays[key])
        places = given.astype(np.int64) if np.isfinite(given).all() else given
        wrong = (places != given) | (places < 0) | (places >= np.array(self.sizes)[:, None])
        if wrong.any():
            raise ValueError(f"{key} has {given[wrong][0]}, which is no place in a weight {self.sizes}")
        flat = places[0] * self.sizes[1] + places[1]
        if len(np.unique(flat)) < len(flat):
            raise ValueError(f"{key} has a place twice")
        arrays[key] = places.astype(np.int32)


def _places(config: Any, target: Target, n: int) -> Array:
    """(2, n): rows and columns, row by row, of the ones in the mask of a layer. ValueError for a wrong mask."""
    options: Sequence[Any] = (config.random_seed,) if config.mask_fn is random_mask else ()
    mask = to_numpy(data(config.mask_fn(target.layer, target.r, *options)))
    shape = target.layer.weight.shape
    if not isinstance(mask, np.ndarray) or mask.shape != shape:
        raise ValueError(f"mask_fn must give an array {shape} for {target.name}, as its weight is, got {mask!r:.200}")
    if not np.isin(mask, (0, 1)).all() or np.count_nonzero(mask) != n:
        raise ValueError(
            f"the mask that mask_fn gives for {target.name} must have zeros, and r (in + out) = {n} ones, got "
            f"{np.count_nonzero(mask)} numbers that are not zero"
        )
    return np.stack(np.nonzero(oriented(target.layer, mask))).astype(np.int32)
