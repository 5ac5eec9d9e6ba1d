r"""VB-LoRA: A and B are put together from a bank of short vectors that all layers share. (Li et al., 2024, "VB-LoRA:
Extreme Parameter Efficient Fine-Tuning with Vector Banks", section 3.)

    y = base(x) + B A dropout(x)          ΔW = B A
    a stretch of A or of B = Σ_j p_j v_j over the k largest logits of its own,    p = softmax of those k

Rows of A (r, in) and columns of B (out, r) are cut into stretches of `vector_length` numbers; each has a logit for each
of the h vectors v of the bank. Trained are the bank, h·length numbers in all, and the logits, h·r (in + out) / length
for each layer: more than LoRA's r (in + out) where h > length. But to use the adapter, k places and k - 1 weights a
stretch are enough: with `save_only_topk_weights` the file has only those, (2k - 1)·r (in + out) / length numbers for
each layer beside the bank. From such a file no training goes on. The rank of ΔW is at most r, and it merges. The bank
is small at first and not zero: training starts near the base model and not at it.

What the paper claims: as good as LoRA or better with 0.4 % of its numbers in the file, on Llama 2 of 13 billion.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import array_module, to_numpy
from ...autograd.dispatch import matmul
from ...autograd.selection import topk
from ...autograd.shape_ops import embedding, swapaxes
from ...autograd.softmax import softmax
from ...settings import changed_settings
from ..adapter import Adapter, Target
from ..peft_config import PeftConfig, PeftType, check_alpha, check_dropout, check_rank
from ..types import Array, Layer

BANK = "base_model.vblora_vector_bank"  # its name in a file
LOGITS = ("vblora_logits_A", "vblora_logits_B")
INDICES, WEIGHTS = "_topk_indices", "_topk_weights"  # behind those, in a file that has only what is used


@dataclass
class VBLoRAConfig(PeftConfig):
    """The settings of a VB-LoRA adapter; see `PeftConfig` for the others.

    r                       rank
    num_vectors             h, how many vectors the bank has
    vector_length           their length, which must divide each adapted layer's inputs and outputs
    topk                    k, of how many vectors a stretch is made
    save_only_topk_weights  write only what it takes to use the adapter, and not to train it further
    vblora_dropout          dropout probability on the branch's input, in training only
    init_vector_bank_bound  the bank begins uniform in ± this
    init_logits_std         the logits begin normal with this standard deviation
    """

    peft_type: PeftType | str | None = PeftType.VBLORA
    r: int = 4
    num_vectors: int = 256
    vector_length: int = 256
    topk: int = 2
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    save_only_topk_weights: bool = False
    vblora_dropout: float = 0.0
    fan_in_fan_out: bool = False
    bias: str = "none"
    modules_to_save: list[str] | None = None
    init_vector_bank_bound: float = 0.02
    init_logits_std: float = 0.1
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None

    __repr__ = changed_settings
    flags = ("fan_in_fan_out", "save_only_topk_weights")

    def __post_init__(self):
        super().__post_init__()
        for name in ("r", "num_vectors", "vector_length", "topk"):
            check_rank(name, getattr(self, name))
        if self.topk > self.num_vectors:
            raise ValueError(f"topk = {self.topk} is more than num_vectors = {self.num_vectors}")
        check_dropout("vblora_dropout", self.vblora_dropout)
        for name in ("init_vector_bank_bound", "init_logits_std"):
            check_alpha(name, getattr(self, name))
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)!r}")


class VBLoRAAdapter(Adapter):
    """The logits of A (r, in/length, h) and B (out/length, r, h) beside one linear layer, and the bank (h, length)."""

    in_common = ("vblora_vector_bank",)
    asks_the_host = True  # to look at the logits, and for the bank's gradient

    def __init__(self, config: VBLoRAConfig, target: Target) -> None:
        layer, length, h, self.r = target.layer, config.vector_length, config.num_vectors, target.r
        self.topk, self.only_topk = config.topk, config.save_only_topk_weights
        A, B = (self.r, layer.in_features // length, h), (layer.out_features // length, self.r, h)
        self.vblora_logits_A = nn.Parameter(nn.normal(A, config.init_logits_std))
        self.vblora_logits_B = nn.Parameter(nn.normal(B, config.init_logits_std))
        shared: Any = target.shared or self.shared(config, [target])
        self.vblora_vector_bank: nn.Parameter = shared["vblora_vector_bank"]
        self.vblora_dropout = nn.Dropout(config.vblora_dropout)

    @classmethod
    def check(cls, config: VBLoRAConfig, target: Target) -> None:
        super().check(config, target)
        for what, size in (("inputs", target.layer.in_features), ("outputs", target.layer.out_features)):
            if size % config.vector_length:
                raise ValueError(
                    f"vector_length = {config.vector_length} must divide the {size} {what} of {target.name}"
                )

    @classmethod
    def shared(cls, config: VBLoRAConfig, targets: list[Target]) -> dict[str, Any]:
        bank = nn.uniform((config.num_vectors, config.vector_length), config.init_vector_bank_bound)
        return {"vblora_vector_bank": nn.Parameter(bank)}

    def matrices(self) -> tuple[Tensor, Tensor]:
        """(A (r, in), B (out, r)). RuntimeError in training, if the logits come from a file that lacks most of them."""
        logits = self.vblora_logits_A.data
        trained = self.vblora_dropout.training and self.vblora_logits_A.requires_grad
        if trained and array_module(logits).isinf(logits[0, 0]).any():
            raise RuntimeError(
                "this adapter was saved with save_only_topk_weights=True, for use alone: to train it further, load one "
                "that was saved without"
            )
        A, B = self._stretches(self.vblora_logits_A), self._stretches(self.vblora_logits_B)
        return A.reshape(self.r, -1), swapaxes(B, 1, 2).reshape(-1, self.r)

    def _stretches(self, logits):
        """Σ_j p_j v_j (..., length) for logits (..., h)."""
        largest, places = topk(logits, self.topk, -1)
        weights = softmax(largest, -1)
        vectors = embedding(self.vblora_vector_bank, places)  # (..., k, length)
        return (weights.reshape(*weights.shape, 1) * vectors).sum(-2)

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        A, B = self.matrices()
        return F.linear(F.linear(self.vblora_dropout(x), A), B)

    def delta_weight(self) -> Array:
        A, B = self.matrices()
        return matmul(B.data, A.data)

    def saved_arrays(self) -> dict[str, Array]:
        if not self.only_topk:
            return super().saved_arrays()
        arrays = {}
        for name in LOGITS:
            largest, places = topk(getattr(self, name), self.topk, -1)
            dtype = _index_dtype(len(self.vblora_vector_bank))
            arrays[name + INDICES] = places.data.astype(dtype)
            arrays[name + WEIGHTS] = softmax(largest, -1).data[..., :-1]  # the last is what is left of 1
        return arrays

    def read(self, arrays: dict[str, Array], prefix: str) -> None:
        """The logits of places and weights: ln p, and -∞ where there is no weight."""
        h = len(self.vblora_vector_bank)
        for key in (prefix + name for name in LOGITS):
            if key + INDICES not in arrays or key + WEIGHTS not in arrays:
                continue
            if BANK not in arrays or arrays[BANK].shape[:1] != (h,):
                raise ValueError(f"{BANK} is missing, or has other than num_vectors = {h} vectors")
            places, weights = (to_numpy(arrays.pop(key + ending)) for ending in (INDICES, WEIGHTS))
            arrays[key] = _logits(key, places, weights, h)


def _index_dtype(h):
    """The smallest of these integers that counts h vectors, as PEFT has it."""
    small = ((2**8, np.uint8), (2**15, np.int16), (2**31, np.int32))
    return next((dtype for limit, dtype in small if h < limit), np.int64)


def _logits(key: str, places: Array, weights: Array, h: int) -> Array:
    """Logits (..., h), the k largest at `places` (..., k). `weights` (..., k-1): their softmax, but for the last."""
    k = places.shape[-1] if places.ndim else 0
    if places.dtype.kind not in "iu" or weights.dtype.kind != "f" or weights.shape != (*places.shape[:-1], k - 1):
        raise ValueError(f"{key}{INDICES} {places.shape} and {key}{WEIGHTS} {weights.shape} do not belong together")
    if not ((places >= 0) & (places < h)).all():
        raise ValueError(f"{key}{INDICES} has {places.max() if places.min() >= 0 else places.min()}, and there are {h}")
    rest = 1 - weights.sum(-1, keepdims=True)
    if not ((weights >= 0).all() and (rest > -1e-3).all()):  # NaN is neither
        raise ValueError(
            f"{key}{WEIGHTS} has numbers that are no weights: they must be at least 0, and 1 at most in all"
        )
    logits = np.full((*places.shape[:-1], h), -np.inf, weights.dtype)
    with np.errstate(divide="ignore"):
        found = np.log(np.concatenate([weights, np.maximum(rest, 0)], -1))
    np.put_along_axis(logits, places.astype(np.int64), found, -1)
    return logits
