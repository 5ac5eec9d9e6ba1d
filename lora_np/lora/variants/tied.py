r"""`ensure_weight_tying` with LoRA: the update of a head that is tied to the embedding is the embedding's, transposed.

The embedding has W and ΔW = s·Aᵀ Bᵀ (vocabulary, dim), with A (r, vocabulary) and B (dim, r). The head has the same W,
as (out, in) = (vocabulary, dim), and with Bᵀ in the place of its A and Aᵀ in that of its B the same ΔW.
"""

from ... import nn
from ...autograd import Tensor
from ...autograd.devices import array_module
from ...autograd.shape_ops import transpose
from ..adapter import Adapter, Target
from ..layer import LowRankAdapter
from ..types import Array, Config, Layer


class TiedLora(LowRankAdapter):
    """What is beside a head that follows its embedding's adapter; nothing in it is its own.

    PEFT writes A and B of the head too, so its file has them here, and they are not read.
    """

    learns_faster: tuple[str, ...] = ()
    idle_if_zero: str | None = None

    def __init__(self, config: Config, target: Target) -> None:
        self.config, self.r, self.lora_alpha = config, target.r, target.lora_alpha
        self.scaling = config.scaling_of(self.r, self.lora_alpha)
        self.lora_dropout = nn.Dropout(config.lora_dropout)
        self.follows = target.follows
        self.followed: tuple[Adapter, ...] = ()  # the embedding's adapter; in a tuple, for it has its own place

    @classmethod
    def check(cls, config: Config, target: Target) -> None:
        for name in ("use_dora", "lora_bias"):
            if getattr(config, name):
                raise ValueError(f"{name} does not go with ensure_weight_tying: {target.name} follows {target.follows}")

    def matrices(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """(Bᵀ (r, dim), Aᵀ (vocabulary, r)) of the embedding's A and B."""
        A, B = self.followed[0].matrices()  # type: ignore[attr-defined]
        return transpose(B), transpose(A)

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        return self.branch(self.lora_dropout(x))

    def saved_arrays(self) -> dict[str, Array]:
        A, B = (array_module(m.data).ascontiguousarray(m.data) for m in self.matrices())
        return {"lora_A.weight": A, "lora_B.weight": B}
