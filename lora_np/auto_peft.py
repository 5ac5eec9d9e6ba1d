"""A model and its adapter from the adapter's folder alone: lora and models together, which do not know each other."""

from typing import Any

from .lora import PeftConfig, PeftModel
from .lora.accepted import adapter_folder
from .lora.types import StrPath
from .models import AutoModelForCausalLM
from .storage.hub import HUB_OPTIONS

__all__ = ["AutoPeftModelForCausalLM"]


class AutoPeftModelForCausalLM:
    """Loads an adapter and the language model that it was made for, as PEFT's class of this name does."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: StrPath,
        adapter_name: str = "default",
        is_trainable: bool = False,
        config: PeftConfig | None = None,
        revision: str | None = None,
        import_allowlist: list[str] | None = None,
        **kwargs: Any,
    ) -> PeftModel:
        """The adapter in a folder, on the base model that its adapter_config.json names (base_model_name_or_path).

        config: in the place of the one in the folder. subfolder=, cache_dir=, token=, ...: where the adapter is;
        dtype=, device_map=, ...: what `AutoModelForCausalLM.from_pretrained` takes, for the base model.
        import_allowlist: PEFT's; nothing is imported here. ValueError if the config names no base model.
        """
        places = {name: kwargs.pop(name) for name in ("subfolder", *HUB_OPTIONS) if name in kwargs}
        places |= {"revision": revision} if revision is not None else {}
        folder = adapter_folder("from_pretrained", pretrained_model_name_or_path, places)
        found = PeftConfig.from_pretrained(folder) if config is None else config
        base_name = found.base_model_name_or_path
        if not base_name:
            raise ValueError(
                f"{folder} does not say which model its adapter is for (base_model_name_or_path): load that with "
                "AutoModelForCausalLM.from_pretrained(...), then PeftModel.from_pretrained(model, folder)"
            )
        hub = {name: value for name, value in places.items() if name not in ("subfolder", "revision")}
        base = AutoModelForCausalLM.from_pretrained(base_name, **hub, revision=found.revision, **kwargs)
        return PeftModel.from_pretrained(base, folder, adapter_name, is_trainable, config)
