"""What a PeftModel looks at before it changes anything: names, what is beside, and what is merged or left out."""

from typing import TYPE_CHECKING

from .call import in_block
from .forwarding import Forwarding
from .names import A_NAME, NAMES, check_known, check_new_name, listed_names
from .peft_config import PeftConfig
from .variants.tokens import check_disjoint

if TYPE_CHECKING:
    from .lora_model import LoraModel


class Checked(Forwarding):
    """The part of a `PeftModel` that refuses. Abstract."""

    base_model: "LoraModel"
    peft_config: dict[str, PeftConfig]

    def _beside(self):
        return self.base_model.adapted, self.base_model.saved

    def _check_beside(self, config):
        """ValueError if such an adapter cannot be beside those that are there."""
        configs = [*self.peft_config.values(), config]
        if len(configs) > 1 and any(c.bias != "none" for c in configs):
            raise ValueError("adapters that train biases change the base model: only one adapter at a time can do that")
        self._check_kinds(configs)

    def _check_kinds(self, configs):
        """ValueError if adapters of these kinds cannot be on one model."""
        kinds = dict.fromkeys(str(config.peft_type) for config in configs)
        if len(kinds) > 1:
            raise ValueError(
                f"one model takes adapters of one kind, not {' beside '.join(kinds)}; "
                "get_peft_model(model, config, mixed=True) makes one that takes several"
            )

    def _check_new_name(self, name):
        check_new_name(name, self.peft_config)

    def _names(self, given, argument="adapter_names"):
        """One name or several as a list without repeats; KeyError if there is no such adapter. argument: its name.

        Where adapters are of several kinds, it is in the order in which they were added: so they act (mixed_model.py).
        """
        one = isinstance(given, str)
        names = [given] if one else list(dict.fromkeys(listed_names(given, argument, f"{A_NAME}, or {NAMES}")))
        for name in names:
            self._check_known(name)
        several = len({config.peft_type for config in self.peft_config.values()}) > 1
        return [name for name in self.peft_config if name in names] if several else names

    def _names_to_merge(self, given):
        """The same for what is to be merged, where None stands for the active ones, as None."""
        if isinstance(given, bool):
            raise TypeError(f"names of adapters were expected, not {given}: write safe_merge={given}")
        return None if given is None else self._names(given)

    def _check_one_copy(self, names):
        """ValueError if two of these adapters train one module whole: only one copy of it can be in use."""
        for target, module in self.base_model.saved_modules():
            owners = [name for name in names if name in module.modules_to_save]
            if len(owners) > 1:
                raise ValueError(f"{' and '.join(owners)} each train {target} whole: only one of them can be active")
        check_disjoint(self.base_model.adapted.values(), names)

    def _check_known(self, name):
        check_known(name, self.peft_config)

    def _refuse_change(self, what):
        self._refuse_if_disabled(what)
        self._refuse_if_merged(what)

    def _refuse_if_disabled(self, what):
        if in_block(self.base_model.owner):
            raise RuntimeError(f"{what} inside disable_adapter(): the block's end would undo it; do it outside")

    def _refuse_if_merged(self, what):
        merged = ", ".join(self.base_model.merged)
        if merged:
            raise RuntimeError(f"{what} while {merged} is merged into the weights: call unmerge_adapter() first")
