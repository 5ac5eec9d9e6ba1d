"""Settings of `LoraConfig` that make another kind of adapter of LoRA, checked: see the table `kinds.SPECIAL`."""

from collections.abc import Iterable, Sequence
from typing import Any

from .kinds import SPECIAL
from .patterns import check_names, shortened
from .sub_configs import SUB_CONFIGS


def check_special(config: Any) -> None:
    """Put those fields into their usual forms. ValueError for wrong ones, and for settings that do not go together."""
    for name, kind in SUB_CONFIGS.items():
        setattr(config, name, kind.of(name, getattr(config, name)))
    config.alora_invocation_tokens = _invocation(config.alora_invocation_tokens)
    wanted = [name for name in (*SPECIAL, "use_dora", "lora_bias") if getattr(config, name)]
    if len(wanted) > 1 and wanted != ["use_dora", "lora_bias"]:  # which is refused in other words
        raise ValueError(f"{' and '.join(wanted)} do not go together: each makes another kind of adapter; choose one")


def _invocation(given):
    """`alora_invocation_tokens` as a list of Python's integers; None for none."""
    tokens = given.tolist() if hasattr(given, "tolist") else given
    if tokens is None or (isinstance(tokens, Sequence) and not len(tokens)):
        return None
    if not isinstance(tokens, list | tuple) or not all(type(i) is int and i >= 0 for i in tokens):
        raise ValueError(f"alora_invocation_tokens must be a list of tokens' numbers, got {shortened(given)}")
    return list(tokens)


def check_parameters(given: Any) -> list[str] | None:
    """`target_parameters` as a list. ValueError unless it is a list of names, or None."""
    if given is None:
        return None
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"target_parameters must be a list of parameters' names, got {shortened(given)}")
    return check_names("target_parameters", given)  # type: ignore[return-value]
