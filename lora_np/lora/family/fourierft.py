r"""FourierFT: ΔW is made of n waves at places drawn at random; how strong each is, is trained. (Gao et al., 2024,
"Parameter-Efficient Fine-Tuning with Discrete Fourier Transform", eqs. 2-4.)

    y = base(x) + ΔW x               ΔW = s·Re(F⁻¹(C))

C (out, in) is zero but for n entries c, the spectrum; F⁻¹ is the inverse discrete Fourier transform in two dimensions.
Trained are n numbers in a layer, whatever its size; the places follow from a seed and are not saved. A wave of any
direction is a matrix of rank 2, so ΔW has rank 2n at most, which for a usual n is no limit. It merges. Each step forms
ΔW and its gradient whole, (out, in), and transforms both, in·out·log(in·out) operations: fewer numbers, but more time
than LoRA.

c is normal at first, as in the paper, so that ΔW is not zero; with init_weights=True it is, and training starts at the
base model.

Claimed: as good as LoRA with 0.064M instead of 33.5M trained numbers in LLaMA2-7B.
"""

import functools
import re
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ... import nn
from ...autograd import Tensor
from ...autograd import functional as F
from ...autograd.devices import beside
from ...autograd.matrices import inverse_fourier
from ...settings import changed_settings
from ..adapter import Adapter, Target
from ..patterns import checked_patterns
from ..peft_config import PeftConfig, PeftType, check_alpha, check_rank
from ..types import Array, Layer


@dataclass
class FourierFTConfig(PeftConfig):
    r"""The settings of a FourierFT adapter; see `PeftConfig` for the others.

    n_frequency          n, the number of entries of C that are trained
    scaling              s
    random_loc_seed      the seed of their places: the same places in PEFT
    n_frequency_pattern  {name or regular expression: n} for layers with an n of their own; the first match counts. As
                         in PEFT, "a|b" means `.*\.a|b$` here, so that b is looked for at the beginning: write "(a|b)"
    init_weights         False: c is normal at first, as in the paper; True: zero
    """

    peft_type: PeftType | str | None = PeftType.FOURIERFT
    n_frequency: int = 1000
    scaling: float = 150.0
    random_loc_seed: int | None = 777
    fan_in_fan_out: bool = False
    target_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    bias: str = "none"
    modules_to_save: list[str] | None = None
    layers_to_transform: list[int] | int | None = None
    layers_pattern: list[str] | str | None = None
    n_frequency_pattern: dict[str, int] | None = field(default_factory=dict)
    init_weights: bool = False

    __repr__ = changed_settings
    flags = ("fan_in_fan_out", "init_weights")
    usual_targets: ClassVar[dict[str, list[str]]] = {"gpt2": ["mlp.c_proj"]}

    def __post_init__(self):
        super().__post_init__()
        check_rank("n_frequency", self.n_frequency)
        check_alpha("scaling", self.scaling)
        seed = self.random_loc_seed
        if not isinstance(seed, int) or isinstance(seed, bool) or not -(2**63) <= seed < 2**64:
            raise ValueError(f"random_loc_seed must be an integer, which the places follow from, got {seed!r:.80}")
        self.n_frequency_pattern = checked_patterns("n_frequency_pattern", self.n_frequency_pattern, check_rank)

    @property
    def r(self) -> int:
        """n, under the name that other kinds have for what says how large an adapter is."""
        return self.n_frequency

    def rank_and_alpha(self, name: str) -> tuple[int, float]:
        """(n, s) of the layer with this dotted name."""
        patterns = self.n_frequency_pattern or {}
        key = next((key for key in patterns if re.match(rf".*\.{key}$", name)), name)
        return patterns.get(key, self.n_frequency), self.scaling


class FourierFTAdapter(Adapter):
    """c, `fourierft_spectrum` (n,), beside one linear layer."""

    idle_if_zero = "fourierft_spectrum"
    reported = "fourierft.FourierFTLinear"

    def __init__(self, config: FourierFTConfig, target: Target) -> None:
        self.config, self.scaling = config, config.scaling
        self.shape, n = (target.layer.out_features, target.layer.in_features), target.r
        self.places = drawn(config.random_loc_seed, self.shape[0] * self.shape[1], n)
        self.fourierft_spectrum = nn.Parameter(nn.zeros(n) if config.init_weights else nn.normal(n, 1.0))

    @classmethod
    def check(cls, config: FourierFTConfig, target: Target) -> None:
        super().check(config, target)
        most = target.layer.out_features * target.layer.in_features
        if target.r > most:
            raise ValueError(
                f"n_frequency = {target.r}: the weight of {target.name} has {most} entries; that is the most"
            )

    def delta(self) -> Tensor:
        """ΔW (out, in), differentiable."""
        places = beside(self.places, self.fourierft_spectrum.data)
        if places is not self.places:  # a change of a module is told (changes.py), and this one is only the first time
            self.places = places
        return inverse_fourier(self.fourierft_spectrum, places, self.shape) * self.scaling

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        return F.linear(x, self.delta())

    def delta_weight(self) -> Array:
        return self.delta().data

    def rescale(self, factor: float) -> None:
        self.scaling = factor * self.config.scaling


@functools.lru_cache(maxsize=64)  # layers of one size have the same places
def drawn(seed: int, count: int, n: int) -> Array:
    """n different numbers below `count`: the beginning of what torch.randperm(count) gives for this seed.

    PEFT's files do not hold the places, so the same must be drawn here. Both torch and NumPy's older generator are the
    Mersenne twister, begun in the same way; torch deals cards: the i-th number is that of place i + z, z a random
    number modulo count - i, after which the two places change theirs. Only what is dealt is kept.
    """
    cards: dict[int, int] = {}
    random = np.random.RandomState(seed % 2**32).randint(0, 2**32, n, np.uint32).tolist()
    for i, number in enumerate(random):
        other = i + number % (count - i)
        cards[i], cards[other] = cards.get(other, other), cards.get(i, i)
    return np.array([cards[i] for i in range(n)])
