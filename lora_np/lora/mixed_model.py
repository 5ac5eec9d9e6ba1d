"""PeftMixedModel: adapters of several kinds on one model, as `get_peft_model(model, config, mixed=True)` makes it.

Each adapter acts on the layer as those that were added before it have made it: f₀ = base, and for the k-th

    a kind that adds (LoRA, LoHa, LoKr, ...)    f_k(x) = f_{k-1}(x) + update(x)
    a kind that multiplies (OFT)                f_k(x) = f_{k-1}(x R)

So LoRA beside OFT depends on which of the two came first: s·B A sees the turned input, or the plain one. In PEFT the
layers of later adapters are around those of earlier ones, which is the same; names of parameters have no
".base_layer" for it here.
"""

from collections.abc import Iterable
from typing import Any

from .. import nn
from .peft_config import PeftConfig, PeftType
from .peft_model import PeftModel

MIXED = (PeftType.LORA, PeftType.LOHA, PeftType.LOKR, PeftType.ADALORA, PeftType.OFT, PeftType.SHIRA)


class PeftMixedModel(PeftModel):
    """A model with adapters of several kinds: of those in `MIXED`, which PEFT takes. All else is a PeftModel's.

    Adapters of different kinds act in the order in which they were added, whichever way `set_adapter` names them.
    PEFT's model neither saves them nor reports on them; this one does.
    """

    def __init__(self, model: nn.Module, peft_config: PeftConfig, adapter_name: str = "default") -> None:
        super().__init__(model, peft_config, adapter_name)

    def _start(self, model: Any, peft_config: Any, *others: Any) -> None:
        self._check_kinds([peft_config])
        super()._start(model, peft_config, *others)

    def _check_kinds(self, configs: Iterable[PeftConfig]) -> None:
        for config in configs:
            if isinstance(config, PeftConfig) and config.peft_type not in MIXED:
                raise ValueError(
                    f"peft_type {config.peft_type} is not compatible with a PeftMixedModel, which takes "
                    f"{', '.join(MIXED)}: without mixed=True a model takes any one kind"
                )
