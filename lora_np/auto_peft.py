"""A model and its adapter from the adapter's folder alone: lora and models together, which do not know each other."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from .lora import PeftConfig, PeftModel, PeftModelForCausalLM, PeftModelForSequenceClassification
from .lora.accepted import adapter_folder
from .lora.files import WEIGHTS_FILE
from .lora.model_adapter import PREFIX
from .lora.types import StrPath
from .models import AutoModelForCausalLM
from .models.classification import HEAD
from .models.loading.classifiers import load_classifier, said_beside
from .storage import open_safetensors
from .storage.hub import HUB_OPTIONS

__all__ = ["AutoPeftModelForCausalLM", "AutoPeftModelForSequenceClassification"]


class AutoPeft:
    """Loads an adapter and the model that it was made for. Abstract.

    auto    the class that loads such a model by its name
    target  the class of the result
    """

    auto: ClassVar[str]
    target: ClassVar[type[PeftModel]]
    load: ClassVar[Callable[..., Any]]

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
        dtype=, device_map=, ...: what the `from_pretrained` of the base model takes. import_allowlist: PEFT's; nothing
        is imported here. ValueError if the config names no base model, or is for another task.
        """
        places = {name: kwargs.pop(name) for name in ("subfolder", *HUB_OPTIONS) if name in kwargs}
        places |= {"revision": revision} if revision is not None else {}
        folder = adapter_folder("from_pretrained", pretrained_model_name_or_path, places)
        found = PeftConfig.from_pretrained(folder) if config is None else config
        made = PeftModel.for_task(found)
        if made not in (PeftModel, cls.target):
            raise ValueError(f"{folder} has an adapter for a {made.__name__}: load it with Auto{made.__name__}")
        base_name = found.base_model_name_or_path
        if not base_name:
            raise ValueError(
                f"{folder} does not say which model its adapter is for (base_model_name_or_path): load that with "
                f"{cls.auto}.from_pretrained(...), then PeftModel.from_pretrained(model, folder)"
            )
        hub = {name: value for name, value in places.items() if name not in ("subfolder", "revision")}
        base = cls.load(base_name, folder, **hub, revision=found.revision, **kwargs)
        return PeftModel.from_pretrained(base, folder, adapter_name, is_trainable, config)


class AutoPeftModelForCausalLM(AutoPeft):
    """Loads an adapter and the language model that it was made for, as PEFT's class of this name does."""

    auto, target = "AutoModelForCausalLM", PeftModelForCausalLM

    @staticmethod
    def load(name: str, folder: Path, **kwargs: Any) -> Any:
        """The language model `name`."""
        return AutoModelForCausalLM.from_pretrained(name, **kwargs)


class AutoPeftModelForSequenceClassification(AutoPeft):
    """Loads an adapter and the classifier that it was made for, as PEFT's class of this name does.

    The head is in the adapter's file. How many classes it has is read there; PEFT wants num_labels=. Their names and
    pad_token_id are those of a config.json beside it, as `lora-np finetune --task classify` writes one.
    """

    auto, target = "AutoModelForSequenceClassification", PeftModelForSequenceClassification

    @staticmethod
    def load(name: str, folder: Path, **kwargs: Any) -> Any:
        """The classifier `name`, for as many classes as the head in the adapter's folder has, if there is one."""
        with open_safetensors(folder / WEIGHTS_FILE) as weights:
            head = weights.shapes.get(PREFIX + HEAD)
        said = {} if "config" in kwargs else said_beside(folder, None if head is None else head[0])
        if {"num_labels", "id2label", "label2id", "config"} & kwargs.keys():
            said.pop("id2label", None)
        elif head is not None:
            said |= {"ignore_mismatched_sizes": True, **({} if "id2label" in said else {"num_labels": head[0]})}
        call = "AutoPeftModelForSequenceClassification.from_pretrained"
        return load_classifier(call, name, says=head is None, **{**said, **kwargs})
