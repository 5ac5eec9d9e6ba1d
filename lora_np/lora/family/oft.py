r"""OFT: the inputs of each layer are rotated, in blocks. (Qiu et al., 2023, "Controlling Text-to-Image Diffusion by
Orthogonal Finetuning", and 2025, "Orthogonal Finetuning Made Scalable": turn x, not W, and Neumann's series.)

    y = base(x R)          W' = W Rᵀ          ΔW = W (Rᵀ - I)          R = diag(R₁, ..., R_n), each (b, b), n·b = in

A block is made of b (b - 1) / 2 trained numbers, Q with Qᵀ = -Q. Of such a Q, Cayley's transform is a rotation. It
needs an inverse; a few terms of its series are nearly one while Q is small:

    use_cayley_neumann=False:  R = (I - Q)(I + Q)⁻¹
    use_cayley_neumann=True:   R = I + 2Q + 2Q² + ... + 2Qᵏ⁻¹ + Qᵏ ≈ (I + Q)(I - Q)⁻¹,  k = num_cayley_neumann_terms - 1

(Q turns the other way in the second, and 3 terms are computed as 4 are: so PEFT has it, and files mean it so.) Q is
zero at first: training starts at the base model, bit for bit. Trained are in (b - 1) / 2 numbers in a layer, with
block_share b (b - 1) / 2. ΔW has in general full rank. It merges. Rotations leave the angles between the rows of W, and
their lengths, as they are; the paper takes these for what the model knows.

Claimed: subjects and controls are learnt in fewer steps and more stably than by LoRA, with as many numbers.

coft keeps ‖Q‖ of each block at eps / √n at most: what training made longer is shortened when it is next used. With
module_dropout, p·n of the blocks do not turn, others at each training step; PEFT takes the setting and does nothing.
Several adapters in a row turn x in their order, merged or not; PEFT merges them in the other order. PEFT has OFT for
Linear layers and embeddings, not for GPT-2's Conv1D.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from ... import nn
from ...autograd import Tensor, no_grad
from ...autograd.devices import array_module, on_gpu
from ...autograd.matrices import inverse, skew_symmetric
from ...autograd.random import generator
from ...autograd.tensor import needs_grad, record
from ...refusals import warn
from ...settings import changed_settings
from ..adapter import Matrix, Target
from ..peft_config import PeftConfig, PeftType, check_alpha, check_dropout, check_ranks
from ..types import Array, Input, Layer
from .multiplicative import Multiplicative

THIS_FORMULA = (0, 18)  # PEFT's version from which on Neumann's series is this one
MOST_TERMS = 1000


@dataclass
class OFTConfig(PeftConfig):
    """The settings of an OFT adapter; see `PeftConfig` for the others. The larger a block, the more is trained.

    r, oft_block_size    the number of blocks, or their size, the other being 0. If it is no divisor of a layer's input,
                         the nearest one is taken, with a warning
    module_dropout       the part of the blocks that do not turn, in training only
    init_weights         True: Q is zero; False: normal, with standard deviation 0.1
    coft, eps            keep each block near the identity: see above
    block_share          one block for all places
    use_cayley_neumann, num_cayley_neumann_terms   see above
    """

    peft_type: PeftType | str | None = PeftType.OFT
    r: int = 0
    oft_block_size: int = 32
    module_dropout: float = 0.0
    target_modules: list[str] | str | None = None
    fan_in_fan_out: bool = False
    bias: str = "none"
    exclude_modules: list[str] | str | None = None
    init_weights: bool = True
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    modules_to_save: list[str] | None = None
    coft: bool = False
    eps: float = 6e-5
    block_share: bool = False
    use_cayley_neumann: bool = True
    num_cayley_neumann_terms: int = 5

    def __repr__(self):
        return changed_settings(self, {"peft_version": self.peft_version})

    flags = ("fan_in_fan_out", "init_weights", "coft", "block_share", "use_cayley_neumann")

    def __post_init__(self):
        super().__post_init__()
        if self.peft_version is None:
            self.peft_version = ".".join(map(str, (*THIS_FORMULA, 0)))  # or PEFT would take it for an older formula
        both = {"r": self.r, "oft_block_size": self.oft_block_size}
        given = {name: value for name, value in both.items() if value != 0 or isinstance(value, bool)}
        for name, value in given.items():
            check_ranks(value, field_name=name)
        if len(given) != 1:
            raise ValueError(
                f"one of r and oft_block_size must be 0, as r blocks of that size make up the input, got r={self.r}, "
                f"oft_block_size={self.oft_block_size}"
            )
        check_dropout("module_dropout", self.module_dropout)
        check_alpha("eps", self.eps)
        if self.eps < 0:
            raise ValueError(f"eps must not be negative, got {self.eps}")
        check_ranks(self.num_cayley_neumann_terms, field_name="num_cayley_neumann_terms")
        if self.num_cayley_neumann_terms > MOST_TERMS:
            raise ValueError(
                f"num_cayley_neumann_terms must be at most {MOST_TERMS}, got {self.num_cayley_neumann_terms}"
            )

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], source: str = "the adapter's configuration") -> Self:
        """As for every kind. ValueError for a file of PEFT before 0.14, a warning for one of another formula."""
        if "oft_block_size" not in fields:
            raise ValueError(f"{source} has no oft_block_size: PEFT before 0.14 wrote it, whose OFT was another one")
        if fields.get("use_cayley_neumann") and _version(fields.get("peft_version")) < THIS_FORMULA:
            what = f"{source} was written before PEFT 0.18, which changed the series of use_cayley_neumann"
            warnings.warn(f"{what}: the adapter computes something else now", stacklevel=2)
        return super().from_dict(fields, source)

    def blocks_of(self, width: int) -> tuple[int, int]:
        """(n, b): how many blocks of which size make up an input of this width."""
        name, wanted = ("r", self.r) if self.r else ("oft_block_size", self.oft_block_size)
        divisors = (d for d in range(1, width + 1) if width % d == 0)
        found = min(divisors, key=lambda d: abs(d - wanted))  # of two as near, the smaller one
        if found != wanted and not nn.is_weightless():
            warn(f"{name}={wanted} does not divide an input of {width}: {found} is taken")
        return (found, width // found) if self.r else (width // found, found)


def _version(text):
    """(major, minor) of a version as PEFT writes it, "0.18.1.dev0@abc"; (0, 0) where there is none."""
    numbers = str(text or "").split(".")[:2]
    return tuple(map(int, numbers)) if all(number.isdecimal() for number in numbers) else (0, 0)


class OFTAdapter(Multiplicative):
    """Q's entries above the diagonal, `oft_R` (n, b (b - 1) / 2), beside one linear layer; (1, ...) if blocks share."""

    name, first_outside = "oft_R", True
    r: int

    def __init__(self, config: OFTConfig, target: Target) -> None:
        super().__init__(config, target)
        self.asks_the_host = not config.use_cayley_neumann  # an inverse does
        self.r, self.size = config.blocks_of(self.width(target.layer))
        self.draws = bool(config.module_dropout)
        shape = (1 if config.block_share else self.r, self.size * (self.size - 1) // 2)
        setattr(self, self.name, Matrix(nn.zeros(shape) if config.init_weights else nn.normal(shape, 0.1)))

    @staticmethod
    def width(layer: Layer) -> int:
        """Of what is turned."""
        return layer.in_features

    def turned(self, x: Input) -> Any:
        """Each block of x (..., in), of size b, times its own R (b, b)."""
        rows = x.reshape(-1, self.r, self.size).swapaxes(0, 1)  # (n, rows, b)
        return (rows @ self._some_at_rest(self.rotations())).swapaxes(0, 1).reshape(x.shape)

    def rotations(self) -> Any:
        """R's blocks (n, b, b), or (1, b, b)."""
        Q = skew_symmetric(self._entries(), self.size)
        one = array_module(Q.data).eye(self.size, dtype=Q.dtype)
        if self.config.use_cayley_neumann:
            return neumann(Q, one, self.config.num_cayley_neumann_terms)
        return inverse(Q + one) * 2.0 - one  # as (I - Q)(I + Q)⁻¹ = (2I - (I + Q))(I + Q)⁻¹

    def _entries(self):
        """Q's entries; with coft those of a Q that is short enough, which a pass with gradients writes down.

        The gradient is that of the shorter ones, as they are what is trained from then on.
        """
        p = getattr(self, self.name).weight
        if not self.config.coft:
            return p
        entries = shortened_to(p.data, self.config.eps / len(p.data) ** 0.5)
        if needs_grad(p)[0] and on_gpu(p.data):
            p.data[...] = entries  # where it was: steps that are recorded there read it from its place
        elif needs_grad(p)[0]:
            p.data = entries  # in one go: other threads may be reading it
        return record(entries, (p,), lambda dy: (dy,))

    def _some_at_rest(self, R):
        """The blocks, of which the part `module_dropout` is I in training, drawn at each call; not if they share."""
        resting = int(self.config.module_dropout * len(R.data)) if self.training and len(R.data) > 1 else 0
        if not resting:
            return R
        xp = array_module(R.data)
        order = generator(xp).random(len(R.data)).argsort().argsort()
        rest = (order < resting).astype(R.dtype)[:, None, None]
        return R * (1 - rest) + rest * xp.eye(self.size, dtype=R.dtype)

    def matrix(self) -> Array:
        with no_grad():
            blocks = self.rotations().data
        R = array_module(blocks).zeros((self.r, self.size, self.r, self.size), blocks.dtype)
        for i in range(self.r):
            R[i, :, i, :] = blocks[i % len(blocks)]
        return R.reshape(self.r * self.size, -1)


class OFTEmbedding(OFTAdapter):
    """`oft_embedding_R`, beside an embedding whose rows (dim,) are turned: y = W[ids] R, W' = W R."""

    name, first_outside = "oft_embedding_R", False  # y R₁ R₂: it is what comes out that is turned

    @classmethod
    def wanted(cls, config: OFTConfig, target: Target) -> bool:
        return isinstance(target.layer, nn.Embedding)

    @classmethod
    def check(cls, config: OFTConfig, target: Target) -> None:
        """It can be beside each."""

    @staticmethod
    def width(layer: Layer) -> int:
        return layer.out_features

    def changed_input(self, x: Input) -> Input:
        return x

    def applied(self, layer: Layer, x: Input, base: Tensor, y: Any) -> Any:
        return self.turned(y).astype(y.dtype)

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        """Rᵀ weight, of a weight (dim, vocabulary)."""
        return self.matrix().T @ weight, bias


def neumann(Q: Any, one: Array, terms: int) -> Any:
    """I + 2Q + 2Q² + ... + 2Qᵏ⁻¹ + Qᵏ, k = terms - 1, of matrices Q (..., b, b) and I; for 3 terms, too, k = 3."""
    last = max(terms - 1, 3) if terms > 2 else 1
    R, power = Q * (2.0 if terms > 1 else 0.0) + one, Q
    for k in range(2, last + 1):
        power = power @ Q
        R = R + (power if k == last else power * 2.0)
    return R


def shortened_to(entries: Array, most: float) -> Array:
    """The rows, each made shorter where ‖Q‖ = √2 times its length is more than `most`."""
    xp = array_module(entries)
    lengths = xp.sqrt(2 * (entries * entries).sum(axis=-1, keepdims=True))
    longer = lengths > most
    return xp.where(longer, entries * (most / xp.where(longer, lengths, 1)), entries).astype(entries.dtype, copy=False)
