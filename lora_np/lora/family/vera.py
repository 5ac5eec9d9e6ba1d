r"""VeRA: all layers share one pair of frozen random matrices; each trains two vectors. (Kopiczko et al., 2023, eq. 2.)

    y = base(x) + b ∘ B(d ∘ A(dropout(x)))          ΔW = diag(b) B diag(d) A

A (r, widest in) and B (widest out, r) are drawn once; a layer uses A's first columns and B's first rows. Trained are
d (r,) and b (out,), where LoRA trains r (in + out) numbers. b is zero at first: training starts at the base model.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.random import random_seed
from ...settings import changed_settings
from ..adapter import Adapter, Target
from ..peft_config import PeftConfig, PeftType, check_dropout, check_ranks
from ..types import Array, Layer


@dataclass
class VeraConfig(PeftConfig):
    """The settings of a VeRA adapter; see `PeftConfig` for the others.

    r                    rank of the shared matrices
    vera_dropout         dropout probability on the branch's input, in training only
    d_initial            the initial value of d; with init_weights=False d is normal and b one
    projection_prng_key  the seed of A and B; they are saved too, as other libraries draw other numbers from it
    """

    peft_type: PeftType | str | None = PeftType.VERA
    r: int = 256
    target_modules: list[str] | str | None = None
    projection_prng_key: int = 0
    save_projection: bool = True
    vera_dropout: float = 0.0
    d_initial: float = 0.1
    fan_in_fan_out: bool = False
    bias: str = "none"
    modules_to_save: list[str] | None = None
    init_weights: bool = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None

    __repr__ = changed_settings

    def __post_init__(self):
        super().__post_init__()
        check_ranks(self.r)
        check_dropout("vera_dropout", self.vera_dropout)
        if not self.save_projection:
            raise ValueError("save_projection=False: A and B must be saved, as each library draws others from the seed")


class VeraAdapter(Adapter):
    """d, `vera_lambda_d`, and b, `vera_lambda_b`, beside one linear layer."""

    idle_if_zero = "vera_lambda_b"

    def __init__(self, config: VeraConfig, target: Target) -> None:
        layer, self.r = target.layer, target.r
        d = nn.filled(self.r, config.d_initial) if config.init_weights else nn.normal(self.r, 1.0)
        b = nn.filled(layer.out_features, 0.0 if config.init_weights else 1.0)
        self.vera_lambda_d, self.vera_lambda_b = nn.Parameter(d), nn.Parameter(b)
        self.vera_dropout = nn.Dropout(config.vera_dropout)
        self.sizes, self.shared_matrices = (layer.in_features, layer.out_features), target.shared

    @classmethod
    def shared(cls, config: VeraConfig, targets: list[Target]) -> dict[str, Tensor]:
        fan_in = max(target.layer.in_features for target in targets)
        fan_out = max(target.layer.out_features for target in targets)
        with random_seed(config.projection_prng_key):
            A = nn.uniform((config.r, fan_in), (6 / fan_in) ** 0.5)
            B = nn.uniform((fan_out, config.r), (6 / config.r) ** 0.5)
        return {"vera_A": nn.Buffer(A), "vera_B": nn.Buffer(B)}

    def read(self, arrays: dict[str, Array], prefix: str) -> None:
        cut_to_size(arrays, self.shared_matrices)

    def matrices(self) -> tuple[Array, Array]:
        """This layer's A (r, in) and B (out, r), two arrays."""
        A, B = (buffer.data for buffer in self.shared_matrices.values())
        return A[:, : self.sizes[0]], B[: self.sizes[1]]

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        A, B = self.matrices()
        return F.linear(F.linear(self.vera_dropout(x), A) * self.vera_lambda_d, B) * self.vera_lambda_b

    def delta_weight(self) -> Array:
        A, B = self.matrices()
        return (self.vera_lambda_b.data[:, None] * B) @ (self.vera_lambda_d.data[:, None] * A)


def cut_to_size(arrays: dict[str, Array], shared: Mapping[str, Tensor]) -> None:
    """Of a file's larger matrices that layers share, the part that is used here, in place.

    In PEFT a second adapter has the first one's matrices, which may be for wider layers, and writes them whole.
    """
    for name, own in shared.items():
        given = arrays.get(f"base_model.{name}")
        if given is not None and given.ndim == len(own.shape) and all(map(int.__ge__, given.shape, own.shape)):
            arrays[f"base_model.{name}"] = given[tuple(map(slice, own.shape))]
