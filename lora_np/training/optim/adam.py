"""Adam, for programs that ask for it by this name."""

from collections.abc import Iterable
from typing import Any

from ...autograd import Tensor
from .adamw import AdamW


class Adam(AdamW):
    """AdamW without weight decay, which Kingma and Ba's Adam (2015) is. A weight_decay other than 0 is a ValueError.

    (In torch's Adam it would be added to the gradient, and divided with it by √v: what AdamW was made to mend.)
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        **options: Any,
    ) -> None:
        if weight_decay:
            raise ValueError(f"Adam has no weight decay here, got weight_decay={weight_decay}: use AdamW")
        super().__init__(params, lr, betas, eps, weight_decay, **options)
