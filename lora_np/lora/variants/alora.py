r"""aLoRA: the adapter acts from the last occurrence of its invocation tokens on. (Greenewald et al., 2025, "Activated
LoRA: Fine-tuned LLMs for Intrinsics".)

    y_t = base(x)_t + s·B(A(dropout(x_t)))    from the first of the invocation tokens on, where they stand last
    y_t = base(x)_t                           before, and in a row without them

What comes before is the base model's, and so are its keys and values: a cache that the base model has filled goes on
being used. The paper's claim is quality near LoRA's, and inference that starts at once in a chain of several adapters
over one long text, as nothing is read twice. There is no ΔW that would do this everywhere, so it is not merged.
Trained numbers and rank are LoRA's, r (in + out) and r.
"""

from typing import Any

import numpy as np

from ...autograd import Tensor
from ...autograd.devices import to_device
from ..invocations import last_tokens
from ..types import Array, Config, Layer
from .whole import OnWholeLayers


class ActivatedLora(OnWholeLayers):
    """LoRA on the tokens that the running call says; `invocations.py` finds them. On none where it says nothing."""

    setting, changes_base = "alora_invocation_tokens", True
    config: Config

    def update(self, layer: Layer, x: Tensor, base: Tensor) -> Tensor:
        counts, branch = last_tokens(self.config.alora_invocation_tokens), self.branch(self.lora_dropout(x))
        if counts is None:  # the model was called otherwise than through the PeftModel
            counts = np.zeros(len(x), int)
        T = x.shape[1] if x.ndim == 3 else 1
        acts: Any = (range(T) >= T - counts[:, None]).astype(base.dtype)  # (B, T)
        acts = acts[..., None] if x.ndim == 3 else acts
        return branch * to_device(acts, x.device)

    def merged(self, layer: Layer, weight: Array, bias: Array | None) -> tuple[Array, Array | None]:
        raise ValueError("aLoRA acts on some tokens only, so that it cannot be merged: use the adapter as it is")
